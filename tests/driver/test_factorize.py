"""Ranks chosen within limits, on a real model: what was asked for is what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish
from planish.backends.measure import Run, compare
from planish.backends.ort.session import Session
from planish.driver.budget.metrics import output_error
from planish.driver.dims import with_dims
from planish.driver.factor import Rank, plot_ranks
from planish.driver.measuring import MEASURING
from planish.ir.cost import flops
from planish.ir.dims import SymDim
from planish.ir.errors import BudgetError, UsageError
from planish.ir.graph import Model
from planish.ir.onnx_writer import model_to_bytes
from planish.models import zoo

MAGIKA = pytest.mark.skipif(not zoo.get("magika").installed, reason="needs magika")
DENSE = "default,factorize-matmul{kept=[0.9,0.7,0.5]}"
"""The products only: kernels of convolutions take longer."""


def worst_error(result: planish.Result, samples: list[dict[str, np.ndarray]]) -> float:
    before, after = Session(zoo.get("magika").path()), Session(result.model)
    pairs = [(a, b) for s in samples for a, b in zip(before.run(s), after.run(s), strict=True)]
    return max(output_error("rms", a, b)[0] for a, b in pairs)


@MAGIKA
@pytest.mark.parametrize("limit", [0.02, 0.2])
def test_the_error_is_honoured(limit: float) -> None:
    entry = zoo.get("magika")
    samples = entry.samples(12, 7)
    goal = planish.Goal(minimize="bytes", seconds=2)
    result = planish.optimize(
        entry.path(), samples=samples, pipeline=DENSE, budget=planish.Budget(limit, "rms"), goal=goal, measure=False
    )
    ledger = result.report.budget
    assert ledger is not None
    assert len(ledger.ranks) == 1
    (rank,) = ledger.ranks
    assert isinstance(rank, Rank)
    assert rank.full == "214"
    assert rank.parameters == 512 * 214
    assert worst_error(result, samples) <= limit * 1.001
    if limit > 0.1:
        assert ledger.taken
        assert rank.form in ("compact", "pair")
        assert 0 < rank.kept < 1
        assert "low rank" in str(result.report)


@MAGIKA
def test_a_size_is_honoured_or_refused() -> None:
    entry = zoo.get("magika")
    samples = entry.samples(6, 7)
    whole = len(model_to_bytes(planish.optimize(entry.path(), validate="none", measure=False).model))
    asked = whole - 100_000

    def made(limit: float, size: int) -> planish.Result:
        goal = planish.Goal(minimize="error", max_bytes=size, seconds=2)
        budget = planish.Budget(limit, "rms")
        return planish.optimize(entry.path(), samples=samples, pipeline=DENSE, budget=budget, goal=goal, measure=False)

    result = made(100.0, asked)
    assert len(model_to_bytes(result.model)) <= asked
    with pytest.raises(BudgetError, match=rf"{asked} bytes cannot be had within the budget"):
        made(1e-5, asked)


def test_limits_need_a_budget_too() -> None:
    with pytest.raises(UsageError, match="need an error budget"):
        planish.optimize(Path("model.onnx"), goal=planish.Goal(max_bytes=1000))


def test_ranks_are_drawn(tmp_path: Path) -> None:
    """A bar for each layer, whole ones too; names only where there is room."""
    pytest.importorskip("matplotlib")
    few = [Rank("a/MatMul", "214", "104", "compact", 109568, 0.6, 0.2, -0.1), Rank("b/Conv", "64x32", "")]
    plot_ranks(few, tmp_path / "few.svg")
    drawn = (tmp_path / "few.svg").read_text()
    assert all(
        text in drawn for text in ("compact", "104 of 214", "64x32", "parameters left", "of the budget", "time, %")
    )
    plot_ranks(few * 50, tmp_path / "many.svg")
    assert "a/MatMul" in drawn
    assert "a/MatMul" not in (tmp_path / "many.svg").read_text()
    with pytest.raises(UsageError, match="no picture that can be written"):
        plot_ranks(few, tmp_path / "few.txt")


def test_it_needs_a_budget() -> None:
    with pytest.raises(UsageError, match="factorization needs an error budget"):
        planish.optimize(Path("model.onnx"), factorize=True)


@pytest.mark.slow
@pytest.mark.skipif(not zoo.get("ppocr_cls").installed, reason="needs the OCR models")
def test_operations_and_time_are_honoured_or_refused() -> None:
    """On a classifier of 1x1 convolutions; operations are counted on what comes out."""
    entry = zoo.get("ppocr_cls")
    samples = entry.samples(3, 7)
    products = "default,factorize-matmul{kept=[0.8,0.6,0.4],min-parameters=1024,by-model=false}"

    def made(goal: planish.Goal, **options: Any) -> planish.Result:
        budget = planish.Budget(2.0, "rms")
        return planish.optimize(
            entry.path(), "native", samples=samples, pipeline=products, budget=budget, goal=goal, **options
        )

    whole = operations(planish.optimize(entry.path(), "native", validate="none", measure=False).model, samples[0])
    fewer = made(planish.Goal(minimize="error", max_flops=0.9, seconds=1), measure=False)
    assert operations(fewer.model, samples[0]) <= 0.9 * whole
    ledger = fewer.report.budget
    assert ledger is not None
    assert ledger.spent <= 1
    with pytest.raises(BudgetError, match="operations cannot be had within the budget"):
        made(planish.Goal(minimize="error", max_flops=0.01, seconds=1), measure=False)
    with pytest.raises(BudgetError, match=r"0\.05 of the time cannot be had within the budget"):
        made(planish.Goal(minimize="error", max_time=0.05, seconds=1), cache=False)


def operations(model: Model, sample: dict[str, np.ndarray]) -> int:
    """Of one run."""
    sizes: dict[str, int] = {}
    for value in model.graph.inputs:
        pairs = zip(value.shape or (), sample[value.name].shape, strict=True)
        sizes |= {name: size for extent, size in pairs if isinstance(extent, SymDim) for name in extent.symbols()}
    found = [flops(node) for node in with_dims(model, sizes).all_nodes()]
    assert all(isinstance(count, int) for count in found)
    return sum(count for count in found if isinstance(count, int))


@MAGIKA
@pytest.mark.slow
def test_kernels_and_products_together() -> None:
    """With quantized weights on top; few shares, for each takes some seconds here."""
    entry = zoo.get("magika")
    samples = entry.samples(12, 7)
    result = planish.optimize(
        entry.path(),
        samples=samples,
        pipeline="default,raise-opset{to=13},factorize-matmul{kept=[0.6,0.3]},factorize-conv{kept=[0.5]}",
        quantize="int8-weights",
        budget=planish.Budget(0.3, "rms"),
        goal=planish.Goal(minimize="bytes", seconds=10),
        measure=False,
    )
    ledger = result.report.budget
    assert ledger is not None
    assert ledger.taken
    assert worst_error(result, samples) <= 0.3 * 1.001
    assert result.report.after.file_bytes < 0.75 * result.report.before.file_bytes


@MAGIKA
@pytest.mark.slow
def test_a_latency_is_honoured() -> None:
    """The least error at four fifths of the time: timed anew, in turns with the model that is not factorized."""
    entry = zoo.get("magika")
    samples, asked = entry.samples(6, 7), 0.8
    result = planish.optimize(
        entry.path(),
        "native",
        samples=samples,
        pipeline="default,raise-opset{to=13},"
        "factorize-conv{kept=[0.6,0.4],methods=[tucker],forms=[pair],by-model=false}",
        budget=planish.Budget(2.0, "rms"),
        goal=planish.Goal(minimize="error", max_time=asked, seconds=8),
        cache=False,
    )
    ledger = result.report.budget
    assert ledger is not None
    assert ledger.taken
    whole = planish.optimize(entry.path(), "native", validate="none", measure=False)
    sessions = [Session(model, MEASURING) for model in (whole.model, result.model)]

    def runner(session: Session) -> Run:
        return lambda turn: session.run(samples[turn % len(samples)])

    (found,) = compare([runner(s) for s in sessions], seconds=3.0, cpu_clock=True)
    assert found.low <= asked + 0.05
