"""merge-views: a Transpose between two Reshapes that only group axes for it is a Transpose of more axes.

    reshape([B,H,L,S] transpose([B*H,L,S], swap) of reshape(x)) = transpose(x, [0,1,3,2])
    transpose(unsqueeze(transpose(x, p)), q)                    = transpose(unsqueeze(x), r)

Both Reshapes are read as groupings of one list of extents (the finest that both need); the Transpose moves whole
groups. What is left is at most one Reshape in front or behind.

**Why**    exporters flatten batch and heads around the Transpose of keys; three kernel calls and two shapes
           computed at run time become one call, and attention becomes visible.
**Needs**  extents known as integers or polynomials of symbols, whose products show how axes are grouped.
**Leaves** groupings that cut through an extent that the Transpose moves in one piece; chains that would not
           get shorter.
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...ir.dims import Dim, same_shape
from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch
from ..shared.emit import unsqueeze
from ..shared.layout.orders import refined
from ..shared.operands import int_list, normalized, perm_of, producer_of
from ..shared.targets import emit_reshape, reshape_target

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass
class MergeViews(RewritePass):
    """Takes Reshapes out from around a Transpose."""

    def rules(self) -> Iterable[NodeRule]:
        return [AroundTranspose(), BetweenTransposes()]


class AroundTranspose(NodeRule):
    """Reshape, Transpose, Reshape."""

    roots = _VIEWS

    def promising(self, node: Node) -> bool:
        middle = producer_of(node, 0, "Transpose")
        return middle is not None and producer_of(middle, 0, *_VIEWS) is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        middle = producer_of(node, 0, "Transpose")
        first = producer_of(middle, 0, *_VIEWS) if middle is not None else None
        if middle is None or first is None:
            raise NoMatch("no Transpose behind a Reshape in front")
        x, grouped, perm = first.inputs[0], first.output.shape, perm_of(middle)
        if x is None or x.shape is None or grouped is None or perm is None or node.output.shape is None:
            raise NoMatch("a shape is not known")
        if len(middle.output.uses) != 1:
            raise NoMatch(f"%{middle.output.name} has another user")
        found = refined(x.shape, grouped)
        if isinstance(found, str):
            raise NoMatch(found)
        atoms, groups = found
        order = [a for axis in perm for a in groups[axis]]
        out = tuple(atoms[a] for a in order)
        before, behind = not same_shape(tuple(atoms), x.shape), not same_shape(out, node.output.shape)
        if before and behind:
            raise NoMatch("Reshapes on both sides remain")
        if before:
            x = _reshape(r, x, atoms, node)
        y = r.Transpose(x, perm=tuple(order))
        return _reshape(r, y, node.output.shape, node) if behind else y


class BetweenTransposes(NodeRule):
    """Transpose, Unsqueeze, Transpose: the new axes can come first, and the Transposes are one."""

    roots = ("Transpose",)

    def promising(self, node: Node) -> bool:
        middle = producer_of(node, 0, "Unsqueeze")
        return middle is not None and producer_of(middle, 0, "Transpose") is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        middle = producer_of(node, 0, "Unsqueeze")
        first = producer_of(middle, 0, "Transpose") if middle is not None else None
        if middle is None or first is None:
            raise NoMatch("no Unsqueeze of a Transpose in front")
        x, rank = first.inputs[0], middle.output.rank
        inner, outer, given = perm_of(first), perm_of(node), int_list(middle, "axes", 1)
        axes = normalized(given, rank) if given is not None and rank is not None else None
        if x is None or inner is None or outer is None or axes is None or rank is None:
            raise NoMatch("a perm, the axes or the rank is unknown")
        if len(middle.output.uses) != 1:
            raise NoMatch(f"%{middle.output.name} has another user")
        ahead = list(range(len(inner), rank))
        kept, fresh = iter(inner), iter(ahead)
        whole = [next(fresh) if axis in axes else next(kept) for axis in range(rank)]
        return r.Transpose(unsqueeze(r, x, ahead), perm=tuple(whole[a] for a in outer))


def _reshape(r: Rewriter, x: Value, wanted: Sequence[Dim], like: Node) -> Any:
    target = reshape_target(x.shape, wanted, nonempty=True)
    if target is None:
        raise NoMatch("a Reshape remains whose target cannot be constant")
    return emit_reshape(r, x, target, like)
