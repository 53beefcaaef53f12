"""Scales of channels between two products, moved from the one's weights to the other's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from ..affine import Affine
from ..emit import again
from ..linear import CONVOLUTIONS, Linear, absorb_after, absorb_before, input_axis, input_channels, linear_at, linear_of

Array = np.ndarray[Any, Any]

_HOMOGENEOUS = ("Relu", "LeakyRelu")
"""``f(g x) = g f(x)`` for ``g > 0``."""


@dataclass(frozen=True)
class Pair:
    """A product, perhaps an activation that scales pass, and the product that alone reads the result."""

    first: Linear
    activation: Node | None
    second: Linear

    def scaled(self, r: Rewriter, gain: Array) -> Value:
        """Emits both with the channels between them times ``gain``; the result is the second's, unchanged."""
        y = absorb_after(r, self.first, Affine(gain, np.zeros(())))
        if self.activation is not None:
            y = again(r, self.activation, y)
        return absorb_before(r, self.second, y, Affine(1 / gain, np.zeros(())))


def pair_before(node: Node) -> Pair:
    """The pair whose second product is ``node``. Raises :class:`NoMatch`."""
    second = linear_of(node)
    if node.op == "MatMul" and second.side != 1:
        raise NoMatch("the weight is the left operand")
    value, activation = second.x, None
    producer = value.producer
    if producer is not None and producer.op in _HOMOGENEOUS and not producer.domain:
        if len(value.uses) != 1:
            raise NoMatch(f"%{value.name} has another user")
        activation, value = producer, producer.inputs[0]
        assert value is not None
    if activation is not None and activation.graph is not node.graph:
        raise NoMatch("the activation is in another graph")
    first = linear_at(value)
    if first.node.graph is not node.graph:
        raise NoMatch("the products are in different graphs")
    if first.channels is None or first.channels != input_channels(second) or first.axis != input_axis(second):
        raise NoMatch("the channels of the products differ")
    return Pair(first, activation, second)


def input_reach(linear: Linear) -> Array:
    """The largest magnitude of the weights of each input channel."""
    weight = np.abs(linear.weight.numpy())
    if linear.node.op == "Conv":
        shape = weight.shape
        split = weight.reshape(linear.groups, shape[0] // linear.groups, shape[1], -1)
        return split.max(axis=(1, 3)).reshape(-1)
    if linear.node.op == "ConvTranspose":
        return weight.reshape(weight.shape[0], -1).max(axis=1)
    if weight.ndim == 1:
        return weight
    return _largest(weight, -1 if _is_turned(linear) else -2)


def output_reach(linear: Linear) -> Array:
    """The largest magnitude of the weights of each output channel."""
    weight = np.abs(linear.weight.numpy())
    if linear.node.op == "Conv":
        return weight.reshape(weight.shape[0], -1).max(axis=1)
    if linear.node.op == "ConvTranspose":
        shape = weight.shape
        split = weight.reshape(linear.groups, shape[0] // linear.groups, shape[1], -1)
        return split.max(axis=(1, 3)).reshape(-1)
    return _largest(weight, -2 if _is_turned(linear) else -1)


def _largest(weight: Array, axis: int) -> Array:
    """The largest along an axis of a matrix, or of a stack of matrices, over all others."""
    return weight.max(axis=tuple(i for i in range(weight.ndim) if i != weight.ndim + axis))


def _is_turned(linear: Linear) -> bool:
    return linear.node.op == "Gemm" and bool(linear.node.attr("transB"))


def powers_of_two(scales: Array) -> Array:
    """The nearest powers of two: multiplying by them is exact."""
    return np.exp2(np.rint(np.log2(scales)))


def is_matrix(linear: Linear) -> bool:
    """Whether the weight is a matrix, not a kernel of a convolution."""
    return linear.node.op not in CONVOLUTIONS and linear.weight.rank == 2
