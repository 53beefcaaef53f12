"""From what the runtime will do to findings about the nodes of the model."""

from __future__ import annotations

from ....ir.clone import clone_model
from ....ir.dtypes import DType
from ....ir.graph import Graph, Model, Node
from ....passes.target import Target
from ...findings import Finding, LintReport, Runs, in_order, label
from . import pairs as p
from .integer_ops import INTEGER_OPS
from .prepare import Work, prepare
from .select import Selection, select
from .units import MOVEMENT

_MOVES = frozenset((*MOVEMENT, "Split", "Concat", "MaxPool", "Resize", "Identity"))
_STORED = frozenset((DType.U8, DType.I8, DType.U16, DType.I16, DType.U4, DType.I4, DType.U2, DType.I2))


def lint(model: Model, target: Target) -> LintReport:
    """Findings about ``model`` on ``target``; functions are taken as the runtime does, inlined by the caller."""
    int8 = target.arch == "aarch64"
    copy = clone_model(model)
    found: dict[Node, Finding] = {}
    pairs = 0
    for mine, theirs in list(zip(model.all_graphs(), copy.all_graphs(), strict=True)):
        here, left = _graph(mine, theirs, int8=int8)
        found |= here
        pairs += left
    return LintReport(target.name, in_order(model, found), pairs)


def _graph(mine: Graph, copy: Graph, *, int8: bool) -> tuple[dict[Node, Finding], int]:
    origin = {theirs: node for node, theirs in zip(mine, copy, strict=True) if not node.is_return}
    work = Work(copy, dict(origin))
    prepare(work)
    selection = select(work, int8=int8)
    found: dict[Node, Finding] = {}
    stands = {node: theirs for theirs, node in work.origin.items() if not theirs.erased}
    for node in origin.values():
        if not p.is_pair_member(node):
            found[node] = _finding(node, stands.get(node), work, selection)
    return found | _pairs_left(work, selection), len(selection.left)


def _finding(node: Node, theirs: Node | None, work: Work, selection: Selection) -> Finding:
    name = label(node)
    if node in selection.absorbed:
        return Finding(name, node.op, Runs.ABSORBED, why="the range of QuantizeLinear behind it does its work")
    if theirs is None:
        return Finding(name, node.op, Runs.GONE, why=work.gone.get(node, ""))
    if theirs in selection.units:
        return Finding(name, node.op, Runs.INTEGER, kernel=selection.units[theirs].kernel)
    if node.op in INTEGER_OPS:
        return Finding(name, node.op, Runs.INTEGER, kernel=node.op)
    declined = selection.declined.get(theirs)
    if declined is None:
        first = node.input(0)
        moved = node.op in _MOVES and first is not None and first.dtype in _STORED
        return Finding(name, node.op, Runs.INTEGER if moved else Runs.PLAIN)
    return Finding(name, node.op, Runs.FLOAT, rule=declined.rule, why=declined.why, severity="warning")


def _pairs_left(work: Work, selection: Selection) -> dict[Node, Finding]:
    return {
        work.origin[n]: Finding(label(work.origin[n]), n.op, Runs.FLOAT, kernel=n.op)
        for n in selection.left
        if n in work.origin
    }
