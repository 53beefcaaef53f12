"""Positions of equal values may differ, those of unequal ones may not: cases on each side of each boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planish.driver.checks.reference import Reference
from planish.driver.checks.validate import validate
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.graph import Model

EPS = float(np.finfo(np.float32).eps)
"""Spacing of float32 at 1; scores below are of scale 1, so the bound of one is 8 of these, of a pair 16."""


def scores(gap: float) -> np.ndarray:
    """Rows of 20 numbers in [0, 0.5]; the second largest of row 1 lies ``gap`` below the largest, at 9 and 4."""
    x = np.linspace(0, 0.5, 40, dtype=np.float32).reshape(2, 20)
    x[1, 9] = 1.0
    x[1, 4] = np.float32(1.0 - gap)
    x[0, 3] = 1.0
    return x


def model(build: Callable[[Builder, Any], Any]) -> Model:
    b = Builder()
    b.output(build(b, b.input("x", DType.F32, (2, 20))), "y")
    return b.model()


def argmax(b: Builder, x: Any) -> Any:
    return b.ArgMax(x, axis=1, keepdims=0)


def topk(b: Builder, x: Any, k: int = 2) -> Any:
    return b.op("TopK", x, b.const(np.array([k])), _outputs=2)[1]


CHAINS: dict[str, Callable[[Builder, Any], Any]] = {
    "plain": lambda b, i: i,
    "cast": lambda b, i: b.Cast(i, to=6),
    "reshape": lambda b, i: b.Reshape(i, b.const(np.array([1, -1]))),
    "cast and unsqueeze": lambda b, i: b.Unsqueeze(b.Cast(i, to=6), b.const(np.array([0]))),
    "a table of words": lambda b, i: b.Gather(b.const(np.array([f"w{k}" for k in range(20)], object)), i),
    "a table of vectors": lambda b, i: b.Gather(b.const(np.arange(60, dtype=np.float32).reshape(20, 3)), i),
    "an offset": lambda b, i: b.Add(i, b.const(np.array(100))),
    "a comparison": lambda b, i: b.Equal(i, b.const(np.array(9))),
}


def outcome(m: Model, gap: float, swap: Callable[[Any], Any]) -> str:
    """The verdict when an original's scores differ by ``gap`` and the other model answers as for swapped scores."""
    reference = Reference(m)
    x = scores(gap)
    reference.samples = [{"x": x}]
    found = reference.run({"x": swap(x)})
    return reference.compare(0, found)[0].status


def swapped(x: np.ndarray) -> np.ndarray:
    """The tie of row 1 decided the other way."""
    x = x.copy()
    winner, loser = (9, 4) if x[1].argmax() == 4 else (4, 9)
    x[1, winner], x[1, loser] = 1.0, np.float32(1.0 - 1e-3)
    return x


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(("gap", "status"), [(0.0, "within-bound"), (2 * EPS, "within-bound"), (1e-4, "different")])
def test_argmax_and_what_follows(chain: str, gap: float, status: str) -> None:
    m = model(lambda b, x: CHAINS[chain](b, argmax(b, x)))
    assert outcome(m, gap, swapped) == status


def test_argmin() -> None:
    m = model(lambda b, x: b.ArgMin(b.Neg(x), axis=-1))
    assert outcome(m, 2 * EPS, swapped) == "within-bound"
    assert outcome(m, 1e-4, swapped) == "different"


def test_argmax_along_another_axis() -> None:
    m = model(lambda b, x: b.ArgMax(b.Transpose(x, perm=(1, 0)), axis=0, keepdims=1))
    assert outcome(m, 0.0, swapped) == "within-bound"
    assert outcome(m, 1e-4, swapped) == "different"


def test_a_position_that_does_not_tie() -> None:
    m = model(argmax)
    reference = Reference(m)
    reference.samples = [{"x": scores(0.0)}]
    for found, status in (([3, 9], "within-bound"), ([3, 5], "different"), ([4, 9], "different")):
        assert reference.compare(0, [np.array(found)])[0].status == status, found


@pytest.mark.parametrize(("gap", "status"), [(0.0, "within-bound"), (2 * EPS, "within-bound"), (1e-4, "different")])
def test_topk(gap: float, status: str) -> None:
    assert outcome(model(topk), gap, swapped) == status


def test_topk_that_names_one_position_twice() -> None:
    for m in (model(topk), model(lambda b, x: b.Reshape(b.Cast(topk(b, x), to=6), b.const(np.array([-1]))))):
        reference = Reference(m)
        reference.samples = [{"x": scores(0.0)}]
        expected = np.asarray(reference.outputs(0)[0])
        right, wrong = expected.copy(), expected.copy()
        right.reshape(2, 2)[1] = right.reshape(2, 2)[1, ::-1]
        wrong.reshape(2, 2)[1, 1] = wrong.reshape(2, 2)[1, 0]
        assert reference.compare(0, [right])[0].status == "within-bound"
        assert reference.compare(0, [wrong])[0].status == "different"


def test_sorting_all() -> None:
    m = model(lambda b, x: topk(b, b.Round(b.Mul(x, b.const(np.float32(4)))), 20))
    reference = Reference(m)
    reference.samples = [{"x": scores(0.0)}]
    expected = np.asarray(reference.outputs(0)[0])
    inside, across = expected.copy(), expected.copy()
    inside[0, -2:] = inside[0, :-3:-1]  # two of the equal last ones
    across[0, [0, -1]] = across[0, [-1, 0]]
    assert reference.compare(0, [inside])[0].status == "within-bound"
    assert reference.compare(0, [across])[0].status == "different"


