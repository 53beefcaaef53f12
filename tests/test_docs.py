"""The examples of docs/quantization.md, run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from planish.models import zoo

PAGE = (Path(__file__).parents[1] / "docs" / "quantization.md").read_text()


def fences(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S)


def run(command: list[str], folder: Path) -> str:
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    zoo.export("magika", tmp_path)
    return tmp_path


def test_the_command(folder: Path) -> None:
    lines = [line[2:] for text in fences("console") for line in text.splitlines() if line.startswith("$ ")]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "planish"
        printed = run([sys.executable, "-m", *words], folder)
        assert "error budget: rms at most 0.05" in printed
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "small.onnx").stat().st_size < (folder / "model.onnx").stat().st_size


def test_python(folder: Path) -> None:
    printed = run([sys.executable, "-c", fences("python")[0]], folder)
    assert "layers on integers" in printed
    assert (folder / "small.onnx").exists()
