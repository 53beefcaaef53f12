"""Sites: operators that a runtime could run on integers, with what each operand is.

A site is what ``rules.py`` calls a unit, at one node of a model: the operator, its activations, its weight and bias,
and the value that is quantized behind it (behind an activation that the range of that value makes redundant).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ....ir.dtypes import DType
from ....ir.graph import Model, Node, Value
from ...rewrite.rule import NoMatch
from ..affine import batchnorm_affine
from ..attributes import require_own_attributes
from ..evaluate import evaluate
from ..kernels import NoKernel
from .rules import Output, QuantRules, Role, UnitRule, role_of, weight_channel_axis

_ONE_OPERAND = UnitRule((Role.DATA,))
_SAME_INTEGERS = UnitRule((Role.DATA,), equal=True)
_MOVEMENT = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"})
_MOVED_BYTES = 1 << 30
PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
"""Where nearly all time goes: what else runs on integers does so to stay between them."""


@dataclass(frozen=True, eq=False)
class Site:
    """One node that could run on integers. Compares by identity."""

    node: Node
    rule: UnitRule
    data: tuple[Value, ...]
    """Activations that are to be integers, constants among them."""
    weight: Value | None
    """Constant, with the weight type. Not the operand itself where that is a constant moved by a node (a tied embedding
    behind a Transpose), which has to become a constant of its own then."""
    weight_index: int
    """Its operand's index; -1 where there is none."""
    channel_axis: int | None
    """Axis of the weight that may have a scale for each index."""
    bias: Value | None
    """Constant, to be int32."""
    residual: Value | None
    """What a Gemm adds that is not constant: it has to be added behind the product, in floats."""
    map: tuple[float, float]
    """``(gain, shift)`` of the result where the integers stay and what they mean changes; else ``(1, 0)``."""
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
    if node.domain:
        raise NoMatch(f"{node.domain}::{node.op} has no integer kernel on {rules.name}")
    require_own_attributes(node)
    rule = rules.unit(node.op, node.version) or _substitute(node, rules)
    if rule is None:
        raise NoMatch(f"{node.op} has no integer kernel on {rules.name}")
    _require_form(node, rules)
    gain, shift = _map_of(node) if rule is _SAME_INTEGERS else (1.0, 0.0)
    data: list[Value] = []
    weight, weight_index, bias, residual = None, -1, None, None
    for i, value in enumerate(node.inputs):
        role = role_of(rule, i)
        if value is None or role is Role.PLAIN:
            continue
        if value.dtype is not DType.F32:
            raise NoMatch(f"%{value.name} is {value.dtype or 'of unknown type'}, expected f32")
        if role is Role.BIAS and node.op == "Gemm" and value.data is None:
            residual = value
        elif role is Role.BIAS:
            bias = _constant(value, "bias")
        elif role is Role.WEIGHT and (_moved_constant(value) is not None or rule.weight_constant):
            weight, weight_index = _constant(_moved_constant(value) or value, "weight"), i
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
    if residual is not None:
        rule = replace(rule, output=Output.FLOAT)
    return Site(
        node, rule, tuple(data), weight, weight_index, axis, bias, residual, (gain, shift), _results(node, rule, rules)
    )


def input_axis(node: Node, rank: int) -> int:
    """The axis of a product's weight that is summed over, for convolutions the channels among them."""
    if node.op in ("Conv", "ConvTranspose"):
        return int(node.op == "Conv")
    return 1 if node.op == "Gemm" and node.attr("transB") else rank - 2


def _substitute(node: Node, rules: QuantRules) -> UnitRule | None:
    """The rule of an operator without integer kernel for which ``insert-qdq`` writes another that has one."""
    if node.op == "HardSigmoid" and node.attr("alpha", 0.2) > 0 and node.attr("beta", 0.5) > 0:
        return rules.unit("Add") and _ONE_OPERAND  # a sum whose range clips it
    if node.op == "BatchNormalization" and "Reshape" in rules.units and rules.is_movement("Reshape"):
        return _SAME_INTEGERS
    return None


def _map_of(node: Node) -> tuple[float, float]:
    """Gain and shift of a BatchNormalization that does the same to every channel. Raises :class:`NoMatch`."""
    affine = batchnorm_affine(node)
    gain, shift = float(affine.gain.flat[0]), float(affine.shift.flat[0])
    # Epsilon and mean of equal channels leave a rounding error between them at most.
    same = np.allclose(affine.gain, gain, rtol=1e-6, atol=0) and np.allclose(affine.shift, shift, rtol=1e-6, atol=0)
    if not same or gain <= 0:
        raise NoMatch("BatchNormalization with a map for each channel has no integer kernel")
    return gain, shift


def _moved_constant(value: Value) -> Value | None:
    """The value where it is a constant; a new one, in no graph yet, where a node only moves a constant's elements."""
    node = value.producer
    if value.data is not None or node is None or node.domain or node.op not in _MOVEMENT:
        return value if value.data is not None else None
    if any(v is None or v.data is None for v in node.inputs):
        return None
    try:
        data = evaluate(node, max_bytes=_MOVED_BYTES, max_work=_MOVED_BYTES)[0]
    except NoKernel:
        return None
    made = Value(value.name, data.type)
    made.data = data
    return made


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
    if node.op == "Add" and any(map(_adds_bias, node.inputs, reversed(node.inputs))):
        raise NoMatch("it adds the bias of a product")
    if rules.static_shapes and any(v is not None and (v.tensor is None or not v.tensor.is_static) for v in node.inputs):
        raise NoMatch(f"{rules.name} wants every extent to be a number")
    if any(v is not None and v.producer is not None and v.producer.op == "DequantizeLinear" for v in node.inputs):
        raise NoMatch("it is quantized already")


def _adds_bias(product: Value | None, bias: Value | None) -> bool:
    """A pair between them would round twice."""
    if product is None or product.producer is None or bias is None:
        return False
    return product.producer.op == "MatMul" and bias.data is not None


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
