"""Type rules of operators that take parts: Slice, Split, Gather and kin; and of those that make tensors."""

from __future__ import annotations

from functools import lru_cache

from ..constants import Constant
from ..dims import Dim, SymDim, add, call, floordiv, mul, product, sub
from ..dtypes import DType
from ..graph import Node
from ..types import SequenceType, TensorType
from .elementwise import dtype_attr
from .rules import (
    Elements,
    Types,
    attr_or_operand,
    axes_of,
    axis_of,
    common_dtype,
    dtype_of,
    elements,
    fail,
    given,
    int_attr,
    ints_attr,
    is_nonnegative,
    length,
    row,
    shape_of,
    tensor,
    version,
)

FAR = 10**9
"""Bounds of this size mean "to the end" in every exporter."""


# -- Slice


@row("Slice")
def slice_(node: Node) -> Types:
    """Bounds are attributes before version 10, operands since. Negative ones count from the end."""
    x = tensor(node, 0)
    if x is None or x.shape is None:
        return [x]
    rank = len(x.shape)
    starts, ends = attr_or_operand(node, "starts", 1), attr_or_operand(node, "ends", 2)
    count = len(starts) if starts is not None else length(node, 1)
    if count is None:
        return [TensorType(x.dtype, (None,) * rank)]
    axes: Elements = attr_or_operand(node, "axes", 3) if given(node, "axes", 3) else tuple(range(count))
    places = axes_of(node, axes, rank)
    if places is None:
        return [TensorType(x.dtype, (None,) * rank)]
    steps: Elements = elements(node, 4) if given(node, "", 4) else (1,) * count
    out = list(x.shape)
    for i, axis in enumerate(places):
        start, end, step = (s[i] if s is not None else None for s in (starts, ends, steps))
        if step == 0:
            fail(node, f"step 0 along axis {axis}")
        out[axis] = sliced(x.shape[axis], start, end, step)
    return [TensorType(x.dtype, tuple(out))]


@lru_cache(1 << 14)
def sliced(d: Dim, start: Dim, end: Dim, step: Dim) -> Dim:
    """Elements that ``[start:end:step]`` takes of ``d``."""
    if d == 0:
        return 0
    if d is None or start is None or end is None or type(step) is not int:
        return None
    if type(d) is int and type(start) is int and type(end) is int:
        return len(range(*slice(start, end, step).indices(d)))
    if step < 0:
        whole = type(start) is int and type(end) is int and (start == -1 or start >= FAR) and end <= -FAR
        return floordiv(add(d, -step - 1), -step) if whole else None
    first, last = _first(d, start), _last_bound(d, end)
    # A first position beyond the end, or a last one before the start, leaves nothing: one clamp is enough.
    taken = _at_least_zero(sub(last, first)) if first is not None and last is not None else None
    return taken if step == 1 else floordiv(add(taken, step - 1), step)


def _first(d: Dim, start: Dim) -> Dim:
    """The start counted from the front, at least 0; ``None`` where its sign is open."""
    if type(start) is int and start < 0:
        return 0 if start <= -FAR else _at_least_zero(add(d, start))
    return start if is_nonnegative(start) else None


def _last_bound(d: Dim, end: Dim) -> Dim:
    """The end counted from the front, at most ``d``; ``None`` where its sign is open."""
    if type(end) is int and (end >= FAR or end < 0):
        return d if end >= FAR else 0 if end <= -FAR else add(d, end)
    if not is_nonnegative(end):
        return None
    if is_nonnegative(sub(d, end)):
        return end
    return d if is_nonnegative(sub(end, d)) else call("min", d, end)


def _at_least_zero(d: Dim) -> Dim:
    return d if is_nonnegative(d) else call("max", d, 0)


# -- Split


@row("Split")
def split(node: Node) -> Types:
    """Sizes are attribute or operand; without them parts are equal, the last smaller (``num_outputs``, 18)."""
    x = tensor(node, 0)
    count = len(node.outputs)
    if x is None or x.shape is None:
        return [x] * count
    axis = int_attr(node, "axis", 0)
    at = axis_of(node, axis, len(x.shape))
    sizes = _sizes(node, x.shape[at], count)
    return [TensorType(x.dtype, (*x.shape[:at], d, *x.shape[at + 1 :])) for d in sizes]


def _sizes(node: Node, extent: Dim, count: int) -> tuple[Dim, ...]:
    if given(node, "split", 1):
        sizes = attr_or_operand(node, "split", 1)
        if sizes is None:
            return (None,) * count
        total = product(()) if not sizes else sizes[0]
        for d in sizes[1:]:
            total = add(total, d)
        if len(sizes) != count or (type(total) is int and type(extent) is int and total != extent):
            fail(node, f"split {list(sizes)} of extent {extent} into {count} parts does not add up")
        return sizes
    if "num_outputs" in node.attrs or version(node) >= 18:
        part = floordiv(add(extent, count - 1), count)
        last = sub(extent, mul(part, count - 1))
        if type(last) is int and last < 0:
            return (None,) * count
        return (*(part,) * (count - 1), last if type(last) is int or extent is None else _last(extent, last, count))
    if type(extent) is int and extent % count:
        fail(node, f"extent {extent} does not split into {count} equal parts")
    return (floordiv(extent, count),) * count


