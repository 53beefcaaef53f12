"""Fuse a softmax, spelled out, into Softmax.

    exp(x - max(x)) / sum(exp(x - max(x))) = softmax(x)            exp(x) / sum(exp(x)) = softmax(x)

**Why** one node for three to five; attention is looked for around a Softmax.
**Needs** opset 13; sums and maxima over one axis that they keep, the same one.
**Leaves** sums that something else uses, sums with an epsilon, other things subtracted than the maximum.
**Numbers** reassociates. Without the maximum, exp overflows beyond 88 where Softmax does not.
**Source** Softmax-13.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.matcher import scalar_value
from ..rewrite.rewriter import origin_of
from ..shared.attributes import require_own_attributes
from ..shared.operands import int_list, normalized, producer_of
from ..shared.polynomial import require_private

_OPSET = 13


@dataclass
class FuseSoftmax(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield Quotient()


class Quotient(NodeRule):
    """Anchored at the division (or the product with the reciprocal of the sum)."""

    roots = ("Div", "Mul")

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Exp") is not None or producer_of(node, 1, "Exp") is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        exp, total, nodes = _parts(node)
        axis = _axis(total)
        x = exp.inputs[0]
        if x is None or x.dtype not in (DType.F32, DType.F16, DType.F64, DType.BF16):
            raise NoMatch("the exponent is no floating-point value")
        if r.opset() < _OPSET:
            raise NoMatch(f"Softmax along an axis needs opset {_OPSET}, the model imports {r.opset()}")
        source, shift = _unshifted(x, axis)
        nodes = [exp, total, *nodes, *shift]
        require_private(nodes, node)
        r.begin(node, origin_of(nodes))
        return r.Softmax(source, axis=axis)


def _parts(node: Node) -> tuple[Node, Node, list[Node]]:
    """Exp, ReduceSum, and the nodes in between that are not the anchor."""
    for i in (0, 1) if node.op == "Mul" else (0,):
        exp = producer_of(node, i, "Exp")
        if exp is None:
            continue
        inverse = None
        total = producer_of(node, 1 - i, "ReduceSum")
        if node.op == "Mul":
            inverse = producer_of(node, 1 - i, "Reciprocal", "Div")
            if inverse is not None and inverse.op == "Div" and scalar_value(inverse.inputs[0], inverse) != 1:
                continue
            last = 1 if inverse is not None and inverse.op == "Div" else 0
            total = producer_of(inverse, last, "ReduceSum") if inverse is not None else None
        if total is not None and total.inputs[0] is exp.output:
            return exp, total, [node] if inverse is None else [inverse, node]
    raise NoMatch("no Exp divided by its own sum")


def _axis(reduction: Node) -> int:
    require_own_attributes(reduction)
    x = reduction.inputs[0]
    rank = x.rank if x is not None else None
    axes = int_list(reduction, "axes", 1)
    known = normalized(axes, rank) if axes is not None and rank is not None else None
    if known is None or len(known) != 1 or rank is None:
        raise NoMatch(f"{reduction.op} over axes {axes}, wanted one")
    if not reduction.attr("keepdims", 1):
        raise NoMatch(f"{reduction.op} drops the axis")
    return known[0] - rank if known[0] == rank - 1 else known[0]


def _unshifted(x: Value, axis: int) -> tuple[Value, list[Node]]:
    """``x`` before its maximum was subtracted, where it was."""
    sub = x.producer
    if sub is None or sub.op != "Sub" or sub.domain:
        return x, []
    high = producer_of(sub, 1, "ReduceMax")
    if high is None or high.inputs[0] is not sub.inputs[0]:
        return x, []
    if _axis(high) != axis:
        raise NoMatch("the maximum is over another axis than the sum")
    source = sub.inputs[0]
    assert source is not None
    return source, [sub, high]
