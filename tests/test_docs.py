"""The examples of docs/quantization.md, low_rank.md, memory.md and tvm.md, run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from planish.models import zoo

DOCS = Path(__file__).parents[1] / "docs"
QUANTIZATION, LOW_RANK, MEMORY, TVM = (
    (DOCS / f"{name}.md").read_text() for name in ("quantization", "low_rank", "memory", "tvm")
)


def fences(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page, re.M | re.S)


def commands(page: str) -> list[list[str]]:
    lines = [line[2:] for text in fences(page, "console") for line in text.splitlines() if line.startswith("$ ")]
    assert lines
    found = [shlex.split(line) for line in lines]
    assert all(words[0] == "planish" for words in found)
    return [[sys.executable, "-m", *words] for words in found]


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
    for command in commands(QUANTIZATION):
        printed = run(command, folder)
        assert "error budget: rms at most 0.05" in printed
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "small.onnx").stat().st_size < (folder / "model.onnx").stat().st_size


def test_python(folder: Path) -> None:
    printed = run([sys.executable, "-c", fences(QUANTIZATION, "python")[0]], folder)
    assert "layers on integers" in printed
    assert (folder / "small.onnx").exists()


@pytest.mark.slow
def test_low_rank_from_the_command_line(folder: Path) -> None:
    for command in commands(LOW_RANK):
        printed = run(command, folder)
        assert "low rank" in printed
    assert (folder / "small.onnx").stat().st_size <= 3_000_000


@pytest.mark.slow
def test_low_rank_from_python(folder: Path) -> None:
    printed = run([sys.executable, "-c", fences(LOW_RANK, "python")[0]], folder)
    assert "of 214" in printed
    assert (folder / "small.onnx").stat().st_size <= 3_000_000


def test_memory(folder: Path) -> None:
    inspected, planned, spread = (run(command, folder) for command in commands(MEMORY) if "compile" not in command)
    assert "alive at the peak" in inspected
    assert "in one arena" in planned
    assert (folder / "memory.svg").exists()
    assert "_ARENA_SIZE" in (folder / "plan.h").read_text()
    assert fences(MEMORY, "console")[-1].splitlines()[-1] in spread
    assert "_MEMORY_OCRAM" in (folder / "board.h").read_text()


@pytest.mark.slow
def test_memory_at_run_time(folder: Path) -> None:
    (command,) = (command for command in commands(MEMORY) if "compile" in command)
    assert "memory at run time" in run(command, folder)
    assert (folder / "out" / "manifest.json").exists()


@pytest.mark.slow
def test_a_library_from_the_command_line(folder: Path) -> None:
    pytest.importorskip("tvm")
    for command in commands(TVM):
        assert "its outputs were compared on" in run(command, folder)
    assert "(1, 214)" in run([sys.executable, "-c", fences(TVM, "python")[0]], folder)
