"""Fold BatchNormalization (inference) into the weights of the product behind which, or in front of which, it stands.

With gain g = scale / sqrt(var + epsilon), per output channel c:

    BatchNormalization(sum_k w[c,k] x[k] + b[c]) = sum_k (w[c,k] g[c]) x[k] + (b[c] - mean[c]) g[c] + shift[c]

and in front of a product, per input channel k, where every output sees every weight (no padding):

    sum_k w[c,k] (g[k] x[k] + s[k]) = sum_k (w[c,k] g[k]) x[k] + sum_k w[c,k] s[k]

**Why** one node, and a reading and a writing of the whole tensor, less for each.
**Needs** constant parameters; Conv, ConvTranspose (groups, dilations, any padding), Gemm or MatMul with constant
weights whose channels are the BatchNormalization's; no other user in between.
**Leaves** training mode (``training_mode``, ``is_test=0``, statistics as results), ``spatial=0``, a BatchNormalization
behind anything else, a weight that others use too when a copy takes more than ``max_shared_bytes``, a result outside
its type's normal range.
**Numbers** reassociates; computed in float64, rounded once.
**Source** S. Ioffe, C. Szegedy, Batch Normalization, 2015; BatchNormalization-1 to -15.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.affine import Affine, batchnorm_affine, require_inference
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


@dataclass
class FoldBatchnorm(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    max_shared_bytes: int = SHARED_BYTES
    """A weight with other users is copied only up to this size."""
    expand: bool = False
    """Turn what is left into Mul and Add: worth it only where another pass goes on from there."""

    def rules(self) -> Iterable[NodeRule]:
        yield Behind(self.max_shared_bytes)
        yield InFront(self.max_shared_bytes)
        if self.expand:
            yield Alone()


class Behind(NodeRule):
    """BatchNormalization of a product."""

    roots = ("BatchNormalization",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def apply(self, r: Rewriter, node: Node) -> Value:
        require_inference(node)
        linear = linear_at(_operand(node))
        if linear.rank is None or 1 - linear.rank != linear.axis:
            at = f"axis {linear.axis} of rank {linear.rank}"
            raise NoMatch(f"the channels of {linear.node.op} are {at}, wanted axis 1")
        return absorb_after(r, linear, _affine(node, linear.channels), self.limit)


class InFront(NodeRule):
    """A product of what BatchNormalization computed."""

    roots = LINEAR

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def apply(self, r: Rewriter, node: Node) -> Value:
        norm = _norm_in_front(node)
        require_inference(norm)
        if len(norm.output.uses) != 1:
            raise NoMatch(f"%{norm.output.name} has another user")
        linear = linear_of(node)
        x = _operand(norm)
        if x.rank is None or 1 - x.rank != input_axis(linear):
            raise NoMatch(f"{node.op} sums over axis {input_axis(linear)} of rank {x.rank}, wanted axis 1")
        return absorb_before(r, linear, x, _affine(norm, input_channels(linear)), self.limit)


class Alone(NodeRule):
    """BatchNormalization as Mul and Add."""

    roots = ("BatchNormalization",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        x = _operand(node)
        if x.rank is None or x.dtype is None or node.version < 7:
            raise NoMatch("rank or element type of the operand is unknown, or the opset is below 7")
        affine = batchnorm_affine(node)
        shape = (-1, *[1] * (x.rank - 2))
        gain, shift = (r.const(a.reshape(shape), x.dtype) for a in (affine.gain, affine.shift))
        return r.Add(r.Mul(x, gain), shift)


def _operand(node: Node) -> Value:
    x = node.input(0)
    if x is None:
        raise NoMatch("the operand is absent")
    return x


def _norm_in_front(node: Node) -> Node:
    for value in node.inputs[:2]:
        if value is not None and value.producer is not None and value.producer.op == "BatchNormalization":
            return value.producer
    raise NoMatch("no BatchNormalization in front")


def _affine(node: Node, channels: int | None) -> Affine:
    affine = batchnorm_affine(node)
    if affine.gain.shape != (channels,):
        raise NoMatch(f"scale has {affine.gain.size} elements, expected {channels} (channels of the product)")
    return affine
