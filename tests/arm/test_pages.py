"""The README's way from a laptop to a board, and the figures of docs/arm.md, run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.ir.onnx_reader import read_model
from planish.models import zoo
from planish.passes.target import get_target

from .emulation import SCRIPT, Emulation
from .test_models import check

ROOT = Path(__file__).parents[2]
README, PAGE = (ROOT / "README.md").read_text(), (ROOT / "docs" / "arm.md").read_text()
COMMANDS = {"planish": ["-m", "planish"], "scripts/arm": ["-P", str(SCRIPT)]}


@pytest.mark.slow
def test_from_a_laptop_to_a_board(python_emulation: Emulation, tmp_path: Path) -> None:
    assert python_emulation.runner
    zoo.export("ppocr_cls", tmp_path)
    lines = [line for text in re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S) for line in text.splitlines()]
    assert len(lines) == 3
    for line in lines:
        name, *words = shlex.split(line)
        env = {**os.environ, "PYTHONSAFEPATH": "1"}
        command = [sys.executable, *COMMANDS[name], *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    model = read_model(tmp_path / "model.onnx")
    with np.load(tmp_path / "samples.npz") as samples, np.load(tmp_path / "outputs.npz") as outputs:
        (found,) = (outputs[name] for name in outputs.files)
        for x, y in zip(samples["x"], found, strict=True):
            check(model, {"x": x}, [y])


def test_the_page_names_targets_as_they_are() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| ", PAGE, re.M)
    for names, also in rows[:7]:
        for name in re.findall(r"`([\w-]+)`", names):
            target = get_target(name)
            assert target.arch in ("aarch64", "riscv64")
            assert [get_target(board) for board in re.findall(r"`(\w+)`", also)] in ([], [target])
    assert "sdot" in PAGE
