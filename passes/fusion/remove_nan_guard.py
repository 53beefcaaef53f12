"""Remove replacements of NaN where no NaN can be.

    Where(IsNaN(s), c, s) = s            s finite in every run

Bounds are followed from the inputs: integers are bounded, embeddings are constants, a normalization and a softmax give
bounded results. In a text encoder everything is finite, whatever the text.

**Why** PyTorch's second exporter guards every softmax: two passes over the scores, and no runtime's attention fusion
sees through them.
**Needs** a bound for everything that s is computed from (see ``shared/bounds.py``); a mask that is finite, not -inf.
**Leaves** models with floating-point inputs, which may hold NaN or infinity themselves, and masks of -inf, with which
a softmax of nothing is NaN: there the guard does something.
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.bounds import Bounds
from ..shared.operands import producer_of


@dataclass
class RemoveNanGuard(RewritePass):
    """See the module."""

    def rules(self) -> Iterable[NodeRule]:
        yield DeadGuard()


class DeadGuard(NodeRule):
    """A Where that asks whether its own operand is NaN or infinite."""

    roots = ("Where",)

    def __init__(self) -> None:
        self.bounds = Bounds()

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "IsNaN", "IsInf") is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        question = producer_of(node, 0, "IsNaN", "IsInf")
        kept = node.inputs[2]
        if question is None or kept is None:
            raise NoMatch("the condition does not ask for NaN or infinity")
        tested = question.inputs[0]
        if self.bounds.of(tested) is None:
            raise NoMatch(f"%{tested.name if tested is not None else '?'} is not known to be finite")
        if kept.shape is None or node.output.shape is None or kept.shape != node.output.shape or None in kept.shape:
            raise NoMatch("the replacement widens the value")
        return kept
