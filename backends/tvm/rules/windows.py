"""Windows over space: pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..api import te, tirx
from ..lower.extents import Extent, expr
from ..lower.forms import Element, Expr, Index, flat
from .core import Context, Kind, Unsupported, number, numbers, reduce_axis, rule
from .reduce import largest, lowest


@dataclass(frozen=True)
class Windows:
    """Windows along the axes of space."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]


def windows(c: Context, space: Sequence[Extent], kernel: Sequence[int], out: Sequence[Extent]) -> Windows:
    """From the attributes that convolutions and pools share; ``out`` settles ``auto_pad`` and ``ceil_mode``."""
    attrs, n = c.node.attrs, len(kernel)

    def ints(name: str, default: int) -> tuple[int, ...]:
        found = cast("Sequence[int] | None", attrs.get(name))
        return tuple(int(i) for i in found) if found else (default,) * n

    strides, dilations = ints("strides", 1), ints("dilations", 1)
    auto = c.node.attr("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(n, 0)
            for n in numbers(
                tuple(
                    (o - 1) * s + (k - 1) * d + 1 - x
                    for o, s, k, d, x in zip(out, strides, kernel, dilations, space, strict=True)
                )
            )
        ]
        less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        begins, ends = (less, more) if auto == "SAME_UPPER" else (more, less)
    elif auto == "VALID":
        begins = ends = (0,) * n
    else:
        pads = cast("Sequence[int] | None", attrs.get("pads")) or (0,) * (2 * n)
        begins, ends = tuple(int(p) for p in pads[:n]), tuple(int(p) for p in pads[n:])
    return Windows(tuple(int(k) for k in kernel), strides, dilations, begins, ends)


def may_reach(place: Extent, extent: Extent) -> bool:
    """Whether a place may lie behind an axis; where a caller chooses, it may."""
    beyond = place - extent
    return not isinstance(beyond, int) or beyond >= 0


def _refuse_windows_outside(c: Context, w: Windows, space: Sequence[Extent], out: Sequence[Extent]) -> None:
    """Windows that begin behind the operand (``ceil_mode``): versions of the standard count them differently."""
    for o, k, s, d, b, e, n in zip(out, w.kernel, w.strides, w.dilations, w.begins, w.ends, space, strict=True):
        first = (o - 1) * s - b - n
        open_ = not isinstance(first, int)  # whole windows begin inside if they are longer than the padding
        if (open_ and (c.node.attr("ceil_mode", 0) or e > (k - 1) * d)) or (isinstance(first, int) and first >= 0):
            raise Unsupported("a window that begins in the padding behind the operand")


def _places(w: Windows, index: Index, loops: Sequence[Any]) -> list[Expr]:
    return [
        flat(i) * s + r * d - b
        for i, s, r, d, b in zip(index[2:], w.strides, loops, w.dilations, w.begins, strict=True)
    ]


def _inside(places: Sequence[Expr], w: Windows, space: Sequence[Extent], out: Sequence[Extent]) -> list[Expr]:
    """Conditions for being inside; none where a window cannot leave."""
    found: list[Expr] = []
    for at, k, s, d, b, n, o in zip(places, w.kernel, w.strides, w.dilations, w.begins, space, out, strict=True):
        if b > 0:
            found.append(at >= 0)
        if may_reach((o - 1) * s + (k - 1) * d - b, n):
            found.append(at < expr(n))
    return found


@rule(Kind.CHANNELWISE, "MaxPool")
def max_pool(c: Context) -> Element:
    if len(c.node.outputs) > 1 and c.node.outputs[1].uses:
        raise Unsupported("the indices of a MaxPool")
    shape, out, dtype, x = c.extents(0), c.out_extents(), c.dtype(), c.x(0)
    w = windows(c, shape[2:], cast("Any", c.node.attrs["kernel_shape"]), out[2:])

    def fill(index: Index) -> Expr:
        loops = [reduce_axis(k, f"k{i}") for i, k in enumerate(w.kernel)]
        places = _places(w, index, loops)
        inside = _inside(places, w, shape[2:], out[2:])
        found = x((*index[:2], *places))
        if inside:
            found = tirx.if_then_else(tirx.all(*inside), found, number(lowest(dtype), dtype))
        return largest(found, axis=loops)

    return c.compute(out, dtype, fill, name="maxpool")


