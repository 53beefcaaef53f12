"""Operators that move elements: each result is one element of one operand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from ..api import tirx
from ..lower.forms import Element, Expr, Form, Index, flat
from .core import Context, Kind, Made, Unsupported, number, rule

Bound = Callable[[Index], Index]


def axes_of(c: Context, i: int = 1, name: str = "axes") -> list[int] | None:
    """Axes as an attribute (old opsets) or a constant operand; not negative. ``None`` where they are not given."""
    written = c.node.attrs.get(name)
    if written is None and not c.has(i):
        return None
    rank = len(c.shape(0))
    found = cast("Sequence[int]", written) if written is not None else c.const(i).reshape(-1).tolist()
    return [int(a) % max(rank, 1) for a in found]


def unraveled(offset: Expr, shape: tuple[int, ...]) -> Index:
    """The index of the element at a row-major offset."""
    found: list[Expr] = []
    for extent in reversed(shape):
        found.append(offset % extent if extent > 1 else 0)
        offset = offset // extent if extent > 1 else offset
    return tuple(reversed(found))


def raveled(index: Index, shape: tuple[int, ...]) -> Expr:
    """The row-major offset of an index."""
    found: Expr = 0
    for i, extent in zip(index, shape, strict=True):
        found = found * extent + flat(i)
    return found


@rule(Kind.MOVEMENT, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(c: Context) -> Element:
    x, shape, out = c.x(0), c.shape(0), c.out_shape()
    kept = _without_ones(shape), _without_ones(out)
    if [shape[i] for i in kept[0]] == [out[i] for i in kept[1]]:
        back = dict(zip(kept[0], kept[1], strict=True))
        return lambda index: x(tuple(index[back[i]] if i in back else 0 for i in range(len(shape))))
    return lambda index: x(unraveled(raveled(index, out), shape))


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [i for i, extent in enumerate(shape) if extent != 1]


@rule(Kind.MOVEMENT, "Transpose")
def transpose(c: Context) -> Element:
    x, rank = c.x(0), len(c.shape(0))
    order = [int(p) for p in cast("Sequence[int]", c.node.attr("perm") or range(rank)[::-1])]
    place = {axis: i for i, axis in enumerate(order)}
    return lambda index: x(tuple(index[place[a]] for a in range(rank)))


@rule(Kind.GATHERING, "Expand", "Tile")
def expand(c: Context) -> Element:
    if c.node.op == "Expand":
        return c.spread(0)
    x, shape = c.x(0), c.shape(0)
    return lambda index: x(tuple(flat(i) % n if n > 1 else 0 for i, n in zip(index, shape, strict=True)))


@rule(Kind.MOVEMENT, "Slice")
def slice_(c: Context) -> Element:
    shape = c.shape(0)
    starts, steps = slice_bounds(c)

    x = c.x(0)
    return lambda index: x(
        tuple(
            i if start == 0 and step == 1 else start + flat(i) * step
            for i, start, step, _ in zip(index, starts, steps, shape, strict=True)
        )
    )


def slice_bounds(c: Context) -> tuple[list[int], list[int]]:
    """First index and step of every axis."""
    shape = c.shape(0)
    attrs = c.node.attrs
    given = cast("Sequence[int]", attrs["starts"]) if "starts" in attrs else c.const(1).reshape(-1).tolist()
    axes = axes_of(c, 3)
    steps_given = c.const(4).reshape(-1).tolist() if c.has(4) else [1] * len(given)
    starts, steps = [0] * len(shape), [1] * len(shape)
    for axis, start, step in zip(axes if axes is not None else range(len(given)), given, steps_given, strict=True):
        first, _, steps[axis] = slice(int(start), None, int(step)).indices(shape[axis])
        starts[axis] = first
    return starts, steps


@rule(Kind.MOVEMENT, "Split")
def split(c: Context) -> list[Made]:
    x, axis = c.x(0), int(c.node.attr("axis", 0)) % len(c.shape(0))
    made: list[Made] = []
    start = 0
    for i in range(len(c.node.outputs)):
        made.append(c.made(_shifted(x, axis, start), i))
        start += c.out_shape(i)[axis]
    return made


def _shifted(x: Element, axis: int, start: int) -> Element:
    return lambda index: x((*index[:axis], flat(index[axis]) + start, *index[axis + 1 :]))


@rule(Kind.GATHERING, "Concat")
def concat(c: Context) -> Element:
    axis, count = int(c.node.attr("axis", 0)) % len(c.out_shape()), len(c.node.inputs)
    parts = [(c.x(i), c.shape(i)[axis]) for i in range(count) if c.shape(i)[axis]]

    def element(index: Index) -> Expr:
        at = flat(index[axis])
        found: Any = None
        start = sum(extent for _, extent in parts)
        for x, extent in reversed(parts):
            start -= extent
            part = x((*index[:axis], at - start if start else index[axis], *index[axis + 1 :]))
            found = part if found is None else tirx.if_then_else(at < start + extent, part, found)
        return found

    return element


@rule(Kind.GATHERING, "Pad")
def pad(c: Context) -> Element:
    x, shape, dtype = c.x(0), c.shape(0), c.dtype()
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
                inside += ([at >= 0] if low > 0 else []) + ([at < extent] if high > 0 else [])
            places.append(_mirrored(at, extent, mode))
        found = x(tuple(places))
        return tirx.if_then_else(tirx.all(*inside), found, filler) if inside else found

    return element


def _mirrored(at: Expr, extent: int, mode: str) -> Expr:
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
    x, indices, axis, rank = c.x(0), c.x(1), int(c.node.attr("axis", 0)) % len(c.shape(0)), len(c.shape(1))
    extent = c.shape(0)[axis]

    def element(index: Index) -> Expr:
        at = wrapped(indices(index[axis : axis + rank]), extent)
        return x((*index[:axis], at, *index[axis + rank :]))

    return element


def wrapped(at: Expr, extent: int) -> Expr:
    """An index that may be negative; 32 bits, as loops count."""
    at = at.astype("int32")
    return tirx.Select(at < 0, at + extent, at)


@rule(Kind.GATHERING, "GatherElements")
def gather_elements(c: Context) -> Element:
    x, indices, shape = c.x(0), c.x(1), c.shape(0)
    axis = int(c.node.attr("axis", 0)) % len(shape)
    return lambda index: x((*index[:axis], wrapped(indices(index), shape[axis]), *index[axis + 1 :]))


@rule(Kind.GATHERING, "GatherND")
def gather_nd(c: Context) -> Element:
    x, indices, shape, tuples = c.x(0), c.x(1), c.shape(0), c.shape(1)
    batch, depth = int(c.node.attr("batch_dims", 0)), tuples[-1]

    def element(index: Index) -> Expr:
        lead = index[: len(tuples) - 1]
        places = [wrapped(indices((*lead, k)), shape[batch + k]) for k in range(depth)]
        return x((*index[:batch], *places, *index[len(tuples) - 1 :]))

    return element


@rule(Kind.GATHERING, "DepthToSpace")
def depth_to_space(c: Context) -> Element:
    """[N, C, H, W] -> [N, C/b^2, Hb, Wb]; DCR or CRD order of the channel's parts."""
    x, block, channels = c.x(0), int(c.node.attr("blocksize")), c.out_shape()[1]
    rows_first = c.node.attr("mode", "DCR") in ("DCR", b"DCR")

    def element(index: Index) -> Expr:
        n, ch, y, z = (flat(i) for i in index)
        part = (y % block) * block + z % block
        source = part * channels + ch if rows_first else ch * (block * block) + part
        return x((n, source, y // block, z // block))

    return element


@rule(Kind.GATHERING, "SpaceToDepth")
def space_to_depth(c: Context) -> Element:
    x, block, channels = c.x(0), int(c.node.attr("blocksize")), c.shape(0)[1]
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
    out = c.out_shape()
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
    shape = c.shape(0)
    if c.node.op == "Size":
        return lambda index: number(math.prod(shape), "int64")
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
