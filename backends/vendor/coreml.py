"""Core ML through ONNX Runtime's provider: no pairs, only narrow weights that a converter turns to ``constexpr`` forms.

Nodes with a QuantizeLinear around them run on the processor. Weights are stored as i8 per channel (iOS 16) or i4 in
blocks (iOS 18), symmetric. Source: the provider's list of operators; coremltools, ``constexpr_affine_dequantize``.
"""

from __future__ import annotations

from ...ir.dtypes import DType
from ...ir.graph import Graph, Model, Node
from ...passes.target import Target
from .. import pairs as p
from ..findings import Finding, LintReport, Runs, in_order, label
from .units import nonzero_zero_point

_WEIGHTS = (DType.I8, DType.I4)


def lint(model: Model, target: Target) -> LintReport:
    """Findings about ``model``."""
    found: dict[Node, Finding] = {}
    left = 0
    for graph in model.all_graphs():
        found |= _graph(graph)
        left += sum(p.is_pair_member(n) for n in graph)
    return LintReport(target.name, in_order(model, found), left)


def _graph(graph: Graph) -> dict[Node, Finding]:
    return {node: _finding(node) for node in p.nodes(graph) if not p.is_pair_member(node)}


def _finding(node: Node) -> Finding:
    name, dqs = label(node), p.dequantizers(node)
    if not dqs and not p.quantizers(node):
        return Finding(name, node.op, Runs.PLAIN)
    computed = [d for d in dqs if d.inputs[0] is None or d.inputs[0].data is None]
    if computed or p.quantizers(node):
        why = "pairs around activations are not taken: the node runs on the processor"
        return Finding(name, node.op, Runs.FLOAT, rule="no-pairs", why=why, severity="warning")
    for dq in dqs:
        if p.stored(dq) not in _WEIGHTS or nonzero_zero_point(dq):
            why = f"the weight is {p.stored(dq)}, want symmetric {' or '.join(map(str, _WEIGHTS))}"
            return Finding(name, node.op, Runs.FLOAT, rule="weight-type", why=why, severity="warning")
    return Finding(name, node.op, Runs.INTEGER, kernel="constexpr")
