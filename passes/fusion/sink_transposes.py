"""Sink Transposes below what joins or cuts their results: one Transpose in place of several.

    concat(transpose(a, p), transpose(b, p), ...; axis i)  =  transpose(concat(a, b, ...; axis p[i]), p)
    transpose(f(transpose(x, p)), q)                       =  f(transpose(x, p[q]))

f a function of single elements or a Slice.

**Why** a Transpose copies its tensor. Converters of channels-last models write one behind each convolution in front of
a concatenation; below it they are one, which often meets another Transpose.
**Needs** the same permutation on all operands; a Slice with constant axes.
**Leaves** Transposes with other users; concatenations of mixed operands.
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...ir.graph import Node, Value
from ...ir.ops import UNARY
from ..core import RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..shared.emit import again
from ..shared.operands import int_operand, perm_of, producer_of

_FUNCTIONS = tuple(op for _, op in UNARY)


@dataclass
class SinkTransposes(RewritePass):
    """See the module."""

    def rules(self) -> Iterable[NodeRule]:
        return [BelowConcat(), BelowFunction()]


class BelowConcat(NodeRule):
    """Concat of Transposes."""

    roots = ("Concat",)

    def promising(self, node: Node) -> bool:
        return len(node.inputs) > 1 and producer_of(node, 0, "Transpose") is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        sources: list[Node] = []
        for i in range(len(node.inputs)):
            inner = producer_of(node, i, "Transpose")
            if inner is None or inner.graph is not node.graph:
                raise NoMatch(f"operand {i} is not computed by a Transpose of this graph")
            if inner.output.sole_user is not node:
                raise NoMatch(f"%{inner.output.name} has another user")
            sources.append(inner)
        perms = {perm_of(inner) for inner in sources}
        perm, axis = perms.pop(), node.attrs.get("axis", 1)
        if perm is None or perms or not isinstance(axis, int):
            raise NoMatch("the Transposes differ")
        r.begin(node, origin_of([*sources, node]))
        joined = r.Concat(*(inner.inputs[0] for inner in sources), axis=perm[axis % len(perm)])
        return r.Transpose(joined, perm=perm)


class BelowFunction(NodeRule):
    """A function or a Slice between two Transposes."""

    roots = ("Transpose",)

    def promising(self, node: Node) -> bool:
        middle = producer_of(node, 0, "Slice", *_FUNCTIONS)
        return middle is not None and producer_of(middle, 0, "Transpose") is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        middle = producer_of(node, 0, "Slice", *_FUNCTIONS)
        first = producer_of(middle, 0, "Transpose") if middle is not None else None
        x = first.inputs[0] if first is not None else None
        if middle is None or first is None or x is None or middle.graph is not node.graph:
            raise NoMatch("no function between two Transposes")
        if middle.output.sole_user is not node or first.output.sole_user is not middle:
            raise NoMatch("an inner value has another user")
        inner, outer = perm_of(first), perm_of(node)
        if inner is None or outer is None:
            raise NoMatch("the rank is unknown")
        r.begin(node, origin_of([first, middle, node]))
        made = _on(r, middle, x, inner)
        perm = tuple(inner[a] for a in outer)
        return made if list(perm) == sorted(perm) else r.Transpose(made, perm=perm)


def _on(r: Rewriter, node: Node, x: Value, perm: tuple[int, ...]) -> Value:
    """``node`` on what was transposed in front of it."""
    if node.op != "Slice":
        return again(r, node, x, *node.inputs[1:])
    axes = int_operand(node, 3)
    if node.version < 10 or axes is None:
        raise NoMatch("Slice without constant axes")
    moved = r.const(np.array([perm[a % len(perm)] for a in axes], np.int64))
    return again(r, node, x, *node.inputs[1:3], moved, *node.inputs[4:])
