"""merge-concats: ``concat(a, concat(b, c)) = concat(a, b, c)``.

Also: ``concat(split(x)) = x`` when all parts come back in order, operands without elements go, and
neighbouring constants become one constant.

**Why**    each Concat copies its operands; a copy of a copy is one too many.
**Needs**  the same axis, counted from the front, in both.
**Leaves** an inner Concat that others use, which is computed anyway; an operand whose extent may be zero
           but is not known; strings' constants.
**Numbers** exact.
**Source** ONNX Concat, versions 4 to 13; ONNX Split, versions 2 to 18.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...ir.constants import Constant
from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import MODIFIED, NodeRule, NoMatch, Replacement
from ..shared.attributes import require_own_attributes

MAX_JOIN_BYTES = 1 << 12
"""Neighbouring constants are joined up to this size: it is meant for shapes, not for weights."""


@dataclass
class MergeConcats(RewritePass):
    """Flattens nested Concat."""

    def rules(self) -> Iterable[NodeRule]:
        return [ConcatOfSplit(), FlatConcat()]


def axis_in(node: Node, rank: int, default: int) -> int:
    """The node's axis counted from the front."""
    require_own_attributes(node)
    axis = node.attr("axis", default)
    return axis + rank if axis < 0 else axis


class ConcatOfSplit(NodeRule):
    """Parts put together again in their order are the whole."""

    roots = ("Concat",)

    def promising(self, node: Node) -> bool:
        first = node.inputs[0].producer if node.inputs and node.inputs[0] is not None else None
        return first is not None and first.op == "Split"

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        split = node.inputs[0].producer if node.inputs and node.inputs[0] is not None else None
        if split is None or split.op != "Split" or split.domain or len(node.inputs) < 2:
            raise NoMatch("the first operand is not computed by Split")
        x = split.inputs[0]
        if x is None or list(node.inputs) != list(split.outputs):
            raise NoMatch("the operands are not all parts in order")
        rank = x.rank
        if rank is None or axis_in(node, rank, 1) != axis_in(split, rank, 0):
            raise NoMatch("Concat and Split have different axes, or may")
        return x


class FlatConcat(NodeRule):
    """Takes up inner operands, drops empty ones, joins neighbouring constants."""

    roots = ("Concat",)

    def promising(self, node: Node) -> bool:
        before = False
        for v in node.inputs:
            if (
                v is None
                or (v.producer is not None and v.producer.op == "Concat")
                or (v.shape is not None and 0 in v.shape)
            ):
                return True
            if before and v.data is not None:
                return True
            before = v.data is not None
        return False

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        rank = node.output.rank
        if rank is None or node.version < 4:
            raise NoMatch("the rank is unknown")
        axis = axis_in(node, rank, 1)
        operands: list[Value] = []
        for value in node.inputs:
            assert value is not None
            inner = value.producer
            if inner is not None and mergeable(inner, node, axis, rank):
                operands.extend(v for v in inner.inputs if v is not None)
            else:
                operands.append(value)
        operands = [v for v in operands if not is_empty(v, axis)] or operands[:1]
        operands = joined(r, operands, axis)
        if operands == list(node.inputs):
            raise NoMatch(
                "no operand is a Concat of the same axis for this node alone, empty, or next to another constant"
            )
        r.set_inputs(node, operands)
        return MODIFIED


def mergeable(inner: Node, node: Node, axis: int, rank: int) -> bool:
    """Whether ``inner`` is a Concat that only ``node`` uses, along the same axis."""
    if inner.op != "Concat" or inner.domain or inner.graph is not node.graph:
        return False
    return axis_in(inner, rank, 1) == axis and inner.output.sole_user is node


def is_empty(value: Value, axis: int) -> bool:
    """Whether it has no elements because its extent along the axis is zero."""
    return value.shape is not None and axis < len(value.shape) and value.shape[axis] == 0


def joined(r: Rewriter, operands: list[Value], axis: int) -> list[Value]:
    """The operands with small neighbouring constants put together."""
    out: list[Value] = []
    run: list[Constant] = []

    def flush() -> None:
        if len(run) > 1:
            out[-len(run) :] = [r.const(np.concatenate([c.numpy() for c in run], axis))]
        run.clear()

    for value in operands:
        data = value.data
        small = data is not None and data.dtype.bits > 0 and sum(c.nbytes for c in run) + data.nbytes <= MAX_JOIN_BYTES
        if not small:
            flush()
        out.append(value)
        if small and data is not None:
            run.append(data)
    flush()
    return out
