"""Type rules of operators that give a tensor another shape: Reshape, Transpose, Expand, Concat and kin."""

from __future__ import annotations

from ..dims import Dim, Shape, add, floordiv, mul, product
from ..graph import Node
from ..types import TensorType
from .rules import (
    Elements,
    Types,
    attr_or_operand,
    axes_of,
    axis_of,
    broadcast,
    common_dtype,
    dtype_of,
    elements,
    equal_dim,
    fail,
    given,
    int_attr,
    ints_attr,
    length,
    lower_bound,
    row,
    shape_of,
    tensor,
    version,
)


def _unknown(node: Node, rank: int | None) -> Types:
    """The operand's element type and a rank."""
    return [TensorType(dtype_of(node, 0), None if rank is None else (None,) * rank)]


# -- Reshape


@row("Reshape")
def reshape(node: Node) -> Types:
    """0 copies the extent in its place (unless ``allowzero``), -1 takes what is left.

    A symbolic element is taken for an extent where nothing speaks against it: a model that computes 0
    or -1 for some inputs and means "copy" or "the rest" by it would be misread (none was ever seen).
    """
    dtype = dtype_of(node, 0)
    data = shape_of(node, 0)
    target = attr_or_operand(node, "shape", 1)
    if target is None:
        count = length(node, 1)
        if count == 1:
            return [TensorType(dtype, (product(data) if data is not None else None,))]
        return _unknown(node, count)
    return [TensorType(dtype, reshaped(node, data, target))]


def reshaped(node: Node, data: Shape | None, target: tuple[Dim, ...]) -> Shape:
    """The shape that ``target`` asks for, as far as it is known."""
    if target.count(-1) > 1:
        fail(node, f"target {_text(target)} has several -1, expected one at most")
    have = product(data) if data is not None else None
    sure = have is not None and have == product(target)
    out = [_extent(node, i, data, target, sure=sure) for i in range(len(target))]
    if data is None:
        return tuple(out)
    if out.count(None) == 1:
        at = out.index(None)
        out[at] = _rest(node, data, out, at, target)
    elif None not in out:
        want = product(out)
        if type(have) is int and type(want) is int and have != want:
            fail(node, f"target {_text(target)} has {want} elements, the data {have}")
    return tuple(out)


def _extent(node: Node, i: int, data: Shape | None, target: tuple[Dim, ...], *, sure: bool) -> Dim:
    """The extent that element ``i`` of the target stands for; ``None`` where that is open."""
    d = target[i]
    if d == 0 and not node.attrs.get("allowzero", 0):
        if data is not None and i >= len(data):
            fail(node, f"target {_text(target)} copies extent {i}, the data has rank {len(data)}")
        return data[i] if data is not None else None
    if type(d) is int:
        if d < -1:
            fail(node, f"target {_text(target)} has element {d}, expected at least -1")
        return None if d == -1 else d
    if d is None or sure or (data is not None and d in data):
        return d
    # What may be negative may be a -1, which is no extent.
    low = lower_bound(d, 1)
    return d if low is not None and low >= 0 else None


def _text(target: tuple[Dim, ...]) -> str:
    return "[" + ",".join(map(str, target)) + "]"


def _rest(node: Node, data: Shape, out: list[Dim], at: int, target: tuple[Dim, ...]) -> Dim:
    """The one extent that the others leave: what cancels is cancelled first, so that quotients stay simple."""
    left = list(data)
    others: list[Dim] = []
    for i, d in enumerate(out):
        if i == at:
            continue
        if d is not None and d != 0 and d in left:
            left.remove(d)
        else:
            others.append(d)
    have, taken = product(left), product(others)
    if have is None or taken is None or taken == 0:
        return None
    if type(have) is int and type(taken) is int and have % taken:
        fail(node, f"target {_text(target)} does not divide the data's {_text(data)}")
    return floordiv(have, taken)


@row("Flatten")
def flatten(node: Node) -> Types:
    dtype, dims = dtype_of(node, 0), shape_of(node, 0)
    if dims is None:
        return [TensorType(dtype, (None, None))]
    axis = int_attr(node, "axis", 1)
    if not -len(dims) <= axis <= len(dims):
        fail(node, f"axis {axis} found, expected {-len(dims)} to {len(dims)}")
    at = axis + len(dims) if axis < 0 else axis
    return [TensorType(dtype, (product(dims[:at]), product(dims[at:])))]


def _undefined(node: Node, axes: Elements) -> bool:
    """Whether an axis counts from the back before opset 11, which ONNX does not define.

    The runtime computes it, yet infers a shape without that axis and believes it up to the next operator that
    states a shape. No shape here either, so that no rewrite takes that operator away.
    """
    return axes is not None and version(node) < 11 and any(type(a) is int and a < 0 for a in axes)


