"""fold-failing-branches: an If of which one branch lets every run fail is the other branch.

Where the branches give different ranks and a later operator takes only one of them, the condition has only one
value in a run that ends well:

    y = if c then squeeze(x) else x          x of rank 3, squeeze(x) of rank 2
    LSTM(unsqueeze(y))                       takes rank 3, hence y has rank 2, hence c

The proof assumes a rank for y and follows it forward: Shape, Size, comparisons with constants, Ifs that these decide,
Squeeze and Unsqueeze, up to an operator that refuses it.

**Why**    TorchScript writes ``x.squeeze(-1)`` and ``if x.dim() == 2`` as Ifs; behind the first of them no rank is
           known, and the runtime starts a session for each.
**Needs**  branches of known, different ranks; an operator of a fixed rank that runs whenever the If does.
**Leaves** Ifs both branches of which may work, or neither; ranks that are decided behind other control flow.
**Numbers** exact for every input that the model takes. An input for which the model failed fails elsewhere, or gives
           what the other branch gives.
**Source** ONNX If-1 to 25; operator ranks from LSTM-1 to 22, GRU, RNN, Conv-1 to 22, Transpose, Concat, Unsqueeze.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from ...ir.graph import RETURN, Graph, Node, Value
from ...ir.ops import UNARY
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rule import Replacement
from ..shared.bodies import body_of, splice
from ..shared.operands import constant_ints, has_list, int_list, perm_of

_LONGEST = 256
"""Nodes behind the If that are looked at."""
_DEPTH = 8
_BRANCHES = ("then_branch", "else_branch")
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})

Known: TypeAlias = int | bool


@dataclass
class FoldFailingBranches(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.EXACT

    def rules(self) -> Iterable[NodeRule]:
        return [OneBranchFails()]


class OneBranchFails(NodeRule):
    """An If whose branches give different ranks."""

    roots = ("If",)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        bodies = [body_of(node, name) for name in _BRANCHES]
        ranks = [[v.rank for v in body.outputs] for body in bodies]
        if not any(a is not None and b is not None and a != b for a, b in zip(*ranks, strict=True)):
            raise NoMatch("the branches do not differ in a known rank")
        fails = [_fails(node, found) for found in ranks]
        if fails[0] == fails[1]:
            raise NoMatch("both branches fail" if fails[0] else "no operator refuses what one branch gives")
        return splice(bodies[0] if fails[1] else bodies[1], node, r)


class _Contradiction(Exception):
    """Some operator cannot take the ranks that are assumed."""


@dataclass
class _Assumption:
    """Ranks and integers that follow from the ranks of some values."""

    ranks: dict[Value, int] = field(default_factory=dict[Value, int])
    numbers: dict[Value, Known] = field(default_factory=dict[Value, "Known"])
    """Scalars, and extents of vectors (``Shape`` of a value of known rank)."""
    lengths: dict[Value, int] = field(default_factory=dict[Value, int])

    def rank(self, value: Value | None) -> int | None:
        if value is None:
            return None
        return self.ranks.get(value, value.rank)


def _fails(node: Node, ranks: list[int | None]) -> bool:
    """Whether every run in which the If gives these ranks fails."""
    known = _Assumption({v: n for v, n in zip(node.outputs, ranks, strict=True) if n is not None})
    after = node.next
    try:
        for _ in range(_LONGEST):
            if after is None:
                return False
            _follow(after, known, 0)
            after = after.next
    except _Contradiction:
        return True
    return False


def _follow(node: Node, known: _Assumption, depth: int) -> None:
    """Adds what the node's results are known to be. Raises ``_Contradiction``."""
    if node.domain or not node.inputs or not node.outputs:
        return
    _refuse(node, known)
    x = node.inputs[0]
    rank = None if x is None or x not in known.ranks else known.ranks[x]
    out = node.outputs[0]
    match node.op:
        case "If":
            _branch(node, known, depth)
        case "Shape" if rank is not None and not node.attrs:
            known.lengths[out] = rank
        case "Size" if x is not None and x in known.lengths:
            known.numbers[out] = known.lengths[x]
        case "Equal":
            a, b = (_number(v, known) for v in node.inputs)
            if a is not None and b is not None:
                known.numbers[out] = a == b
        case "Not" | "Identity" | "Cast" if x is not None and x in known.numbers:
            known.numbers[out] = not known.numbers[x] if node.op == "Not" else known.numbers[x]
        case "Unsqueeze" | "Squeeze" if rank is not None and has_list(node, "axes", 1):
            axes = int_list(node, "axes", 1)
            if axes is not None:
                known.ranks[out] = rank + len(axes) * (1 if node.op == "Unsqueeze" else -1)
        case _ if rank is not None and ("", node.op) in UNARY:
            known.ranks[out] = rank
        case _:
            pass


def _branch(node: Node, known: _Assumption, depth: int) -> None:
    condition = node.inputs[0]
    if condition is None or condition not in known.numbers or depth >= _DEPTH:
        return
    body: Graph = body_of(node, _BRANCHES[0 if known.numbers[condition] else 1])
    for inner in body:
        _follow(inner, known, depth + 1)
    for out, value in zip(node.outputs, body.outputs, strict=True):
        rank = known.rank(value)
        if rank is not None:
            known.ranks[out] = rank


def _refuse(node: Node, known: _Assumption) -> None:
    """Raises ``_Contradiction`` where the node cannot take an operand of the assumed rank."""
    for i, value in enumerate(node.inputs):
        if value is None or value not in known.ranks:
            continue
        wanted = _wanted(node, i, known)
        if wanted is not None and known.ranks[value] != wanted and _is_live(node):
            raise _Contradiction


def _is_live(node: Node) -> bool:
    """Whether a result reaches an output of the model or function: runtimes leave out what does not."""
    stack, seen = list(node.outputs), set(node.outputs)
    while stack:
        for user, _ in stack.pop().uses:
            if user.op != RETURN:
                results = user.outputs
            elif user.graph is None or user.graph.parent is None:
                return True
            else:
                results = user.graph.parent.outputs
            fresh = [out for out in results if out not in seen]
            seen.update(fresh)
            stack.extend(fresh)
    return False


def _wanted(node: Node, i: int, known: _Assumption) -> int | None:
    """The only rank that operand ``i`` may have, where there is one."""
    if node.op in _RECURRENT:
        return 3 if i in (0, 5, 6) else None
    if node.op in ("Conv", "ConvTranspose"):
        return known.rank(node.inputs[1 - i]) if i < 2 else 1
    if node.op == "Concat":
        return next((n for n in map(known.rank, node.inputs) if n is not None), None)
    if node.op == "Transpose" and "perm" in node.attrs:
        perm = perm_of(node)
        return None if perm is None else len(perm)
    if node.op == "Gemm":
        return 2 if i < 2 else None
    return None


def _number(value: Value | None, known: _Assumption) -> Known | None:
    if value is None:
        return None
    if value in known.numbers:
        return known.numbers[value]
    found = constant_ints(value) if value.data is not None and value.data.count == 1 else None
    return found[0] if found else None
