"""Facts about operators: tables keyed by ``(domain, op)`` with a default, and what follows from schemas.

An operator without a schema is *unknown*: no pass may look inside it, and it is never removed, merged
or folded. Schemas are in ``schema.py``.
"""

from __future__ import annotations

from typing import Any

from .graph import Attr, Graph, Node
from .schema import ABSENT, Schema, same_attr, schema


def node_schema(node: Node) -> Schema | None:
    """The schema of a node by its model's opset imports."""
    return schema(node.domain, node.op, node.version)


def attr_value(node: Node, name: str) -> Any:
    """The attribute, or the schema's default where it is not written, or ``None`` where there is neither."""
    return node.attr(name)


def is_default(node: Node, name: str, attr: Attr) -> bool:
    """Whether ``attr`` is what the schema says anyway."""
    s = node_schema(node)
    spec = s.attrs.get(name) if s is not None else None
    return spec is not None and spec.default is not ABSENT and same_attr(spec.default, attr)


# -- properties

COMMUTATIVE = frozenset(
    ("", op)
    for op in (
        "Add",
        "Mul",
        "And",
        "Or",
        "Xor",
        "Equal",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "Max",
        "Min",
        "Sum",
        "Mean",
    )
)
"""The result does not depend on the order of the operands (exactly, in floating point too: two operands only)."""

RANDOM = frozenset(
    ("", op)
    for op in ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
) | frozenset(("com.microsoft", op) for op in ("Sampling", "BiasDropout", "BitmaskDropout", "BitmaskBiasDropout"))
"""Two runs may differ. Dropout and BatchNormalization are random or stateful only in training mode: see ``is_pure``."""

UNARY = frozenset(
    ("", op)
    for op in (
        "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
        "HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin "
        "Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Cast"
    ).split()
)
BINARY = frozenset(
    ("", op)
    for op in (
        "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Mod Mul Or "
        "Pow PRelu Sub Xor"
    ).split()
)
"""Elementwise with numpy broadcasting of two operands (PRelu: one way)."""
VARIADIC = frozenset(("", op) for op in ("Max", "Min", "Sum", "Mean", "Where"))
ELEMENTWISE = UNARY | BINARY | VARIADIC

MOVEMENT = frozenset(
    ("", op)
    for op in (
        "Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Pad Reshape ReverseSequence Slice "
        "SpaceToDepth Split Squeeze Tile Transpose Unsqueeze"
    ).split()
)
"""Output elements are copies of input elements (Pad: or the fill)."""


def commutes(node: Node) -> bool:
    """Whether the two operands may be swapped without changing a bit."""
    return len(node.inputs) == 2 and (node.domain, node.op) in COMMUTATIVE


def is_known(node: Node) -> bool:
    """Whether planish knows what the node computes: it has a schema or is a call of a model-local function."""
    return node_schema(node) is not None or function_of(node) is not None


def function_of(node: Node) -> Any:
    """The model-local function that the node calls, else ``None``."""
    model = node.graph.model if node.graph is not None else None
    return model.functions.get((node.domain, node.op, node.overload)) if model is not None else None


def is_pure(node: Node) -> bool:
    """Whether equal operands give equal results in every run, so that it can be merged, folded or repeated."""
    if node.op in _SIMPLE_PURE and node.domain == "":
        return True
    stack, seen = [node], set[int]()
    while stack:
        n = stack.pop()
        if not is_known(n) or (n.domain, n.op) in RANDOM:
            return False
        if n.domain == "" and n.op == "Dropout" and not _dropout_is_identity(n):
            return False
        function = function_of(n)
        bodies: list[Graph] = n.subgraphs if n.attrs else []
        if function is not None and id(function) not in seen:
            seen.add(id(function))
            bodies = [*bodies, function.graph]
        for body in bodies:
            stack.extend(body)
    return True


def is_removable(node: Node) -> bool:
    """Whether the node may go when nothing uses its outputs: what is known has no side effects."""
    return is_known(node)


def _dropout_is_identity(node: Node) -> bool:
    if node.version < 7:
        return bool(node.attr("is_test", 0))
    mode = node.input(2)
    return mode is None or (mode.data is not None and not mode.numpy().any())


_SIMPLE_PURE = frozenset(op for _, op in (ELEMENTWISE | MOVEMENT)) | frozenset(
    ("MatMul", "Gemm", "Conv", "Shape", "Softmax", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Cast")
)
