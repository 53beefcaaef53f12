"""The table of costs: what must cost more does."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.driver.tuning.estimate import DEFAULT_EXTENT, estimate, peak_rate
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.graph import Model
from planish.ir.text.parser import parse_model
from planish.passes.target import get_target

X86, V4 = get_target("x86-64-v3"), get_target("x86-64-v4")


def convolution(channels: int, *, tail: str = "", size: int = 64, batch: Any = 1) -> Model:
    b = Builder(opset=21)
    x = b.input("x", DType.F32, (batch, 32, size, size))
    y = b.Conv(x, b.weight("w", (channels, 32, 3, 3), 1), pads=(1, 1, 1, 1))
    b.output(b.op(tail, y) if tail else y, "y")
    return b.model()


def time_us(model: Model, target: Any = X86, **shapes: tuple[int, ...]) -> float:
    return estimate(model, target, shapes).time_us


def test_time_grows_with_the_work_and_shrinks_with_the_vectors() -> None:
    assert 1.8 < time_us(convolution(64)) / time_us(convolution(32)) < 2.1
    assert peak_rate(V4) == 2 * peak_rate(X86)
    assert time_us(convolution(64), V4) < 0.7 * time_us(convolution(64))


def test_a_block_of_channels_that_is_not_full_is_paid_for() -> None:
    assert time_us(convolution(33)) > 0.98 * time_us(convolution(40))


def test_what_the_runtime_fuses_is_free_and_other_operators_are_not() -> None:
    plain = time_us(convolution(32))
    assert time_us(convolution(32, tail="Relu")) == plain
    assert time_us(convolution(32, tail="Erf")) > 1.05 * plain


def test_constants_are_folded_while_loading() -> None:
    b = Builder(opset=21)
    x = b.input("x", DType.F32, (4, 4))
    weight = b.Mul(b.const(np.ones((4, 4), np.float32)), b.const(np.float32(2)))
    b.output(b.MatMul(x, weight), "y")
    assert estimate(b.model(), X86).nodes == 1


def test_open_extents_are_those_of_the_samples() -> None:
    for batch in ("N", "an odd.name", None):
        model = convolution(32, batch=batch)
        assert time_us(model, x=(4, 32, 64, 64)) > 3.5 * time_us(model, x=(1, 32, 64, 64))
        assert time_us(model) == time_us(model, x=(DEFAULT_EXTENT, 32, 64, 64))


def test_what_shapes_do_not_tell_is_counted() -> None:
    b = Builder(opset=21)
    x = b.input("x", DType.F32, (8, 8))
    rows = b.NonZero(x)  # as many as there are
    b.output(b.MatMul(b.Cast(rows, to=1), b.Cast(b.Transpose(rows), to=1)), "y")
    found = estimate(b.model(), X86)
    assert (found.unknown, found.unknown_products) == (5, 1)


BRANCHES = """
graph @main(%c: bool[], %x: f32[64,64]) {
  %w: f32[64,64] = const splat<1>
  %y: f32[64,64] = If(%c) {
    then_branch = graph @then() {
      %a: f32[64,64] = MatMul(%x, %w)
      return %a
    },
    else_branch = graph @else() {
      %b: f32[64,64] = Neg(%x)
      return %b
    }
  }
  return %y
}
"""


def test_bodies_count_by_their_dearest_branch() -> None:
    b = Builder(opset=21)
    b.output(b.MatMul(b.input("x", DType.F32, (64, 64)), b.const(np.ones((64, 64), np.float32))), "y")
    alone, found = time_us(b.model()), time_us(parse_model(BRANCHES))
    assert alone < found < alone + 10
