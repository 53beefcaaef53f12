"""The second factor makes up for the rounding of the first; factors become integers like any weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import planish
from planish.backends.ort.session import Session
from planish.driver.calibrate import observer
from planish.ir.clone import clone_model
from planish.ir.graph import Model, Node
from planish.ir.text.parser import parse_model
from planish.ir.verify import verify
from planish.passes.core import Context
from planish.passes.shared.quant.scheme import rounded
from planish.passes.target import get_target

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]
MODELS = {
    "gemm": """graph @main(%x: f32[64,32]) {
  %w: f32[32,24] = const rand<1>
  %b: f32[24] = const rand<2>
  %y = Gemm(%x, %w, %b)
  return %y
}
""",
    "wide gemm": """graph @main(%x: f32[64,32]) {
  %w: f32[32,48] = const rand<1>
  %y = Gemm(%x, %w)
  return %y
}
""",
    "matmul": """graph @main(%x: f32[64,32]) {
  %w: f32[32,48] = const rand<1>
  %b: f32[48] = const rand<2>
  %p = MatMul(%x, %w)
  %y = Add(%p, %b)
  return %y
}
""",
    "conv": """graph @main(%x: f32[2,32,5,5]) {
  %w: f32[24,32,1,1] = const rand<1>
  %y = Conv(%x, %w)
  return %y
}
""",
    "wide conv": """graph @main(%x: f32[2,32,5,5]) {
  %w: f32[48,32,1,1] = const rand<1>
  %b: f32[48] = const rand<2>
  %y = Conv(%x, %w, %b)
  return %y
}
""",
}


def samples(model: Model, count: int = 30) -> list[Sample]:
    """Inputs that live mostly in few directions."""
    rng = np.random.default_rng(0)
    shape = [int(str(d)) for d in model.graph.inputs[0].shape or ()]
    mix, mean = rng.normal(size=(32, 32)) * np.logspace(0, -2, 32)[:, None], rng.normal(size=32)

    def one() -> Array:
        rows = rng.normal(size=(*shape[:1], *shape[2:], 32)) @ mix + mean
        return np.ascontiguousarray(np.moveaxis(rows, -1, 1).astype(np.float32))

    return [{"x": one()} for _ in range(count)]


def run(model: Model, pipeline: str, given: list[Sample]) -> tuple[Model, list[str]]:
    copy, notes = clone_model(model), list[str]()
    ctx = Context(target=get_target("x86-64-v4"), observe=observer(given), sink=notes.append, trace=True)
    planish.Pipeline(pipeline).run(copy, ctx)
    verify(copy)
    return copy, notes


def outputs(model: Model, given: list[Sample]) -> Array:
    session = Session(model)
    return np.stack([np.asarray(session.run(s)[0], np.float64) for s in given])


def annotated(model: Model) -> list[Node]:
    found: list[Node] = []
    for node in model.graph:
        weight = node.input(1)
        if weight is not None and weight.data is not None and weight.tensor is not None and weight.tensor.quant:
            found.append(node)
    return found


def round_weights(model: Model, count: int) -> None:
    """The first ``count`` annotated weights as they will be stored, in floats."""
    for node in annotated(model)[:count]:
        weight = node.inputs[1]
        assert weight is not None
        assert weight.data is not None
        assert weight.tensor is not None
        assert weight.tensor.quant is not None
        weight.data = type(weight.data)(rounded(weight.numpy(), weight.tensor.quant))  # type: ignore[call-arg]


FACTORIZE = "factorize-matmul{{forms=[{form}],ranks=[12],min-parameters=16}}"
ASSIGN = "assign-quant{min-macs=1}"


@pytest.mark.parametrize("form", ["pair", "compact"])
@pytest.mark.parametrize("case", MODELS)
def test_the_second_factor_makes_up_for_the_first(case: str, form: str) -> None:
    model = parse_model(MODELS[case])
    given, fresh = samples(model), samples(model)[:10]
    factorized, _ = run(model, FACTORIZE.format(form=form), given)
    rough, _ = run(factorized, ASSIGN, given)
    round_weights(rough, 1)
    refitted, notes = run(factorized, f"{ASSIGN},refit-factors", given)
    exact = outputs(factorized, fresh)
    before, after = (np.linalg.norm(outputs(m, fresh) - exact) for m in (rough, refitted))
    assert len(annotated(refitted)) == 2, notes
    assert after < 0.9 * before
    again, _ = run(refitted, "refit-factors", given)
    assert str(again) == str(refitted), "the first is on its grid already"


def test_factors_become_integers() -> None:
    """Low rank, then integers: smaller and as exact as rounding allows, better with the second fitted again."""
    model = parse_model(MODELS["gemm"])
    given, fresh = samples(model), samples(model)[:10]
    factorized, _ = run(model, FACTORIZE.format(form="pair"), given)
    exact = outputs(factorized, fresh)
    errors: list[float] = []
    for refit in ("", "refit-factors,"):
        made, _ = run(factorized, f"{ASSIGN},{refit}insert-qdq", given)
        assert sum(n.op == "DequantizeLinear" for n in made.graph) >= 2
        floats = [
            v for v in made.graph.constants if v.data is not None and v.data.dtype.is_float and v.data.count > 100
        ]
        assert not floats, "both factors are stored as integers"
        errors.append(float(np.linalg.norm(outputs(made, fresh) - exact) / np.linalg.norm(exact)))
    assert errors[1] < errors[0] < 0.05


def test_without_annotations_nothing_changes() -> None:
    model = parse_model(MODELS["gemm"])
    factorized, _ = run(model, FACTORIZE.format(form="pair"), samples(model))
    same, notes = run(factorized, "refit-factors", samples(model))
    assert str(same) == str(factorized)
    assert any("assign-quant makes them" in n for n in notes)


def test_factors_of_even_size_for_integers() -> None:
    """With little growth channels are permuted, the permutation goes into the layer in front, integers lose less."""
    model = parse_model("""graph @main(%x: f32[64,32]) {
  %w: f32[32,96] = const rand<1>
  %v: f32[96,48] = const rand<2>
  %h = Gemm(%x, %w)
  %a = Sigmoid(%h)
  %y = Gemm(%a, %v)
  return %y
}
""")
    given, fresh = samples(model), samples(model)[:10]
    largest: list[float] = []
    errors: list[float] = []
    for growth in (0, 3):
        options = f"forms=[compact],ranks=[20],min-parameters=4000,growth={growth}"
        factorized, _ = run(model, f"factorize-matmul{{{options}}},fold-permutations", given)
        t = next(v for v in factorized.graph.constants if v.name.endswith("/t"))
        largest.append(float(np.abs(t.numpy()).max()))
        quantized, _ = run(factorized, f"{ASSIGN},refit-factors,insert-qdq", given)
        exact = outputs(factorized, fresh)
        errors.append(float(np.linalg.norm(outputs(quantized, fresh) - exact) / np.linalg.norm(exact)))
    assert largest[1] < 3 < largest[0]
    assert errors[1] < errors[0]
