"""Fold the scale of attention scores into the weights that make the queries (or the keys).

    s (q W + b) k^T = (q (s W) + s b) k^T

The scale is a product of all numbers found on the way: on the product of queries and keys, on the queries, on the
keys (PyTorch writes the root of the scale on both).

**Why** one pass over the scores, the largest tensors of a block, or one or two over queries and keys.
**Needs** constant numbers; a way from the product back to a linear layer with constant weights through nothing but
movement, that nothing else uses.
**Leaves** scales per element, queries that are used elsewhere too, weights that would leave their type's range.
**Numbers** reassociates; computed in float64, rounded once. Where the scale is a power of two: the same numbers.
**Source** A. Vaswani et al., Attention Is All You Need, 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter
from ..rewrite.matcher import scalar_value
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.affine import ZERO, Affine
from ..shared.linear import SHARED_BYTES, Linear, absorb_after, linear_at

_LONGEST = 8
"""Nodes between the product and the linear layer."""
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


@dataclass
class FoldAttentionScale(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    max_shared_bytes: int = SHARED_BYTES
    """A weight with other users is copied only up to this size."""

    def rules(self) -> Iterable[NodeRule]:
        yield OfScores(self.max_shared_bytes)


@dataclass
class _Way:
    """From a factor of the product back towards where it is made."""

    scale: float = 1.0
    scalings: list[Node] = field(default_factory=list[Node])
    linear: Linear | None = None


class OfScores(NodeRule):
    """Anchored at the product of two computed values."""

    roots = ("MatMul",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        a, b = node.inputs[0], node.inputs[1]
        if a is None or b is None or a.data is not None or b.data is not None:
            raise NoMatch("a factor is constant: a linear layer")
        ways = [_way_back(a), _way_back(b)]
        behind = _scaling_behind(node)
        scalings = [n for way in ways for n in way.scalings] + ([behind] if behind is not None else [])
        if not scalings:
            raise NoMatch("no number scales the product")
        total = math.prod(way.scale for way in ways) * (_number(behind) if behind is not None else 1.0)
        linear = next((way.linear for way in ways if way.linear is not None), None)
        if linear is None:
            raise NoMatch("neither factor comes from a linear layer by movement alone")
        made = linear.add or linear.node
        r.begin(made, origin_of([made, *scalings]))
        scaled = absorb_after(r, linear, Affine(np.array(total, np.float64), ZERO).checked(), self.limit)
        r.replace(made, scaled)
        for scaling in scalings:
            r.replace(scaling, _scaled(scaling))
        return MODIFIED


def _way_back(value: Value) -> _Way:
    way = _Way()
    for _ in range(_LONGEST):
        if len(value.uses) != 1:
            return way
        try:
            way.linear = linear_at(value)
        except NoMatch:
            pass
        else:
            return way
        node = value.producer
        if node is None or node.domain:
            return way
        if node.op in _MOVES:
            before = node.inputs[0]
        elif node.op in ("Mul", "Div") and (number := _number(node)):
            way.scale *= number
            way.scalings.append(node)
            before = _scaled(node)
        else:
            return way
        if before is None:
            return way
        value = before
    return way


def _number(node: Node) -> float:
    """By what a Mul or Div scales; 0 where that is not a (usable) constant number."""
    if node.op == "Mul":
        found = next((n for v in node.inputs if (n := scalar_value(v, node)) is not None), None)
        return float(found or 0.0)
    found = scalar_value(node.inputs[1], node)
    return 1.0 / found if found else 0.0


def _scaled(node: Node) -> Value:
    """The operand that is not the number."""
    value = node.inputs[1] if node.op == "Mul" and scalar_value(node.inputs[0], node) is not None else node.inputs[0]
    assert value is not None
    return value


def _scaling_behind(node: Node) -> Node | None:
    user = node.output.sole_user
    if user is None or user.domain or user.op not in ("Mul", "Div") or user.graph is not node.graph:
        return None
    if user.op == "Div" and user.inputs[0] is not node.output:
        return None
    return user if _number(user) else None
