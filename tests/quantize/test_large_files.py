"""Weights in files of their own are quantized one at a time: memory goes by the largest, not by their sum."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from planish import load
from planish.ir.onnx_writer import write_model
from planish.models.mlp import mlp
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.target import get_target

WIDTH, LAYERS = 2048, 12
LARGEST = 4 * WIDTH * WIDTH
STATUS = Path("/proc/self/status")


def anonymous_bytes() -> int:
    """Of this process, without what is mapped from files."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


@contextmanager
def peak_growth() -> Generator[list[int]]:
    """The most that memory grew by, in bytes."""
    found, over, before = [0], threading.Event(), anonymous_bytes()

    def watch() -> None:
        while not over.wait(0.005):
            found[0] = max(found[0], anonymous_bytes() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
def test_memory_goes_by_the_largest_weight(tmp_path: Path) -> None:
    """Eleven more layers add what is kept of them, an eighth, and no more."""
    grown = [narrowed(layers, tmp_path) for layers in (1, LAYERS)]
    assert grown[1] - grown[0] < 1.5 * LAYERS * LARGEST / 6


def narrowed(layers: int, folder: Path) -> int:
    """By how much memory grew at its peak, with what was written."""
    path, out = folder / f"{layers}.onnx", folder / f"{layers}-narrow.onnx"
    write_model(mlp((WIDTH,) * (layers + 1), batch=1), path, external_data=True)
    with peak_growth() as grown:
        model = load(path)
        ctx = Context(target=get_target("x86-64-v4-vnni"))
        Pipeline("clean,quantize-weights{bits=4,method=rtn}").run(model, ctx)
        write_model(model, out, external_data=True)
    assert sum(node.op == "MatMulNBits" for node in model.graph) == layers
    assert sum(file.stat().st_size for file in folder.glob(f"{layers}-narrow.onnx*")) < layers * LARGEST / 6
    return grown[0]
