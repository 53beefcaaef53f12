"""Products by weights of 4 or 8 bits that stay so: ``MatMul`` and ``Gemm`` of floats and a dequantized constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....ir.constants import ArrayConstant
from ....ir.graph import Graph, Node, Value
from ..kernels.blocked_weights import BlockedWeights
from .forms import Array
from .integers import constant_of, integers_of, zero_point_of


@dataclass(frozen=True)
class Blocked:
    """What such a product is made of."""

    x: Value
    weights: Array
    """[K, N] uint8."""
    scales: Array
    """[blocks along K, N] float32."""
    zeros: Array
    """[blocks along K, N] float32."""
    stored: BlockedWeights


def blocked_of(node: Node) -> Blocked | None:
    """What the node multiplies by, or nothing where that is another kind of product. Bytes are unsigned: see
    ``keep_blocked``."""
    x, source = node.inputs[0] if node.inputs else None, _source(node)
    if node.op == "Gemm" and (node.attr("transA", 0) or any(float(node.attr(a, 1)) != 1 for a in ("alpha", "beta"))):
        return None
    if x is None or source is None or integers_of(node) is not None:
        return None
    if x.data is not None or x.dtype is None or x.dtype.numpy_name != "float32" or not x.shape:
        return None
    if len(x.shape) < 2:
        return None
    q, scales, zero = constant_of(source.inputs[0]), constant_of(source.inputs[1]), zero_point_of(source)
    if q is None or scales is None or zero is None or q.ndim != 2 or q.dtype != np.uint8:
        return None
    if scales.dtype != np.float32 or 0 in q.shape:
        return None
    axis, block = int(source.attr("axis", 1)) % 2, int(source.attr("block_size", 0) or 0)
    if node.op == "Gemm" and node.attr("transB", 0):
        q, scales, zero, axis = q.T, scales.T, zero.T, 1 - axis
    k, n = q.shape
    if scales.ndim == 2:
        if not block or axis or block % 2:
            return None
    elif scales.size > 1 and axis != 1:
        return None  # one for each row: no block has two
    else:
        block = k + k % 2
    groups = BlockedWeights(8, block).groups(k)
    offsets = np.asarray(zero, np.float32)
    spread = [np.ascontiguousarray(np.broadcast_to(a, (groups, n))) for a in (scales, offsets)]
    bits = 4 if int(q.max()) < 16 else 8
    return Blocked(x, q, spread[0], spread[1], BlockedWeights(bits, block))


def on_integers(node: Node) -> bool:
    """Whether a product takes integers itself, on one side or on both."""
    return integers_of(node) is not None or blocked_of(node) is not None


def looked_through(graph: Graph) -> set[Node]:
    """Dequantizers of such products."""
    producers: set[Node] = set()
    for node in graph:
        if integers_of(node) is not None:
            producers.update(v.producer for v in node.inputs if v is not None and v.producer is not None)
        elif blocked_of(node) is not None and node.inputs[1] is not None and node.inputs[1].producer is not None:
            producers.add(node.inputs[1].producer)
    return {node for node in producers if node.op == "DequantizeLinear"}


def keep_blocked(graph: Graph) -> None:
    """Stores weights of such products as unsigned bytes, one each, whatever their type; kernels pack them anew."""
    for node in list(graph):
        source = _source(node)
        if source is None or integers_of(node) is not None:
            continue
        q, zero = constant_of(source.inputs[0]), zero_point_of(source)
        lowest = _LOWEST.get(q.dtype.name) if q is not None else None
        if q is None or zero is None or lowest is None or (lowest == 0 and q.dtype == np.uint8):
            continue
        bytes_ = (q.astype(np.int16) - lowest).astype(np.uint8)
        zeros = (np.broadcast_to(zero, _shape(source.inputs[1])).astype(np.int16) - lowest).astype(np.uint8)
        copy = Node(
            "DequantizeLinear",
            [graph.add_constant(ArrayConstant(bytes_)), source.inputs[1], graph.add_constant(ArrayConstant(zeros))],
            dict(source.attrs),
            name=source.name,
        )
        graph.insert_before(source, copy)
        copy.output.type = source.output.type
        node.set_input(1, copy.output)
        if not source.output.uses:
            source.erase()


_LOWEST = {"int4": -8, "uint4": 0, "int8": -128, "uint8": 0}


def _source(node: Node) -> Node | None:
    """The dequantizer of a product's right side."""
    if node.op not in ("MatMul", "Gemm") or node.domain or node.inputs[1] is None:
        return None
    found = node.inputs[1].producer
    return found if found is not None and found.op == "DequantizeLinear" and not found.domain else None


def _shape(scale: Value | None) -> tuple[int, ...]:
    found = constant_of(scale)
    return () if found is None else found.shape
