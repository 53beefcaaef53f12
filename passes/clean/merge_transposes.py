"""merge-transposes: ``transpose(transpose(x, p), q) = transpose(x, p[q])``.

Axis ``i`` of the result is axis ``q[i]`` of the inner result, which is axis ``p[q[i]]`` of ``x``. Where
``p[q]`` counts ``0, 1, 2, ...`` both go.

**Why**    a Transpose copies the whole tensor; converters put one on each side of every layout change.
**Needs**  a permutation that is written, or a known rank.
**Leaves** an inner Transpose that others use stays for them; the outer one no longer waits for it.
**Numbers** exact.
**Source** ONNX Transpose, versions 1 to 25.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.graph import Node
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch, Replacement
from ..shared.operands import perm_of, producer_of


@dataclass
class MergeTransposes(RewritePass):
    """Composes chains of Transpose."""

    def rules(self) -> Iterable[NodeRule]:
        return [TransposeOfTranspose()]


class TransposeOfTranspose(NodeRule):
    """Composes the two permutations."""

    roots = ("Transpose",)

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Transpose") is not None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        inner = producer_of(node, 0, "Transpose")
        if inner is None:
            raise NoMatch("the operand is not computed by Transpose")
        outer_perm, inner_perm = perm_of(node), perm_of(inner)
        x = inner.inputs[0]
        if outer_perm is None or inner_perm is None or x is None or len(outer_perm) != len(inner_perm):
            raise NoMatch("the rank is unknown")
        perm = tuple(inner_perm[axis] for axis in outer_perm)
        return x if list(perm) == sorted(perm) else r.Transpose(x, perm=perm)