@row("Squeeze")
def squeeze(node: Node) -> Types:
    dtype, dims = dtype_of(node, 0), shape_of(node, 0)
    if not given(node, "axes", 1):
        if dims is None or not all(type(d) is int for d in dims):
            return [TensorType(dtype)]  # a symbolic extent may be 1 in some run
        return [TensorType(dtype, tuple([d for d in dims if d != 1]))]
    axes = attr_or_operand(node, "axes", 1)
    if dims is None or _undefined(node, axes):
        return [TensorType(dtype)]
    places = axes_of(node, axes, len(dims))
    if places is None:
        count = length(node, 1)
        return _unknown(node, None if count is None else len(dims) - count)
    for i in places:
        d = dims[i]
        if type(d) is int and d != 1:
            fail(node, f"axis {i} has extent {d}, expected 1")
    return [TensorType(dtype, tuple([d for i, d in enumerate(dims) if i not in places]))]


@row("Unsqueeze")
def unsqueeze(node: Node) -> Types:
    dtype, dims = dtype_of(node, 0), shape_of(node, 0)
    axes = attr_or_operand(node, "axes", 1)
    if dims is None or _undefined(node, axes):
        return [TensorType(dtype)]
    if axes is None:
        count = length(node, 1)
        return _unknown(node, None if count is None else len(dims) + count)
    rank = len(dims) + len(axes)
    places = axes_of(node, axes, rank)
    if places is None:
        return _unknown(node, rank)
    rest = iter(dims)
    return [TensorType(dtype, tuple([1 if i in places else next(rest) for i in range(rank)]))]


@row("Transpose")
def transpose(node: Node) -> Types:
    dtype, dims = dtype_of(node, 0), shape_of(node, 0)
    perm = ints_attr(node, "perm")
    if perm is None:
        return [TensorType(dtype, None if dims is None else dims[::-1])]
    if sorted(perm) != list(range(len(perm))):
        fail(node, f"perm is {list(perm)}, expected a permutation of 0 to {len(perm) - 1}")
    if dims is None:
        return [TensorType(dtype, (None,) * len(perm))]
    if len(perm) != len(dims):
        fail(node, f"perm has {len(perm)} elements, the data rank {len(dims)}")
    return [TensorType(dtype, tuple([dims[p] for p in perm]))]


@row("Expand")
def expand(node: Node) -> Types:
    """Broadcasts both ways; a symbolic element is taken for an extent."""
    dtype, dims = dtype_of(node, 0), shape_of(node, 0)
    target = elements(node, 1)
    if target is None:
        count = length(node, 1)
        if count is None or dims is None:
            return [TensorType(dtype)]
        target = (None,) * count
    for d in target:
        if type(d) is int and d < 0:
            fail(node, f"target {_text(target)} has a negative element")
    return [TensorType(dtype, broadcast(node, dims, target))]


@row("Tile")
def tile(node: Node) -> Types:
    """Since version 6 one factor an axis; before, ``tiles`` along ``axis``."""
    x = tensor(node, 0)
    if x is None or x.shape is None:
        return _unknown(node, length(node, 1) if version(node) >= 6 else None)
    if version(node) < 6:
        return _unknown(node, len(x.shape))
    repeats = elements(node, 1)
    if repeats is None:
        return _unknown(node, len(x.shape))
    if len(repeats) != len(x.shape):
        fail(node, f"{len(repeats)} repeats, expected {len(x.shape)}, one an axis")
    return [TensorType(x.dtype, tuple([mul(d, r) for d, r in zip(x.shape, repeats, strict=True)]))]


@row("Pad")
def pad(node: Node) -> Types:
    """Pads are attribute ``paddings`` in version 1, ``pads`` in 2, an operand since 11; axes may be chosen since 18."""
    x = tensor(node, 0)
    if x is None or x.shape is None:
        return _unknown(node, None)
    pads: Elements = ints_attr(node, "paddings") or attr_or_operand(node, "pads", 1)
    rank = len(x.shape)
    axes = axes_of(node, elements(node, 3), rank) if given(node, "", 3) else list(range(rank))
    if pads is None or axes is None:
        return _unknown(node, rank)
    if len(pads) != 2 * len(axes):
        fail(node, f"{len(pads)} pads, expected {2 * len(axes)}, two an axis")
    out = list(x.shape)
    for i, axis in enumerate(axes):
        grown = add(out[axis], add(pads[i], pads[i + len(axes)]))
        if type(grown) is int and grown < 0:
            fail(node, f"axis {axis} of extent {out[axis]} is cut to {grown}")
        out[axis] = grown
    return [TensorType(x.dtype, tuple(out))]


@row("Concat")
def concat(node: Node) -> Types:
    """The extents along the axis add up; along the others every run has them equal."""
    count = len(node.inputs)
    dtype = common_dtype(node, *range(count))
    shapes = [shape_of(node, i) for i in range(count)]
    known = [s for s in shapes if s is not None]
    if not known:
        return [TensorType(dtype)]
    rank = len(known[0])
    if any(len(s) != rank for s in known):
        fail(node, f"operands have ranks {[len(s) for s in known]}, expected equal ones")
    axis = int_attr(node, "axis", 1)
    at = axis_of(node, axis, rank)
    out = list(known[0])
    total: Dim = 0
    for s in known:
        total = add(total, s[at])
        if s is not known[0] and s != known[0]:
            for i, d in enumerate(s):
                if i != at and d != out[i]:
                    out[i] = equal_dim(node, out[i], d, f"axis {i}")
    out[at] = total if len(known) == count else None
    return [TensorType(dtype, tuple(out))]
