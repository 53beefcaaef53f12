"""Contrib operators on quantized data, in standard operators: dequantize, compute, quantize.

A kernel that works on integers rounds once where this rounds in float32, so that results may differ by one step.
Source: the registry's schemas of ONNX Runtime 1.31; compared with its CPU kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .emit import CONTRIB
from .equations import Equation, Results, extent, operand, rank_of, require

_F32 = DType.F32.code


def _scalar(r: Rewriter, v: Value) -> Value:
    """A scale or zero point of one number as a scalar: ONNX takes a vector for one number a channel."""
    if v.rank == 0 or (v.rank == 1 and extent(v, 0) != 1):
        return v
    return r.Reshape(v, np.array([], np.int64)) if v.data is None else r.const(v.numpy().reshape(()))


def _real(r: Rewriter, node: Node, i: int, *, axis: int | None = None) -> Any:
    """Operand ``i`` with the scale and zero point behind it, as floats."""
    scale, zero = _scalar(r, operand(node, i + 1)), node.input(i + 2)
    return _dequantized(r, operand(node, i), scale, None if zero is None else _scalar(r, zero), axis)


def _dequantized(r: Rewriter, x: Value, scale: Value, zero: Value | None, axis: int | None = None) -> Any:
    attrs: dict[str, Any] = {} if axis is None or scale.rank == 0 else {"axis": axis}
    return r.op("DequantizeLinear", x, scale, *([] if zero is None else [zero]), **attrs)


def _quantized(r: Rewriter, node: Node, y: Value, scale: int, like: Value) -> Any:
    """``y`` in the integers of ``like``; operands ``scale`` and the next say how."""
    zero = node.input(scale + 1)
    assert like.dtype is not None
    offset = _scalar(r, zero) if zero is not None else r.const(0, like.dtype)
    return r.QuantizeLinear(y, _scalar(r, operand(node, scale)), offset)


def _unary(make: Callable[[Rewriter, Node, Value], Any]) -> Equation:
    """Operands x, scale, zero point, y scale, y zero point."""

    def equation(r: Rewriter, node: Node) -> Results:
        require(r, node)
        return [_quantized(r, node, make(r, node, _real(r, node, 0)), 3, operand(node, 0))]

    return equation


def _binary(op: str) -> Equation:
    """Operands a, scale, zero point, b, scale, zero point, y scale, y zero point."""

    def equation(r: Rewriter, node: Node) -> Results:
        require(r, node)
        y: Value = r.op(op, _real(r, node, 0), _real(r, node, 3))
        return [_quantized(r, node, y, 6, operand(node, 0))]

    return equation


def _where(r: Rewriter, node: Node) -> Results:
    require(r, node)
    y = r.Where(operand(node, 0), _real(r, node, 1), _real(r, node, 4))
    return [_quantized(r, node, y, 7, operand(node, 1))]


def _concat(r: Rewriter, node: Node) -> Results:
    require(r, node)
    parts = [_real(r, node, i) for i in range(2, len(node.inputs), 3)]
    y = r.op("Concat", *parts, axis=int(node.attr("axis")))
    return [_quantized(r, node, y, 0, operand(node, 2))]


def _softmax(r: Rewriter, node: Node, x: Value) -> Any:
    if node.attr("opset", 13) < 13 and node.attr("axis", -1) not in (-1, rank_of(x) - 1):
        raise NoMatch("Softmax as of opset 12 over several axes")
    return r.Softmax(x, axis=int(node.attr("axis", -1)))


def _sides(r: Rewriter, node: Node, x: Value, make: Callable[[Value], Any]) -> Any:
    """``make`` of the data with its channels first, whatever ``channels_last`` says."""
    if not node.attr("channels_last", 0):
        return make(x)
    rank = rank_of(x)
    y = make(r.Transpose(x, perm=(0, rank - 1, *range(1, rank - 1))))
    return r.Transpose(y, perm=(0, *range(2, rank), 1))


def _own(node: Node, *without: str) -> dict[str, Any]:
    return {k: v for k, v in node.attrs.items() if k not in without}


def _average_pool(r: Rewriter, node: Node, x: Value) -> Any:
    return _sides(r, node, x, lambda v: r.op("AveragePool", v, **_own(node, "channels_last")))


def _global_pool(r: Rewriter, node: Node, x: Value) -> Any:
    return _sides(r, node, x, r.GlobalAveragePool)


def _conv(r: Rewriter, node: Node) -> Results:
    """QLinearConv with its channels anywhere: the standard's has them first."""
    require(r, node)
    rest: list[Any] = [node.input(i) for i in range(1, len(node.inputs))]
    attrs = _own(node, "channels_last")
    return [_sides(r, node, operand(node, 0), lambda v: r.op("QLinearConv", v, *rest, **attrs))]


