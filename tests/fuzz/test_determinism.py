"""The same command gives the same bytes in two processes with different hash seeds."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import hashlib
from planish.ir.onnx_writer import model_to_bytes
from planish.models.random import random_case
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.target import get_target

state = hashlib.blake2b(digest_size=16)
for seed in range(12):
    case = random_case(seed)
    state.update(model_to_bytes(case.model))
    for name in sorted(case.samples[0]):
        state.update(case.samples[0][name].tobytes())
    Pipeline("default").run(case.model, Context(target=get_target("x86-64-v3")))
    state.update(model_to_bytes(case.model))
print(state.hexdigest())
"""


def digest(hash_seed: int) -> str:
    paths = os.pathsep.join(p or os.getcwd() for p in sys.path)
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": paths}
    ran = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_results_do_not_depend_on_the_hash_seed() -> None:
    assert digest(1) == digest(2) == digest(3)
