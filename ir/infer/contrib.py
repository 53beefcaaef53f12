"""Type rules of ONNX Runtime's own operators (``com.microsoft``) that have CPU kernels, without attention."""

from __future__ import annotations

from ..dims import Dim, Shape, add
from ..dtypes import BY_CODE, DType
from ..graph import Node
from ..schema import schema
from ..types import TensorType, Type
from .convolution import conv, convolved, pool, pooled
from .elementwise import like_first
from .indexing import gather_nd
from .linear import gemm, multiplied
from .movement import pad
from .rules import (
    Types,
    axes_of,
    axis_of,
    broadcast,
    dtype_of,
    elements,
    equal_dim,
    fail,
    int_attr,
    present,
    row,
    shape_of,
    tensor,
)

MS = "com.microsoft"
row(
    *"Gelu BiasGelu FastGelu QuickGelu BiasSoftmax BiasAdd Inverse GroupNorm Trilu SampleOp ScaledSiLU "
    "QLinearLeakyRelu QLinearSigmoid QLinearSoftmax".split(),
    domain=MS,
)(like_first)
row("FusedConv", domain=MS)(conv)
row("FusedGemm", domain=MS)(gemm)
row("MaxpoolWithMask", domain=MS)(pool)
row("GatherND", domain=MS)(gather_nd)
row("Pad", domain=MS)(pad)


# -- products


@row("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", domain=MS)
def fused_matmul(node: Node) -> Types:
    if node.attrs.get("transBatchA", 0) or node.attrs.get("transBatchB", 0):
        return [TensorType(dtype_of(node, 0))]
    shapes = [shape_of(node, 0), shape_of(node, 1)]
    for i, name in enumerate(("transA", "transB")):
        s = shapes[i]
        if node.attrs.get(name, 0) and s is not None and len(s) > 1:
            shapes[i] = (*s[:-2], s[-1], s[-2])
    return [TensorType(dtype_of(node, 0), multiplied(node, shapes[0], shapes[1]))]


@row("MatMulNBits", "MatMulBnb4", domain=MS)
def matmul_n_bits(node: Node) -> Types:
    """Data ``[..., K]``, result ``[..., N]``; the weight's shape depends on its packing."""
    x = tensor(node, 0)
    if x is None or not x.shape:
        return [x]
    if node.op == "MatMulBnb4" and not node.attrs.get("transB", 1):
        return [TensorType(x.dtype, (None,) * len(x.shape))]
    equal_dim(node, x.shape[-1], int_attr(node, "K", 0), "inner extent and K")
    return [TensorType(x.dtype, (*x.shape[:-1], int_attr(node, "N", 0)))]


@row("DynamicQuantizeMatMul", "MatMulIntegerToFloat", domain=MS)
def matmul_to_float(node: Node) -> Types:
    return [TensorType(dtype_of(node, 2), multiplied(node, shape_of(node, 0), shape_of(node, 1)))]


@row("MatMulInteger16", domain=MS)
def matmul_integer16(node: Node) -> Types:
    return [TensorType(DType.I32, multiplied(node, shape_of(node, 0), shape_of(node, 1)))]


@row("QGemm", domain=MS)
def qgemm(node: Node) -> Types:
    """Operands a, scale, zero point, b, scale, zero point, c, y scale, y zero point (absent: a float result)."""
    a, b = shape_of(node, 0), shape_of(node, 3)
    rows: Dim = a[int(bool(node.attrs.get("transA", 0)))] if a is not None and len(a) == 2 else None
    columns: Dim = b[int(not node.attrs.get("transB", 0))] if b is not None and len(b) == 2 else None
    return [TensorType(dtype_of(node, 8) if present(node, 8) else DType.F32, (rows, columns))]


@row("DynamicQuantizeLSTM", domain=MS)
def quantized_lstm(node: Node) -> Types:
    x = tensor(node, 0)
    hidden = int_attr(node, "hidden_size", 0) or None
    directions = 2 if node.attrs.get("direction", "forward") == "bidirectional" else 1
    steps, batch = x.shape[:2] if x is not None and x.shape is not None and len(x.shape) == 3 else (None, None)
    state = TensorType(DType.F32, (directions, batch, hidden))
    return [TensorType(DType.F32, (steps, directions, batch, hidden)), state, state]


# -- windows


def _to_channels_first(shape: Shape | None) -> Shape | None:
    return None if shape is None else (shape[0], shape[-1], *shape[1:-1])


def _to_channels_last(shape: Shape | None) -> Shape | None:
    return None if shape is None else (shape[0], *shape[2:], shape[1])


@row("QLinearConv", domain=MS)
def qlinear_conv(node: Node) -> Types:
    """As in the standard; ``channels_last`` concerns data and result, never the weight."""
    x, w = shape_of(node, 0), shape_of(node, 3)
    if not node.attrs.get("channels_last", 0):
        return [TensorType(dtype_of(node, 7), convolved(node, x, w))]
    return [TensorType(dtype_of(node, 7), _to_channels_last(convolved(node, _to_channels_first(x), w)))]


