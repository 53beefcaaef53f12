"""Write the residual sum in front of a normalization so that ONNX Runtime does not fuse the two.

    LayerNormalization(Add(x, y)) = LayerNormalization(Sum(x, y))

ONNX Runtime turns the left side into SkipLayerNormalization, whose kernel on x86 processors is slower than its Add and
LayerNormalization together, and does not look for Sum, which is the same sum.

**Why** 2 to 5 % of MiniLM (ONNX Runtime 1.31, one thread). The session option that switches the fusion off does not
travel with a file.
**Needs** a target with ONNX Runtime on x86-64; two operands of the same shape; a LayerNormalization as user.
**Leaves** other processors, where nothing was measured.
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.dims import same_shape
from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter


@dataclass
class AvoidSkipNorm(RewritePass):
    """See the module."""

    def rules(self) -> Iterable[NodeRule]:
        yield ResidualSum()


class ResidualSum(NodeRule):
    """Add in front of LayerNormalization."""

    roots = ("Add",)

    def promising(self, node: Node) -> bool:
        return any(user.op == "LayerNormalization" for user, _ in node.output.uses)

    def apply(self, r: Rewriter, node: Node) -> Value:
        target = r.ctx.target
        if target is None or target.runtime != "ort" or target.arch != "x86_64":
            raise NoMatch("the target is not ONNX Runtime on x86-64")
        if not any(user.op == "LayerNormalization" and i == 0 for user, i in node.output.uses):
            raise NoMatch("no LayerNormalization of the sum")
        a, b = node.inputs[0], node.inputs[1]
        if a is None or b is None or node.version < 8 or not same_shape(a.shape, b.shape):
            raise NoMatch("the operands have different shapes, which ONNX Runtime does not fuse")
        if a.data is not None or b.data is not None:
            raise NoMatch("one operand is constant: a bias")
        return r.Sum(a, b)
