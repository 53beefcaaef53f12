"""Windows over space: pooling and resizing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..api import te, tirx
from ..lower.extents import Extent, expr
from ..lower.forms import Array, Element, Expr, Index, flat
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


@rule(Kind.CHANNELWISE, "Resize", "Upsample")
def resize(c: Context) -> Element:
    """Nearest, linear and cubic interpolation; each axis by a table of sources and weights, computed here."""
    shape, out, dtype, x = c.extents(0), c.out_extents(), c.dtype(), c.x(0)
    if c.node.attr("antialias", 0) or _text(c, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("Resize with antialiasing, or one that keeps proportions")
    if _text(c, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Unsupported("Resize of a region")
    axes = [_neighbours(c, axis, shape[axis], out[axis]) for axis in range(len(shape))]
    if all(len(axis) == 1 for axis in axes):
        return lambda index: x(tuple(axis[0][0](i) for axis, i in zip(axes, index, strict=True)))

    def element(index: Index) -> Expr:
        total: Any = None
        for chosen in itertools.product(*axes):
            term: Any = x(tuple(place(i) for (place, _), i in zip(chosen, index, strict=True)))
            for (_, weight), i in zip(chosen, index, strict=True):
                term = term if weight is None else term * weight(i)
            total = term if total is None else total + term
        return total.astype(dtype)

    return element


Neighbour = tuple[Callable[[Any], Any], Callable[[Any], Expr] | None]
"""Place on the operand's axis and weight (none: 1) by place on the result's."""


def _neighbours(c: Context, axis: int, extent: Extent, out: Extent) -> list[Neighbour]:
    if not isinstance(extent, int) or not isinstance(out, int):
        return _open_neighbours(c, axis, extent, out)
    table = _table(c, axis, extent, out)
    if table is None:
        return [(lambda i: i, None)]
    if len(table) == 1 and _regular(table[0][0]):
        return [(_nearest(table[0][0]), None)]
    found: list[Neighbour] = []
    for places, weights in table:
        at = c.param(places.astype(np.int32))
        weight = c.param(weights.astype(c.dtype())) if len(table) > 1 else None
        found.append(
            (
                lambda i, at=at: at((flat(i),)),
                None if weight is None else lambda i, weight=weight: weight((flat(i),)),
            )
        )
    return found


def _open_neighbours(c: Context, axis: int, extent: Extent, out: Extent) -> list[Neighbour]:
    """Of an axis of open extent that becomes a whole number of times as long: the table repeats itself."""
    if extent == out:
        return [(lambda i: i, None)]
    factor = next((k for k in range(2, 33) if extent * k == out), None)
    how = _text(c, "coordinate_transformation_mode", "half_pixel")
    if factor is None or how == "align_corners" or c.node.attr("exclude_outside", 0):
        raise Unsupported("Resize of an open extent by what is not a whole number")
    table = _table(c, axis, _PERIODS, _PERIODS * factor, clip=False)
    last = expr(extent) - 1
    middle = _PERIODS // 2
    found: list[Neighbour] = []
    for places, weights in table or []:
        shifts = places[middle * factor : (middle + 1) * factor] - middle
        weight = c.param(weights[middle * factor : (middle + 1) * factor].astype(c.dtype()))
        shift = None if not shifts.any() else c.param(shifts.astype(np.int32))

        def place(i: Any, shift: Element | None = shift) -> Expr:
            at = flat(i) // factor
            return at if shift is None else tirx.max(tirx.min(at + shift((flat(i) % factor,)), last), 0)

        def share(i: Any, weight: Element = weight) -> Expr:
            return weight((flat(i) % factor,))

        found.append((place, share if len(table or []) > 1 else None))
    return found


_PERIODS = 16
"""Elements of the axis that stands for those of open extent."""
Table = list[tuple[Array, Array]]
"""For each neighbour: its place and its weight, by output place."""


def _nearest(places: Array) -> Callable[[Any], Any]:
    """The place by arithmetic, where it is regular."""
    n, extent = len(places), int(places.max()) + 1
    if n % extent == 0 and (places == np.arange(n) // (n // extent)).all():
        return lambda i: flat(i) // (n // extent)
    return lambda i: flat(i) * extent // n


def _regular(places: Array) -> bool:
    n, extent = len(places), int(places.max()) + 1
    if n % extent == 0:
        return bool((places == np.arange(n) // (n // extent)).all())
    return bool((places == np.arange(n) * extent // n).all())


def _text(c: Context, name: str, default: str) -> str:
    found = c.node.attr(name, default)
    return found.decode() if isinstance(found, bytes) else found or default


def _scale(c: Context, axis: int, extent: int, out: int) -> float:
    """Of an axis, as given; where sizes are, their ratio."""
    i = 1 if c.node.op == "Upsample" else 2 if c.node.version >= 11 else 1
    written = c.node.attrs.get("scales")
    given = list(cast("Any", written)) if written is not None else c.const(i).reshape(-1).tolist() if c.has(i) else []
    axes = cast("Sequence[int] | None", c.node.attrs.get("axes"))
    if not given:
        return out / extent
    if axes:
        by_axis = {a % c.rank(): float(s) for a, s in zip(axes, given, strict=True)}
        return by_axis.get(axis, 1.0)
    return float(given[axis])


def _table(c: Context, axis: int, extent: int, out: int, *, clip: bool = True) -> Table | None:
    """The neighbours of every place, or ``None`` where the axis stays as it is; not ``clip``: those outside, too."""
    highest, lowest = (extent - 1, 0) if clip else (2 * extent, -extent)
    scale = _scale(c, axis, extent, out)
    if extent == out and scale == 1:
        return None
    mode, old = _text(c, "mode", "nearest"), c.node.version < 11 or c.node.op == "Upsample"
    how = "asymmetric" if old else _text(c, "coordinate_transformation_mode", "half_pixel")
    if how == "align_corners" and scale * extent != out and out > 1 and scale != out / extent:
        raise Unsupported("Resize to a part of an element")  # the standard counts it, ONNX Runtime does not
    at = _sources(how, np.arange(out, dtype=np.float64), scale, extent, out)
    if mode == "nearest":
        rounding = "floor" if old else _text(c, "nearest_mode", "round_prefer_floor")
        return [(np.clip(_rounded(at, rounding), lowest, highest).astype(np.int64), np.ones(out))]
    low = np.floor(at)
    part = at - low
    if mode == "linear":
        weights = [1 - part, part]
    elif mode == "cubic":
        weights = _cubic(part, float(c.node.attr("cubic_coeff_a", -0.75)))
    else:
        raise Unsupported(f"Resize by {mode}")
    first = low - (len(weights) // 2 - 1)
    places = [first + k for k in range(len(weights))]
    if c.node.attr("exclude_outside", 0):
        weights = [w * ((p >= 0) & (p < extent)) for w, p in zip(weights, places, strict=True)]
        total = np.sum(weights, axis=0)
        weights = [w / total for w in weights]
    return [(np.clip(p, lowest, highest).astype(np.int64), w) for p, w in zip(places, weights, strict=True)]


def _cubic(t: Array, a: float) -> list[Array]:
    """Weights of the four neighbours (Keys 1981)."""

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Array) -> Array:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _sources(how: str, places: Array, scale: float, extent: int, out: int) -> Array:
    """Where each output place lies on the operand's axis. Source: Resize-19."""
    if how == "half_pixel" or (how == "pytorch_half_pixel" and out > 1):
        return (places + 0.5) / scale - 0.5
    if how == "pytorch_half_pixel":
        return np.zeros_like(places)
    if how == "align_corners":
        return places * (extent - 1) / (out - 1) if out > 1 else np.zeros_like(places)
    if how == "asymmetric":
        return places / scale
    if how == "half_pixel_symmetric":
        adjustment = out / (scale * extent)
        return extent / 2 * (1 - adjustment) + (places + 0.5) / scale - 0.5
    raise Unsupported(f"coordinates by {how}")


def _rounded(at: Array, how: str) -> Array:
    if how == "floor":
        return np.floor(at)
    if how == "ceil":
        return np.ceil(at)
    return np.ceil(at - 0.5) if how == "round_prefer_floor" else np.floor(at + 0.5)
