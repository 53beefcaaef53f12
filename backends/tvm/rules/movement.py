"""Operators that move elements: each result is one element of one operand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from ..api import tirx
from ..lower.extents import Extent, Extents, count, expr
from ..lower.forms import Element, Expr, Form, Index, flat
from .core import Context, Kind, Made, Unsupported, number, numbers, rule

Bound = Callable[[Index], Index]


def axes_of(c: Context, i: int = 1, name: str = "axes") -> list[int] | None:
    """Axes as an attribute (old opsets) or a constant operand; not negative. ``None`` where they are not given."""
    written = c.node.attrs.get(name)
    if written is None and not c.has(i):
        return None
    rank = c.rank()
    found = cast("Sequence[int]", written) if written is not None else c.const(i).reshape(-1).tolist()
    return [int(a) % max(rank, 1) for a in found]


def unraveled(offset: Expr, shape: Extents) -> Index:
    """The index of the element at a row-major offset."""
    found: list[Expr] = []
    for i, extent in reversed(list(enumerate(shape))):
        first = all(e == 1 for e in shape[:i])  # nothing in front of it: the offset is within it
        found.append(0 if extent == 1 else offset if first else offset % expr(extent))
        offset = offset // expr(extent) if extent != 1 and not first else offset
    return tuple(reversed(found))


def raveled(index: Index, shape: Extents) -> Expr:
    """The row-major offset of an index."""
    found: Expr = 0
    for i, extent in zip(index, shape, strict=True):
        found = found * expr(extent) + flat(i)
    return found


@rule(Kind.MOVEMENT, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(c: Context) -> Element:
    """Axes that make the same extent together on both sides are taken apart on their own."""
    x, shape, out = c.x(0), c.extents(0), c.out_extents()
    c.same(count(shape), count(out))
    parts = _segments(shape, out)

    def element(index: Index) -> Expr:
        found: list[Any] = [0] * len(shape)
        for sources, targets in parts:
            if len(sources) == len(targets) == 1:
                found[sources[0]] = index[targets[0]]
                continue
            offset = raveled(tuple(index[i] for i in targets), tuple(out[i] for i in targets))
            for i, at in zip(sources, unraveled(offset, tuple(shape[i] for i in sources)), strict=True):
                found[i] = at
        return x(tuple(found))

    return element


def _segments(shape: Extents, out: Extents) -> list[tuple[list[int], list[int]]]:
    """Runs of axes, without those of extent 1, that hold the same elements: after each the products are equal."""
    own, other = _products(shape), _products(out)
    ends = [text for text in own if text in other]
    found: list[tuple[list[int], list[int]]] = []
    begins = 0, 0
    places = list(own), list(other)
    for text in ends:
        at = places[0].index(text) + 1, places[1].index(text) + 1
        found.append((list(own.values())[begins[0] : at[0]], list(other.values())[begins[1] : at[1]]))
        begins = at
    left = list(own.values())[begins[0] :], list(other.values())[begins[1] :]
    return [*found, left] if left[0] or left[1] else found


def _products(shape: Extents) -> dict[str, int]:
    """Axes whose extent is not 1, by the product of all up to them."""
    found: dict[str, int] = {}
    total: Extent = 1
    for i, extent in enumerate(shape):
        total = total * extent
        if extent != 1:
            found[str(total)] = i
    return found


@rule(Kind.MOVEMENT, "Transpose")
def transpose(c: Context) -> Element:
    x, rank = c.x(0), c.rank()
    order = [int(p) for p in cast("Sequence[int]", c.node.attr("perm") or range(rank)[::-1])]
    place = {axis: i for i, axis in enumerate(order)}
    return lambda index: x(tuple(index[place[a]] for a in range(rank)))


@rule(Kind.GATHERING, "Expand", "Tile")
def expand(c: Context) -> Element:
    if c.node.op == "Expand":
        return c.spread(0)
    x, shape = c.x(0), c.extents(0)
    return lambda index: x(tuple(0 if n == 1 else flat(i) % expr(n) for i, n in zip(index, shape, strict=True)))


@rule(Kind.MOVEMENT, "Slice")
def slice_(c: Context) -> Element:
    starts, steps = slice_bounds(c)

    x = c.x(0)
    return lambda index: x(
        tuple(
            i if isinstance(start, int) and start == 0 and step == 1 else start + flat(i) * step
            for i, start, step in zip(index, starts, steps, strict=True)
        )
    )


def slice_bounds(c: Context) -> tuple[list[Expr], list[int]]:
    """First index and step of every axis."""
    shape = c.extents(0)
    attrs = c.node.attrs
    given = cast("Sequence[int]", attrs["starts"]) if "starts" in attrs else c.const(1).reshape(-1).tolist()
    axes = axes_of(c, 3)
    steps_given = c.const(4).reshape(-1).tolist() if c.has(4) else [1] * len(given)
    starts: list[Expr] = [0] * len(shape)
    steps = [1] * len(shape)
    for axis, start, step in zip(axes if axes is not None else range(len(given)), given, steps_given, strict=True):
        starts[axis], steps[axis] = _first(int(start), int(step), shape[axis]), int(step)
    return starts, steps


def _first(start: int, step: int, extent: Extent) -> Expr:
    """The first index of a slice."""
    if isinstance(extent, int):
        return slice(start, None, step).indices(extent)[0]
    if start == 0 and step > 0:
        return 0
    low, high = (0, expr(extent)) if step > 0 else (-1, expr(extent) - 1)
    largest = int(np.iinfo(np.int32).max)
    if start < 0:
        return tirx.max(low, expr(extent) + max(start, -largest))
    return tirx.min(min(start, largest), high)


@rule(Kind.MOVEMENT, "Split")
def split(c: Context) -> list[Made]:
    x, axis = c.x(0), int(c.node.attr("axis", 0)) % c.rank()
    made: list[Made] = []
    start: Extent = 0
    for i in range(len(c.node.outputs)):
        made.append(c.made(_shifted(x, axis, start), i))
        start = start + c.out_extents(i)[axis]
    return made


def _shifted(x: Element, axis: int, start: Extent) -> Element:
    return lambda index: x((*index[:axis], flat(index[axis]) + expr(start), *index[axis + 1 :]))


@rule(Kind.GATHERING, "Concat")
def concat(c: Context) -> Element:
    out = c.out_extents()
    axis = int(c.node.attr("axis", 0)) % len(out)
    parts: list[tuple[Element, Extent, Extent]] = []
    start: Extent = 0
    for i in range(len(c.node.inputs)):
        shape = c.extents(i)
        extent = shape[axis]
        for have, want in zip(shape[:axis] + shape[axis + 1 :], out[:axis] + out[axis + 1 :], strict=True):
            c.same(have, want)
        parts += [(c.x(i), start, start + extent)] if extent != 0 else []
        start = start + extent

    def element(index: Index) -> Expr:
        at = flat(index[axis])
        found: Any = None
        for x, begin, end in reversed(parts):
            part = x((*index[:axis], index[axis] if begin == 0 else at - expr(begin), *index[axis + 1 :]))
            found = part if found is None else tirx.if_then_else(at < expr(end), part, found)
        return found

    return element


@rule(Kind.GATHERING, "Pad")
def pad(c: Context) -> Element:
    x, shape, dtype = c.x(0), c.extents(0), c.dtype()
    mode = c.node.attr("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    amounts = [int(p) for p in cast("Any", c.node.attrs.get("pads")) or c.const(1).reshape(-1).tolist()]
    axes = axes_of(c, 3)
    axes = list(range(len(shape))) if axes is None else axes
    before = [0] * len(shape)
    after = [0] * len(shape)
    for k, axis in enumerate(axes):
        before[axis], after[axis] = amounts[k], amounts[len(axes) + k]
    filler = number(c.node.attrs.get("value") or c.const_or(2, np.zeros(1)).reshape(-1)[0], dtype)

    def element(index: Index) -> Expr:
        places: list[Any] = []
        inside: list[Any] = []
        for i, extent, low, high in zip(index, shape, before, after, strict=True):
            if low == high == 0:
                places.append(i)
                continue
            at = flat(i) - low
            if mode == "constant":
                inside += ([at >= 0] if low > 0 else []) + ([at < expr(extent)] if high > 0 else [])
            places.append(_mirrored(at, expr(extent), mode))
        found = x(tuple(places))
        return tirx.if_then_else(tirx.all(*inside), found, filler) if inside else found

    return element


def _mirrored(at: Expr, extent: Expr, mode: str) -> Expr:
    """An index outside brought back inside."""
    if mode == "constant":
        return at
    if mode == "edge":
        return tirx.max(tirx.min(at, extent - 1), 0)
    if mode == "reflect":
        low = tirx.Select(at < 0, -at, at)
        return tirx.Select(low >= extent, 2 * (extent - 1) - low, low)
    if mode == "wrap":
        return tirx.floormod(at, extent)
    raise Unsupported(f"padding by {mode}")


@rule(Kind.GATHERING, "Gather")
def gather(c: Context) -> Element:
    """Indices may count from the end."""
    x, indices, axis, rank = c.x(0), c.x(1), int(c.node.attr("axis", 0)) % c.rank(), c.rank(1)
    extent = c.extents(0)[axis]

    def element(index: Index) -> Expr:
        at = wrapped(indices(index[axis : axis + rank]), extent)
        return x((*index[:axis], at, *index[axis + rank :]))

    return element


def wrapped(at: Expr, extent: Extent) -> Expr:
    """An index that may be negative; 32 bits, as loops count."""
    at = at.astype("int32")
    return tirx.Select(at < 0, at + expr(extent), at)


@rule(Kind.GATHERING, "GatherElements")
def gather_elements(c: Context) -> Element:
    x, indices, shape = c.x(0), c.x(1), c.extents(0)
    axis = int(c.node.attr("axis", 0)) % len(shape)
    return lambda index: x((*index[:axis], wrapped(indices(index), shape[axis]), *index[axis + 1 :]))


@rule(Kind.GATHERING, "GatherND")
def gather_nd(c: Context) -> Element:
    x, indices, shape, tuples = c.x(0), c.x(1), c.extents(0), c.extents(1)
    batch, (depth,) = int(c.node.attr("batch_dims", 0)), numbers(tuples[-1:])

    def element(index: Index) -> Expr:
        lead = index[: len(tuples) - 1]
        places = [wrapped(indices((*lead, k)), shape[batch + k]) for k in range(depth)]
        return x((*index[:batch], *places, *index[len(tuples) - 1 :]))

    return element


@rule(Kind.GATHERING, "DepthToSpace")
def depth_to_space(c: Context) -> Element:
    """[N, C, H, W] -> [N, C/b^2, Hb, Wb]; DCR or CRD order of the channel's parts."""
    x, block, channels = c.x(0), int(c.node.attr("blocksize")), numbers(c.out_extents()[1:2])[0]
    rows_first = c.node.attr("mode", "DCR") in ("DCR", b"DCR")

    def element(index: Index) -> Expr:
        n, ch, y, z = (flat(i) for i in index)
        part = (y % block) * block + z % block
        source = part * channels + ch if rows_first else ch * (block * block) + part
        return x((n, source, y // block, z // block))

    return element


@rule(Kind.GATHERING, "SpaceToDepth")
def space_to_depth(c: Context) -> Element:
    x, block, channels = c.x(0), int(c.node.attr("blocksize")), numbers(c.extents(0)[1:2])[0]
    if c.node.attrs.get("mode") not in (None, "DCR", b"DCR"):
        raise Unsupported("SpaceToDepth by columns and rows")

    def element(index: Index) -> Expr:
        n, ch, y, z = (flat(i) for i in index)
        part, source = ch // channels, ch % channels
        return x((n, source, y * block + part // block, z * block + part % block))

    return element


@rule(Kind.GATHERING, "Trilu")
def trilu(c: Context) -> Element:
    x, dtype, upper = c.x(0), c.dtype(), bool(c.node.attr("upper", 1))
    k = int(c.const_or(1, np.zeros(1, np.int64)).reshape(-1)[0])

    def element(index: Index) -> Expr:
        distance = flat(index[-1]) - flat(index[-2])
        return tirx.Select(distance >= k if upper else distance <= k, x(index), number(0, dtype))

    return element


@rule(Kind.GATHERING, "EyeLike")
def eye_like(c: Context) -> Element:
    k, dtype = int(c.node.attr("k", 0)), c.out_dtype()
    return lambda index: tirx.Select(tirx.EQ(flat(index[1]) - flat(index[0]), k), number(1, dtype), number(0, dtype))


@rule(Kind.GATHERING, "OneHot")
def one_hot(c: Context) -> Element:
    indices, values = c.x(0), c.x(2)
    out = c.out_extents()
    axis = int(c.node.attr("axis", -1)) % len(out)
    depth = out[axis]

    def element(index: Index) -> Expr:
        at = wrapped(indices((*index[:axis], *index[axis + 1 :])), depth)
        return tirx.Select(tirx.EQ(at, flat(index[axis])), values((1,)), values((0,)))

    return element


@rule(Kind.GATHERING, "ReverseSequence")
def reverse_sequence(c: Context) -> Element:
    x, lengths = c.x(0), c.x(1)
    time, batch = int(c.node.attr("time_axis", 0)), int(c.node.attr("batch_axis", 1))

    def element(index: Index) -> Expr:
        length = lengths((index[batch],)).astype("int32")
        at = flat(index[time])
        turned = tirx.Select(at < length, length - 1 - at, at)
        return x((*index[:time], turned, *index[time + 1 :]))

    return element


@rule(Kind.GATHERING, "ConstantOfShape")
def constant_of_shape(c: Context) -> Element:
    value: Any = c.node.attrs.get("value")
    dtype = c.out_dtype()
    filler = number(0 if value is None else value.numpy().reshape(-1)[0], dtype)
    return lambda index: filler


@rule(Kind.GATHERING, "Range")
def range_(c: Context) -> Element:
    start, step, dtype = c.x(0), c.x(2), c.out_dtype()
    return lambda index: start(()) + flat(index[0]).astype(dtype) * step(())


@rule(Kind.GATHERING, "Shape", "Size")
def extents(c: Context) -> Element:
    shape = c.extents(0)
    if c.node.op == "Size":
        return lambda index: number(count(shape), "int64")
    first, last, _ = slice(int(c.node.attr("start", 0)), cast("Any", c.node.attrs.get("end")), 1).indices(len(shape))
    wanted = shape[first:last]

    def element(index: Index) -> Expr:
        found = number(0, "int64")
        for k, extent in enumerate(wanted):
            found = tirx.Select(tirx.EQ(index[0], k), number(extent, "int64"), found)
        return found

    return element


@rule(Kind.GATHERING, "CenterCropPad")
def center_crop_pad(c: Context) -> Element:
    x, shape, out, dtype = c.x(0), c.shape(0), c.out_shape(), c.dtype()
    shifts = [(n - o) // 2 if n >= o else -((o - n) // 2) for n, o in zip(shape, out, strict=True)]

    def element(index: Index) -> Expr:
        at = tuple(flat(i) + shift for i, shift in zip(index, shifts, strict=True))
        inside = [tirx.all(i >= 0, i < n) for i, n, o in zip(at, shape, out, strict=True) if o > n]
        return tirx.if_then_else(tirx.all(*inside), x(at), number(0, dtype)) if inside else x(at)

    return element


__all__ = ["Form", "axes_of", "raveled", "unraveled", "wrapped"]
