"""fold-conditions: ``if true then a else b = a``.

The nodes of the branch that runs take the place of an If whose condition is constant. A Loop that never runs
(trip count 0 or less, or a condition that is false from the start) gives its initial values. Where extents
prove that one branch of an If cannot run to its end, the other one takes its place.

**Why**    exporters leave branches for training, for beam search, for an unknown rank; what is inside them
           hides from other passes and costs the runtime a session of its own. A branch that contradicts itself
           (squeezing an axis of extent 4) makes the runtime refuse the whole model once the extent is constant.
**Needs**  a constant condition or trip count that no caller may override, or a contradiction in one branch.
**Leaves** a Loop that never runs whose scanned results are used: their extents are only known inside; an If of
           which both branches contradict themselves.
**Numbers** exact, for every run that the model would have ended.
**Source** ONNX If-1 to 25, Loop-1 to 25.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.errors import ModelError
from ...ir.graph import AttrRef, Graph, Node, Value
from ...ir.infer import infer_node
from ...ir.infer.onnx_rules import infer_with_onnx
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch, Replacement
from ..shared.bodies import body_of, splice


@dataclass
class FoldConditions(RewritePass):
    """Inlines branches that always run, removes loops that never do."""

    def rules(self) -> Iterable[NodeRule]:
        return [ConstantIf(), FailingBranch(), LoopWithoutRun()]


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


class FailingBranch(NodeRule):
    """Puts the branch that can run in place of the If."""

    roots = ("If",)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        bodies = [body_of(node, "then_branch"), body_of(node, "else_branch")]
        fails = [any(contradicts(inner) for inner in body) for body in bodies]
        if fails[0] == fails[1]:
            raise NoMatch("both branches contradict themselves" if fails[0] else "both branches may run")
        return splice(bodies[0] if fails[1] else bodies[1], node, r)


def contradicts(node: Node) -> bool:
    """Whether inference proves that the node fails whenever it runs: ours, and ONNX's own, which runtimes use."""
    if any(isinstance(a, (Graph, AttrRef)) for a in node.attrs.values()):
        return False
    before = [(out.type, out.known) for out in node.outputs]
    try:
        infer_node(node)
        return False
    except ModelError:
        pass
    finally:
        for out, (type, known) in zip(node.outputs, before, strict=True):
            out.type, out.known = type, known
    try:
        infer_with_onnx(node)
    except ModelError:
        return True
    return False


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
