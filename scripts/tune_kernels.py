"""Measures the candidates of every convolution and product of models and keeps the best of them.

    taskset -c 1 python -P scripts/tune_kernels.py ppocr_det nudenet --seconds 120

The entries go into the database that ships with the TVM backend (``--database`` names another file), under this
machine's target. What is there already is not measured again: an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", "1")

import planish
from planish.backends.tvm.backend import TvmBackend, readied
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.lower.program import Module
from planish.backends.tvm.tune.choose import Chooser, local_runner
from planish.backends.tvm.tune.database import load_database
from planish.driver.deploy import for_passes, static_dims
from planish.driver.optimize import optimize
from planish.models import zoo
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.target import get_target, native

TUNE = Path(__file__).parents[1] / "backends" / "tvm" / "tune"


def tune(name: str, chooser: Chooser) -> None:
    """Lowers a model of the zoo, which asks the chooser for every kernel."""
    entry, target = zoo.get(name), chooser.machine.processor
    dims = static_dims(planish.load(entry.path()), {}, entry.samples(1, 0)[0])
    result = optimize(entry.path(), for_passes(target), dims=dims, measure=False, validate="structure")
    text = TvmBackend().legalize(result.model, target)
    if text != "none":
        Pipeline(text).run(result.model, Context(target=for_passes(target)))
    module = Module(Machine(target, chooser.tile))
    for i, piece in enumerate(readied(result.model, module.machine)[1]):
        if piece.backend == "tvm":
            module.lower(piece.model.graph, f"main{i}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names of the zoo")
    parser.add_argument("--seconds", type=float, default=120.0, help="for all measuring")
    parser.add_argument("--database", type=Path, default=TUNE / f"{native()}.json")
    arguments = parser.parse_args()
    machine = Machine(get_target(native()))
    database = load_database(arguments.database)
    chooser = Chooser(machine, database, local_runner(machine), arguments.seconds, lambda line: print(line, flush=True))
    for name in arguments.models:
        tune(name, chooser)
        print(f"{name}: {len(database.entries)} kernels known, {chooser.spent:.0f} s of measuring", flush=True)


if __name__ == "__main__":
    main()
