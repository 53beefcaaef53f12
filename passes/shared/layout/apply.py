"""Rewriting a graph as a solution of its layout problem says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ....ir.dims import Dim, product
from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter, origin_of
from ..targets import emit_reshape, reshape_target
from .costs import Sizes, merged, single_moves, transpose_ns
from .moves import Move
from .orders import Order, between, permuted, plain


class Applied:
    """Makes nodes of one graph anew under the orders chosen for them."""

    def __init__(self, r: Rewriter, sizes: Sizes) -> None:
        self.r, self.sizes = r, sizes
        self.stored: dict[Value, dict[Order, Value]] = {}
        """Values of the old graph, and what holds them in each order."""
        self.given: dict[Value, Order] = {}

    def apply(self, chosen: Iterable[tuple[Node, Move]]) -> None:
        """``chosen``: the nodes that change, in the graph's order, Transposes among them."""
        redone = dict(chosen)
        inputs = {node: list(node.inputs) for node in redone}
        for node, m in redone.items():
            self.r.begin(node, origin_of([node]))
            operands = [
                v if v is None or order is None else self._fetch(node, v, order)
                for v, order in zip(inputs[node], m.takes, strict=True)
            ]
            for old, new, order in zip(node.outputs, m.build(self.r, operands), m.gives, strict=True):
                self.stored[old] = {order: new}
                self.given[old] = order
                if any(user not in redone for user, _ in old.uses):
                    self._give(old, self._fetch(node, old, plain(len(order))), redone)
        for node in reversed(list(redone)):
            if not node.erased:
                self.r.erase(node)

    def _give(self, old: Value, new: Value, redone: dict[Node, Move]) -> None:
        """Makes all nodes that stay take ``new``; the others are about to go."""
        for user, i in [use for use in old.uses if use[0] in redone]:
            user.set_input(i, None)
        self.r.replace_value(old, new)

    def _fetch(self, node: Node, value: Value, order: Order) -> Value:
        """A value in an order, made where it is not there."""
        known = self.stored.setdefault(value, {plain(len(order)): value})
        if order not in known:
            given = self.given.get(value, plain(len(order)))
            known[order] = self._transposed(node, known[given], between(given, order))
        return known[order]

    def _transposed(self, node: Node, x: Value, perm: Order) -> Value:
        """A Transpose, or several that move one axis each where that is faster."""
        extents = self.sizes.extents(x)
        if transpose_ns(extents, perm, split=self.sizes.steps) < transpose_ns(extents, perm, split=False):
            stepwise = self._in_steps(node, x, perm)
            if stepwise is not None:
                return stepwise
        return self.r.Transpose(x, perm=perm)

    def _in_steps(self, node: Node, x: Value, perm: Order) -> Value | None:
        """Reshapes between the steps show each of them as a Transpose of neighbouring blocks, which no runtime puts
        together again; ``None`` where their targets are not known."""
        dims, order = merged(x.shape or (), perm)
        current = list(range(len(dims)))
        steps: list[tuple[list[int], Order]] = []
        shape = x.shape or ()
        for start, end in single_moves(order):
            before = [dims[a] for a in current]
            blocks, swap = _blocks(before, start, end)
            target = reshape_target(shape, blocks, nonempty=False)
            if target is None:
                return None
            steps.append((target, swap))
            current.insert(end, current.pop(start))
            shape = permuted(blocks, swap)
        last = reshape_target(shape, permuted(x.shape or (), perm), nonempty=False)
        if last is None:
            return None
        for target, swap in steps:
            x = self.r.Transpose(emit_reshape(self.r, x, target, node), perm=swap)
        return emit_reshape(self.r, x, last, node)


def _blocks(dims: Sequence[Dim], start: int, end: int) -> tuple[list[Dim], Order]:
    """Extents of the blocks in front, of the two that change places, and behind; and how they change places."""
    low, high = min(start, end), max(start, end)
    middle = [product([dims[start]]), product([d for i, d in enumerate(dims) if low <= i <= high and i != start])]
    if start > end:
        middle.reverse()
    groups = [product(dims[:low]), *middle, product(dims[high + 1 :])]
    swap: Order = (0, 2, 1, 3)
    if groups[3] == 1:
        return groups[:3], swap[:3]
    return groups, swap
