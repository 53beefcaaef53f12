"""Sites: operators that a runtime could run on integers, with what each operand is.

A site is what ``rules.py`` calls a unit, at one node of a model: the operator, its activations, its weight and bias,
and the value that is quantized behind it (behind an activation that the range of that value makes redundant).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ....ir.dtypes import DType
from ....ir.graph import Model, Node, Value
from ...rewrite.rule import NoMatch
from ..attributes import require_own_attributes
from .rules import QuantRules, Role, UnitRule, role_of, weight_channel_axis

PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
"""Where nearly all time goes: what else runs on integers does so to stay between them."""
_NAMED_OPERANDS = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(frozen=True, eq=False)
class Site:
    """One node that could run on integers. Compares by identity."""

    node: Node
    rule: UnitRule
    data: tuple[Value, ...]
    """Activations that are to be integers, constants among them."""
    weight: Value | None
    """Constant, with the weight type."""
    weight_index: int
    """Its operand's index; -1 where there is none."""
    channel_axis: int | None
    """Axis of the weight that may have a scale for each index."""
    bias: Value | None
    """Constant, to be int32."""
    results: tuple[Value, ...]
    """What is quantized behind it: used results, or that of an activation which the range absorbs."""

    @property
    def is_product(self) -> bool:
        return self.node.op in PRODUCTS

    @property
    def result(self) -> Value:
        return self.results[0]

    @property
    def activations(self) -> tuple[Value, ...]:
        """Data operands that are not constant."""
        return tuple(v for v in self.data if v.data is None)


def site_of(node: Node, rules: QuantRules) -> Site:
    """The site at ``node``. Raises :class:`NoMatch` with the reason why it must stay float."""
    rule = rules.unit(node.op, node.version) if not node.domain else None
    if rule is None:
        raise NoMatch(f"{node.op} has no integer kernel on {rules.name}")
    require_own_attributes(node)
    _require_form(node, rules)
    data: list[Value] = []
    weight, weight_index, bias = None, -1, None
    for i, value in enumerate(node.inputs):
        role = role_of(rule, i)
        if value is None or role is Role.PLAIN:
            continue
        if value.dtype is not DType.F32:
            raise NoMatch(f"%{value.name} is {value.dtype!r}, expected f32")
        if role is Role.BIAS:
            bias = _constant(value, "bias")
        elif role is Role.WEIGHT and (value.data is not None or rule.weight_constant):
            weight, weight_index = _constant(value, "weight"), i
        else:
            data.append(value)
    if all(v.data is not None for v in data):
        raise NoMatch("all operands are constant")
    if rule.equal and any(v.data is not None for v in data):
        raise NoMatch("it moves a constant")
    axis = None
    if weight is not None and weight.rank:
        axis = weight_channel_axis(
            node.op, rule, weight.rank, transposed=bool(node.op == "Gemm" and node.attr("transB"))
        )
    return Site(node, rule, tuple(data), weight, weight_index, axis, bias, _results(node, rule, rules))


def _constant(value: Value, what: str) -> Value:
    if value.data is None:
        raise NoMatch(f"the {what} %{value.name} is not a constant")
    return value


def _require_form(node: Node, rules: QuantRules) -> None:
    """Conditions on attributes and types that the table of rules does not hold."""
    if node.op == "Gemm" and not (
        node.attr("alpha", 1.0) == 1.0 and (len(node.inputs) < 3 or node.attr("beta", 1.0) == 1.0)
    ):
        raise NoMatch(f"alpha is {node.attr('alpha', 1.0)} and beta {node.attr('beta', 1.0)}, both must be 1")
    if node.op == "Resize" and node.attr("mode", "nearest") not in ("nearest", b"nearest"):
        raise NoMatch("Resize interpolates")
    if node.op == "MaxPool" and len(node.outputs) > 1 and node.outputs[1].uses:
        raise NoMatch("the indices of MaxPool are used")
    if rules.static_shapes and any(v is not None and (v.tensor is None or not v.tensor.is_static) for v in node.inputs):
        raise NoMatch(f"{rules.name} wants every extent to be a number")
    if any(v is not None and v.producer is not None and v.producer.op == "DequantizeLinear" for v in node.inputs):
        raise NoMatch("it is quantized already")


def _results(node: Node, rule: UnitRule, rules: QuantRules) -> tuple[Value, ...]:
    used = tuple(out for out in node.outputs if out.uses)
    if rule.equal or len(used) != 1:
        return used
    value = used[0]
    user = value.sole_user
    if user is not None and not user.is_return and user.graph is node.graph and _is_absorbed(user, value, rules):
        return (user.output,)
    return (value,)


def _is_absorbed(user: Node, value: Value, rules: QuantRules) -> bool:
    """Whether ``user`` clips ``value`` to a range that begins at 0, where the zero point is the lowest number."""
    if user.domain or user.op not in rules.fused_activations or user.inputs[0] is not value:
        return False
    return user.op != "Clip" or _clips_from_zero(user)


def _clips_from_zero(node: Node) -> bool:
    if node.version < 11:
        return node.attr("min") == 0.0
    low = node.input(1)
    return low is not None and low.data is not None and float(low.numpy()) == 0.0


def sites_of(model: Model, rules: QuantRules) -> tuple[dict[Node, Site], dict[Node, str]]:
    """All sites of the model, bodies and functions included, in order; and why other products stay float."""
    sites: dict[Node, Site] = {}
    declined: dict[Node, str] = {}
    for node in _nodes(model):
        try:
            sites[node] = site_of(node, rules)
        except NoMatch as reason:
            if node.op in PRODUCTS and not node.domain:
                declined[node] = reason.reason
    return sites, declined


def _nodes(model: Model) -> Iterator[Node]:
    for root in model.roots():
        yield from root.all_nodes()
