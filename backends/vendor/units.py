"""Checks every node of a quantized model against the rules of a runtime (``passes/shared/quant/rules.py``).

The rules are data; what only one runtime demands is in its own file and given as ``Special``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Graph, Model, Node
from ...passes.shared.quant.rules import Output, QuantRules, Role, UnitRule, role_of, weight_channel_axis
from ...passes.target import Target
from .. import pairs as p
from ..findings import Finding, LintReport, Runs, about_model, in_floats, in_order, label

INTEGER_OPERATORS = frozenset(
    ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm", "MatMulNBits")
)
"""Operators on stored integers; runtimes other than ONNX Runtime take pairs instead."""


class Declined(Exception):
    """A condition that a node does not meet."""

    def __init__(self, rule: str, why: str) -> None:
        super().__init__(why)
        self.rule = rule
        self.why = why


@dataclass(frozen=True)
class Special:
    """What one runtime demands beyond the rules."""

    pair: Callable[[Node, QuantRules], tuple[str, str, str] | None]
    """(rule, why, severity) against a QuantizeLinear or DequantizeLinear."""
    unit: Callable[[Node, UnitRule], None] = lambda node, rule: None
    """Raises ``Declined`` for a node that meets the rules otherwise."""
    integer_operators: str = "error"
    """Severity of operators on stored integers."""
    mixed: frozenset[str] = frozenset()
    """Operators for which a float operand beside a quantized one is no fault."""


def check(model: Model, target: Target, rules: QuantRules, special: Special) -> LintReport:
    """Findings about ``model``."""
    found: dict[Node, Finding] = {}
    left = 0
    for graph in model.all_graphs():
        found |= _graph(graph, rules, special)
        left += sum(p.is_pair_member(n) for n in graph)
    whole = list(_whole(model, rules))
    return LintReport(target.name, [*whole, *in_order(model, found)], left)


def _whole(model: Model, rules: QuantRules) -> Iterator[Finding]:
    if not rules.static_shapes:
        return
    for value in model.graph.inputs:
        if value.tensor is None or not value.tensor.is_static:
            why = f"input {value.name} is {value.type}; every extent must be a number (`--dim NAME=SIZE`)"
            yield about_model("dynamic-shape", why)
    for node in model.all_nodes():
        if node.subgraphs:
            yield about_model("control-flow", f"{label(node)}: {node.op} does not run on the accelerator", "warning")


def _graph(graph: Graph, rules: QuantRules, special: Special) -> dict[Node, Finding]:
    found: dict[Node, Finding] = {}
    for node in p.nodes(graph):
        finding = _pair(node, rules, special) if p.is_pair_member(node) else _node(node, rules, special)
        if finding is not None:
            found[node] = finding
    return found


def _pair(node: Node, rules: QuantRules, special: Special) -> Finding | None:
    complaint = special.pair(node, rules)
    if complaint is None:
        return None
    rule, why, severity = complaint
    return Finding(label(node), node.op, Runs.FLOAT, rule=rule, why=why, severity=severity)


def _node(node: Node, rules: QuantRules, special: Special) -> Finding:
    name = label(node)
    if node.op in INTEGER_OPERATORS:
        why = f"{node.op} is not imported; write a pair around the float operator"
        return Finding(name, node.op, Runs.FLOAT, rule="integer-operator", why=why, severity=special.integer_operators)
    if not p.dequantizers(node) and not p.quantizers(node):
        return Finding(name, node.op, Runs.PLAIN)
    try:
        check_unit(node, rules, special)
    except Declined as reason:
        if reason.rule == "operand-not-quantized" and node.op in special.mixed:
            return Finding(name, node.op, Runs.FLOAT, why=reason.why)
        between = bool(p.dequantizers(node)) and bool(p.quantizers(node))
        return in_floats(node, reason.rule, reason.why, between=between)
    return Finding(name, node.op, Runs.INTEGER)


def check_unit(node: Node, rules: QuantRules, special: Special) -> None:
    """Raises ``Declined`` with the first demand that ``node`` does not meet."""
    rule = rules.unit(node.op, node.version) if node.domain == "" else None
    if rule is None:
        if node.op in rules.fused_activations and _behind_unit(node, rules):
            return
        raise Declined("no-integer-kernel", f"the runtime computes {node.op} in floats")
    for i, value in enumerate(node.inputs):
        role = role_of(rule, i)
        if value is None or role is Role.PLAIN:
            continue
        _operand(node, i, role, rule, rules)
    _types_go_together(node, rule, rules)
    _result(node, rule, rules)
    special.unit(node, rule)


def _behind_unit(node: Node, rules: QuantRules) -> bool:
    """Whether an activation follows an operator that runs on integers, with nothing between."""
    source = node.input(0)
    front = source.producer if source is not None else None
    return front is not None and rules.unit(front.op, front.version) is not None and bool(p.dequantizers(front))


def _operand(node: Node, i: int, role: Role, rule: UnitRule, rules: QuantRules) -> None:
    value = node.inputs[i]
    dq = value.producer if value is not None else None
    if not p.is_dequantize(dq):
        if role is Role.BIAS and (rules.bias is None or (value is not None and value.data is not None)):
            return
        raise Declined("operand-not-quantized", f"operand {i} does not come from DequantizeLinear")
    if role is Role.BIAS:
        if p.stored(dq) is not DType.I32 and rules.bias is DType.I32:
            raise Declined("bias-not-int32", f"the bias is {p.stored(dq)}, want i32")
        return
    constant = dq.inputs[0] is not None and dq.inputs[0].data is not None
    if role is Role.WEIGHT and constant:
        _weight(node, dq, rule, rules)
    elif role is Role.WEIGHT and rule.weight_constant and not _from_constant(dq):
        raise Declined("weight-not-constant", f"operand {i} is computed, want a constant")
    elif not constant and not p.is_scalar(dq.input(p.SCALE)) and not rules.per_channel_activations:
        raise Declined("activation-per-channel", f"operand {i} has several scales, want one for the tensor")


def _from_constant(dq: Node) -> bool:
    """Whether stored numbers come from a QuantizeLinear of a constant."""
    stored = dq.inputs[0]
    q = stored.producer if stored is not None else None
    return p.is_quantize(q) and q.inputs[0] is not None and q.inputs[0].data is not None


def _weight(node: Node, dq: Node, rule: UnitRule, rules: QuantRules) -> None:
    scale, weight = dq.input(p.SCALE), dq.inputs[0]
    if dq.attr("block_size", 0):
        raise Declined("weight-block", "blocked scales do not go with integer activations")
    if scale is None or p.is_scalar(scale) or weight is None or weight.rank is None:
        return
    want = weight_channel_axis(node.op, rule, weight.rank, transposed=bool(node.attr("transB", 0)))
    axis = int(dq.attr("axis", 1)) % weight.rank
    if want is None:
        raise Declined("weight-axis", f"the weight of {node.op} must have one scale for the tensor")
    if axis != want:
        raise Declined("weight-axis", f"the weight's scales run along axis {axis}, want {want}")


def _types_go_together(node: Node, rule: UnitRule, rules: QuantRules) -> None:
    roles = [role_of(rule, i) for i in range(len(node.inputs))]
    dqs = [(role, v.producer) for role, v in zip(roles, node.inputs, strict=True) if v is not None]
    data = [p.stored(d) for role, d in dqs if role is Role.DATA and p.is_dequantize(d)]
    weights = [p.stored(d) for role, d in dqs if role is Role.WEIGHT and p.is_dequantize(d)]
    for dtype in data:
        if dtype not in rules.activations:
            wanted = " or ".join(map(str, rules.activations))
            raise Declined("activation-type", f"activations are {dtype}, the runtime computes on {wanted}")
        if dtype in p.WIDE and not rule.wide:
            raise Declined("16-bit", f"there is no 16-bit kernel ({dtype})")
    if data and weights and (data[0], weights[0]) not in rules.pairs:
        pairs = ", ".join(f"{a} x {w}" for a, w in sorted(rules.pairs, key=str))
        raise Declined("weight-type", f"products are {data[0]} x {weights[0]}, the runtime has {pairs}")


def _result(node: Node, rule: UnitRule, rules: QuantRules) -> None:
    after = node
    edges = p.out_edges(node)
    if len(edges) == 1 and edges[0][0].op in rules.fused_activations:
        after = edges[0][0]
    qs = p.quantizers(after)
    if rule.output is Output.REQUIRED and not qs:
        readers = sorted({user.op for user, _ in p.out_edges(after)})
        raise Declined("result-not-quantized", f"its result goes to {', '.join(readers) or 'the outside'}")
    if rule.equal and qs and p.dequantizers(node):
        different = p.equal_parameters(qs[0], p.dequantizers(node)[0])
        if different:
            raise Declined("parameters-differ", f"in front and behind {different}")


def scale_numbers(node: Node) -> np.ndarray | None:
    """The constant scale of a pair's node, flat; ``None`` where it is computed."""
    value = node.input(p.SCALE)
    return None if value is None or value.data is None else value.numpy().reshape(-1).astype(np.float64)


def nonzero_zero_point(node: Node) -> bool:
    """Whether a zero point is there and is not 0 (or not constant)."""
    value = node.input(p.ZERO)
    return value is not None and (value.data is None or bool(np.any(value.numpy() != 0)))