def _max_pool(r: Rewriter, node: Node) -> Results:
    """The standard's MaxPool takes 8-bit integers from opset 12 on."""
    require(r, node)
    x = operand(node, 0)
    rank = rank_of(x)
    y = r.op("MaxPool", r.Transpose(x, perm=(0, rank - 1, *range(1, rank - 1))), **_own(node))
    return [r.Transpose(y, perm=(0, *range(2, rank), 1))]


def _gemm(r: Rewriter, node: Node) -> Results:
    """Operands a, scale, zero point, b, scale, zero point, c, y scale, y zero point; c is an int32 at scale a * b."""
    require(r, node)
    if node.attr("transA", 0) and rank_of(operand(node, 0)) != 2:
        raise NoMatch("a of QGemm is no matrix")
    column = 0 if node.attr("transB", 0) else 1
    a, b = _real(r, node, 0), _real(r, node, 3, axis=column)
    alpha = float(node.attr("alpha", 1.0))
    y = r.Gemm(a, b, transA=int(node.attr("transA", 0)), transB=int(node.attr("transB", 0)), alpha=alpha)
    c = node.input(6)
    if c is not None:
        unit = r.Mul(_scalar(r, operand(node, 1)), _scalar(r, operand(node, 4)))
        unit = unit if alpha == 1 else r.Mul(unit, alpha)
        y = r.Add(y, r.Mul(r.Cast(c, to=_F32), unit))
    return [y if node.input(7) is None else _quantized(r, node, y, 7, operand(node, 0))]


def _matmul_to_float(r: Rewriter, node: Node) -> Results:
    """Operands a, b, a scale, b scale, a zero point, b zero point, bias; one number or one a column for b."""
    require(r, node)
    a, b, bias = operand(node, 0), operand(node, 1), node.input(6)
    zeros = [None if z is None else _scalar(r, z) for z in (node.input(4), node.input(5))]
    left = _dequantized(r, a, _scalar(r, operand(node, 2)), zeros[0])
    y = r.MatMul(left, _dequantized(r, b, _scalar(r, operand(node, 3)), zeros[1], rank_of(b) - 1))
    return [y if bias is None else r.Add(y, bias)]


def _dynamic_matmul(r: Rewriter, node: Node) -> Results:
    """Operands a (float), b, b scale, b zero point, bias: a is quantized by its own range, as DynamicQuantizeLinear."""
    require(r, node)
    x, b, zero, bias = operand(node, 0), operand(node, 1), node.input(3), node.input(4)
    a, scale, offset = r.op("DynamicQuantizeLinear", x, _outputs=3)
    product = r.MatMulInteger(a, b, offset, *([] if zero is None else [_scalar(r, zero)]))
    y = r.Mul(r.Cast(product, to=_F32), r.Mul(scale, _scalar(r, operand(node, 2))))
    return [y if bias is None else r.Add(y, bias)]


def _matmul_integer16(r: Rewriter, node: Node) -> Results:
    """Products of 16-bit integers, summed modulo 2^32."""
    require(r, node)
    a, b = (r.Cast(operand(node, i), to=DType.I32.code) for i in (0, 1))
    return [r.MatMul(a, b)]


def _quantize(r: Rewriter, node: Node) -> Results:
    return [r.op("QuantizeLinear", *_with_scalars(r, node), **_own(node))]


def _dequantize(r: Rewriter, node: Node) -> Results:
    return [r.op("DequantizeLinear", *_with_scalars(r, node), **_own(node))]


def _with_scalars(r: Rewriter, node: Node) -> list[Value]:
    require(r, node)
    dtype = (node.input(2) or node.output).dtype
    if r.opset() < 21 and dtype in (DType.U16, DType.I16, DType.U4, DType.I4):
        raise NoMatch(f"{node.op} of {dtype!r} needs opset 21, the model imports {r.opset()}")
    return [operand(node, 0), *(_scalar(r, v) for v in node.inputs[1:] if v is not None)]


