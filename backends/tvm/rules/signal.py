"""Fourier transforms as sums with a table, and columns of windows put back into an image.

Source: DFT-20, STFT-17, Col2Im-18.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from ..api import te, tirx
from ..lower.forms import Array, Element, Expr, Index, flat
from .core import Context, Kind, Unsupported, number, reduce_axis, rule

MAX_TABLE = 1 << 21
"""Numbers of a table: of longer transforms a fast one does far less."""


@rule(Kind.STAGE, "DFT")
def dft(c: Context) -> Element:
    """``y[k] = sum of x[n] exp(-+2 pi i k n / N)``, real and imaginary parts along the last axis."""
    axis = int(c.node.attr("axis", 1)) if c.node.version < 20 else int(c.const_or(2, np.array(-2)).reshape(()))
    axis %= c.rank()
    shape, out = c.shape(0), c.out_shape()
    inverse, onesided = bool(c.node.attr("inverse", 0)), bool(c.node.attr("onesided", 0))
    given = int(c.const(1).reshape(())) if c.has(1) else None
    bins = shape[axis]
    if inverse and onesided:
        length = given or 2 * (bins - 1)
        table = _hermitian(length, min(bins, length // 2 + 1))
    else:
        length = given or bins
        table = _fourier(length, min(bins, length), out[axis], inverse=inverse)
    table = table[:, :, : shape[-1], : out[-1]]
    weights = _checked(c, table)

    def fill(index: Index) -> Expr:
        n, part = reduce_axis(table.shape[1], "n"), reduce_axis(shape[-1], "part")
        at = (*index[:axis], n, *index[axis + 1 : -1], part)
        return te.sum(c.x(0)(at) * weights((index[axis], n, part, index[-1])), axis=[n, part])

    return c.compute(out, c.out_dtype(), fill, name="dft")


@rule(Kind.STAGE, "STFT")
def stft(c: Context) -> Element:
    """Transforms of frames of the signal, each times the window."""
    shape, out = c.shape(0), c.out_shape()
    step = int(c.const(1).reshape(()))
    window = c.x(2) if c.has(2) else None
    length = int(c.const(3).reshape(())) if c.has(3) else c.shape(2)[0]
    parts = shape[2] if len(shape) > 2 else 1
    table = _fourier(length, length, out[2], inverse=False)[:, :, :parts]
    weights = _checked(c, table)

    def fill(index: Index) -> Expr:
        n, part = reduce_axis(length, "n"), reduce_axis(parts, "part")
        at = (index[0], flat(index[1]) * step + n, *((part,) if len(shape) > 2 else ()))
        found = c.x(0)(at) if window is None else c.x(0)(at) * window((n,))
        return te.sum(found * weights((index[2], n, part, index[3])), axis=[n, part])

    return c.compute(out, c.out_dtype(), fill, name="stft")


def _checked(c: Context, table: Array) -> Element:
    if table.size > MAX_TABLE:
        raise Unsupported(f"a Fourier transform of {table.shape[1]} elements to {table.shape[0]}")
    return c.param(table.astype(c.out_dtype()))


def _fourier(length: int, given: int, wanted: int, *, inverse: bool) -> Array:
    """``[k, n, part of x, part of y]``: what a part of x[n] adds to a part of y[k]."""
    turns = np.outer(np.arange(wanted), np.arange(given)) % length * (2 * math.pi / length)
    cos, sin = np.cos(turns), np.sin(turns) * (1 if inverse else -1)
    return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2) / (length if inverse else 1)


def _hermitian(length: int, bins: int) -> Array:
    """The inverse where the other bins are conjugates: each but the first, and the middle, counts twice."""
    table = _fourier(length, bins, length, inverse=True)
    k = np.arange(bins)
    twice = np.where((k == 0) | (2 * k == length), 1, 2)
    return table * twice[:, None, None]


@rule(Kind.STAGE, "Col2Im")
def col2im(c: Context) -> Element:
    """Each element sums what the windows over it have for it."""
    sizes = [int(n) for n in c.const(1)]
    kernel = [int(n) for n in c.const(2)]
    rank = len(sizes)
    strides, dilations = (_numbers(c, name, rank, 1) for name in ("strides", "dilations"))
    pads = _numbers(c, "pads", 2 * rank, 0)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    counts = [
        (n + pads[i] + pads[rank + i] - span) // s + 1
        for i, (n, span, s) in enumerate(zip(sizes, spans, strides, strict=True))
    ]
    if c.shape(0)[2] != math.prod(counts):
        raise Unsupported(f"Col2Im of {c.shape(0)[2]} columns where there are {math.prod(counts)} windows")
    dtype = c.dtype()

    def fill(index: Index) -> Expr:
        loops = [reduce_axis(k, f"k{i}") for i, k in enumerate(kernel)]
        row: Any = flat(index[1])
        column: Any = 0
        inside: list[Any] = []
        for i, (k, at) in enumerate(zip(loops, index[2:], strict=True)):
            begin = flat(at) + pads[i] - k * dilations[i]
            window = tirx.floordiv(begin, strides[i])
            inside += [begin >= 0, tirx.floormod(begin, strides[i]).equal(0), window < counts[i]]
            row, column = row * kernel[i] + k, column * counts[i] + window
        found = tirx.if_then_else(tirx.all(*inside), c.x(0)((index[0], row, column)), number(0, dtype))
        return te.sum(found, axis=loops)

    return c.compute(c.out_extents(), dtype, fill, name="col2im")


def _numbers(c: Context, name: str, count: int, default: int) -> list[int]:
    found = cast("tuple[int, ...] | None", c.node.attrs.get(name))
    return [int(n) for n in found] if found else [default] * count
