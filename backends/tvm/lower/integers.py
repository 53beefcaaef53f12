"""Quantized products: operators on dequantized operands, computed on the integers themselves.

    (DQ(x) conv DQ(w) + DQ(b))  =  s_x s_w (sum x w  -  z_x sum w  +  b)

The sum in brackets is exact in 32 bits; what follows (activation, quantization) goes into the write-back. Weights have
zero points 0, or 128 as unsigned bytes; the operand has one scale and one zero point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.constants import ArrayConstant
from ....ir.dtypes import DType
from ....ir.graph import Graph, Node, Value
from ....ir.types import TensorType
from .forms import Array

PRODUCTS = frozenset(("Conv", "MatMul", "Gemm"))


@dataclass(frozen=True)
class Integers:
    """The integers behind a product."""

    x: Value
    """8 bits."""
    scale: float
    zero_point: int
    weights: Array
    """int8, as the operator has them."""
    weight_scales: Array
    """[outputs] or [1]."""
    bias: Array | None
    """[outputs] float32."""

    @property
    def narrow(self) -> bool:
        """Whether pairs of products fit into 16 bits."""
        return bool(self.weights.min(initial=0) >= -64 and self.weights.max(initial=0) <= 63)


def integers_of(node: Node) -> Integers | None:
    """What the node is on integers, or nothing where it is a product of floats."""
    if node.op not in PRODUCTS or node.domain or len(node.inputs) < 2:
        return None
    x, w = (_dequantizer(v) for v in node.inputs[:2])
    if x is None or w is None or x.inputs[0] is None or x.inputs[0].data is not None:
        return None
    scale, zero = constant_of(x.inputs[1]), zero_point_of(x)
    if scale is None or zero is None or scale.size != 1 or x.inputs[0].dtype is None:
        return None
    if x.inputs[0].dtype.numpy_name not in ("uint8", "int8"):
        return None
    found = _weights(node, w)
    bias = _bias(node)
    if found is None or (bias is None and node.input(2) is not None):
        return None
    if node.op == "Gemm" and (float(node.attr("alpha", 1)) != 1 or float(node.attr("beta", 1)) != 1):
        return None
    if node.op == "Gemm" and node.attr("transA", 0):
        return None
    return Integers(x.inputs[0], float(scale.reshape(())), int(zero.reshape(())), *found, bias)


def _dequantizer(value: Value | None) -> Node | None:
    node = value.producer if value is not None else None
    return node if node is not None and node.op == "DequantizeLinear" and not node.attr("block_size", 0) else None


def constant_of(value: Value | None) -> Array | None:
    """The numbers of a constant."""
    return None if value is None or value.data is None else value.data.numpy()


def zero_point_of(node: Node) -> Array | None:
    """Of a dequantizer, where it is constant; 0 where it has none."""
    return np.zeros((), np.int32) if node.input(2) is None else constant_of(node.inputs[2])


def _weights(node: Node, dequantizer: Node) -> tuple[Array, Array] | None:
    """int8 weights and their scales along the outputs."""
    q, scales, zero = constant_of(dequantizer.inputs[0]), constant_of(dequantizer.inputs[1]), zero_point_of(dequantizer)
    if q is None or scales is None or zero is None or q.dtype not in (np.int8, np.uint8):
        return None
    if q.dtype == np.uint8:
        q, zero = (q.astype(np.int16) - 128).astype(np.int8), zero.astype(np.int32) - 128
    if np.any(zero != 0):
        return None
    axis = 0 if node.op == "Conv" or (node.op == "Gemm" and node.attr("transB", 0)) else q.ndim - 1
    if scales.size > 1 and int(dequantizer.attr("axis", 1)) % q.ndim != axis:
        return None
    if node.op != "Conv" and q.ndim != 2:
        return None
    return q, np.ascontiguousarray(scales.reshape(-1).astype(np.float32))


def _bias(node: Node) -> Array | None:
    """A constant bias per output, dequantized."""
    value = node.input(2)
    if value is None:
        return None
    source = _dequantizer(value)
    if source is None:
        found = constant_of(value)
    else:
        q, scale, zero = constant_of(source.inputs[0]), constant_of(source.inputs[1]), zero_point_of(source)
        if q is None or scale is None or zero is None:
            return None
        found = (q.astype(np.float64) - zero) * scale.astype(np.float64)
    return None if found is None or found.ndim > 1 else np.ascontiguousarray(found.astype(np.float32))


def expand_linear(graph: Graph) -> None:
    """QLinearConv and QLinearMatMul as what they mean: dequantizers, a product, a quantizer."""
    for node in list(graph):
        if node.op not in ("QLinearConv", "QLinearMatMul") or node.domain:
            continue
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs[:8]
        fixed = [constant_of(v) for v in (x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero)]
        if x is None or w is None or any(array is None for array in fixed):
            continue
        of_x, of_w = fixed[0], fixed[3]
        if of_x is None or of_w is None or of_x.size != 1 or of_x.dtype != np.float32:
            continue
        axis = 0 if node.op == "QLinearConv" else len(w.shape or ()) - 1
        operands = [_float(graph, node, [x, x_scale, x_zero], 1), _float(graph, node, [w, w_scale, w_zero], axis)]
        bias = node.input(8)
        if bias is not None:
            scale = graph.add_constant(ArrayConstant((of_x.reshape(()) * of_w.reshape(-1)).astype(np.float32)))
            operands.append(_float(graph, node, [bias, scale], 0))
        product = Node(node.op.removeprefix("QLinear"), operands, dict(node.attrs), name=node.name)
        graph.insert_before(node, product)
        product.output.type = TensorType(DType.F32, node.output.shape)
        made = Node("QuantizeLinear", [product.output, y_scale, y_zero], outputs=[node.output.name])
        graph.insert_before(node, made)
        made.output.type = node.output.type
        for user, i in list(node.output.uses):
            user.set_input(i, made.output)
        node.erase()


def _float(graph: Graph, before: Node, operands: list[Value | None], axis: int) -> Value:
    """Dequantized."""
    node = Node("DequantizeLinear", operands, {"axis": axis})
    graph.insert_before(before, node)
    source = operands[0]
    node.output.type = TensorType(DType.F32, None if source is None else source.shape)
    return node.output


def split_transposed(graph: Graph) -> None:
    """Transposed convolutions whose windows do not overlap as pointwise ones and a movement of their channels."""
    for node in list(graph):
        x, w, bias = node.input(0), node.input(1), node.input(2)
        if node.op != "ConvTranspose" or node.domain or x is None or w is None or w.data is None:
            continue
        array = w.data.numpy()
        k = array.shape[2:]
        attrs: dict[str, Any] = dict(node.attrs)
        same = len(k) == 2 and k[0] == k[1] and tuple(attrs.get("strides", ())) == k
        plain = not any(np.any(attrs.get(name, 0)) for name in ("pads", "output_padding", "output_shape"))
        plain = plain and node.attr("auto_pad", "NOTSET") in ("NOTSET", b"NOTSET") and int(node.attr("group", 1)) == 1
        if not (same and plain) or np.any(np.asarray(attrs.get("dilations", 1)) != 1) or x.shape is None:
            continue
        if bias is not None and bias.data is None:
            continue
        block = int(k[0])
        weights = array.transpose(1, 2, 3, 0).reshape(-1, array.shape[0], 1, 1)
        operands = [x, graph.add_constant(ArrayConstant(np.ascontiguousarray(weights)))]
        if bias is not None and bias.data is not None:
            operands.append(graph.add_constant(ArrayConstant(np.repeat(bias.data.numpy(), block * block))))
        conv = Node("Conv", operands, name=node.name)
        graph.insert_before(node, conv)
        n, _, h, width = x.shape
        conv.output.type = TensorType(x.dtype, (n, weights.shape[0], h, width))
        moved = Node("DepthToSpace", [conv.output], {"blocksize": block, "mode": "CRD"}, outputs=[node.output.name])
        graph.insert_before(node, moved)
        moved.output.type = node.output.type
        for user, i in list(node.output.uses):
            user.set_input(i, moved.output)
        node.erase()


def prepare(graph: Graph, *, split: bool) -> None:
    """Readies a graph for groups: dequantizers of several readers become one each; results of the graph stay.
    ``split``: transposed convolutions have no kernel of their own."""
    if split:
        split_transposed(graph)
    for node in list(graph):
        if node.op == "DequantizeLinear" and node.domain == "":
            for user, i in sorted(node.output.uses, key=lambda use: not use[0].is_return)[1:]:
                copy = Node(node.op, list(node.inputs), dict(node.attrs), name=node.name)
                graph.insert_before(node, copy)
                copy.output.type = node.output.type
                user.set_input(i, copy.output)


def fold_dequantizers(graph: Graph, kept: Callable[[Node], bool]) -> None:
    """Constant dequantizers as the floats that they give, but for those of products that are ``kept``."""
    for node in list(graph):
        if node.op != "DequantizeLinear" or node.domain or node.output in graph.outputs:
            continue
        q, scale, zero = constant_of(node.inputs[0]), constant_of(node.inputs[1]), zero_point_of(node)
        if q is None or scale is None or zero is None or scale.dtype != np.float32:
            continue
        if any(kept(user) for user, _ in node.output.uses):
            continue
        scales = _spread_over(scale, q.shape, int(node.attr("axis", 1)), int(node.attr("block_size", 0) or 0))
        zeros = np.broadcast_to(zero, scale.shape) if zero.size != scale.size else zero.reshape(scale.shape)
        offsets = _spread_over(zeros, q.shape, int(node.attr("axis", 1)), int(node.attr("block_size", 0) or 0))
        floats = (q.astype(np.float32) - offsets.astype(np.float32)) * scales
        made = graph.add_constant(ArrayConstant(np.ascontiguousarray(floats)), node.output.name)
        for user, i in list(node.output.uses):
            user.set_input(i, made)
        node.erase()


def _spread_over(numbers: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """One number for all, one along an axis, or one for each block along it, so that it broadcasts to the shape."""
    if numbers.size == 1:
        return numbers.reshape(())
    axis %= len(shape)
    if block:
        return np.repeat(numbers, block, axis)[tuple(slice(n) for n in shape)]
    return numbers.reshape([-1 if i == axis else 1 for i in range(len(shape))])
