"""How ONNX Runtime 1.31 spreads pairs through movement of data, and gives each reader one of its own.

Sources, by file of the runtime: ``qdq_propagation.cc``, ``ensure_unique_dq_for_node_unit.cc``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....ir.graph import Graph, Node, Value
from ... import pairs as p
from .work import Work

_PROPAGATES = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")


def propagate(work: Work) -> bool:
    """Pairs travel through movement of data, away from where they stand."""
    changed = False
    for node in p.nodes(work.graph):
        if p.is_quantize(node) and _movable(node):
            changed |= _backward(work.graph, node)
    for node in p.nodes(work.graph):
        if p.is_dequantize(node) and _movable(node) and p.has_edges(node, 1):
            changed |= _forward(work, node)
    return changed


def _movable(node: Node) -> bool:
    zero = node.input(p.ZERO)
    return p.constant_scalar(node, p.SCALE) and (zero is None or p.constant_scalar(node, p.ZERO))


def _can_carry(node: Node) -> bool:
    return node.domain == "" and node.op in _PROPAGATES and not (node.op == "MaxPool" and node.version < 12)


def _forward(work: Work, source: Node) -> bool:
    changed, graph = False, work.graph
    todo = [p.out_edges(source)[0]]
    while todo:
        mover, _ = todo.pop()
        if mover.graph is not graph or not _can_carry(mover):
            continue
        value = mover.outputs[0]
        targets = [e for e in value.uses if not p.is_quantize(e[0])]
        if any(user.graph is not graph for user, _ in targets):
            continue
        if targets:
            work.forwarded.append(_insert(graph, source, value, targets))
            changed = True
            todo.extend(e for e in targets if not e[0].is_return)
    return changed


def _backward(graph: Graph, source: Node) -> bool:
    changed = False
    edge = _edge_before(source)
    while edge is not None:
        mover = edge.producer
        if mover is None or not _can_carry(mover):
            break
        edge = _edge_before(mover)
        if edge is None or p.is_dequantize(edge.producer) or edge.data is not None:
            break
        _insert(graph, source, edge, [(mover, 0)])
        changed = True
    return changed


def _edge_before(node: Node) -> Value | None:
    """Operand 0 where ``node`` is its only reader (of inputs of the graph: where it reads it)."""
    value = node.inputs[0]
    if value is None or value.producer is None:
        return value if value is not None and value.graph is node.graph else None
    return value if len(p.edges(value)) == 1 and not value.is_output and value.producer.graph is node.graph else None


def _insert(graph: Graph, like: Node, value: Value, targets: Sequence[tuple[Node, int]]) -> Node:
    """A QuantizeLinear as ``like`` between ``value`` and ``targets``, with a DequantizeLinear for each of them."""
    parameters = like.inputs[1:]
    quantize = Node("QuantizeLinear", [value, *parameters], domain=like.domain)
    quantize.output.type = value.tensor.with_dtype(p.stored(like)) if value.tensor is not None else None
    if value.producer is not None:
        graph.insert_after(value.producer, quantize)
    else:
        graph.insert_before(targets[0][0], quantize)
    for user, i in targets:
        dequantize = Node("DequantizeLinear", [quantize.output, *parameters], domain=like.domain)
        dequantize.output.type = value.type
        graph.insert_after(quantize, dequantize)
        user.set_input(i, dequantize.output)
    return quantize


def unshare(work: Work) -> bool:
    """Every reader of a DequantizeLinear in the same graph gets one of its own."""
    changed = False
    for node in p.nodes(work.graph):
        if not p.is_dequantize(node):
            continue
        readers = p.edges(node.output)
        own = [(user, i) for user, i in readers if user.graph is work.graph]
        keep = len(own) == len(readers) and not node.output.is_output
        for user, i in own[1:] if keep else (own if len(readers) + p.returned(node) > 1 else []):
            copy = Node(node.op, node.inputs, dict(node.attrs), domain=node.domain)
            copy.output.type = node.output.type
            work.graph.insert_after(node, copy)
            user.set_input(i, copy.output)
            changed = True
    return changed
