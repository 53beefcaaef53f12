"""Turn a Softmax over channels in front of a 1x1 convolution to the last axis, the convolution to a product.

    Conv(Softmax(x; axis 1); W) = T'(MatMul(Softmax(T(x); axis -1), W'))     T: channels last, T': back, W' = W^T

With one output channel the last step moves nothing.

**Why** ONNX Runtime computes a Softmax over any other axis than the last through two transposes of its own; and the
transpose in front usually meets another one. The box decoder of YOLOv8 (an expectation over 16 bins) takes a fifth.
**Needs** rank 4, Softmax-13 or later over axis 1 used by nothing else; Conv with kernel 1, stride 1, no padding, one
group, constant weight.
**Leaves** Softmax before opset 13 (it flattens), larger kernels, more than ``most`` output channels.
**Numbers** reassociates.
**Source** Softmax-13; X. Li et al., Generalized Focal Loss, 2020 (distribution focal loss).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rewriter import origin_of
from ..shared.windows import steps


@dataclass
class TurnSoftmax(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    most: int = 16
    """Most output channels: they are transposed back."""

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield SoftmaxConv(self.most)


class SoftmaxConv(NodeRule):
    """A 1x1 convolution of a Softmax over its channels."""

    roots = ("Conv",)

    def __init__(self, most: int) -> None:
        self.most = most

    def apply(self, r: Rewriter, node: Node) -> Value:
        y = node.inputs[0]
        softmax = y.producer if y is not None else None
        if y is None or softmax is None or softmax.op != "Softmax" or softmax.domain or softmax.graph is not node.graph:
            raise NoMatch("no Softmax in front")
        if len(y.uses) != 1 or y.rank != 4:
            raise NoMatch(f"%{y.name} has another user, or not rank 4")
        if softmax.version < 13 or softmax.attr("axis") not in (1, -3):
            raise NoMatch(
                f"Softmax-{softmax.version} over axis {softmax.attr('axis')}, expected axis 1 of opset 13 or later"
            )
        weight = self._weight(node)
        r.begin(node, origin_of([softmax, node]))
        turned = r.Softmax(r.Transpose(softmax.inputs[0], perm=(0, 2, 3, 1)))
        product = r.MatMul(turned, weight[:, :, 0, 0].T.copy())
        bias = node.input(2)
        if bias is not None:
            product = r.Add(product, bias)
        if weight.shape[0] != 1:
            return r.Transpose(product, perm=(0, 3, 1, 2))
        return r.Unsqueeze(r.Squeeze(product, np.array([3])), np.array([1]))

    def _weight(self, node: Node) -> np.ndarray:  # type: ignore[type-arg]
        weight = node.input(1)
        if weight is None or weight.data is None or weight.dtype is not DType.F32:
            raise NoMatch("the weight is not an f32 constant")
        shape = weight.data.shape
        if shape[2:] != (1, 1) or node.attr("group", 1) != 1 or steps(node, "strides", 2) != (1, 1):
            raise NoMatch(f"the convolution is not 1x1 with stride 1: weight {list(shape)}")
        if any(node.attrs.get("pads", ())):  # pyright: ignore[reportArgumentType]
            raise NoMatch("the convolution pads")
        if shape[0] > self.most:
            raise NoMatch(f"{shape[0]} output channels, at most {self.most} are turned back")
        return weight.numpy()
