"""Layers behind factorized ones are fitted to what these give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import planish
from planish.backends.ort.session import Session
from planish.driver.calibrate import Observer, observer
from planish.ir.clone import clone_model
from planish.ir.constants import ArrayConstant
from planish.ir.graph import Model
from planish.ir.text.parser import parse_model
from planish.ir.verify import verify
from planish.passes.context import Before
from planish.passes.core import Context
from planish.passes.shared.factor.refit import DAMPING, fitted, side_by_side

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]
GEMMS = """graph @main(%x: f32[64,24]) {
  %w1: f32[24,24] = const rand<1>
  %b1: f32[24] = const rand<2>
  %w2: f32[24,20] = const rand<3>
  %b2: f32[20] = const rand<4>
  %h = Gemm(%x, %w1, %b1)
  %r = Relu(%h)
  %y = Gemm(%r, %w2, %b2)
  return %y
}
"""
CONVS = """graph @main(%x: f32[2,24,7,7]) {
  %w1: f32[24,24,1,1] = const rand<1>
  %w2: f32[20,24,3,3] = const rand<3>
  %b2: f32[20] = const rand<4>
  %h = Conv(%x, %w1)
  %r = Relu(%h)
  %y = Conv(%r, %w2, %b2) {pads = [1, 1, 1, 1]}
  return %y
}
"""
GROUPS = CONVS.replace("[20,24,3,3]", "[20,12,3,3]").replace("pads =", "group = 2, pads =")
PAIR = """graph @main(%x: f32[64,24]) {
  %w1: f32[24,24] = const rand<1>
  %b1: f32[24] = const rand<2>
  %w2: f32[24,20] = const rand<3>
  %b2: f32[20] = const rand<4>
  %w3: f32[24,12] = const rand<5>
  %h = Gemm(%x, %w1, %b1)
  %r = Relu(%h)
  %y = Gemm(%r, %w2, %b2)
  %z = Gemm(%r, %w3)
  %a = Concat(%y, %z) {axis = 1}
  return %a
}
"""
OPTIONS = "{min-parameters=16,by-model=false,"
MATRICES = f"factorize-matmul{OPTIONS}ranks=[10],forms=[pair]}}"
SHARED = f"factorize-parallel{OPTIONS}ranks=[10],forms=[pair]}}"
KERNELS = f"factorize-conv{OPTIONS}kept=[0.4],methods=[tucker],forms=[pair]}}"


def samples(shape: tuple[int, ...], seed: int, count: int = 40) -> list[Sample]:
    """Channels (axis 1) move together and have a mean."""
    mixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    c = shape[1]
    mix, mean = mixed.normal(size=(c, c)) * np.linspace(1, 0.1, c), mixed.normal(size=c)

    def one() -> Array:
        rows = rng.normal(size=(shape[0], *shape[2:], c)) @ mix + mean
        return np.moveaxis(rows, -1, 1).astype(np.float32)

    return [{"x": one()} for _ in range(count)]


def values(model: Model) -> list[Any]:
    return [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]


def built(text: str, pipeline: str, given: list[Sample], *, refit: bool) -> tuple[Model, list[str]]:
    """The model with all its layers factorized."""
    whole, notes = parse_model(text), list[str]()
    model = clone_model(whole)
    ctx = Context(observe=observer(given), sink=notes.append)
    if refit:
        ctx.before = Before(whole, dict(zip(values(model), values(whole), strict=True)), Observer(given).run)
    planish.Pipeline(pipeline).run(model, ctx)
    verify(model)
    return model, notes


def error(text: str, made: Model, given: list[Sample]) -> float:
    whole, session = Session(parse_model(text)), Session(made)
    pairs = [(np.asarray(whole.run(s)[0]), np.asarray(session.run(s)[0])) for s in given]
    return float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((a**2).sum() for a, _ in pairs)))


@pytest.mark.parametrize(
    ("text", "pipeline", "shape"),
    [
        (GEMMS, MATRICES, (64, 24)),
        (CONVS, f"{MATRICES},{KERNELS}", (2, 24, 7, 7)),
        # The parallel ones last, so that they read what is factorized by then.
        (PAIR, f"{MATRICES.replace('16,', '500,')},{SHARED}", (64, 24)),
    ],
    ids=["matrices", "kernels", "parallel"],
)
def test_less_is_lost_on_other_samples(text: str, pipeline: str, shape: tuple[int, ...]) -> None:
    given, others = samples(shape, 1), samples(shape, 2)
    plain, _ = built(text, pipeline, given, refit=False)
    again, notes = built(text, pipeline, given, refit=True)
    assert not any("not fitted" in note for note in notes)
    assert [n.op for n in plain.graph] == [n.op for n in again.graph]
    assert error(text, again, others) < error(text, plain, others)


def test_each_group_is_fitted_by_itself() -> None:
    """Half of the channels say little of the others: less is lost of what it was fitted to, at least."""
    given = samples((2, 24, 7, 7), 1)
    plain, _ = built(GROUPS, f"{MATRICES},{KERNELS}".replace("0.4", "0.9"), given, refit=False)
    again, notes = built(GROUPS, f"{MATRICES},{KERNELS}".replace("0.4", "0.9"), given, refit=True)
    assert not notes
    assert error(GROUPS, again, given) < 0.995 * error(GROUPS, plain, given)


def test_least_squares_of_the_original_outputs() -> None:
    """What is fitted is what least squares on all rows give, with the damping as rows of their own."""
    given, whole = samples((64, 24), 1, 8), parse_model(GEMMS)
    model = clone_model(whole)
    before = Before(whole, dict(zip(values(model), values(whole), strict=True)), Observer(given).run)
    ctx = Context(observe=observer(given), before=before)
    first, relu, second = model.graph
    cut = first.inputs[1]
    assert cut is not None
    assert cut.data is not None
    weight = np.asarray(cut.data.numpy()).copy()
    weight[:, 4:] *= 0.5  # a prefix that is off
    first.set_input(1, model.graph.add_constant(ArrayConstant(weight), "w"))
    matrix = np.asarray(second.inputs[1].data.numpy(), np.float64)  # type: ignore[union-attr]
    found = fitted(model, [second], matrix[None], ctx, keeps_mean=True)

    def rows(m: Model) -> Array:
        copy = clone_model(m)
        copy.graph.set_outputs([list(copy.graph)[1].output], ["r"])
        session = Session(copy)
        return np.concatenate([np.asarray(session.run(s)[0], np.float64) for s in given])

    x, after = rows(whole), rows(model)
    centred, target = after - after.mean(axis=0), (x - x.mean(axis=0)) @ matrix
    damping = DAMPING * (centred**2).sum() / centred.shape[1]
    a = np.concatenate([centred, np.sqrt(damping) * np.eye(24)])
    b = np.concatenate([target, np.sqrt(damping) * matrix])
    expected = np.linalg.lstsq(a, b, rcond=None)[0]
    np.testing.assert_allclose(found.matrix[0], expected, rtol=1e-3, atol=1e-4)
    shift = x.mean(axis=0) @ matrix - after.mean(axis=0) @ found.matrix[0]
    np.testing.assert_allclose(found.shift, shift, rtol=1e-3, atol=1e-4)
    assert relu.op == "Relu"


def test_what_cannot_be_compared_is_factorized_as_it_is() -> None:
    """A layer that another pass has changed has no counterpart: it keeps its own best factors, with a note."""
    given, whole = samples((64, 24), 1, 8), parse_model(GEMMS)
    model, notes = clone_model(whole), list[str]()
    ctx = Context(observe=observer(given), sink=notes.append, before=Before(whole, {}, Observer(given).run))
    planish.Pipeline(MATRICES).run(model, ctx)
    assert sum("is not fitted again: it lies in a body, or another pass has changed it" in note for note in notes) == 2
    assert len(list(model.graph)) == 5


def test_both_models_side_by_side_give_what_each_gives() -> None:
    whole = parse_model(GEMMS)
    model = clone_model(whole)
    joint, mine, theirs = side_by_side(
        model, Before(whole, dict(zip(values(model), values(whole), strict=True)), Observer([]).run)
    )
    y = model.graph.outputs[0]
    joint.graph.set_outputs([mine[y], theirs[y]], ["a", "b"])
    verify(joint)
    a, b = Session(joint).run(samples((64, 24), 3, 1)[0])
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
