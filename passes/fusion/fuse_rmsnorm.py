"""Fuse normalization by the root mean square, spelled out, into RMSNormalization.

    y = x / sqrt(mean(x^2) + epsilon) * scale        mean over the last axes

**Why** one node for five or six, with one pass over the tensor for four. ONNX Runtime recognizes the spelled-out form
by itself, and its further fusions look for what it makes of it, so the pass is in no default pipeline.
**Needs** opset 23; a mean over the last axes that keeps them; a constant scalar epsilon; a scale of exactly the
normalized extents, or none and extents that are known numbers; no other user in between. A Cast from half precision in
front and back behind is what ``stash_type`` stands for.
**Leaves** other axes, centred values (that is layer normalization), a scale of another shape, float64 where the
attribute, a float32, would be another epsilon.
**Numbers** reassociates.
**Source** B. Zhang, R. Sennrich, Root Mean Square Layer Normalization, 2019; RMSNormalization-23.
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

OPSET = 23


@dataclass
class FuseRmsnorm(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield SpelledOut()


class SpelledOut(NodeRule):
    """Anchored at the square root."""

    roots = ROOTS

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        norm = find_norm(node)
        if norm.centered:
            raise NoMatch("the mean is subtracted: layer normalization")
        if r.opset() < OPSET:
            raise NoMatch(f"RMSNormalization needs opset {OPSET}, the model imports {r.opset()}")
        find_affine(norm, shift=False)
        require_private(norm.nodes, norm.root)
        r.begin(norm.root, origin_of(norm.nodes))
        scale = operand_of(r, norm.gain, norm, 1.0)
        r.replace(norm.root, r.RMSNormalization(norm.x, scale, axis=-norm.axes, epsilon=norm.epsilon))
        return MODIFIED
