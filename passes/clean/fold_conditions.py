"""fold-conditions: ``if true then a else b = a``.

The nodes of the branch that runs take the place of an If whose condition is constant. A Loop that never runs
(trip count 0 or less, or a condition that is false from the start) gives its initial values.

**Why**    exporters leave branches for training, for beam search, for an unknown rank; what is inside them
           hides from other passes and costs the runtime a session of its own.
**Needs**  a constant condition or trip count that no caller may override.
**Leaves** a Loop that never runs whose scanned results are used: their extents are only known inside.
**Numbers** exact.
**Source** ONNX If-1 to 25, Loop-1 to 25.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch, Replacement
from ..shared.bodies import body_of, splice


@dataclass
class FoldConditions(RewritePass):
    """Inlines branches that always run, removes loops that never do."""

    def rules(self) -> Iterable[NodeRule]:
        return [ConstantIf(), LoopWithoutRun()]


def truth(value: Value | None) -> bool | None:
    """The one element of a constant as a boolean; ``None`` where it is not constant."""
    if value is None or value.data is None or value.data.count != 1:
        return None
    return bool(value.data.numpy().reshape(-1)[0])


class ConstantIf(NodeRule):
    """Puts the branch in place of the If."""

    roots = ("If",)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        chosen = truth(node.input(0))
        if chosen is None:
            raise NoMatch("the condition is not constant")
        return splice(body_of(node, "then_branch" if chosen else "else_branch"), node, r)


class LoopWithoutRun(NodeRule):
    """Gives the initial values."""

    roots = ("Loop",)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        trips = node.input(0)
        none = (
            trips is not None
            and trips.data is not None
            and trips.data.count == 1
            and int(trips.numpy().reshape(-1)[0]) <= 0
        )
        if not none and truth(node.input(1)) is not False:
            raise NoMatch("the loop may run")
        initial = node.inputs[2:]
        if any(out.uses for out in node.outputs[len(initial) :]):
            raise NoMatch("a scanned result of a loop that never runs is used")
        return [*initial, *[None] * (len(node.outputs) - len(initial))]
