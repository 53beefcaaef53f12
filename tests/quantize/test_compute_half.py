"""compute-float16 on a small network as a whole, and the cut that chooses its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

import planish
from planish.backends.ort.session import Session
from planish.driver.calibrate import observer
from planish.ir import Builder, DType
from planish.ir.clone import clone_model
from planish.ir.graph import Model
from planish.passes.choices import Choices
from planish.passes.core import Context
from planish.passes.shared.half_regions import best_half
from planish.passes.target import get_target

Array = np.ndarray[Any, Any]


def network(scale: float = 1.0) -> Model:
    """Convolution, normalization by hand, products, softmax."""
    b, draw = Builder(), np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return b.const((draw.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32))

    x = b.input("x", DType.F32, ("N", 3, 8, 8))
    y = b.Relu(b.Conv(b.Mul(x, scale), weight(16, 3, 3, 3)))
    y = b.Reshape(y, b.const(np.array([-1, 36, 16])))
    mean = b.ReduceMean(y, b.const(np.array([-1])))
    y = b.Div(b.Sub(y, mean), b.Sqrt(b.Add(b.ReduceMean(b.Mul(y, y), b.const(np.array([-1]))), 1e-12)))
    y = b.Add(b.MatMul(y, weight(16, 24)), weight(24))
    b.output(b.Softmax(b.MatMul(y, weight(24, 10))), "y")
    return b.model()


def samples(count: int, seed: int) -> list[dict[str, Array]]:
    draw = np.random.default_rng(seed)
    return [{"x": draw.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def run(model: Model, **context: Any) -> tuple[Model, Context]:
    copy, ctx = clone_model(model), Context(target=get_target("cuda"), observe=observer(samples(3, 1)), **context)
    planish.Pipeline("compute-float16").run(copy, ctx)
    return copy, ctx


def types(model: Model, op: str) -> list[DType | None]:
    return [n.output.dtype for n in model.graph if n.op == op]


def test_products_move_and_reductions_stay() -> None:
    model = network()
    found, ctx = run(model)
    assert types(found, "Conv") + types(found, "MatMul") == [DType.F16] * 3
    assert set(types(found, "ReduceMean") + types(found, "Softmax") + types(found, "Div")) == {DType.F32}
    assert len(ctx.choices.offered) == 2, "what is in front of the normalization, and what is behind it"
    for sample in samples(4, 2):
        expected, got = Session(model).run(sample)[0], Session(found).run(sample)[0]
        assert 0 < np.abs(expected - got).max() < 2e-3


def test_what_would_overflow_stays() -> None:
    found, _ = run(network(scale=30_000.0))
    assert types(found, "Conv") == [DType.F32]
    assert types(found, "MatMul") == [DType.F16] * 2
    for sample in samples(4, 2):
        assert np.isfinite(Session(found).run(sample)[0]).all()


def test_regions_are_left_one_by_one() -> None:
    units = list(run(network())[1].choices.offered)
    found, _ = run(network(), choices=Choices(left=units[:1]))
    assert types(found, "Conv") == [DType.F32]
    assert types(found, "MatMul") == [DType.F16] * 2


def test_the_cut_is_the_cheapest_of_all() -> None:
    """Against trying every choice, on small graphs with shared values."""
    for seed in range(25):
        draw = np.random.default_rng(seed)
        b = Builder()
        values = [b.input("x", DType.F32, (4, 4))]
        for _ in range(7):
            left, right = (values[int(i)] for i in draw.integers(0, len(values), 2))
            values.append(b.Add(left, right))
        b.output(values[-1], "y")
        graph = b.model().graph
        nodes = list(graph)
        gains = {n: float(draw.integers(1, 80)) for n in nodes if draw.random() < 0.8}
        chosen = best_half(graph, gains)
        assert set(chosen) <= set(gains)

        def cost(
            half: set[Any], gains: dict[Any, float] = gains, nodes: list[Any] = nodes, graph: Any = graph
        ) -> float:
            total = sum(g for n, g in gains.items() if n not in half)
            for value in [*graph.inputs, *(n.output for n in nodes)]:
                inside = value.producer in half
                total += 32.0 * any((user in half) != inside for user, _ in value.uses)
            return total

        options = list(gains)
        every = ({n for i, n in enumerate(options) if bits >> i & 1} for bits in range(1 << len(options)))
        assert cost(set(chosen)) == min(cost(half) for half in every)