# -- weights of a few bits


def _matmul_n_bits(r: Rewriter, node: Node) -> Results:
    """The weight unpacked and scaled (a constant of full size), then an ordinary product."""
    require(r, node, absent=(4,), weight_prepacked=0)
    x, bias = operand(node, 0), node.input(5)
    zeros = node.input(3)
    parts = [operand(node, 1), operand(node, 2), *([] if zeros is None else [zeros])]
    if any(p.data is None for p in parts):
        raise NoMatch("the weight of MatMulNBits is not constant")
    if int(node.attr("accuracy_level", 0)) >= 4:
        raise NoMatch("accuracy level 4 quantizes the data too, by blocks")
    weight = _unpacked_weight(node, [p.numpy() for p in parts])
    assert x.dtype is not None
    y = r.MatMul(x, r.const(np.ascontiguousarray(weight.T), x.dtype))
    return [y if bias is None else r.Add(y, bias)]


def _unpacked_weight(node: Node, parts: list[Any]) -> Any:
    """``[N, K]`` of a weight packed as ``[N, blocks, bytes]`` with scales ``[N, blocks]`` and zero points."""
    bits, block = int(node.attr("bits", 4)), int(node.attr("block_size"))
    k, n = int(node.attr("K")), int(node.attr("N"))
    if bits not in (2, 4, 8):
        raise NoMatch(f"{bits} bits a weight")
    blocks = -(-k // block)
    codes = _fields(parts[0].reshape(n, -1), bits).reshape(n, blocks, block).astype(np.float32)
    zero: Any = np.float32(1 << (bits - 1))
    if len(parts) == 3:
        packed = parts[2].dtype == np.uint8
        rows = _fields(parts[2].reshape(n, -1), bits)[:, :blocks] if packed else parts[2].reshape(n, blocks)
        zero = rows.astype(np.float32)[..., None]
    scales = parts[1].reshape(n, blocks).astype(np.float32)[..., None]
    return ((codes - zero) * scales).reshape(n, blocks * block)[:, :k]


def _fields(packed: Any, bits: int) -> Any:
    """The fields of each row of bytes, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(packed.shape[0], -1)


_FP4 = (0.0, 0.00520833333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
_FP4_CODES = np.array([*_FP4, *(-v for v in _FP4)], np.float32)
_NF4_CODES = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


def _matmul_bnb4(r: Rewriter, node: Node) -> Results:
    """Codes of the bitsandbytes formats, two in a byte (the first in the high bits), scaled by blocks."""
    require(r, node)
    x, packed, absmax = operand(node, 0), operand(node, 1), operand(node, 2)
    if packed.data is None or absmax.data is None:
        raise NoMatch("the weight of MatMulBnb4 is not constant")
    k, n, block = (int(node.attr(a)) for a in ("K", "N", "block_size"))
    raw = packed.numpy().reshape(-1)
    codes = np.stack([raw >> 4, raw & 15], -1).reshape(-1)[: n * k]
    table = _NF4_CODES if int(node.attr("quant_type")) == 1 else _FP4_CODES
    scales = np.repeat(absmax.numpy().reshape(-1).astype(np.float32), block)[: n * k]
    weight = (table[codes] * scales).reshape(n, k)
    if node.attr("transB", 1):
        weight = np.ascontiguousarray(weight.T)
    assert x.dtype is not None
    return [r.MatMul(x, r.const(weight, x.dtype))]


def _gather_blocks(r: Rewriter, node: Node) -> Results:
    """The table dequantized (a constant of full size), then an ordinary Gather."""
    require(r, node)
    parts = [node.input(i) for i in (0, 2, 3)]
    if any(p is not None and p.data is None for p in parts) or parts[0] is None or parts[1] is None:
        raise NoMatch("the table of GatherBlockQuantized is not constant")
    if parts[0].dtype not in (DType.U8, DType.U4, DType.I4):
        raise NoMatch(f"GatherBlockQuantized of {parts[0].dtype!r}")
    bits, block = int(node.attr("bits", 4)), int(node.attr("block_size", 128))
    table, scales, zeros = (None if p is None else p.numpy() for p in parts)
    assert table is not None
    assert scales is not None
    middle = 0
    if table.dtype == np.uint8:
        middle = 1 << (bits - 1)
        table = _wide_rows(table, bits)
        zeros = None if zeros is None else _wide_rows(zeros, bits)
    axis = int(node.attr("quantize_axis", 1))
    span = int(table.shape[axis])

    def each(x: Any) -> Any:
        return np.take(np.repeat(x.astype(np.float32), block, axis), range(span), axis)

    real = (table.astype(np.float32) - (middle if zeros is None else each(zeros))) * each(scales)
    assert parts[1].dtype is not None
    return [r.Gather(r.const(real, parts[1].dtype), operand(node, 1), axis=int(node.attr("gather_axis", 0)))]


def _wide_rows(packed: Any, bits: int) -> Any:
    return _fields(packed.reshape(-1, packed.shape[-1]), bits).reshape(*packed.shape[:-1], -1)


def _embed_norm(r: Rewriter, node: Node) -> Results:
    """EmbedLayerNormalization of dequantized tables."""
    require(r, node, opset=17)
    scales: list[Value | None] = []
    for i, (table, scale, zero) in enumerate([(2, 8, 13), (3, 9, 14), (4, 10, 15), (5, 11, 16), (6, 12, 17)]):
        x, z = node.input(table), node.input(zero)
        if x is None and i == 2:
            scales.append(None)
            continue
        by = _scalar(r, operand(node, scale))
        scales.append(_dequantized(r, operand(node, table), by, None if z is None else _scalar(r, z)))
    y = r.op(
        f"{CONTRIB}::EmbedLayerNormalization",
        operand(node, 0),
        node.input(1),
        *scales,
        *([] if node.input(7) is None else [node.input(7)]),
        epsilon=float(node.attr("epsilon", 1e-12)),
        _outputs=2,
    )
    return list(y)


def _attention(r: Rewriter, node: Node) -> Results:
    """QAttention: input, weight, bias, their scales, a mask, their zero points, a past."""
    require(r, node)
    zeros = [None if z is None else _scalar(r, z) for z in (node.input(6), node.input(7))]
    x = _dequantized(r, operand(node, 0), _scalar(r, operand(node, 3)), zeros[0])
    w = _dequantized(r, operand(node, 1), _scalar(r, operand(node, 4)), zeros[1], 1)
    rest = [operand(node, 2), node.input(5), node.input(8)]
    while rest and rest[-1] is None:
        rest.pop()
    y = r.op(f"{CONTRIB}::Attention", x, w, *rest, **_own(node), _outputs=len(node.outputs))
    return list(y) if isinstance(y, list) else [y]  # pyright: ignore[reportUnknownArgumentType]


def _leaky(r: Rewriter, node: Node, x: Value) -> Any:
    return r.LeakyRelu(x, alpha=float(node.attr("alpha", 0.01)))


QUANTIZED_EQUATIONS: dict[tuple[str, str], Equation] = {
    (CONTRIB, name): equation
    for name, equation in {
        "QLinearSigmoid": _unary(lambda r, node, x: r.Sigmoid(x)),
        "QLinearLeakyRelu": _unary(_leaky),
        "QLinearSoftmax": _unary(_softmax),
        "QLinearAveragePool": _unary(_average_pool),
        "QLinearGlobalAveragePool": _unary(_global_pool),
        "QLinearAdd": _binary("Add"),
        "QLinearMul": _binary("Mul"),
        "QLinearWhere": _where,
        "QLinearConcat": _concat,
        "QLinearConv": _conv,
        "NhwcMaxPool": _max_pool,
        "QGemm": _gemm,
        "MatMulIntegerToFloat": _matmul_to_float,
        "MatMulInteger16": _matmul_integer16,
        "DynamicQuantizeMatMul": _dynamic_matmul,
        "QuantizeLinear": _quantize,
        "DequantizeLinear": _dequantize,
        "MatMulNBits": _matmul_n_bits,
        "MatMulBnb4": _matmul_bnb4,
        "GatherBlockQuantized": _gather_blocks,
        "QEmbedLayerNormalization": _embed_norm,
        "QAttention": _attention,
    }.items()
}