@rule(Kind.CHANNELWISE, "AveragePool", "LpPool")
def average_pool(c: Context) -> Element:
    """Means over what lies inside; with ``count_include_pad`` also over zeros that were put around."""
    shape, out, dtype, x = c.extents(0), c.out_extents(), c.dtype(), c.x(0)
    w = windows(c, shape[2:], cast("Any", c.node.attrs["kernel_shape"]), out[2:])
    _refuse_windows_outside(c, w, shape[2:], out[2:])
    p = int(c.node.attr("p", 2)) if c.node.op == "LpPool" else 0

    def fill(index: Index) -> Expr:
        loops = [reduce_axis(k, f"k{i}") for i, k in enumerate(w.kernel)]
        places = _places(w, index, loops)
        inside = _inside(places, w, shape[2:], out[2:])
        found = x((*index[:2], *places))
        found = found if p == 0 else found * found if p == 2 else _power(tirx.abs(found), p, dtype)
        if inside:
            found = tirx.if_then_else(tirx.all(*inside), found, number(0, dtype))
        return te.sum(found, axis=loops)

    total = c.compute(out, dtype, fill, name="pool_sum")
    if p:
        return (lambda index: tirx.sqrt(total(index))) if p == 2 else lambda i: _power(total(i), 1 / p, dtype)
    padded = bool(c.node.attr("count_include_pad", 0))
    counts = [_counts(w, i, shape[2 + i], out[2 + i], padded) for i in range(len(w.kernel))]
    if all(isinstance(n, int) for n in counts):
        return lambda index: total(index) / number(math.prod(cast("list[int]", counts)), dtype)

    def element(index: Index) -> Expr:
        count: Expr = 1
        for n, i in zip(counts, index[2:], strict=True):
            count = count * (n if isinstance(n, int) else n(flat(i)))
        return total(index) / count.astype(dtype)

    return element


def _power(x: Expr, p: float, dtype: str) -> Expr:
    return x if p == 1 else tirx.power(x, number(p, dtype))


def _counts(w: Windows, axis: int, extent: Extent, out: Extent, padded: bool) -> int | Callable[[Expr], Expr]:
    """How many places of a window along an axis are counted: of every window, or by its place."""
    begin, end, kernel = w.begins[axis], w.ends[axis], w.kernel[axis]
    if not isinstance(extent, int) or not isinstance(out, int):
        if padded or begin == end == 0:  # there are whole windows only: see _refuse_windows_outside
            return kernel
        if w.dilations[axis] != 1:
            raise Unsupported("a mean over windows with gaps of an open extent")
        beyond = expr(extent)
        return lambda at: (
            tirx.min(at * w.strides[axis] - begin + kernel, beyond) - tirx.max(at * w.strides[axis] - begin, 0)
        )
    low, high = (-begin, extent + end) if padded else (0, extent)
    found: list[int] = []
    for o in range(out):
        first = o * w.strides[axis] - begin
        found.append(sum(low <= first + k * w.dilations[axis] < high for k in range(kernel)))
    return found[0] if len(set(found)) == 1 else lambda at: _looked_up(found, at)


def _looked_up(numbers: Sequence[int], at: Expr) -> Expr:
    """One of the numbers, which are mostly equal, by place."""
    common = max(set(numbers), key=list(numbers).count)
    found = tirx.const(common, "int32")
    for place, n in enumerate(numbers):
        if n != common:
            found = tirx.Select(tirx.EQ(at, place), tirx.const(n, "int32"), found)
    return found
