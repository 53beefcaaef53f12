"""Type rules of normalizations with statistics among their results, and of quantization."""

from __future__ import annotations

from ..dims import Shape
from ..dtypes import DType
from ..graph import Node
from ..types import TensorType, Type
from .elementwise import dtype_attr
from .rules import Types, axis_of, dtype_of, fail, int_attr, present, row, shape_of, tensor, version


@row("BatchNormalization")
def batch_normalization(node: Node) -> Types:
    """Statistics, where asked for, have one element a channel. Source: versions 1, 6, 7, 9, 14, 15."""
    x = tensor(node, 0)
    per_channel = shape_of(node, 1)
    if x is not None and x.shape is not None:
        if len(x.shape) > 1 and per_channel is not None and len(per_channel) == 1:
            channels, found = x.shape[1], per_channel[0]
            if type(channels) is int and type(found) is int and channels != found:
                fail(node, f"scale has {found} elements, expected {channels} (channels of the data)")
        if per_channel is None:
            per_channel = (x.shape[1],) if len(x.shape) > 1 else (1,)
    dtype = dtype_of(node, 3) if version(node) >= 14 else x.dtype if x is not None else None
    statistics: list[Type | None] = [TensorType(dtype, per_channel)] * (len(node.outputs) - 1)
    return [x, *statistics]


@row("LayerNormalization")
def layer_normalization(node: Node) -> Types:
    """Mean and inverse deviation keep the normalized axes as 1, in the type of the computation."""
    x = tensor(node, 0)
    stash = dtype_attr(node, "stash_type", DType.F32)
    shape: Shape | None = None
    if x is not None and x.shape is not None:
        at = axis_of(node, int_attr(node, "axis", -1), len(x.shape))
        shape = x.shape[:at] + (1,) * (len(x.shape) - at)
    statistics = TensorType(stash, shape)
    return [x, statistics, statistics]


@row("RMSNormalization")
def rms_normalization(node: Node) -> Types:
    return [TensorType(dtype_of(node, 1), shape_of(node, 0))]


@row("QuantizeLinear")
def quantize(node: Node) -> Types:
    dtype = dtype_of(node, 2) if present(node, 2) else dtype_attr(node, "output_dtype", DType.U8)
    return [TensorType(dtype, shape_of(node, 0))]


@row("DequantizeLinear")
def dequantize(node: Node) -> Types:
    """The scale's type is the result's, unless stated."""
    default = dtype_of(node, 1) if version(node) >= 19 else DType.F32
    return [TensorType(dtype_attr(node, "output_dtype", default), shape_of(node, 0))]


@row("DynamicQuantizeLinear")
def dynamic_quantize(node: Node) -> Types:
    return [TensorType(DType.U8, shape_of(node, 0)), TensorType(DType.F32, ()), TensorType(DType.U8, ())]
