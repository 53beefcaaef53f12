"""Remove masks that mask nothing.

    x + where(true, 0, -inf) = x               where(true, a, b) = a

The condition may be a constant behind Expand, Reshape and the like: PyTorch's second exporter writes the mask of a
model that has none as a comparison of constants, spread over the batch.

**Why** no pass over the scores for nothing, and a guard against NaN behind it can be proven dead.
**Needs** a condition with one and the same element everywhere; what it chooses a constant (for the sum: zero) that
cannot widen the other operand.
**Leaves** conditions that differ somewhere, sums of integers.
**Numbers** reassociates: -0 + 0 is 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.dims import same_shape
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.attention_scores import same_shape_or_wider

_MOVES = frozenset("Expand Reshape Unsqueeze Squeeze Transpose Flatten Identity Slice Tile".split())
_LONGEST = 8
_MAX_ELEMENTS = 1 << 22


@dataclass
class RemoveVoidMask(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield OfNothing()
        yield OfZeros()


class OfNothing(NodeRule):
    """A choice that always goes one way."""

    roots = ("Where",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        condition = _everywhere(node.inputs[0])
        if condition is None:
            raise NoMatch("the condition is not known, or differs somewhere")
        chosen = node.inputs[1 if condition else 2]
        if chosen is None or None in (chosen.shape or (None,)) or not same_shape(chosen.shape, node.output.shape):
            raise NoMatch("the other operands widen what is chosen")
        return chosen


class OfZeros(NodeRule):
    """The sum with a mask that is zero."""

    roots = ("Add",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        if node.output.dtype is None or not node.output.dtype.is_float:
            raise NoMatch("a sum of integers")
        for i in (0, 1):
            mask, x = node.inputs[i], node.inputs[1 - i]
            if mask is not None and x is not None and _everywhere(mask) == 0:
                if not same_shape_or_wider(x, mask):
                    raise NoMatch(f"the zeros {mask.type} widen {x.type}")
                return x
        raise NoMatch("no operand is known to be zero everywhere")


def _everywhere(v: Value | None) -> Any:
    """The element that ``v`` has everywhere; ``None`` where that is not known. Values without elements have none."""
    for _ in range(_LONGEST):
        if v is None:
            return None
        if v.data is not None:
            return _sole_element(v)
        node = v.producer
        if node is None or node.domain:
            return None
        if node.op == "Where":
            condition = _everywhere(node.inputs[0])
            if condition is None:
                return None
            v = node.inputs[1 if condition else 2]
        elif node.op in _MOVES:
            v = node.inputs[0]
        else:
            return None
    return None


def _sole_element(v: Value) -> Any:
    data = v.data
    if data is None or not 0 < data.count <= _MAX_ELEMENTS or data.dtype.numpy == np.dtype(object):
        return None
    flat = data.numpy().reshape(-1)
    return flat[0].item() if bool((flat == flat[0]).all()) else None
