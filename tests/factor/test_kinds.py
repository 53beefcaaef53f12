"""Weights of half width, and layers in bodies: factorized as others are, by what their inputs are like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import planish
from planish.backends.ort.session import Session
from planish.driver.calibrate import Observer, observer
from planish.ir.clone import clone_model
from planish.ir.constants import ArrayConstant
from planish.ir.dtypes import DType
from planish.ir.graph import Model
from planish.ir.text.parser import parse_model
from planish.ir.verify import verify
from planish.passes.context import Before
from planish.passes.core import Context

Array = np.ndarray[Any, Any]
PRODUCT = """graph @main(%x: DTYPE[N,24]) {
  %w: DTYPE[24,20] = const rand<1>
  %y = MatMul(%x, %w)
  return %y
}
"""
KERNEL = """graph @main(%x: DTYPE[1,12,7,7]) {
  %w: DTYPE[10,12,3,3] = const rand<1>
  %y = Conv(%x, %w)
  return %y
}
"""
BODY = """graph @main(%x: f32[64,24], %c: bool[]) {
  %w: f32[24,20] = const rand<1>
  %y = If(%c) {then_branch = graph @a() {
    %p = MatMul(%x, %w)
    %q = Relu(%p)
    return %q
  }, else_branch = graph @b() {
    %o = MatMul(%x, %w)
    return %o
  }}
  return %y
}
"""
MATRICES = "factorize-matmul{min-parameters=16,by-model=false,ranks=[8],forms=[pair]}"
KERNELS = "factorize-conv{min-parameters=16,by-model=false,kept=[0.6],methods=[tucker],forms=[pair]}"


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16], ids=str)
@pytest.mark.parametrize(("text", "pipeline"), [(PRODUCT, MATRICES), (KERNEL, KERNELS)], ids=["product", "kernel"])
def test_half_width(dtype: DType, text: str, pipeline: str) -> None:
    """Computed in float64 and rounded once: what float32 has, but for that."""
    made, whole = (parse_model(text.replace("DTYPE", name)) for name in (dtype.name.lower(), "f32"))
    for model in (made, whole):
        model.graph.opsets[""] = 22  # convolutions of bfloat16 came with it
    weights = [next(v for v in m.graph.constants if v.name == "w") for m in (made, whole)]
    weights[1].data = ArrayConstant(weights[0].numpy().astype(np.float32))
    for model in (made, whole):
        planish.Pipeline(pipeline).run(model, Context())
        verify(model)
    assert len(factors(made)) > 1
    for narrow, wide in zip(factors(made), factors(whole), strict=True):
        assert narrow.dtype == dtype.numpy
        assert np.abs(narrow.astype(float) - wide).max() <= 2.0**-7 * np.abs(wide).max()


def factors(model: Model) -> list[Array]:
    return [v.data.numpy() for v in model.graph.constants if v.data is not None and v.data.dtype.is_float]


def test_a_body_is_factorized_for_what_it_reads() -> None:
    """And not fitted again, with the reason."""
    rng, model = np.random.default_rng(0), parse_model(BODY)
    mix = rng.normal(size=(24, 24)) @ np.diag(np.logspace(0, -2, 24))
    given = [{"x": (rng.normal(size=(64, 24)) @ mix.T).astype(np.float32), "c": np.array(i % 2 == 0)} for i in range(8)]
    errors, notes = list[float](), list[str]()
    for observe in (None, observer(given)):
        made = clone_model(model)
        before = Before(model, {}, Observer(given).run) if observe is not None else None
        planish.Pipeline(MATRICES).run(made, Context(observe=observe, before=before, sink=notes.append))
        verify(made)
        pairs = [(np.asarray(Session(model).run(s)[0]), np.asarray(Session(made).run(s)[0])) for s in given]
        errors.append(float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((a**2).sum() for a, _ in pairs))))
    assert errors[1] < 0.5 * errors[0]
    assert notes == ["%w is not fitted again: it lies in a body, or another pass has changed it"]
