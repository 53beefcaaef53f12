"""The error budget on real models: what is taken holds when it is measured by other means."""

from __future__ import annotations

import numpy as np
import pytest

import planish
from planish.driver.budget import Budget
from planish.ir.onnx_writer import model_to_bytes
from planish.models import zoo
from planish.models.ort_runner import ort_runner


@pytest.mark.parametrize(
    ("name", "limit", "least"),
    [("magika", 2e-5, 0.4), pytest.param("ppocr_rec", 1e-3, 0.1, marks=pytest.mark.slow)],
)
def test_a_part_of_the_weights_fits(name: str, limit: float, least: float) -> None:
    model = zoo.get(name)
    if not model.installed:
        pytest.skip(model.install_command)
    samples = model.samples(6)
    result = planish.optimize(model.path(), samples=samples, budget=Budget(limit, "absolute"), measure=False)
    ledger, before, after = result.report.budget, result.report.before, result.report.after
    assert ledger is not None
    assert ledger.taken
    assert ledger.left, "a budget that fits everything tests nothing"
    assert ledger.evaluations <= ledger.max_evaluations
    assert after.file_bytes < (1 - least) * before.file_bytes
    first, second = ort_runner(model.path()), ort_runner(model_to_bytes(result.model))
    for sample in samples:
        for a, b in zip(first(sample), second(sample), strict=True):
            # The original was run as written, here it runs with the runtime's optimizer.
            assert float(np.abs(a - b).max()) <= limit * (1 + ledger.noise)
