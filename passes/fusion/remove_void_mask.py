"""Remove masks that mask nothing.

    x + where(true, 0, -inf) = x               where(true, a, b) = a               true and c = c

The condition may be a constant behind Expand, Reshape and the like, or compare positions with 0: PyTorch's second
exporter writes the mask of a model that has none as a comparison, spread over the batch.

**Why** no pass over the scores for nothing, and a guard against NaN behind it can be proven dead.
**Needs** a condition with one and the same element everywhere; what it chooses a constant (for the sum: zero) that
cannot widen the other operand.
**Leaves** conditions that differ somewhere, sums of integers.
**Numbers** reassociates: -0 + 0 is 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.dims import same_shape
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.attention_scores import same_shape_or_wider
from ..shared.ranges import everywhere

_SHAPE_OF_AXES = 15
"""Opset from which Shape takes the axes it is asked for."""


@dataclass
class RemoveVoidMask(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield OfNothing()
        yield OfZeros()
        yield OfTruth()


class OfNothing(NodeRule):
    """A choice that always goes one way."""

    roots = ("Where",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        condition = everywhere(node.inputs[0])
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
            if mask is not None and x is not None and everywhere(mask) == 0:
                if not same_shape_or_wider(x, mask):
                    raise NoMatch(f"the zeros {mask.type} widen {x.type}")
                return x
        raise NoMatch("no operand is known to be zero everywhere")


def _extent(r: Rewriter, x: Value, axis: int) -> Value:
    """[1]"""
    if r.opset() >= _SHAPE_OF_AXES:
        return r.Shape(x, start=axis, end=axis + 1)
    return r.Slice(r.Shape(x), np.array([axis], np.int64), np.array([axis + 1], np.int64))


class OfTruth(NodeRule):
    """The conjunction with a condition that always holds."""

    roots = ("And",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        for i in (0, 1):
            truth, kept = node.inputs[i], node.inputs[1 - i]
            if truth is None or kept is None or not everywhere(truth):
                continue
            if same_shape(kept.shape, node.output.shape):
                return kept
            if truth.shape is None:
                raise NoMatch(f"{truth.type} widens {kept.type}")
            r.begin(node)
            first = next(i for i, d in enumerate(truth.shape) if d != 1)
            lengths = [
                np.array([d], np.int64) if isinstance(d, int) else _extent(r, truth, first + i)
                for i, d in enumerate(truth.shape[first:])
            ]
            return r.Expand(kept, r.Concat(*lengths, axis=0))
        raise NoMatch("no operand is known to hold everywhere")
