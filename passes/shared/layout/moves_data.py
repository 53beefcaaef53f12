"""Layout behaviour of operators that only move data: pieces, joins, views, Transposes themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....ir.dims import Dim
from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter
from ..emit import squeeze, unsqueeze
from ..operands import int_list, int_operand, normalized, perm_of
from ..targets import emit_reshape, reshape_target
from .moves import Move, Operands, axis_attr, emitted, register
from .moves_math import rank_of
from .orders import Order, inverse, permuted, plain, refined, regrouped, with_axes, without


def _i64(items: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(items, np.int64)


def _before_transpose(node: Node, order: Order) -> Order | None:
    perm = perm_of(node)
    return None if perm is None else permuted(perm, order)


@register("Transpose", _before_transpose)
def transpose(node: Node, order: Order) -> Move | None:
    """Only says what is called which axis: the same memory, no operator."""
    perm = perm_of(node)
    if perm is None:
        return None
    return Move((order,), (permuted(inverse(perm), order),), lambda _, operands: [operands[0]])  # type: ignore[list-item]


@register("Concat")
def concat(node: Node, order: Order) -> Move | None:
    """Along the axis, wherever it is."""
    axis = axis_attr(node, len(order), 1)
    if axis is None:
        return None
    at = order.index(axis)
    takes = tuple(None if v is None or v.data is not None else order for v in node.inputs)

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        return emitted(r, node, *(_stored(r, v, order) for v in operands), axis=at)

    return Move(takes, (order,), build, at)


def _stored(r: Rewriter, value: Value | None, order: Order) -> Value | None:
    """A constant in another order."""
    if value is None or value.data is None:
        return value
    return r.const(np.ascontiguousarray(value.numpy().transpose(order)), name=value.name)


@register("Split")
def split(node: Node, order: Order) -> Move | None:
    """Along the axis, wherever it is."""
    axis = axis_attr(node, len(order), 0)
    if axis is None:
        return None
    at = order.index(axis)
    takes = (order, *(None for _ in node.inputs[1:]))
    gives = tuple(order for _ in node.outputs)
    return Move(takes, gives, lambda r, operands: emitted(r, node, *operands, axis=at), at)


@register("Slice")
def cut_out(node: Node, order: Order) -> Move | None:
    """Along constant axes."""
    rank = len(order)
    if node.version < 10:
        return None
    starts = int_operand(node, 1)
    axes = int_operand(node, 3) if node.input(3) is not None else None if starts is None else list(range(len(starts)))
    found = normalized(axes, rank) if axes is not None else None
    if not found:
        return None
    moved = [order.index(a) for a in found]
    like = node.inputs[1].dtype if node.inputs[1] is not None else None
    takes = (order, *(None for _ in node.inputs[1:]))

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        return emitted(r, node, *operands[:3], r.const(_i64(moved), like), *operands[4:])

    return Move(takes, (order,), build, max(moved))


@register("Pad")
def padding(node: Node, order: Order) -> Move | None:
    """By constant amounts."""
    rank = len(order)
    pads = int_list(node, "pads", 1)
    if pads is None or node.input(3) is not None or len(pads) != 2 * rank:
        return None
    moved = [pads[a + side] for side in (0, rank) for a in order]
    cut = max((i for i, a in enumerate(order) if pads[a] or pads[a + rank]), default=None)
    takes = (order, *(None for _ in node.inputs[1:]))

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        if "pads" in node.attrs:
            return emitted(r, node, *operands, pads=tuple(moved))
        return emitted(r, node, operands[0], r.const(_i64(moved)), *operands[2:])

    return Move(takes, (order,), build, cut)


@register("Tile")
def tile(node: Node, order: Order) -> Move | None:
    """By constant counts."""
    counts = int_operand(node, 1)
    if counts is None or node.version < 6 or len(counts) != len(order):
        return None
    moved = permuted(counts, order)
    cut = max((i for i, n in enumerate(moved) if n != 1), default=None)
    return Move((order, None), (order,), lambda r, x: emitted(r, node, x[0], r.const(_i64(moved))), cut)


@register("Expand")
def expand(node: Node, order: Order) -> Move | None:
    """To a constant shape of the same rank."""
    wanted = int_operand(node, 1)
    if wanted is None or len(wanted) != len(order) or rank_of(node.output) != len(order):
        return None
    moved = permuted(wanted, order)
    return Move((order, None), (order,), lambda r, x: emitted(r, node, x[0], r.const(_i64(moved))))


@register("Resize Upsample")
def resize(node: Node, order: Order) -> Move | None:
    """Nearest elements, by constant scales or sizes: kernels for interpolation know the axes by their position."""
    scales = node.input(2 if node.op == "Resize" and node.version >= 11 else 1)
    sizes = int_operand(node, 3)
    if (
        node.attr("mode", "nearest") != "nearest"
        or "axes" in node.attrs
        or "scales" in node.attrs
        or order[:2] != (0, 1)
    ):
        return None
    whole = scales is not None and scales.data is not None and scales.data.shape == (len(order),)
    if not whole and (sizes is None or len(sizes) != len(order)):
        return None

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        moved = list(operands)
        if whole and scales is not None:
            moved[operands.index(scales)] = r.const(scales.numpy()[list(order)])
        if sizes is not None and len(sizes) == len(order):
            moved[3] = r.const(_i64(permuted(sizes, order)))
        return emitted(r, node, *moved)

    return Move((order, *(None for _ in node.inputs[1:])), (order,), build)


def _before_gather(node: Node, order: Order) -> Order | None:
    axis = axis_attr(node, rank_of(node.inputs[0]), 0)
    indices = rank_of(node.inputs[1])
    return None if axis is None or indices > 1 else order if indices else with_axes(order, [axis])


@register("Gather", _before_gather)
def gather(node: Node, order: Order) -> Move | None:
    """Along an axis, by a list or one index."""
    axis = axis_attr(node, len(order), 0)
    indices = node.inputs[1]
    if (
        axis is None
        or indices is None
        or rank_of(indices) > 1
        or node.inputs[0] is None
        or node.inputs[0].data is not None
    ):
        return None
    at = order.index(axis)
    gives = order if rank_of(indices) else without(order, [axis])
    takes = (order, None if indices.data is not None else plain(rank_of(indices)))
    return Move(takes, (gives,), lambda r, x: emitted(r, node, *x, axis=at), at if rank_of(indices) else None)


# -- views


def _unit_axes(node: Node) -> list[int] | None:
    """Axes that a Squeeze takes out, of its operand, or an Unsqueeze puts in, of its result."""
    rank = rank_of(node.inputs[0] if node.op == "Squeeze" else node.output)
    axes = int_list(node, "axes", 1)
    return normalized(axes, rank) if axes is not None else None


def _before_unit_axes(node: Node, order: Order) -> Order | None:
    axes = _unit_axes(node)
    if axes is None:
        return None
    return with_axes(order, axes) if node.op == "Squeeze" else without(order, axes)


@register("Squeeze Unsqueeze", _before_unit_axes)
def unit_axes(node: Node, order: Order) -> Move | None:
    """Axes of extent 1 go or come."""
    axes = _unit_axes(node)
    if axes is None:
        return None
    takes = (order, *(None for _ in node.inputs[1:]))
    if node.op == "Squeeze":
        gone = sorted(order.index(a) for a in axes)
        return Move(takes, (without(order, axes),), lambda r, x: [squeeze(r, _there(x[0]), gone)])
    gives = with_axes(order, axes)
    fresh = sorted(gives.index(a) for a in axes)
    return Move(takes, (gives,), lambda r, x: [unsqueeze(r, _there(x[0]), fresh)])


def _there(value: Value | None) -> Value:
    assert value is not None
    return value


def _groups(node: Node) -> tuple[list[list[int]], list[list[int]]] | None:
    """Atoms that the axes of the operand and of the result are made of; none for axes of extent 1."""
    x, y = node.inputs[0], node.output
    if x is None or x.shape is None or y.shape is None:
        return None
    source, result = _large(x.shape), _large(y.shape)
    found = refined(source, result)
    if isinstance(found, str):
        return None
    atoms, groups = found
    back = refined(atoms, source)
    if isinstance(back, str) or back[0] != atoms:
        return None
    return _spread(x.shape, back[1]), _spread(y.shape, groups)


def _large(shape: Sequence[Dim]) -> list[Dim]:
    return [d for d in shape if d != 1]


def _spread(shape: Sequence[Dim], groups: Sequence[list[int]]) -> list[list[int]]:
    """Groups of the axes above 1 in their places, empty ones between them."""
    left = iter(groups)
    return [[] if d == 1 else next(left) for d in shape]


def _before_reshape(node: Node, order: Order) -> Order | None:
    groups = _groups(node)
    return None if groups is None else regrouped(order, groups[1], groups[0])


@register("Reshape Flatten", _before_reshape)
def reshape(node: Node, order: Order) -> Move | None:
    """Axes that fall apart, or join where they lie one behind the other."""
    groups, x, y = _groups(node), node.inputs[0], node.output
    gives = regrouped(order, *groups) if groups is not None else None
    if gives is None or x is None or x.shape is None or y.shape is None:
        return None
    # Permuted extents of a copied 0 would be another axis': all are written out, one may be left over.
    target = reshape_target(permuted(x.shape, order), permuted(y.shape, gives), nonempty=False)
    if target is None:
        return None
    takes = (order, *(None for _ in node.inputs[1:]))
    return Move(takes, (gives,), lambda r, operands: [emit_reshape(r, _there(operands[0]), target, node)])
