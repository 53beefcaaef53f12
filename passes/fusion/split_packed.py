"""Take queries, keys and values out of one product by a Split, not out of an axis of three.

    reshape(x, [B,S,3,H,D])[:, :, i] = reshape(split(x, 3)[i], [B,S,H,D])

also where a Transpose stands between the Reshape and the choice (timm's ``permute(2, 0, 3, 1, 4).unbind(0)``). Parts
that do not lie together ([B,S,H,3,D]) are brought together in the columns of the product that made x.

**Why** what is behind is the usual split into heads, which attention takes in; three Gathers or Slices and Squeezes of
tensors of rank five go.
**Needs** a Reshape that splits the last axis with the parts in front; known numbers of parts and sizes; users that all
choose one part; for parts apart a product with constant weights that nothing else reads.
**Leaves** choices that are not constant, other users.
**Numbers** exact, up to the order in which a kernel sums where columns move: reassociates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.dims import same_shape
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.emit import split
from ..shared.linear import linear_at, with_outputs
from ..shared.operands import constant_ints, int_list, int_operand, perm_of
from ..shared.targets import emit_reshape, reshape_target


@dataclass
class SplitPacked(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield ChoiceOfParts()


class ChoiceOfParts(NodeRule):
    """Anchored at the Reshape that makes the axis of parts."""

    roots = ("Reshape",)

    def promising(self, node: Node) -> bool:
        return (node.output.rank or 0) > (node.inputs[0].rank or 0 if node.inputs[0] is not None else 0)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        x, wide = node.inputs[0], node.output.shape
        if x is None or x.shape is None or wide is None or len(wide) <= len(x.shape):
            raise NoMatch("the Reshape does not split an axis")
        first = len(x.shape) - 1
        dims = [d for d in wide[first:] if isinstance(d, int)]
        if len(dims) != len(wide) - first or len(dims) < 2:
            raise NoMatch(f"the parts {wide[first:]} are not known numbers")
        if not same_shape(x.shape[:-1], wide[:first]) or x.shape[-1] != math.prod(dims):
            raise NoMatch("the Reshape does not split the last axis alone")
        perm, users = _through_transpose(node)
        axis, chosen = _chosen(users, perm, first, dims)
        count, rest = dims[axis - first], (*dims[: axis - first], *dims[axis - first + 1 :])
        size = math.prod(rest)
        target = reshape_target((*x.shape[:-1], size), (*x.shape[:-1], *rest), nonempty=True)
        if target is None:
            raise NoMatch("the shape of a part cannot be said by constants")
        if axis > first:
            x = _brought_together(r, x, dims, axis - first)
        order = tuple(a - (a > axis) for a in perm if a != axis)
        r.begin(node, origin_of([node, *(last for last, _ in chosen)]))
        parts = split(r, x, [size] * count, -1)
        views: dict[int, Value] = {}
        for last, index in chosen:
            if index not in views:
                part = parts[index] if len(rest) == 1 else emit_reshape(r, parts[index], target, node)
                views[index] = part if order == tuple(range(len(order))) else r.Transpose(part, perm=order)
            r.replace(last, views[index])
        return MODIFIED


def _chosen(
    users: list[tuple[Node, Value]], perm: tuple[int, ...], first: int, dims: list[int]
) -> tuple[int, list[tuple[Node, int]]]:
    """The axis of parts, and who takes which part. Raises :class:`NoMatch` with what is in the way of the first one."""
    refused: NoMatch | None = None
    for axis, count in enumerate(dims, first):
        if count < 2:
            continue
        try:
            return axis, [found for user, v in users for found in _choices(user, v, perm.index(axis), count)]
        except NoMatch as declined:
            refused = refused or declined
    raise refused or NoMatch("there is one part")


def _brought_together(r: Rewriter, x: Value, dims: list[int], at: int) -> Value:
    """``x`` with the columns of each part side by side: by the order of columns in what it is a product with."""
    linear = linear_at(x, "the packed value")
    columns = np.moveaxis(np.arange(math.prod(dims)).reshape(dims), at, 0).reshape(-1)
    made = linear.add or linear.node
    r.begin(made, origin_of([made]))
    moved = with_outputs(r, linear, columns)
    r.replace(made, moved)
    return moved


def _through_transpose(node: Node) -> tuple[tuple[int, ...], list[tuple[Node, Value]]]:
    """The order of axes, and who chooses from which value."""
    users = list(node.output.users)
    value, perm = node.output, tuple(range(node.output.rank or 0))
    if len(users) == 1 and users[0].op == "Transpose" and not users[0].domain:
        found = perm_of(users[0])
        if found is None:
            raise NoMatch("the perm is unknown")
        value, perm = users[0].output, found
    if not value.uses:
        raise NoMatch("nothing uses the parts")
    return perm, [(user, value) for user in value.users]


def _choices(user: Node, value: Value, axis: int, count: int) -> list[tuple[Node, int]]:
    """The nodes that return one part without the axis, and which part. Raises :class:`NoMatch`."""
    rank = value.rank or 0
    if user.op != "Split" or user.domain or user.attr("axis", 0) not in (axis, axis - rank):
        return [_choice(user, value, axis, count)]
    found: list[tuple[Node, int]] = []
    for out in user.outputs:
        squeeze = out.sole_user
        dropped = int_list(squeeze, "axes", 1) if squeeze is not None and squeeze.op == "Squeeze" else None
        if squeeze is None or squeeze.domain or dropped not in ([axis], [axis - rank]) or len(user.outputs) != count:
            raise NoMatch("the Split takes several parts, or keeps their axis")
        found.append((squeeze, out.index))
    return found


def _choice(user: Node, value: Value, axis: int, count: int) -> tuple[Node, int]:
    """The node that returns one part without the axis, and which part. Raises :class:`NoMatch`."""
    rank = value.rank or 0
    owner = value.producer.graph if value.producer is not None else None
    if user.domain or user.graph is not owner:
        raise NoMatch(f"{user.op} does not choose a part")
    if user.op == "Gather" and user.inputs[0] is value and user.attr("axis", 0) in (axis, axis - rank):
        index, given = user.inputs[1], constant_ints(user.inputs[1])
        if given is None or index is None or index.rank != 0 or not -count <= given[0] < count:
            raise NoMatch("which part is taken is not a constant number")
        return user, given[0] % count
    if user.op == "Slice" and user.inputs[0] is value:
        starts, ends, axes = int_operand(user, 1), int_operand(user, 2), int_list(user, "axes", 3)
        steps = int_operand(user, 4) or [1]
        squeeze = user.output.sole_user
        if starts is None or ends is None or axes not in ([axis], [axis - rank]) or steps != [1]:
            raise NoMatch("the Slice does not choose a part")
        start, end = (min(max(b + count if b < 0 else b, 0), count) for b in (starts[0], ends[0]))
        dropped = int_list(squeeze, "axes", 1) if squeeze is not None and squeeze.op == "Squeeze" else None
        if end - start != 1 or squeeze is None or squeeze.domain or dropped not in ([axis], [axis - rank]):
            raise NoMatch("the Slice takes several parts, or keeps their axis")
        return squeeze, start
    raise NoMatch(f"{user.op} does not choose a part")
