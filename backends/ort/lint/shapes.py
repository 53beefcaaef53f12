"""Bias sums that become Gemm, and shapes that become constants, as ONNX Runtime 1.31 does it.

Sources, by file of the runtime: ``matmul_add_fusion.cc``, ``reshape_fusion.cc``.
"""

from __future__ import annotations

import numpy as np

from ....ir.dtypes import DType
from ....ir.graph import Node, Value
from ... import pairs as p
from .work import Work


def fuse_bias(work: Work) -> bool:
    """MatMul and Add become Gemm, with Reshape nodes around it where the left operand is no matrix."""
    changed = False
    for node in p.nodes(work.graph):
        add = p.only_reader(node) if node.op == "MatMul" and node.domain == "" else None
        if add is None or add.op != "Add" or add.domain != "":
            continue
        a, b = node.inputs[0], node.inputs[1]
        bias = add.inputs[1] if add.inputs[0] is node.output else add.inputs[0]
        if a is not None and b is not None and bias is not None and _gemm_takes(a, b, bias):
            _make_gemm(work, node, add, bias, flat=a.rank != 2)
            changed = True
    return changed


def _gemm_takes(a: Value, b: Value, bias: Value) -> bool:
    if a.dtype not in (DType.F32, DType.F16, DType.BF16) or bias.dtype is not a.dtype or b.rank != 2:
        return False
    left, right, shape = a.shape, b.shape, bias.shape
    if left is None or right is None or shape is None:
        return False
    flat = len(left) != 2
    if flat and not (all(isinstance(d, int) for d in (*left, *right))):
        return False
    n = right[1]
    if len(shape) == 1:
        return n is not None and shape[0] == n
    if flat or len(shape) != 2 or n is None:
        return False
    return (shape[0] == 1 and shape[1] == n) or (shape[0] == left[0] and left[0] is not None and shape[1] in (1, n))


def _make_gemm(work: Work, node: Node, add: Node, bias: Value, *, flat: bool) -> None:
    graph = work.graph
    gemm = Node("Gemm", [node.inputs[0], node.inputs[1], bias], name=f"{node.name}/MatMulAddFusion")
    graph.insert_before(add, gemm)
    result = gemm.output
    if flat:
        before = Node("Reshape", [node.inputs[0], p.constant(graph, np.array([-1], np.int64))])
        after = Node("Reshape", [gemm.output, p.constant(graph, np.array([-1], np.int64))])
        graph.insert_before(gemm, before)
        graph.insert_after(gemm, after)
        gemm.set_input(0, before.output)
        result = after.output
    result.type, gemm.output.type = add.output.type, gemm.output.type or node.output.type
    add.output.replace_uses(result)
    work.origin[gemm] = work.origin.get(node, node)
    if add in work.origin:
        work.gone[work.origin[add]] = f"with {node.name or node.op} in front of it it is one Gemm"
    for old in (add, node):
        old.erase()


def fuse_reshape(work: Work) -> bool:
    """A Reshape whose shape is a Concat of extents of its operand, numbers and at most one other: a constant shape."""
    changed = False
    for node in p.nodes(work.graph):
        shape = node.input(1) if node.op == "Reshape" and node.domain == "" else None
        concat = shape.producer if shape is not None else None
        if concat is None or concat.op != "Concat" or not p.has_edges(concat, 1) or not _known_shape(node, concat):
            continue
        node.set_input(1, p.constant(work.graph, np.array([0, -1], np.int64)))
        _drop_unread(work, concat, "the shape is made constant")
        changed = True
    return changed


def _known_shape(reshape: Node, concat: Node) -> bool:
    position = open_extents = 0
    for value in concat.inputs:
        if value is None:
            return False
        if value.data is not None:
            position += value.data.count
            open_extents += int((value.numpy() == -1).sum())
            continue
        if value.shape != (1,):
            return False
        open_extents += not _is_extent(value, position, reshape.inputs[0])
        position += 1
    return open_extents <= 1


def _is_extent(value: Value, position: int, of: Value | None) -> bool:
    """Whether ``value`` is Unsqueeze(Gather(Shape(of), position))."""
    gather = p.producer_of(value, "Unsqueeze")
    gather = p.producer_of(gather.inputs[0], "Gather") if gather is not None else None
    shape = p.producer_of(gather.inputs[0], "Shape") if gather is not None else None
    if gather is None or shape is None or shape.inputs[0] is not of:
        return False
    return p.constant_scalar(gather, 1) and int(p.number(gather, 1)) == position


def _drop_unread(work: Work, node: Node, why: str) -> None:
    """Removes ``node`` and what only it needed."""
    todo = [node]
    while todo:
        node = todo.pop()
        if node.erased or any(v.uses for v in node.outputs):
            continue
        todo.extend(v.producer for v in node.inputs if v is not None and v.producer is not None)
        work.drop(node, why)
        node.erase()
