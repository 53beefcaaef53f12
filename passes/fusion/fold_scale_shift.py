"""Fold Mul, Div, Add, Sub and Neg by constants into the weights and the bias of a product.

Behind a product, for constants g and s that are scalars or hold one number per output channel c:

    g[c] (sum_k w[c,k] x[k] + b[c]) + s[c] = sum_k (w[c,k] g[c]) x[k] + (b[c] g[c] + s[c])

In front of one, per input channel k: a scale always moves into the weights (zero padding scaled is zero), a shift
only where every output sees every weight, that is without padding:

    sum_k w[c,k] (g[k] x[k] + s[k]) = sum_k (w[c,k] g[k]) x[k] + sum_k w[c,k] s[k]

**Why** each node less saves a reading and a writing of the whole tensor.
**Needs** Conv, ConvTranspose (any groups), Gemm (alpha, beta, transB) or MatMul with constant float weights, used by
nothing else; a constant that varies along the channel axis only and does not change the shape of the other operand.
A product gets a bias if it has none; a MatMul keeps the Add behind it as its bias.
**Leaves** constants along other axes or of a higher rank, ``constant / y``, division by zero, operands that are not
constants, a shift in front of padding, of ConvTranspose or of MatMul, the last node of a spelled-out Gelu or norm (the
runtime would no longer recognize it), integer arithmetic, a weight that others use too when a copy takes more than
``max_shared_bytes``, a result outside its type's normal range.
**Numbers** reassociates; computed in float64, rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.affine import Affine, elementwise_affine
from ..shared.linear import (
    LINEAR,
    SHARED_BYTES,
    absorb_after,
    absorb_before,
    input_axis,
    input_channels,
    linear_at,
    linear_of,
)
from ..shared.protected import require_not_part

_MAPS = ("Add", "Sub", "Mul", "Div", "Neg")
_LINEAR_OR_SUM = (*LINEAR, "Add")


@dataclass
class FoldScaleShift(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    max_shared_bytes: int = SHARED_BYTES
    """A weight with other users is copied only up to this size."""

    def rules(self) -> Iterable[NodeRule]:
        yield Behind(self.max_shared_bytes)
        yield InFront(self.max_shared_bytes)


class Behind(NodeRule):
    """An affine map of a product."""

    roots = _MAPS

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def promising(self, node: Node) -> bool:
        return any(v is not None and v.producer is not None and v.producer.op in _LINEAR_OR_SUM for v in node.inputs)

    def apply(self, r: Rewriter, node: Node) -> Value:
        operand, y = _variable(node)
        producer = y.producer
        if node.op == "Add" and producer is not None and producer.op == "MatMul":
            raise NoMatch("MatMul has no bias: the Add behind it is where a shift belongs")
        linear = linear_at(y)
        affine = elementwise_affine(node, operand, linear.axis, linear.channels, linear.rank)
        return absorb_after(r, linear, affine, self.limit)


class InFront(NodeRule):
    """A product of what an affine map computed."""

    roots = LINEAR

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def promising(self, node: Node) -> bool:
        return any(v is not None and v.producer is not None and v.producer.op in _MAPS for v in node.inputs[:2])

    def apply(self, r: Rewriter, node: Node) -> Value:
        before = _map_in_front(node)
        if len(before.output.uses) != 1:
            raise NoMatch(f"%{before.output.name} has another user")
        operand, x = _variable(before)
        linear = linear_of(node)
        affine = _affine_in_front(before, operand, x, input_axis(linear), input_channels(linear))
        require_not_part(before)
        return absorb_before(r, linear, x, affine, self.limit)


def _affine_in_front(before: Node, operand: int, x: Value, axis: int, channels: int) -> Affine:
    """The map, if it does not change the shape of ``x``."""
    affine = elementwise_affine(before, operand, axis, channels, x.rank)
    if (affine.gain.ndim or affine.shift.ndim) and (x.shape is None or x.shape[axis] != channels):
        raise NoMatch(f"%{x.name} is not known to have {channels} channels, so the constant may repeat it")
    return affine


def _variable(node: Node) -> tuple[int, Value]:
    """The operand that is not constant, and its position."""
    found = [(i, v) for i, v in enumerate(node.inputs) if v is not None and v.data is None]
    if len(found) != 1:
        raise NoMatch(f"{node.op} has {len(found)} operands that are not constant, expected 1")
    return found[0]


def _map_in_front(node: Node) -> Node:
    for value in node.inputs[:2]:
        producer = value.producer if value is not None else None
        if producer is not None and producer.op in _MAPS and producer.domain == "":
            return producer
    raise NoMatch("no scale or shift in front")
