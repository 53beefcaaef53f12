"""The clean pipeline on real models: same outputs on real samples, and nothing left to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.ir.infer import infer_model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.verify import verify
from planish.models import zoo
from planish.passes.core import Context
from planish.passes.manager import Pipeline

REORDERED = 16 * float(np.finfo(np.float32).eps)
"""A weight that folding made constant is packed by the runtime, which then sums in another order."""

ENTRIES = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(not entry.installed, reason=entry.install_command),
            *([pytest.mark.slow] if name.startswith(("light_", "seeded_")) else []),
        ],
    )
    for name, entry in zoo.ZOO.items()
]


def session(model: Path | bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", ENTRIES)
def test_clean_keeps_what_real_models_compute(name: str) -> None:
    entry = zoo.get(name)
    model = read_model(entry.path())
    infer_model(model)
    nodes = sum(1 for _ in model.all_nodes())
    ctx = Context()
    Pipeline("clean").run(model, ctx)
    verify(model)
    assert sum(1 for _ in model.all_nodes()) <= nodes
    assert Pipeline("clean").run(model, Context()).changes == 0
    raw = model_to_bytes(model)
    assert len(raw) <= 1.01 * entry.path().stat().st_size + 1024
    before, after = session(entry.path()), session(raw)
    for sample in entry.samples(1):
        for a, b in zip(before.run(None, sample), after.run(None, sample), strict=True):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            if a.dtype.kind == "f":
                assert np.abs(a - b).max() <= REORDERED * np.abs(a).max()
            else:
                np.testing.assert_array_equal(a, b)
