"""Weights in files of their own are factorized one at a time: memory goes by the largest, not by their sum."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from planish import load
from planish.ir.onnx_writer import write_model
from planish.models.mlp import mlp
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.memo import Memo

WIDTH, LAYERS, MORE, RANK = 512, 3, 12, 16
WHOLE, FACTORS = 4 * WIDTH * WIDTH, 4 * 2 * WIDTH * RANK
REMEMBERED = 1 << 20
"""Bytes for what a run with other choices would need again: less than one decomposition takes."""


@pytest.mark.slow
def test_memory_goes_by_the_largest_weight(tmp_path: Path) -> None:
    """Twelve more layers add their factors, not their weights, still less these in float64."""
    _, few, many = (factorized(layers, tmp_path) for layers in (1, LAYERS, LAYERS + MORE))  # libraries come first
    assert few > WHOLE, "one weight at least is in memory"
    assert many - few < 2 * MORE * FACTORS + REMEMBERED < MORE * WHOLE / 3


def factorized(layers: int, folder: Path) -> int:
    """The most bytes that were allocated at once; numpy tells of its arrays, mapped files do not count."""
    path, out = folder / f"{layers}.onnx", folder / f"{layers}-low.onnx"
    write_model(mlp((WIDTH,) * (layers + 1), batch=1), path, external_data=True)
    model = load(path)
    tracemalloc.start()
    try:
        Pipeline(f"factorize-matmul{{ranks=[{RANK}],forms=[pair]}}").run(model, Context(memo=Memo(REMEMBERED)))
        write_model(model, out, external_data=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert out.with_name(f"{out.name}.data").stat().st_size < 1.2 * layers * FACTORS + 4 * layers * WIDTH
    return peak
