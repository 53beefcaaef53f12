"""How queries, keys and values are laid out for attention: split into heads, repeated for groups, behind a cache."""

from __future__ import annotations

from ...ir.dims import same_dim, same_shape
from ...ir.graph import Node, Value
from .operands import constant_ints, perm_of, producer_of

HEADS_FIRST = (0, 2, 1, 3)
"""Perm from [B, S, H, D] to [B, H, S, D], and back."""


def ungrouped(x: Value) -> tuple[Value, list[Node]]:
    """``x`` before each head was repeated for n neighbours, [B, G, T, D] -> [B, G*n, T, D], and the nodes for it.

    Or [B, 1, 1, T, D] where one head was split off and repeated at once.
    """
    reshape = x.producer
    looked_up = _repeated_by_gather(x)
    if looked_up is not None:
        return looked_up
    expand = producer_of(reshape, 0, "Expand", "Tile") if reshape is not None and reshape.op == "Reshape" else None
    unsqueeze = producer_of(expand, 0, "Unsqueeze", "Reshape") if expand is not None else None
    if reshape is None or expand is None or unsqueeze is None or reshape.domain:
        return x, []
    source = unsqueeze.inputs[0]
    a, wide, narrow = source.shape if source is not None else None, expand.output.shape, unsqueeze.output.shape
    out = x.shape
    if source is None or a is None or wide is None or narrow is None or out is None or len(wide) != 5:
        return x, []
    if len(a) != 4:  # one head: split off and repeated at once
        source, a = unsqueeze.output, (*narrow[:2], *narrow[3:])
    one = len(narrow) == 5 and narrow[2] == 1 and same_shape((*narrow[:2], *narrow[3:]), a)
    widened = same_shape((*wide[:2], *wide[3:]), a) and isinstance(wide[2], int)
    if not (one and widened and isinstance(a[1], int) and out[1] == a[1] * wide[2]):  # type: ignore[operator]
        return x, []
    same = same_dim(out[0], a[0]) and same_dim(out[2], a[2]) and same_dim(out[3], a[3])
    return (source, [reshape, expand, unsqueeze]) if same else (x, [])


def _repeated_by_gather(x: Value) -> tuple[Value, list[Node]] | None:
    """The same where a Gather takes each head n times, one after the other."""
    node = x.producer
    source = node.inputs[0] if node is not None else None
    if node is None or node.op != "Gather" or node.domain or source is None or not source.shape or x.rank != 4:
        return None
    groups, index = source.shape[1] if len(source.shape) == 4 else None, node.inputs[1]
    taken = constant_ints(index)
    if (
        not isinstance(groups, int)
        or not taken
        or index is None
        or index.rank != 1
        or node.attr("axis", 0) not in (1, -3)
    ):
        return None
    times = len(taken) // groups if groups else 0
    return (source, [node]) if times > 1 and taken == [i // times for i in range(groups * times)] else None


def cached(x: Value) -> tuple[Value, Value, Node] | None:
    """Past and new part, and the Concat, where ``x`` [B, G, P + T, D] is a cache with what is new behind it."""
    node = x.producer
    if (
        node is None
        or node.op != "Concat"
        or node.domain
        or len(node.inputs) != 2
        or node.attr("axis", 0) not in (2, -2)
    ):
        return None
    past, new = node.inputs[0], node.inputs[1]
    return (past, new, node) if past is not None and new is not None and past.producer is None else None


def packed_heads(x: Value) -> tuple[Value, int] | None:
    """[B, S, H*D] and H where ``x`` [B, H, S, D] is made of it by Reshape and Transpose."""
    transpose = x.producer
    if transpose is None or transpose.op != "Transpose" or transpose.domain or perm_of(transpose) != HEADS_FIRST:
        return None
    reshape = producer_of(transpose, 0, "Reshape")
    flat = reshape.inputs[0] if reshape is not None else None
    shape = reshape.output.shape if reshape is not None else None
    if flat is None or shape is None or flat.shape is None or len(flat.shape) != 3 or len(shape) != 4:
        return None
    heads, size = shape[2], shape[3]
    if not isinstance(heads, int) or not isinstance(size, int) or flat.shape[2] != heads * size:
        return None
    return (flat, heads) if same_shape(shape[:2], flat.shape[:2]) else None


def merged_heads(y: Value) -> tuple[Node, Node] | None:
    """Transpose and Reshape that make [B, S, H*D] of ``y`` [B, H, S, D], where nothing else uses it."""
    transpose = y.sole_user
    if transpose is None or transpose.op != "Transpose" or transpose.domain or perm_of(transpose) != HEADS_FIRST:
        return None
    reshape = transpose.output.sole_user
    if reshape is None or reshape.op != "Reshape" or reshape.domain or y.shape is None:
        return None
    shape, (b, h, s, d) = reshape.output.shape, y.shape
    if shape is None or len(shape) != 3 or not isinstance(h, int) or not isinstance(d, int):
        return None
    return (transpose, reshape) if same_shape(shape, (b, s, h * d)) else None