def _last(extent: Dim, last: Dim, count: int) -> Dim:
    """The last part: like the others where the extent is a visible multiple."""
    equal = floordiv(extent, count)
    return equal if mul(equal, count) == extent else last


@row("SplitToSequence")
def split_to_sequence(node: Node) -> Types:
    x = tensor(node, 0)
    if x is None or x.shape is None:
        return [SequenceType(x)]
    return None


# -- Gather and Scatter


@row("Gather")
def gather(node: Node) -> Types:
    dtype, data, at = dtype_of(node, 0), shape_of(node, 0), shape_of(node, 1)
    if data is None:
        return [TensorType(dtype)]
    axis = int_attr(node, "axis", 0)
    place = axis_of(node, axis, len(data))
    if at is None:
        return [TensorType(dtype)]
    return [TensorType(dtype, data[:place] + at + data[place + 1 :])]


@row("GatherElements")
def gather_elements(node: Node) -> Types:
    return [TensorType(dtype_of(node, 0), shape_of(node, 1))]


@row("GatherND")
def gather_nd(node: Node) -> Types:
    dtype, data, at = dtype_of(node, 0), shape_of(node, 0), shape_of(node, 1)
    batch = int_attr(node, "batch_dims", 0)
    if data is None or at is None or not at or type(at[-1]) is not int:
        return [TensorType(dtype)]
    depth = at[-1] + batch
    if depth > len(data):
        fail(node, f"indices address {depth} axes, the data has rank {len(data)}")
    return [TensorType(dtype, at[:-1] + data[depth:])]


# -- sources


@row("Shape")
def shape(node: Node) -> Types:
    dims = shape_of(node, 0)
    if dims is None:
        return [TensorType(DType.I64, (None,))]
    rank = len(dims)
    start, end = int_attr(node, "start", 0), int_attr(node, "end", rank)
    start, end = (max(0, min(rank, x + rank if x < 0 else x)) for x in (start, end))
    return [TensorType(DType.I64, (max(0, end - start),))]


@row("Size")
def size(node: Node) -> Types:
    return [TensorType(DType.I64, ())]


@row("Constant")
def constant(node: Node) -> Types:
    """Readers turn these into constants; what is left refers to an attribute of a function."""
    value = node.attrs.get("value")
    if isinstance(value, Constant):
        return [value.type]
    kinds = (("int", DType.I64), ("float", DType.F32), ("string", DType.STRING))
    for kind, dtype in kinds:
        if f"value_{kind}" in node.attrs:
            known = isinstance(node.attrs[f"value_{kind}"], (int, float, str, bytes))
            return [TensorType(dtype, ()) if known else None]
        items = node.attrs.get(f"value_{kind}s")
        if isinstance(items, tuple):
            return [TensorType(dtype, (len(items),))]
    sparse = node.attrs.get("sparse_value")
    return [TensorType(sparse.dtype, sparse.shape) if isinstance(sparse, Constant) else None]


def _made(node: Node, dtype: DType | None, target: Elements, at: int) -> Types:
    """A tensor whose extents are elements of operand ``at``."""
    if target is None:
        count = length(node, at)
        return [TensorType(dtype, None if count is None else (None,) * count)]
    if any(type(d) is int and d < 0 for d in target):
        fail(node, f"target {list(target)} has a negative element")
    return [TensorType(dtype, target)]


@row("ConstantOfShape")
def constant_of_shape(node: Node) -> Types:
    value = node.attrs.get("value")
    dtype = value.dtype if isinstance(value, Constant) else DType.F32 if value is None else None
    return _made(node, dtype, elements(node, 0), 0)


@row("RandomNormal", "RandomUniform")
def random(node: Node) -> Types:
    return [TensorType(dtype_attr(node, "dtype", DType.F32), ints_attr(node, "shape") or ())]


@row("Range")
def range_(node: Node) -> Types:
    """``ceil((limit - start) / delta)`` elements; floats must be constants to be counted."""
    dtype = common_dtype(node, 0, 1, 2)
    return [TensorType(dtype, (_range_length(node),))]


def _range_length(node: Node) -> Dim:
    bounds = [elements(node, i) for i in range(3)]
    if all(b is not None and len(b) == 1 for b in bounds):
        start, limit, delta = (b[0] for b in bounds if b is not None)
        if type(start) is int and type(limit) is int and type(delta) is int:
            return max(0, -((start - limit) // delta)) if delta else None
        span = sub(limit, start)
        if type(delta) is not int or delta < 1 or not isinstance(span, SymDim):
            return None
        return _at_least_zero(floordiv(add(span, delta - 1), delta))
    import math

    data = [v.data if v is not None else None for v in node.inputs[:3]]
    if all(d is not None and d.count == 1 for d in data):
        start, limit, delta = (float(d.numpy().reshape(-1)[0]) for d in data if d is not None)
        return max(0, math.ceil((limit - start) / delta)) if delta else None
    return None