def boxes_model() -> Model:
    b = Builder()
    boxes, s = b.input("boxes", DType.F32, (1, 4, 4)), b.input("scores", DType.F32, (1, 1, 4))
    limit, iou = b.const(np.array([4])), b.const(np.array([0.5], np.float32))
    b.output(b.op("NonMaxSuppression", boxes, s, limit, iou), "y")
    return b.model()


def test_non_max_suppression() -> None:
    apart = np.array([[[i * 10.0, 0, i * 10.0 + 5, 5] for i in range(4)]], np.float32)
    reference = Reference(boxes_model())
    reference.samples = [{"boxes": apart, "scores": np.array([[[0.9, 0.7, 0.7, 0.2]]], np.float32)}]
    expected = np.asarray(reference.outputs(0)[0])
    assert expected[:, 2].tolist() == [0, 1, 2, 3]
    for order, status in (
        ([0, 2, 1, 3], "within-bound"),
        ([1, 0, 2, 3], "different"),
        ([0, 1, 1, 3], "different"),
        ([0, 1, 3, 2], "different"),
    ):
        found = expected.copy()
        found[:, 2] = order
        assert reference.compare(0, [found])[0].status == status, order


def test_rounding_of_a_pass_may_break_a_tie() -> None:
    """Two columns of a product are equal in real numbers, their sums are not rounded alike."""
    rng = np.random.default_rng(5)
    w = rng.standard_normal((64, 20)).astype(np.float32)
    w[:, 7] = w[:, 3]
    first, second = Builder(), Builder()
    for b, weights in ((first, w), (second, w[::-1].copy())):
        x = b.input("x", DType.F32, (4, 64))
        flipped = x if b is first else b.op("Gather", x, b.const(np.arange(63, -1, -1)), axis=1)
        product = b.MatMul(flipped, b.const(weights))
        nudge = np.zeros(20, np.float32)
        nudge[7 if b is first else 3] = 2e-5
        b.output(b.ArgMax(b.Add(product, b.const(nudge)), axis=1), "y")
    samples = [{"x": np.abs(rng.standard_normal((4, 64))).astype(np.float32) * np.sign(w[:, 3])} for _ in range(2)]
    found = validate(first.model(), second.model(), samples)
    assert found.equivalent, found.problems
    assert found.outputs[0].status == "within-bound"
    assert "equal values" in found.outputs[0].reason


def test_integers_without_a_choice_stay_exact() -> None:
    b = Builder()
    b.output(b.Cast(b.input("x", DType.F32, (2, 20)), to=7), "y")
    reference = Reference(b.model())
    reference.samples = [{"x": scores(0.0) * 10 + np.float32(0.03)}]
    found = np.asarray(reference.outputs(0)[0]).copy()
    found[0, 0] += 1
    assert reference.compare(0, [found])[0].status == "different"


def test_integers_that_are_equal() -> None:
    b = Builder()
    b.output(topk(b, b.input("x", DType.I64, (2, 20)), 3), "y")
    reference = Reference(b.model())
    reference.samples = [{"x": np.arange(40).reshape(2, 20) // 2}]
    expected = np.asarray(reference.outputs(0)[0])
    inside, across = expected.copy(), expected.copy()
    inside[0, :2] = inside[0, 1::-1]
    across[0, 1:] = across[0, :0:-1]
    assert reference.compare(0, [inside])[0].status == "within-bound"
    assert reference.compare(0, [across])[0].status == "different"


def looked_up(b: Builder, x: Any) -> Any:
    """Rows of a table for the two largest: what a ranking or a detector returns."""
    table = b.const(np.random.default_rng(3).standard_normal((20, 3)).astype(np.float32))
    return b.Gather(table, topk(b, x), axis=0)


def test_rows_that_are_looked_up_are_rows_of_one_choice() -> None:
    reference = Reference(model(looked_up))
    reference.samples = [{"x": scores(0.0)}]
    expected = np.asarray(reference.outputs(0)[0])
    other = expected.copy()
    other[1] = expected[1, ::-1]
    mixed, twice = other.copy(), expected.copy()
    mixed[1, 0, 2] = expected[1, 0, 2]  # each element is one of a row that ties, the row is none
    twice[1, 1] = expected[1, 0]
    assert reference.compare(0, [other])[0].status == "within-bound"
    for wrong in (mixed, twice):  # rounding alone decides the tie, so that other rows come as no surprise
        assert reference.compare(0, [wrong])[0].status == "unstable", wrong


def test_two_nodes_that_choose_together() -> None:
    """A sum of what two ArgMax look up: both ties may have gone the other way at once."""

    def both(b: Builder, x: Any) -> Any:
        table = b.const(np.random.default_rng(3).standard_normal((20, 3)).astype(np.float32))
        first = b.Gather(table, b.ArgMax(x, axis=-1, keepdims=0), axis=0)
        turned = b.ArgMax(b.Neg(b.Neg(x)), axis=-1, keepdims=0, select_last_index=0)
        return b.Concat(first, b.Gather(table, turned, axis=0), axis=1)

    assert outcome(model(both), 0.0, swapped) == "within-bound"
    assert outcome(model(both), 1e-4, swapped) == "different"
