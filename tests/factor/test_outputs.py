"""Errors of layers in units of the model's outputs: predicted by gradients, measured by the runtime."""

from __future__ import annotations

import numpy as np
import pytest

import planish
from planish.backends.ort.session import Session
from planish.driver.calibrate import observer
from planish.ir.builder import Builder
from planish.ir.clone import clone_model
from planish.ir.dtypes import DType
from planish.ir.graph import Model
from planish.passes.core import Context
from planish.passes.shared.factor.outputs import observe_outputs

WIDE, NARROW = 24, 6


def network(*, last: str = "Tanh") -> Model:
    """Three layers; the last reads little of what the middle one writes."""
    rng = np.random.default_rng(0)
    b = Builder(opset=20)
    x = b.input("x", DType.F32, ("N", WIDE))
    read = np.logspace(0, -2, WIDE)[:, None] * rng.normal(size=(WIDE, NARROW))
    x = b.Tanh(b.Gemm(x, b.const((0.4 * rng.normal(size=(WIDE, WIDE))).astype(np.float32)), _name="first"))
    bias = b.const(np.zeros(WIDE, np.float32))
    x = b.Gemm(x, b.const((0.2 * rng.normal(size=(WIDE, WIDE))).astype(np.float32)), bias, _name="middle")
    b.output(b.op(last, b.MatMul(b.Tanh(x), b.const((0.5 * read).astype(np.float32)), _name="last")), "y")
    return b.model()


def samples(count: int = 60) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(16, WIDE)).astype(np.float32)} for _ in range(count)]


def factorized(model: Model, options: str) -> tuple[float, float]:
    """Predicted and measured error of the outputs, root mean square relative to theirs, of each sample."""
    copy, given = clone_model(model), samples()
    ctx = Context(observe=observer(given))
    left = f"factorize-matmul{{min-parameters=500,forms=[pair],ranks=[8],damping=0,{options}}}"
    ctx.choices.left = frozenset({"factorize-matmul/r8@first"})
    planish.Pipeline(left).run(copy, ctx)
    before, after = Session(model), Session(copy)
    relative = [np.square(after.run(s)[0] - before.run(s)[0]).sum() / np.square(before.run(s)[0]).sum() for s in given]
    unit = ctx.choices.offered["factorize-matmul/r8@middle"]
    return unit.error, float(np.sqrt(np.mean(relative)))


def test_error_of_the_outputs_is_predicted() -> None:
    predicted, measured = factorized(network(), "by-model=true")
    assert predicted == pytest.approx(measured, rel=0.35)  # with what the damped metric adds, and a linear model
    _, by_layer = factorized(network(), "by-model=false")
    assert measured < 0.7 * by_layer, "what nothing reads may be lost"


def test_few_samples_with_most_of_the_gradient_count_as_few() -> None:
    """Behind a softmax that is sure of all samples but some, thousands of rows say no more than those of the others."""

    def seen(sure: float) -> float:
        rng = np.random.default_rng(2)
        b = Builder(opset=20)
        x = b.input("x", DType.F32, ("N", WIDE))
        x = b.Gemm(x, b.const((0.3 * rng.normal(size=(WIDE, WIDE))).astype(np.float32)))
        b.output(b.Softmax(b.MatMul(x, b.const((0.2 * rng.normal(size=(WIDE, NARROW))).astype(np.float32)))), "y")
        model = b.model()
        node = next(n for n in model.all_nodes() if n.op == "Gemm")
        scale = [1.0 if i % 10 == 0 else sure for i in range(100)]
        given = [{"x": (s * rng.normal(size=(4, WIDE))).astype(np.float32)} for s in scale]
        metric = observe_outputs(model, [node], Context(observe=observer(given))).of([node])
        assert metric is not None
        return metric.seen

    assert 100 < seen(1.0) <= 400
    assert seen(40.0) < 0.35 * seen(1.0)


def test_no_gradient_is_said() -> None:
    b = Builder(opset=20)
    x = b.input("x", DType.F32, (1, 4, 8, 8))
    y = b.Conv(x, b.const(np.ones((4, 4, 1, 1), np.float32)))
    b.output(b.MaxPool(y, kernel_shape=(2, 2)), "y")
    model = b.model()
    node = next(n for n in model.all_nodes() if n.op == "Conv")
    metrics = observe_outputs(model, [node], Context(observe=observer([{"x": np.ones((1, 4, 8, 8), np.float32)}])))
    assert metrics.of([node]) is None
    assert metrics.declined[node] == "MaxPool behind it has no gradient"
    assert observe_outputs(model, [node], Context()).of([node]) is None
