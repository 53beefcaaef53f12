"""Operators on integers as the standard has them: products, and quantization by what a tensor holds."""

from __future__ import annotations

import math
from typing import Any

from ..api import te, tirx
from ..lower.extents import Extents
from ..lower.forms import Element, Expr, Form, Index
from .core import Context, Kind, Made, Unsupported, named, number, reduce_axis, rule
from .elementwise import at_least, at_most, clipped
from .reduce import reduced


@rule(Kind.STAGE, "MatMulInteger")
def matmul_integer(c: Context) -> Element:
    """(A - a0) (B - b0) in 32 bits; a0 is one number, b0 one or one a column."""
    sa, sb, out = c.extents(0), c.extents(1), c.out_extents()
    if len(sa) < 2 or len(sb) < 2:
        raise Unsupported("a product of a vector of integers")
    a, b = _centred(c, 0, 2), _centred(c, 1, 3)
    lead = len(out) - 2
    c.same(sa[-1], sb[-2])
    for shape in (sa[:-2], sb[:-2]):
        for have, want in zip(reversed(shape), reversed(out[:lead]), strict=False):
            c.same(want if have == 1 else have, want)

    def batch(index: Index, shape: Extents) -> Index:
        own = shape[:-2]
        return tuple(0 if n == 1 else i for i, n in zip(index[lead - len(own) : lead], own, strict=True))

    def fill(index: Index) -> Expr:
        k = reduce_axis(sa[-1], "k")
        left, right = (*batch(index, sa), index[-2], k), (*batch(index, sb), k, index[-1])
        return te.sum(a(left) * b(right), axis=[k])

    return c.compute(out, "int32", fill, name="matmul_integer")


def _centred(c: Context, i: int, zero: int) -> Element:
    """Elements without their zero point, which is one number or one for each of the last axis."""
    x = c.x(i)
    if not c.has(zero):
        return lambda index: x(index).astype("int32")
    shape, z = c.shape(zero), c.x(zero)
    if math.prod(shape) == 1:
        return lambda index: x(index).astype("int32") - z((0,) * len(shape)).astype("int32")
    if len(shape) != 1 or i == 0:
        raise Unsupported("a zero point for each row")
    return lambda index: x(index).astype("int32") - z((index[-1],)).astype("int32")


@rule(Kind.STAGE, "DynamicQuantizeLinear")
def dynamic_quantize(c: Context) -> list[Made]:
    """Bytes with the scale and zero point that the least and the largest element ask for."""
    x, shape = c.x(0), c.extents(0)
    axes, origin = list(range(len(shape))), (0,) * len(shape)
    low, high = reduced(c, x, shape, axes, te.min, "float32"), reduced(c, x, shape, axes, te.max, "float32")
    zero = number(0, "float32")

    def spread(_: Index) -> Expr:
        return (at_least(high(origin), zero) - at_most(low(origin), zero)) / number(255, "float32")

    scales = c.compute((1,), "float32", lambda i: _or_one(spread(i)), name="scale")

    def place(_: Index) -> Expr:
        return tirx.nearbyint(clipped((zero - at_most(low(origin), zero)) / scales((0,)), 0, 255, "float32"))

    places = c.compute((1,), "float32", place, name="zero_point")

    def quantized(index: Index) -> Expr:
        shifted = tirx.nearbyint(x(index) / scales((0,))) + places((0,))
        return clipped(shifted, 0, 255, "float32").astype("int32").astype("uint8")

    whole: Any = [
        Made(quantized, Form(shape, "uint8")),
        Made(lambda index: scales((0,)), Form((), "float32")),
        Made(lambda index: places((0,)).astype("int32").astype("uint8"), Form((), "uint8")),
    ]
    return whole


def _or_one(scale: Expr) -> Expr:
    return named(scale, lambda s: tirx.Select(tirx.EQ(s, number(0, "float32")), number(1, "float32"), s))