@row("NhwcMaxPool", domain=MS)
def nhwc_max_pool(node: Node) -> Types:
    return [TensorType(dtype_of(node, 0), _to_channels_last(pooled(node, _to_channels_first(shape_of(node, 0)))))]


@row("QLinearAveragePool", domain=MS)
def qlinear_average_pool(node: Node) -> Types:
    return nhwc_max_pool(node) if node.attrs.get("channels_last", 0) else pool(node)


@row("QLinearGlobalAveragePool", domain=MS)
def qlinear_global_average_pool(node: Node) -> Types:
    dtype, shape = dtype_of(node, 0), shape_of(node, 0)
    if shape is None or len(shape) < 3:
        return [TensorType(dtype)]
    ones = (1,) * (len(shape) - 2)
    last = node.attrs.get("channels_last", 0)
    return [TensorType(dtype, (shape[0], *ones, shape[-1]) if last else (*shape[:2], *ones))]


# -- elementwise and movement


@row("QLinearAdd", "QLinearMul", domain=MS)
def qlinear_binary(node: Node) -> Types:
    """Operands a, scale, zero point, b, scale, zero point, c scale, c zero point."""
    return [TensorType(dtype_of(node, 0), broadcast(node, shape_of(node, 0), shape_of(node, 3)))]


@row("QLinearWhere", domain=MS)
def qlinear_where(node: Node) -> Types:
    chosen = broadcast(node, shape_of(node, 1), shape_of(node, 4))
    return [TensorType(dtype_of(node, 1), broadcast(node, shape_of(node, 0), chosen))]


@row("QLinearConcat", domain=MS)
def qlinear_concat(node: Node) -> Types:
    """Operands y scale, y zero point, then data, scale, zero point of each part."""
    dtype = dtype_of(node, 1)
    parts = [shape_of(node, i) for i in range(2, len(node.inputs), 3)]
    known = [s for s in parts if s is not None]
    if len(known) != len(parts) or not known:
        return [TensorType(dtype)]
    rank = len(known[0])
    if any(len(s) != rank for s in known):
        fail(node, f"operands have ranks {[len(s) for s in known]}, expected equal ones")
    at = axis_of(node, int_attr(node, "axis", 0), rank)
    out: list[Dim] = list(known[0])
    for s in known[1:]:
        for i, d in enumerate(s):
            out[i] = add(out[i], d) if i == at else equal_dim(node, out[i], d, f"axis {i}")
    return [TensorType(dtype, tuple(out))]


@row("QuantizeLinear", domain=MS)
def quantize(node: Node) -> Types:
    return [TensorType(dtype_of(node, 2) if present(node, 2) else DType.U8, shape_of(node, 0))]


@row("DequantizeLinear", domain=MS)
def dequantize(node: Node) -> Types:
    return [TensorType(dtype_of(node, 1), shape_of(node, 0))]


@row("ExpandDims", domain=MS)
def expand_dims(node: Node) -> Types:
    dtype, shape, axis = dtype_of(node, 0), shape_of(node, 0), elements(node, 1)
    if shape is None:
        return [TensorType(dtype)]
    at = axes_of(node, axis, len(shape) + 1)
    if at is None or len(at) != 1:
        return [TensorType(dtype, (None,) * (len(shape) + 1))]
    return [TensorType(dtype, (*shape[: at[0]], 1, *shape[at[0] :]))]


@row("SimplifiedLayerNormalization")
def simplified_layer_normalization(node: Node) -> Types:
    """ONNX Runtime keeps it in the standard domain."""
    shape = shape_of(node, 0)
    stash = BY_CODE.get(int_attr(node, "stash_type", 1))
    reduced: Shape | None = None
    if shape is not None:
        at = axis_of(node, int_attr(node, "axis", -1), len(shape))
        reduced = shape[:at] + (1,) * (len(shape) - at)
    return [TensorType(dtype_of(node, 1), shape), TensorType(stash, reduced)]


# -- everything else that has a schema

_BY_ONNX_NAME = {d.numpy_name: d for d in DType} | {"float": DType.F32, "double": DType.F64, "string": DType.STRING}


def by_constraint(node: Node) -> Types:
    """Element types alone, from type variables that operands share with results; ``None`` without a schema."""
    found = schema(node.domain, node.op, node.version)
    if found is None:
        return None
    bound: dict[str, DType | None] = {}
    for i, formal in enumerate(found.inputs):
        if not formal.variadic and present(node, i):
            bound.setdefault(formal.constraint, dtype_of(node, i))
    out: list[Type | None] = []
    for formal in found.outputs[: len(node.outputs)]:
        dtype = bound.get(formal.constraint)
        if dtype is None and len(formal.types) == 1:
            dtype = _BY_ONNX_NAME.get(formal.types[0].removeprefix("tensor(").removesuffix(")"))
        tensors = all(t.startswith("tensor(") for t in formal.types)
        out.append(TensorType(dtype) if tensors and not formal.variadic else None)
    return out
