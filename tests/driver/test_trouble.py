"""Made-up samples that aim at trouble, and what a difference on them means."""

from __future__ import annotations

import numpy as np
import pytest

from planish.backends.ort.session import Session
from planish.driver.generate import generate_samples
from planish.driver.reference import Reference
from planish.driver.samples import Samples
from planish.driver.trouble import EXTREME, KINDS, NOT_FINITE, PADDED, SHORT, ZEROS
from planish.driver.validate import validate
from planish.ir.builder import Builder
from planish.ir.constants import ArrayConstant
from planish.ir.dtypes import DType
from planish.ir.graph import Model

from .networks import array, embedder

FLOATS = (DType.F16, DType.F32, DType.F64)


def made(model: Model) -> Samples:
    return generate_samples(model, Session(model).run, trouble=True)


def of_kind(samples: Samples, kind: str) -> dict[str, np.ndarray]:
    return dict(samples.items[samples.kinds.index(kind)])


def negated(dtype: DType = DType.F32) -> Model:
    b = Builder()
    b.output(b.Neg(b.input("x", dtype, ("N", "T", 40))), "y")
    return b.model()


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats(dtype: DType) -> None:
    found = made(negated(dtype))
    assert found.kinds == ["", "", "", "", SHORT, ZEROS, EXTREME, NOT_FINITE]
    zeros, extreme, odd = (of_kind(found, kind)["x"] for kind in (ZEROS, EXTREME, NOT_FINITE))
    assert not zeros.any()
    assert np.signbit(zeros).any()
    assert not np.signbit(zeros).all()
    tiny = np.finfo(dtype.numpy).tiny
    assert ((extreme != 0) & (np.abs(extreme) < tiny)).any()
    assert (extreme >= 50).any()
    assert (extreme <= -50).any()
    assert (extreme == 0).any()
    assert np.isfinite(extreme).all()
    assert np.isnan(odd).any()
    assert np.isinf(odd).any()
    assert np.isfinite(odd).any()


def test_length_one_and_an_odd_batch() -> None:
    assert of_kind(made(negated()), SHORT)["x"].shape == (3, 1, 40)
    shapes = {s["x"].shape for s in made(negated())}
    assert len({shape[0] for shape in shapes}) > 1
    assert len({shape[1] for shape in shapes}) > 2


def test_masks_are_padded_and_tokens_agree() -> None:
    padded = of_kind(made(embedder()), PADDED)
    mask, ids = padded["attention_mask"], padded["input_ids"]
    assert mask.shape == ids.shape
    assert (np.abs(np.diff(mask, axis=1)).sum(1) <= 1).all()  # one edge between what counts and the padding
    assert (mask.sum(1) >= 1).all()
    assert not ids[mask == 0].any()


def test_only_ordinary_ones_are_measured() -> None:
    found = made(negated())
    assert len(found.ordinary) == 4
    assert len(found) == 4 + len(KINDS) - 1
    assert generate_samples(negated(), Session(negated()).run).kinds == [""] * 4


def test_fixed_dims_stay() -> None:
    model = negated()
    found = generate_samples(model, Session(model).run, dims={"T": 5}, trouble=True)
    assert {s["x"].shape[1] for s in found} == {5}


def scaled(model: Model, which: str) -> Model:
    """The model with a fault that ordinary inputs do not show."""
    b = Builder(model.graph)
    (y,) = model.graph.outputs
    if which == "zero":
        y = b.Where(b.Equal(y, b.const(np.float32(0))), b.const(np.float32(1)), y)
    elif which == "large":
        y = b.Clip(y, b.const(np.float32(-500)), b.const(np.float32(500)))
    elif which == "short":
        length = b.Gather(b.Shape(y), b.const(np.array(1)))
        y = b.Add(y, b.Cast(b.Equal(length, b.const(np.array(1))), to=1))
    model.graph.set_outputs([y], ["y"])
    return model


@pytest.mark.parametrize("which", ["zero", "large", "short"])
def test_faults_that_ordinary_samples_miss(which: str) -> None:
    plain = generate_samples(negated(), Session(negated()).run)
    assert validate(negated(), scaled(negated(), which), plain).equivalent
    assert validate(negated(), scaled(negated(), which)).equivalent is False


def quotient(over: float) -> Model:
    """x / |x| times a number: NaN where x is 0."""
    b = Builder()
    x = b.input("x", DType.F32, ("N", 40))
    b.output(b.Mul(b.Div(x, b.Abs(x)), b.const(np.float32(over))), "y")
    return b.model()


def test_elements_that_are_not_finite_in_the_original_prove_nothing() -> None:
    b = Builder()
    x = b.input("x", DType.F32, ("N", 40))
    b.output(b.Sign(x), "y")
    found = validate(quotient(1.0), b.model())
    assert found.equivalent, found.problems
    assert any("no proof" in warning for warning in found.warnings)
    assert validate(quotient(1.0), quotient(1.001)).equivalent is False


def test_the_kind_counts_only_where_it_is_known() -> None:
    model = quotient(1.0)
    reference = Reference(model)
    reference.samples = [{"x": np.zeros((1, 40), np.float32)}]
    other = [np.zeros((1, 40), np.float32)]
    assert reference.compare(0, other)[0].status == "different"
    reference.kinds = [ZEROS]
    assert reference.compare(0, other)[0].status == "within-bound"


def test_a_table_stays_indexed_within_its_rows() -> None:
    b = Builder()
    ids = b.input("input_ids", DType.I64, ("N", "T"))
    table = b.graph.add_constant(ArrayConstant(array(7, 3)), "table")
    b.output(b.Gather(table, ids), "y")
    assert max(int(s["input_ids"].max()) for s in made(b.model())) < 7
