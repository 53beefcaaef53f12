"""Factors that do not pay become one product again: by their parameters, or by the clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import planish
from planish.backends.ort.session import Session
from planish.ir.clone import clone_model
from planish.ir.graph import Model
from planish.ir.text.parser import parse_model
from planish.passes.core import Context

MATRICES = """graph @main(%x: f32[N,16]) {
  %u: f32[16,7] = const rand<1>
  %v: f32[7,16] = const rand<2>
  %b: f32[16] = const rand<3>
  %z = MatMul(%x, %u)
  %y = Gemm(%z, %v, %b)
  return %y
}
"""
KERNELS = """graph @main(%x: f32[1,8,9,9]) {
  %u: f32[5,8,3,3] = const rand<1>
  %v: f32[12,5,1,1] = const rand<2>
  %z = Conv(%x, %u) {pads = [1, 1, 1, 1], strides = [2, 2]}
  %y = Conv(%z, %v)
  return %y
}
"""
SAMPLE = {"x": np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)}


def merged(model: Model, times: list[float] | None, growth: float = 2.5, *, timed: bool = True) -> tuple[Model, str]:
    """The model, and why it is as it was; models that were raced must compute the same."""
    copy, raced = clone_model(model), list[Sequence[Model]]()

    def race(models: Sequence[Model]) -> list[float] | None:
        raced.append(models)
        return times

    ctx = Context(samples=[SAMPLE], race=race if timed else None, trace=True)
    planish.Pipeline(f"merge-factors{{growth={growth}}}").run(copy, ctx)
    for models in raced:
        shape = [d for d in models[0].graph.inputs[0].shape or () if isinstance(d, int)]
        x = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
        first, second = (np.asarray(Session(m).run(x)[0]) for m in models)
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-3)
    return copy, "; ".join(reason for s in ctx.statistics.values() for reason in s.reasons)


@pytest.mark.parametrize("text", [MATRICES, KERNELS], ids=["matrices", "kernels"])
def test_the_clock_decides(text: str) -> None:
    model = parse_model(text)
    faster, _ = merged(model, [100.0, 80.0])
    slower, because = merged(model, [100.0, 99.0])
    assert len(list(faster.graph)) == 1
    assert str(slower) == str(model)
    assert "and it takes 0.099 us where they take 0.1" in because


def test_what_cannot_be_timed_stays() -> None:
    model = parse_model(MATRICES)
    for (times, growth, timed), because in {
        (None, 2.5, True): "their times cannot be measured",
        (None, 2.5, False): "their times are not measured",
        (None, 1.1, True): "the product has 256 parameters, the two have 224",
    }.items():
        made, found = merged(model, times, growth, timed=timed)
        assert str(made) == str(model)
        assert because in found
    unknown = parse_model(MATRICES.replace("f32[N,16]", "f32[2*M,16]"))
    assert "the extents of %x are not known" in merged(unknown, [100.0, 80.0])[1]
