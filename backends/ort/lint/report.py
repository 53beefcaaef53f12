"""From what the runtime will do to findings about the nodes of the model."""

from __future__ import annotations

from dataclasses import replace

from ....ir.clone import clone_model
from ....ir.dtypes import DType
from ....ir.graph import Graph, Model, Node
from ....passes.target import Target
from ... import pairs as p
from ...findings import Finding, LintReport, Runs, about_model, in_floats, in_order, label
from ..kernels import Support, node_support
from .integer_ops import INTEGER_OPS
from .prepare import prepare
from .select import Selection, select
from .units import MOVEMENT, Unit
from .work import Work
from .wrong import complaints, lost_types

_MOVES = frozenset((*MOVEMENT, "Split", "Concat", "MaxPool", "Resize", "Identity"))
_STORED = frozenset((DType.U8, DType.I8, DType.U16, DType.I16, DType.U4, DType.I4, DType.U2, DType.I2))
_LOST = (
    "the runtime refuses the model: i8 activations travel through movement of data (Reshape, Transpose, MaxPool, ...) "
    "without a pair behind it, and lose their type when it turns them to u8"
)


def lint(model: Model, target: Target) -> LintReport:
    """Findings about ``model`` on ``target``; functions are taken as the runtime does, inlined by the caller."""
    copy = clone_model(model)
    found: dict[Node, Finding] = {}
    pairs = 0
    whole: list[Finding] = []
    for mine, theirs in list(zip(model.all_graphs(), copy.all_graphs(), strict=True)):
        here, left = _graph(mine, theirs, target, whole)
        found |= here
        pairs += left
    for node, finding in found.items():
        if finding.runs is Runs.PLAIN:
            found[node] = _float_kernel(node, finding, target)
    return LintReport(target.name, [*whole, *in_order(model, found)], pairs)


def _float_kernel(node: Node, finding: Finding, target: Target) -> Finding:
    """The finding with a complaint where the runtime has no kernel for the node as it is."""
    support = node_support(node, target.arch)
    if support is Support.NONE:
        return replace(finding, rule="no-kernel", why="the runtime has no kernel for it there", severity="error")
    if support is Support.CAST:
        return replace(finding, rule="cast", why="only an f32 kernel: casts around it", severity="warning")
    return finding


def _graph(mine: Graph, copy: Graph, target: Target, whole: list[Finding]) -> tuple[dict[Node, Finding], int]:
    cuda = target.arch == "cuda"
    int8 = cuda or target.arch == "aarch64"
    origin = {theirs: node for node, theirs in zip(mine, copy, strict=True) if not node.is_return}
    work = Work(copy, dict(origin))
    prepare(work)
    lost = [] if int8 else list(lost_types(work))
    if lost:
        whole.append(about_model("signed-moved", _LOST))
    selection = select(work, int8=int8, cuda=cuda)
    found: dict[Node, Finding] = {}
    stands = {node: theirs for theirs, node in work.origin.items() if not theirs.erased}
    for node in origin.values():
        if not p.is_pair_member(node):
            found[node] = _finding(node, stands.get(node), work, selection)
            unit = selection.units.get(stands.get(node, node))
            if unit is not None:
                found[node] = _complain(found[node], stands[node], unit, target)
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
    between = bool(p.dequantizers(theirs)) and bool(p.quantizers(theirs))
    return in_floats(node, declined.rule, declined.why, between=between)


def _complain(found: Finding, node: Node, unit: Unit, target: Target) -> Finding:
    """The finding with the worst that is to be said against the kernel."""
    worst = min(complaints(node, unit, target), key=lambda c: c[2], default=None)
    return found if worst is None else replace(found, rule=worst[0], why=worst[1], severity=worst[2])


def _pairs_left(work: Work, selection: Selection) -> dict[Node, Finding]:
    return {
        work.origin[n]: Finding(label(work.origin[n]), n.op, Runs.FLOAT, kernel=n.op)
        for n in selection.left
        if n in work.origin
    }
