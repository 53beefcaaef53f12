"""Hoist an average pooling in front of the 1x1 convolution before it: the convolution then has fewer pixels.

    AveragePool(W x + b) = W AveragePool(x) + b

because both are linear, the one in pixels, the other in channels, and the averages of a constant are the constant.

**Why** a 1x1 convolution behind a pooling of stride 2 does a quarter of the work: the transitions of DenseNet are 7 %
of its time; behind a global pooling it is a product with one vector.
**Needs** kernel 1, stride 1, no padding, constant weight and bias; no other user in between; a pooling that makes fewer
pixels, whose averages leave padding out, or that has none.
**Leaves** ``count_include_pad=1`` with padding (or ``ceil_mode``) and a bias, MaxPool, an activation in between,
poolings of stride 1, a convolution to a small part of its input channels (the pooling would take longer).
**Numbers** reassociates.
**Source** AveragePool-1 to 22, GlobalAveragePool-1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rewriter import origin_of
from ..shared.windows import steps, window, window_pads

_LEAST_CHANNELS = 8


@dataclass
class HoistPooling(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield PoolOfConv()


class PoolOfConv(NodeRule):
    """An average pooling of a 1x1 convolution."""

    roots = ("AveragePool", "GlobalAveragePool")

    def apply(self, r: Rewriter, node: Node) -> Value:
        y = node.inputs[0]
        conv = y.producer if y is not None else None
        if y is None or conv is None or conv.op != "Conv" or conv.domain or conv.graph is not node.graph:
            raise NoMatch("the operand is not computed by a convolution of this graph")
        if len(y.uses) != 1:
            raise NoMatch(f"%{y.name} has another user")
        _require_pointwise(conv)
        if node.op == "AveragePool":
            _require_average(node, conv)
        r.begin(node, origin_of([conv, node]))
        attrs: dict[str, Any] = dict(node.attrs)
        pooled = r.op(node.op, conv.inputs[0], **attrs)
        return r.Conv(pooled, *conv.inputs[1:], **conv.attrs)


def _require_pointwise(conv: Node) -> None:
    weight, bias = conv.input(1), conv.input(2)
    if weight is None or weight.data is None or (bias is not None and bias.data is None):
        raise NoMatch("the weight or the bias is not a constant")
    shape = weight.data.shape
    spatial = len(shape) - 2
    if not np.isfinite(weight.numpy()).all():
        raise NoMatch("a weight is not finite")
    if any(k != 1 for k in shape[2:]) or any(s != 1 for s in steps(conv, "strides", spatial)):
        raise NoMatch(f"the convolution is not 1x1 with stride 1: weight {list(shape)}")
    if any(window_pads(conv, spatial)):
        raise NoMatch("the convolution pads")
    if shape[0] < _LEAST_CHANNELS or shape[0] * 8 < shape[1]:
        raise NoMatch(f"{shape[1]} channels to {shape[0]}: the pooling would take longer")


def _require_average(node: Node, conv: Node) -> None:
    spatial = len(window(node))
    pads = window_pads(node, spatial)
    outside = any(pads) or bool(node.attr("ceil_mode", 0))
    counted = bool(node.attr("count_include_pad", 0)) or node.version < 7
    if outside and counted and conv.input(2) is not None:
        raise NoMatch("the averages count padding, which has no bias")
    fewer = 1
    for stride in steps(node, "strides", spatial):
        fewer *= stride
    if fewer < 2:
        raise NoMatch("the pooling does not make fewer pixels")
