"""Fuse layer normalization, spelled out, into LayerNormalization.

    d = x - mean(x)
    y = d / sqrt(mean(d^2) + epsilon) * scale + bias        means over the last axes

**Why** one node for seven to nine, with one pass over the tensor for six.
**Needs** opset 17; means over the last axes that keep them; a constant scalar epsilon; scale and bias of exactly the
normalized extents, or none and extents that are known numbers; no other user in between. A Cast from half precision in
front and back behind is what ``stash_type`` stands for.
**Leaves** other axes (instance and batch norm), a scale of another shape (it stays as a Mul behind), float64
where the attribute, a float32, would be another epsilon.
**Numbers** reassociates.
**Source** J. L. Ba, J. R. Kiros, G. E. Hinton, Layer Normalization, 2016; LayerNormalization-17.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Node
from ..core import Numbers, RewritePass
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.norms import ROOTS, find_affine, find_norm, operand_of
from ..shared.polynomial import require_private

OPSET = 17


@dataclass
class FuseLayernorm(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield SpelledOut()


class SpelledOut(NodeRule):
    """Anchored at the square root."""

    roots = ROOTS

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        norm = find_norm(node)
        if not norm.centered:
            raise NoMatch("the mean is not subtracted")
        if r.opset() < OPSET:
            raise NoMatch(f"LayerNormalization needs opset {OPSET}, the model imports {r.opset()}")
        find_affine(norm, shift=True)
        require_private(norm.nodes, norm.root)
        r.begin(norm.root, origin_of(norm.nodes))
        scale, bias = operand_of(r, norm.gain, norm, 1.0), operand_of(r, norm.shift, norm, None)
        operands = [norm.x, scale] if bias is None else [norm.x, scale, bias]
        r.replace(norm.root, r.LayerNormalization(*operands, axis=-norm.axes, epsilon=norm.epsilon))
        return MODIFIED
