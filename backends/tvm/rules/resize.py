"""Resizing: nearest, linear and cubic interpolation, each axis by a table of places and weights.

Source: Resize-19. Filters of ``antialias`` are stretched by what the axis shrinks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from ..api import tirx
from ..lower.extents import Extent, expr
from ..lower.forms import Array, Element, Expr, Index, flat
from .core import Context, Kind, Unsupported, number, rule

MAX_NEIGHBOURS = 16
"""Terms that are written out for an element; more go along one axis after the other."""
MAX_FILTER = 64
"""Terms along one axis."""


@rule(Kind.CHANNELWISE, "Resize", "Upsample")
def resize(c: Context) -> Element:
    """Nearest, linear and cubic interpolation; each axis by a table of sources and weights, computed here."""
    shape, out, dtype, x = c.extents(0), c.out_extents(), c.dtype(), c.x(0)
    axes = [_neighbours(c, axis, shape[axis], out[axis]) for axis in range(len(shape))]
    if np.prod([len(axis) for axis in axes]) > MAX_NEIGHBOURS:
        if not dtype.startswith("float") or max(map(len, axes)) > MAX_FILTER:
            raise Unsupported(f"Resize of {dtype} by filters of {max(map(len, axes))} terms")
        axes, x = _staged(c, axes, x)
    inside = _inside(c)
    if all(len(axis) == 1 for axis in axes):
        return inside(lambda index: x(tuple(axis[0][0](i) for axis, i in zip(axes, index, strict=True))))
    return inside(lambda index: _summed(axes, x, index).astype(dtype))


def _summed(axes: list[list[Neighbour]], x: Element, index: Index) -> Expr:
    total: Any = None
    for chosen in itertools.product(*axes):
        term: Any = x(tuple(place(i) for (place, _), i in zip(chosen, index, strict=True)))
        for (_, weight), i in zip(chosen, index, strict=True):
            term = term if weight is None else term * weight(i)
        total = term if total is None else total + term
    return total


def _staged(c: Context, axes: list[list[Neighbour]], x: Element) -> tuple[list[list[Neighbour]], Element]:
    """Filters of many terms go along one axis after the other, through memory: all axes but the last."""
    same: list[Neighbour] = [(lambda i: i, None)]
    extents = list(c.extents(0))
    wide = [axis for axis in range(len(axes)) if len(axes[axis]) > 1]
    for axis in wide[:-1]:
        own = [axes[k] if k == axis else same for k in range(len(axes))]
        extents[axis] = c.out_extents()[axis]

        def fill(index: Index, own: list[list[Neighbour]] = own, x: Element = x) -> Expr:
            return _summed(own, x, index)

        x = c.compute(tuple(extents), c.dtype(), fill)
    return [axes[k] if k not in wide[:-1] else same for k in range(len(axes))], x


def _inside(c: Context) -> Callable[[Element], Element]:
    """Takes another number where a region reaches outside."""
    if _text(c, "coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize":
        return lambda element: element
    beyond: dict[int, Element] = {}
    for axis, (extent, out) in enumerate(zip(c.shape(0), c.out_shape(), strict=True)):
        at = _places(c, axis, extent, out)
        if (apart := (at < 0) | (at > extent - 1)).any():
            beyond[axis] = c.param(apart)
    other = number(float(c.node.attr("extrapolation_value", 0.0)), c.dtype())

    def outside(element: Element, index: Index) -> Expr:
        found = element(index)
        for axis, apart in beyond.items():
            found = tirx.Select(apart((flat(index[axis]),)), other, found)
        return found

    return lambda element: lambda index: outside(element, index)


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
    special = c.node.attr("exclude_outside", 0) or _text(c, "keep_aspect_ratio_policy", "stretch") != "stretch"
    if factor is None or how in ("align_corners", "tf_crop_and_resize") or special:
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
        return _kept(c, axes, axis) or out / extent
    if axes:
        by_axis = {a % c.rank(): float(s) for a, s in zip(axes, given, strict=True)}
        return by_axis.get(axis, 1.0)
    return float(given[axis])


def _kept(c: Context, axes: Sequence[int] | None, axis: int) -> float | None:
    """The scale of all axes where proportions are kept: what the sizes allow."""
    policy = _text(c, "keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return None
    chosen = [a % c.rank() for a in axes] if axes else list(range(c.rank()))
    ratios = [float(size) / c.shape(0)[a] for a, size in zip(chosen, c.const(3).reshape(-1), strict=True)]
    return (min if policy == "not_larger" else max)(ratios) if axis in chosen else 1.0


def _table(c: Context, axis: int, extent: int, out: int, *, clip: bool = True) -> Table | None:
    """The neighbours of every place, or ``None`` where the axis stays as it is; not ``clip``: those outside, too."""
    highest, lowest = (extent - 1, 0) if clip else (2 * extent, -extent)
    mode, old = _text(c, "mode", "nearest"), c.node.version < 11 or c.node.op == "Upsample"
    scale = _scale(c, axis, extent, out)
    if extent == out and scale == 1 and _region(c, axis) is None:
        return None
    at = _places(c, axis, extent, out)
    if mode == "nearest":
        rounding = "floor" if old else _text(c, "nearest_mode", "round_prefer_floor")
        return [(np.clip(_rounded(at, rounding), lowest, highest).astype(np.int64), np.ones(out))]
    if c.node.attr("antialias", 0) and scale < 1:
        if not c.dtype().startswith("float"):
            raise Unsupported("Resize of whole numbers with antialiasing, for which ONNX Runtime rounds on the way")
        return _antialiased(c, at, scale, extent)
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


def _antialiased(c: Context, at: Array, scale: float, extent: int) -> Table:
    """A filter as wide as what becomes one element; the axis goes on with its last element, as in ONNX Runtime."""
    cubic, a = _text(c, "mode", "nearest") == "cubic", float(c.node.attr("cubic_coeff_a", -0.75))
    support = (2 if cubic else 1) / scale
    first = np.floor(at - support)
    places = [first + k for k in range(int(np.ceil(2 * support)) + 2)]
    far = [np.abs(p - at) * scale for p in places]
    weights = [_keys(d, a) if cubic else np.maximum(1 - d, 0) for d in far]
    if c.node.attr("exclude_outside", 0):
        weights = [w * ((p >= 0) & (p < extent)) for w, p in zip(weights, places, strict=True)]
    total = np.sum(weights, axis=0)
    terms = [(np.clip(p, 0, extent - 1).astype(np.int64), w / total) for p, w in zip(places, weights, strict=True)]
    return [term for term in terms if term[1].any()]


def _keys(d: Array, a: float) -> Array:
    """Keys' filter at a distance."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    return np.where(d <= 1, near, np.where(d < 2, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a, 0.0))


