"""Every operator that is defined by others, in terms of them: for targets that lack it, and to check fusions against.

Three sources, in this order: equations of our own where the standard's function body is numerically worse (it computes
a variance as the difference of two squares) or goes through shapes it need not know; ONNX's function bodies; and
equations for ONNX Runtime's contrib operators (``decompose_contrib.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ...ir.constants import ArrayConstant, Constant
from ...ir.dtypes import DType
from ...ir.errors import PlanishError
from ...ir.graph import Attr, AttrRef, Graph, Node, Value
from ...ir.onnx_proto import attr_from_proto, attr_to_proto, type_to_proto
from ...ir.schema import ABSENT
from ...ir.type_agreement import contradiction
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .attributes import require_own_attributes
from .decompose_contrib import CONTRIB_EQUATIONS
from .emit import reduce_to_one
from .whole_operators import why_whole

Results = list[Value | None]
Equation = Callable[[Rewriter, Node], Results]
"""Emits the same computation by other operators; one value for each result, ``None`` for one that nothing uses."""


def decompose(r: Rewriter, node: Node) -> Results:
    """Emits what ``node`` computes by more basic operators and returns its results.

    Raises :class:`NoMatch` where no decomposition is known, it needs what the model's opset lacks, or its results have
    other types: kernels do not check all operands (a bias of more axes than what it is added to), inference fewer.
    """
    results = _results(r, node)
    for old, new in zip(node.outputs, results, strict=False):
        against = None if new is None else contradiction(old.type, new.type)
        if against is not None:
            raise NoMatch(f"the definition of {node.op} gives another type, for these operands: {against}")
    return results


def _results(r: Rewriter, node: Node) -> Results:
    require_own_attributes(node)
    equation = CONTRIB_EQUATIONS.get((node.domain, node.op)) or (EQUATIONS.get(node.op) if not node.domain else None)
    if equation is not None:
        return equation(r, node)
    whole = why_whole(node.domain, node.op)
    if whole is not None:
        raise NoMatch(f"{node.op} stays whole: {whole}")
    return _by_function_body(r, node)


# -- our own equations


def operand(node: Node, i: int) -> Value:
    """Operand ``i``. Raises :class:`NoMatch` where it is absent."""
    value = node.input(i)
    if value is None:
        raise NoMatch(f"operand {i} of {node.op} is absent")
    return value


def _gelu(r: Rewriter, node: Node) -> Results:
    x = operand(node, 0)
    if node.attr("approximate", "none") == "tanh":
        if node.output.dtype is DType.F64:
            raise NoMatch("the function body of Gelu takes its constants in float32, for float64 too")
        inner = r.Mul(r.Add(x, r.Mul(r.Mul(r.Mul(x, x), x), 0.044715)), math.sqrt(2 / math.pi))
        return [r.Mul(r.Mul(x, r.Add(r.Tanh(inner), 1.0)), 0.5)]
    return [r.Mul(r.Mul(x, r.Add(r.Erf(r.Div(x, math.sqrt(2))), 1.0)), 0.5)]


def _layernorm(r: Rewriter, node: Node) -> Results:
    x, scale, bias = operand(node, 0), operand(node, 1), node.input(2)
    axes, wide, back = _statistics(r, node, x)
    deviation = r.Sub(wide, reduce_to_one(r, "ReduceMean", wide, axes))
    variance = reduce_to_one(r, "ReduceMean", r.Mul(deviation, deviation), axes)
    root = r.Sqrt(r.Add(variance, float(node.attr("epsilon"))))
    if any(out.uses for out in node.outputs[1:]):
        raise NoMatch("the statistics of LayerNormalization are used")
    y = r.Mul(back(r.Div(deviation, root)), scale)
    return [y if bias is None else r.Add(y, bias)]


def _rmsnorm(r: Rewriter, node: Node) -> Results:
    x, scale = operand(node, 0), operand(node, 1)
    axes, wide, back = _statistics(r, node, x)
    square = reduce_to_one(r, "ReduceMean", r.Mul(wide, wide), axes)
    return [r.Mul(back(r.Div(wide, r.Sqrt(r.Add(square, float(node.attr("epsilon")))))), scale)]


def _statistics(r: Rewriter, node: Node, x: Value) -> tuple[list[int], Value, Callable[[Value], Value]]:
    """Axes, the operand in the type that statistics are computed in, and the way back to its own."""
    axis = int(node.attr("axis"))
    if axis >= 0:
        if x.rank is None:
            raise NoMatch("the operand's rank is unknown")
        axis -= x.rank
    return list(range(axis, 0)), *_stash(r, node, x)


def _stash(r: Rewriter, node: Node, x: Value) -> tuple[Value, Callable[[Value], Value]]:
    """The operand in the type that statistics are computed in, and the way back to its own."""
    stash = int(node.attr("stash_type", 1))
    if x.dtype is None or x.dtype.code == stash or stash != DType.F32.code or x.dtype is DType.F64:
        return x, lambda y: y
    own = x.dtype.code
    return r.Cast(x, to=stash), lambda y: r.Cast(y, to=own)


def _groupnorm(r: Rewriter, node: Node) -> Results:
    x, scale, bias = operand(node, 0), operand(node, 1), operand(node, 2)
    if x.rank is None:
        raise NoMatch("the operand's rank is unknown")
    wide, back = _stash(r, node, x)
    groups = r.Reshape(wide, np.array([0, int(node.attr("num_groups")), -1], np.int64))
    deviation = r.Sub(groups, reduce_to_one(r, "ReduceMean", groups, [-1]))
    variance = reduce_to_one(r, "ReduceMean", r.Mul(deviation, deviation), [-1])
    normal = r.Div(deviation, r.Sqrt(r.Add(variance, float(node.attr("epsilon")))))
    if node.version < 21:  # one scale a group
        column = np.array([-1, 1], np.int64)
        y = r.Add(r.Mul(back(normal), r.Reshape(scale, column)), r.Reshape(bias, column))
        return [r.Reshape(y, r.Shape(x))]
    normal = r.Reshape(normal, r.Shape(x))
    column = np.array([-1, *[1] * (x.rank - 2)], np.int64)
    return [r.Add(r.Mul(back(normal), r.Reshape(scale, column)), r.Reshape(bias, column))]


def _swish(r: Rewriter, node: Node) -> Results:
    x, alpha = operand(node, 0), float(node.attr("alpha"))
    return [r.Mul(x, r.Sigmoid(x if alpha == 1 else r.Mul(x, alpha)))]


EQUATIONS: dict[str, Equation] = {
    "Swish": _swish,
    "GroupNormalization": _groupnorm,
    "Gelu": _gelu,
    "LayerNormalization": _layernorm,
    "RMSNormalization": _rmsnorm,
}


# -- ONNX's function bodies


def _by_function_body(r: Rewriter, node: Node) -> Results:
    if node.op == "Celu" and not node.attr("alpha") > 0:
        raise NoMatch(f"alpha is {node.attr('alpha')}: the function body of Celu contradicts its equation there")
    body = _function_body(node)
    values: dict[str, Value | None] = {"": None}
    for i, name in enumerate(body.input):
        values[name] = node.input(i)
    try:
        for inner in body.node:
            constant = _constant(inner, node, values)
            if constant is not None:
                values[inner.output[0]] = r.const(constant)
                continue
            attrs = {a.name: _attr(attr_from_proto(a), node) for a in inner.attribute}
            made: Any = r.op(inner.op_type, *[values[i] for i in inner.input], _outputs=len(inner.output), **attrs)
            values.update(zip(inner.output, made if isinstance(made, list) else [made], strict=True))  # pyright: ignore[reportUnknownArgumentType]
    except PlanishError as error:
        raise NoMatch(f"the function body of {node.op} does not fit opset {r.opset()}: {error.message}") from None
    results = [values.get(name) if out.uses else None for name, out in zip(body.output, node.outputs, strict=False)]
    for value, out in zip(results, node.outputs, strict=False):
        if value is not None and out.rank is not None and value.rank not in (None, out.rank):
            # Celu's body, for one, holds alpha as a vector of one element, which makes a vector of a scalar.
            raise NoMatch(f"the function body of {node.op} gives rank {value.rank}, expected {out.rank}")
    return results


def _constant(inner: Any, node: Node, values: dict[str, Value | None]) -> Constant | None:
    """What a Constant node of a body holds, or a constant cast to the type of another value."""
    if inner.op_type == "CastLike":
        source, like = values[inner.input[0]], values[inner.input[1]]
        if source is None or source.data is None or like is None or like.dtype is None or not like.dtype.is_float:
            return None
        return ArrayConstant(source.numpy().astype(like.dtype.numpy), like.dtype)
    if inner.op_type != "Constant":
        return None
    attr: Any = _attr(attr_from_proto(inner.attribute[0]), node)
    kind = inner.attribute[0].name
    if isinstance(attr, Constant) or not kind.startswith(("value_int", "value_float")):
        return attr if isinstance(attr, Constant) else None
    return ArrayConstant(np.asarray(attr, np.int64 if kind.startswith("value_int") else np.float32))


def _attr(found: Attr, node: Node) -> Any:
    """The attribute with what the body takes from the caller filled in; ``None`` where the caller gives nothing."""
    if isinstance(found, Graph):
        raise NoMatch(f"the function body of {node.op} has bodies of its own")
    if not isinstance(found, AttrRef):
        return found
    given = node.attr(found.name, ABSENT)
    return None if given is ABSENT else given


def _function_body(node: Node) -> Any:
    """The ``FunctionProto`` for the node at the newest opset that does not exceed the model's."""
    import onnx
    from onnx.defs import SchemaError, get_schema

    try:
        schema: Any = get_schema(node.op, node.version, node.domain)
    except SchemaError:
        raise NoMatch(f"{node.op} is no operator of opset {node.version}") from None
    body = onnx.FunctionProto()
    fixed = [v for v in schema.function_opset_versions if v <= node.version]
    if fixed:
        body.ParseFromString(schema.get_function_with_opset_version(max(fixed)))
        return body
    computed = [v for v in schema.context_dependent_function_opset_versions if v <= node.version]
    if not computed:
        raise NoMatch(f"the standard defines {node.op} of opset {node.version} by no function body")
    raw = schema.get_context_dependent_function_with_opset_version(max(computed), *_context(node))
    if not raw:
        raise NoMatch(f"the standard has no function body for this {node.op}")
    body.ParseFromString(raw)
    return body


def _context(node: Node) -> tuple[bytes, list[bytes]]:
    """The node and its operands' types as messages."""
    import onnx

    proto = onnx.NodeProto(op_type=node.op, domain=node.domain)
    proto.input.extend(["" if v is None else f"i{i}" for i, v in enumerate(node.inputs)])
    proto.output.extend([f"o{i}" for i in range(len(node.outputs))])
    proto.attribute.extend([attr_to_proto(name, attr) for name, attr in node.attrs.items()])
    types = [type_to_proto(v.type, lambda d: d if isinstance(d, int) else None) for v in node.inputs if v is not None]
    return proto.SerializeToString(), [t.SerializeToString() for t in types]


@cache
def has_decomposition(domain: str, op: str, version: int) -> bool:
    """Whether :func:`decompose` knows the operator at all."""
    if (domain, op) in CONTRIB_EQUATIONS or (not domain and op in EQUATIONS):
        return True
    from ...ir.schema import schema

    found = schema(domain, op, version)
    return found is not None and found.has_function
