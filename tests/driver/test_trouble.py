"""Made-up samples that aim at trouble, and what a difference on them means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from planish.backends.ort.session import Session
from planish.driver.checks.compare import OutputCheck
from planish.driver.checks.contract import Contract
from planish.driver.checks.pairing import kernels_differ
from planish.driver.checks.reference import Reference
from planish.driver.checks.validate import validate
from planish.driver.inputs.generate import generate_samples
from planish.driver.inputs.samples import Samples
from planish.driver.inputs.trouble import EXTREME, INFINITIES, KINDS, NANS, PADDED, SHORT, ZEROS
from planish.ir.builder import Builder
from planish.ir.constants import ArrayConstant
from planish.ir.dtypes import DType
from planish.ir.graph import Model
from planish.passes.core import Numbers

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
    assert found.kinds == ["", "", "", "", SHORT, ZEROS, EXTREME, NANS, INFINITIES]
    zeros, extreme, nans, infinities = (of_kind(found, kind)["x"] for kind in (ZEROS, EXTREME, NANS, INFINITIES))
    assert not zeros.any()
    assert np.signbit(zeros).any()
    assert not np.signbit(zeros).all()
    tiny = np.finfo(dtype.numpy).tiny
    assert ((extreme != 0) & (np.abs(extreme) < tiny)).any()
    assert (extreme >= 50).any()
    assert (extreme <= -50).any()
    assert (extreme == 0).any()
    assert np.isfinite(extreme).all()
    assert np.isnan(nans).any()
    assert not np.isinf(nans).any()
    assert np.isfinite(nans).any()
    assert np.isinf(infinities).any()
    assert not np.isnan(infinities).any()
    assert np.isfinite(infinities).any()


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


def checked(original: Model, other: Model, kind: str, contract: Contract | None) -> OutputCheck:
    """One output on a sample of a kind, where the passes promise ``contract``."""
    reference = Reference(original)
    samples = made(original)
    reference.samples, reference.kinds, reference.contract = samples.items, samples.kinds, contract
    i = samples.kinds.index(kind)
    return reference.compare(i, Session(other).run(samples.items[i]))[0]


def cleaned() -> Model:
    """The negation with zeros for NaN."""
    b = Builder()
    y = b.Neg(b.input("x", DType.F32, ("N", "T", 40)))
    b.output(b.Where(b.IsNaN(y), b.const(np.float32(0)), y), "y")
    return b.model()


def summed() -> Model:
    """The negation with zero times the next element added: NaN spreads, numbers are as before."""
    b = Builder()
    x = b.input("x", DType.F32, ("N", "T", 40))
    turned = b.Concat(
        b.Slice(x, np.array([1]), np.array([40]), np.array([2])),
        b.Slice(x, np.array([0]), np.array([1]), np.array([2])),
        axis=2,
    )
    b.output(b.Sub(b.Mul(turned, b.const(np.float32(0))), x), "y")
    return b.model()


REAL, SPREADING = Contract(), Contract(spreads=True)


@pytest.mark.parametrize(
    ("other", "contract", "right"),
    [
        (cleaned, None, True),
        (cleaned, Contract(Numbers.APPROXIMATES), True),
        (cleaned, REAL, False),
        (cleaned, SPREADING, False),
        (cleaned, Contract(Numbers.EXACT), False),
        (summed, None, True),
        (summed, REAL, False),
        (summed, SPREADING, True),
        (summed, Contract(Numbers.EXACT), False),
    ],
)
def test_nan_stays_nan_and_where_it_was_unless_a_pass_says_that_it_spreads(
    other: Callable[[], Model], contract: Contract | None, right: bool
) -> None:
    found = checked(negated(), other(), NANS, contract)
    assert found.equivalent is right, found
    assert right == bool(found.note)


def test_with_infinities_only_exact_passes_promise_anything() -> None:
    assert checked(negated(), summed(), INFINITIES, REAL).equivalent
    assert not checked(negated(), summed(), INFINITIES, Contract(Numbers.EXACT)).equivalent


def test_a_number_beside_nan_counts_as_ever() -> None:
    b = Builder()
    y = b.Neg(b.input("x", DType.F32, ("N", "T", 40)))
    b.output(b.Mul(y, b.const(np.float32(1.001))), "y")
    assert not checked(negated(), b.model(), NANS, SPREADING).equivalent


def test_validation_names_lost_nan() -> None:
    found = validate(negated(), cleaned())
    assert found.equivalent is False
    assert "were NaN and are numbers" in found.problems[0]


def pooled(places: bool) -> Model:
    b = Builder()
    y = b.op("MaxPool", b.input("x", DType.F32, (1, 2, 5, 5)), kernel_shape=(2, 2), _outputs=2 if places else 1)
    b.output(b.Neg(y[0] if places else y), "y")
    if places:
        b.output(y[1], "places")
    return b.model()


def test_kernels_that_differ_are_no_fault_of_a_model() -> None:
    """MaxPool with its second result is another kernel, to which NaN is less than every number."""
    x = array(1, 2, 5, 5)
    x[0, 0, 2, 2] = x[0, 1, 3, 4] = np.nan
    models, sample = [pooled(True), pooled(False)], {"x": x}
    a, b = (np.asarray(Session(model).run(sample)[0]) for model in models)
    assert (np.isnan(a) != np.isnan(b)).any(), "kernels agree by now: find others, or drop the exception for them"
    assert "MaxPool" in kernels_differ(models[0], models[1], sample)
    assert not kernels_differ(negated(), cleaned(), {"x": np.full((1, 1, 40), np.nan, np.float32)})