def _region(c: Context, axis: int) -> tuple[float, float] | None:
    """Begin and end of the part of an axis that is resized, as shares of it."""
    if c.node.version < 11 or _text(c, "coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize":
        return None
    given, axes = c.const(1).reshape(-1).tolist(), cast("Sequence[int] | None", c.node.attrs.get("axes"))
    count = len(given) // 2
    order = [a % c.rank() for a in axes] if axes else list(range(count))
    if axis not in order:
        return (0.0, 1.0)
    return float(given[order.index(axis)]), float(given[count + order.index(axis)])


def _places(c: Context, axis: int, extent: int, out: int) -> Array:
    """Where each place of the result lies on the operand's axis. Raises ``Unsupported``."""
    region = _region(c, axis)
    if region is not None:
        begin, end = region
        if out == 1:
            return np.array([(begin + end) * (extent - 1) / 2])
        return begin * (extent - 1) + np.arange(out, dtype=np.float64) * (end - begin) * (extent - 1) / (out - 1)
    scale, old = _scale(c, axis, extent, out), c.node.version < 11 or c.node.op == "Upsample"
    how = "asymmetric" if old else _text(c, "coordinate_transformation_mode", "half_pixel")
    if how == "align_corners" and scale * extent != out and out > 1 and scale != out / extent:
        raise Unsupported("Resize to a part of an element")  # the standard counts it, ONNX Runtime does not
    return _sources(how, np.arange(out, dtype=np.float64), scale, extent, out)


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
