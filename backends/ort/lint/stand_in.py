"""Float operands that ONNX Runtime 1.31 quantizes by itself between pairs: weights, biases, a side of Where.

Sources, by file of the runtime: ``weight_bias_quantization.cc``, ``where_dummy_dq.cc``.
"""

from __future__ import annotations

import numpy as np

from ....ir.constants import Constant, SplatConstant
from ....ir.dtypes import DType
from ....ir.graph import Graph, Node, Value
from ... import pairs as p
from .work import Work

_BIASED = ("Conv", "ConvTranspose", "Gemm")


def quantize_weights(work: Work) -> bool:
    """Float weights and biases of Conv, ConvTranspose and Gemm between pairs are quantized by the runtime itself."""
    changed = False
    for node in p.nodes(work.graph):
        if node.domain == "" and node.op in _BIASED and _between_pairs(node):
            changed |= _quantize_operands(work.graph, node)
    return changed


def _between_pairs(node: Node) -> bool:
    source = node.input(0)
    first = source.producer if source is not None else None
    if not p.is_dequantize(first) or not p.is_scalar(first.input(p.SCALE)):
        return False
    current = node
    while True:
        readers = p.out_edges(current)
        if len(current.outputs) != 1 or len(readers) != 1 or readers[0][0].graph is not node.graph:
            return False
        if p.is_quantize(readers[0][0]):
            return True
        current = readers[0][0]
        if current.op not in ("Relu", "Clip"):
            return False


def _quantize_operands(graph: Graph, node: Node) -> bool:
    weight, bias = node.inputs[1], node.input(2)
    assert weight is not None
    dq = weight.producer
    if not p.is_dequantize(dq) and (weight.data is None or weight.dtype is not DType.F32):
        return False
    if bias is not None and (bias.data is None or bias.rank != 1):
        return False
    if p.is_dequantize(dq) and (bias is None or not _axis_fits(node, dq, bias)):
        return False
    if not p.is_dequantize(dq):
        scale, zero = p.constant(graph, np.float32(1)), p.constant(graph, np.int8(0))
        node.set_input(1, _stand_in(graph, node, weight, DType.I8, [scale, zero]))
    if bias is not None:
        scales = [dq.inputs[p.SCALE] for dq in p.dequantizers(node)[:2]]
        if any(v is None or v.data is None for v in scales):
            return True
        known = [v.numpy() for v in scales if v is not None]
        node.set_input(2, _stand_in(graph, node, bias, DType.I32, [p.constant(graph, known[0] * known[1])]))
    return True


def _axis_fits(node: Node, dq: Node, bias: Value) -> bool:
    """Whether the weight's scales are one, or one for each element of the bias along the right axis."""
    scale, weight = dq.input(p.SCALE), dq.input(0)
    if p.is_scalar(scale):
        return True
    if scale is None or weight is None or scale.rank != 1 or scale.shape != bias.shape or dq.attr("block_size", 0):
        return False
    axis = int(dq.attr("axis", 1))
    axis = axis + (weight.rank or 0) if axis < 0 else axis
    return axis == (1 if node.op == "Gemm" and not node.attr("transB", 0) else 0)


def _stand_in(graph: Graph, node: Node, value: Value, dtype: DType, parameters: list[Value]) -> Value:
    tensor = value.tensor
    assert tensor is not None
    assert value.data is not None
    made = Node("DequantizeLinear", [_typed(graph, value.data, dtype), *parameters])
    made.output.type = tensor
    graph.insert_before(node, made)
    return made.output


def _typed(graph: Graph, data: Constant, dtype: DType) -> Value:
    return graph.add_constant(SplatConstant(0, dtype, data.shape))


def fill_where(work: Work) -> bool:
    """A constant scalar beside a DequantizeLinear of Where gets one too."""
    changed = False
    for node in p.nodes(work.graph):
        i = _bare_side(node)
        if i is None:
            continue
        other = node.inputs[3 - i]
        dq = other.producer if other is not None else None
        behind = p.only_reader(node)
        if not p.is_dequantize(dq) or not p.is_quantize(behind) or p.stored(dq) is not p.stored(behind):
            continue
        dtype, value = p.stored(dq), node.inputs[i]
        if dtype is None or value is None or value.data is None or len(dq.inputs) < 3 or value.dtype is not DType.F32:
            continue
        zero = dq.inputs[p.ZERO]
        assert zero is not None
        node.set_input(i, _stand_in(work.graph, node, value, dtype, [p.constant(work.graph, np.float32(1)), zero]))
        changed = True
    return changed


def _bare_side(node: Node) -> int | None:
    if node.op != "Where" or node.domain != "" or len(p.dequantizers(node)) != 1:
        return None
    for i in (1, 2):
        value = node.inputs[i]
        if value is not None and value.data is not None and value.rank == 0:
            return i
    return None
