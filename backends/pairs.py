"""QuantizeLinear and DequantizeLinear as ONNX Runtime 1.31 looks at them: edges, parameters, stored types.

An *edge* leads from a value to an operand of a node; what a graph returns is no edge, and a value that a body
captures has an edge to the node that owns the body. Source: ``qdq_util.cc`` and ``graph_utils.cc`` of the runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np

from ..ir.constants import ArrayConstant, SplatConstant
from ..ir.dtypes import DType
from ..ir.graph import Graph, Node, Value

CONTRIB = "com.microsoft"
SCALE, ZERO = 1, 2
WIDE = (DType.I16, DType.U16)
NARROW = (DType.I4, DType.U4)
BITS = {**dict.fromkeys(NARROW, 4), DType.I8: 8, DType.U8: 8, DType.I2: 2, DType.U2: 2}


def is_quantize(node: Node | None) -> TypeGuard[Node]:
    return node is not None and node.op == "QuantizeLinear" and node.domain in ("", CONTRIB)


def is_dequantize(node: Node | None) -> TypeGuard[Node]:
    return node is not None and node.op == "DequantizeLinear" and node.domain in ("", CONTRIB)


def is_pair_member(node: Node | None) -> bool:
    return is_quantize(node) or is_dequantize(node)


def edges(value: Value) -> list[tuple[Node, int]]:
    """Operands that take ``value``; results of the graph do not count, operands of bodies do."""
    return [(user, i) for user, i in value.uses if not user.is_return]


def out_edges(node: Node) -> list[tuple[Node, int]]:
    """Edges of all results."""
    return [edge for value in node.outputs for edge in edges(value)]


def returned(node: Node) -> bool:
    """Whether a result of ``node`` is a result of the graph."""
    return any(v.is_output for v in node.outputs)


def has_edges(node: Node, count: int) -> bool:
    """Whether there are ``count`` edges and no result is the graph's (``CheckOutputEdges``)."""
    return len(out_edges(node)) == count and not returned(node)


def only_reader(node: Node) -> Node | None:
    """The node of the same graph that alone takes the results of ``node``, which the graph does not return."""
    if not has_edges(node, 1):
        return None
    user = out_edges(node)[0][0]
    return user if user.graph is node.graph else None


def dequantizers(node: Node) -> list[Node]:
    """The DequantizeLinear nodes in front, in the order of operands."""
    return [v.producer for v in node.inputs if v is not None and is_dequantize(v.producer)]


def quantizers(node: Node) -> list[Node]:
    """The QuantizeLinear nodes behind, in the order of results."""
    return [user for user, _ in out_edges(node) if is_quantize(user)]


def is_scalar(value: Value | None) -> bool:
    """Whether a value has one element and at most one axis."""
    return value is not None and value.shape in ((), (1,))


def constant_scalar(node: Node, i: int) -> bool:
    value = node.input(i)
    return value is not None and value.data is not None and is_scalar(value)


def number(node: Node, i: int) -> Any:
    """The constant scalar operand ``i``."""
    value = node.input(i)
    assert value is not None
    return value.numpy().reshape(-1)[0]


def stored(node: Node) -> DType | None:
    """Type of the integers of a QuantizeLinear or DequantizeLinear."""
    value = node.output if is_quantize(node) else node.input(0)
    if value is not None and value.dtype is not None:
        return value.dtype
    if value is not None and value.data is not None:
        return value.data.dtype
    zero = node.input(ZERO)
    return zero.dtype if zero is not None else DType.U8


def equal_parameters(a: Node, b: Node) -> str:
    """Empty where both have constant scalars of equal type and value (``IsQDQPairSupported``), else what differs."""
    for node in (a, b):
        if len(node.inputs) != 3 or node.input(ZERO) is None:
            return f"{node.op} has no zero point"
        if not (is_scalar(node.input(SCALE)) and is_scalar(node.input(ZERO))):
            return f"{node.op} has parameters per channel"
        if not (constant_scalar(node, SCALE) and constant_scalar(node, ZERO)):
            return f"the parameters of {node.op} are not constant"
    if stored(a) is not stored(b):
        return f"the types are {stored(a)} and {stored(b)}"
    if number(a, SCALE) != number(b, SCALE):
        return f"the scales are {number(a, SCALE)} and {number(b, SCALE)}"
    if number(a, ZERO) != number(b, ZERO):
        return f"the zero points are {number(a, ZERO)} and {number(b, ZERO)}"
    return ""


def pass_by(node: Node) -> None:
    """Removes a node of one operand that changes nothing: its readers take its operand."""
    source = node.input(0)
    assert source is not None
    node.output.replace_uses(source)
    node.erase()


def constant(graph: Graph, array: Any) -> Value:
    return graph.add_constant(ArrayConstant(np.asarray(array)))


def placeholder(graph: Graph, like: Value) -> Value | None:
    """A constant of the type of ``like`` where its extents are known; what it holds nobody asks."""
    tensor = like.tensor
    if tensor is None or tensor.dtype is None or not tensor.is_static or tensor.shape is None:
        return None
    shape = tuple(int(d) for d in tensor.shape if isinstance(d, int))
    return graph.add_constant(SplatConstant(0, tensor.dtype, shape))


def nodes(graph: Graph) -> Iterator[Node]:
    """The nodes that are there when the walk begins and are still there when it arrives at them."""
    return (n for n in list(graph) if not n.erased and not n.is_return)


def producer_of(value: Value | None, op: str) -> Node | None:
    """The node of the default domain with operator ``op`` that computes ``value``."""
    node = value.producer if value is not None else None
    return node if node is not None and node.op == op and node.domain == "" else None
