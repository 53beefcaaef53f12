"""Type rules of ONNX Runtime's fused operators: gates, branches, decoders, and those with CUDA kernels only.

Source: the registry's schemas of ONNX Runtime 1.31; checked against its CPU kernels where they exist.
"""

from __future__ import annotations

from ..dims import Dim, add, floordiv, mul
from ..dtypes import DType
from ..graph import Node
from ..types import TensorType, Type
from .attention import linear_attention
from .convolution import convolved, transposed
from .elementwise import like_first
from .indexing import range_
from .linear import multiplied
from .rules import Types, axis_of, broadcast, dtype_of, elements, fail, int_attr, present, row, shape_of, tensor

MS = "com.microsoft"
row(
    *"GatedRMSNorm BranchwiseRMSNorm HyperConnectionPostMix LongformerAttention DecoderMaskedSelfAttention "
    "QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention".split(),
    domain=MS,
)(like_first)


@row("GatedAdd", "BiasAdd", "ComplexMul", "ComplexMulConj", domain=MS)
def broadcast_pair(node: Node) -> Types:
    return [TensorType(dtype_of(node, 0), broadcast(node, shape_of(node, 0), shape_of(node, 1)))]


@row("HyperConnectionPreMix", domain=MS)
def pre_mix(node: Node) -> Types:
    """``[..., C, H]`` or ``[..., C * H]`` to ``[..., H]``."""
    x, count = tensor(node, 0), int_attr(node, "num_branches", 0)
    if x is None or x.shape is None or not x.shape:
        return [x]
    if not count:
        return [TensorType(x.dtype, (*x.shape[:-2], x.shape[-1]))]
    width = x.shape[-1]
    if isinstance(width, int) and width % count:
        fail(node, f"the last extent is {width}, expected a multiple of {count} branches")
    return [TensorType(x.dtype, (*x.shape[:-1], floordiv(width, count)))]


@row("EngramGate", domain=MS)
def engram_gate(node: Node) -> Types:
    return [tensor(node, 0), tensor(node, 0)]


@row("LinearAttentionGate", domain=MS)
def linear_attention_gate(node: Node) -> Types:
    return [tensor(node, 0), tensor(node, 3)]


@row("LinearAttention", domain=MS)
def windowed_linear_attention(node: Node) -> Types:
    """As the standard's, with states of several positions where ``state_window`` asks for them."""
    found = linear_attention(node)
    if found is None or not int_attr(node, "state_window", 0):
        return found
    state = found[1]
    return [found[0], TensorType(state.dtype) if isinstance(state, TensorType) else None]


@row("CausalConvWithState", domain=MS)
def causal_conv(node: Node) -> Types:
    """The state holds the last ``(k - 1) * dilation`` positions along the last spatial axis, or the first of several
    with the channels last."""
    x, w = tensor(node, 0), shape_of(node, 1)
    if x is None or x.shape is None:
        return [x, None]
    if w is None or len(w) < 3 or int_attr(node, "state_window", 0) or len(x.shape) < 3:
        return [x, TensorType(x.dtype)]
    width = mul(add(w[-1], -1), int_attr(node, "dilation", 1))
    if int_attr(node, "channels_last", 0):
        return [x, TensorType(x.dtype, (x.shape[0], width, *x.shape[2:]))]
    return [x, TensorType(x.dtype, (*x.shape[:-1], width))]


@row("QEmbedLayerNormalization", domain=MS)
def quantized_embedding(node: Node) -> Types:
    """Ids ``[B, S]``, word embedding ``[words, hidden]``; float results."""
    ids, table = shape_of(node, 0), shape_of(node, 2)
    if ids is not None and len(ids) != 2:
        fail(node, f"ids have rank {len(ids)}, expected 2")
    batch, steps = ids if ids is not None else (None, None)
    hidden = table[1] if table is not None and len(table) == 2 else None
    return [TensorType(DType.F32, (batch, steps, hidden)), TensorType(DType.I32, (batch,))]


@row("MatMulFpQ4", domain=MS)
def matmul_q4(node: Node) -> Types:
    """Operand 2 holds the shape of the packed weight."""
    x, shape = tensor(node, 0), elements(node, 2)
    if x is None or not x.shape:
        return [x]
    return [TensorType(x.dtype, (*x.shape[:-1], shape[1] if shape is not None and len(shape) == 2 else None))]


@row("GatherBlockQuantized", domain=MS)
def gather_block_quantized(node: Node) -> Types:
    """Bytes hold several elements along the last axis."""
    data, indices = tensor(node, 0), shape_of(node, 1)
    if data is None or data.shape is None or indices is None or not data.shape:
        return [TensorType(dtype_of(node, 2))]
    shape = data.shape
    bits = int_attr(node, "bits", 4)
    if data.dtype is DType.U8 and bits in (2, 4):
        shape = (*shape[:-1], mul(shape[-1], 8 // bits))
    axis = axis_of(node, int_attr(node, "gather_axis", 0), len(shape))
    return [TensorType(dtype_of(node, 2), (*shape[:axis], *indices, *shape[axis + 1 :]))]


@row("CDist", domain=MS)
def distances(node: Node) -> Types:
    """``[M, K]`` and ``[N, K]`` to ``[M, N]``."""
    a, b = shape_of(node, 0), shape_of(node, 1)
    if a is None or b is None or not len(a) == len(b) == 2:
        return [TensorType(dtype_of(node, 0))]
    return [TensorType(dtype_of(node, 0), (a[0], b[0]))]


@row("GridSample", domain=MS)
def grid_sample(node: Node) -> Types:
    """Data ``[N, C, H, W]``, grid ``[N, H', W', 2]``."""
    x, grid = shape_of(node, 0), shape_of(node, 1)
    if x is None or grid is None or not len(x) == len(grid) == 4:
        return [TensorType(dtype_of(node, 0))]
    return [TensorType(dtype_of(node, 0), (*x[:2], *grid[1:3]))]


@row("ConvTransposeWithDynamicPads", domain=MS)
def transposed_conv(node: Node) -> Types:
    """Operand 2 holds the pads."""
    if not present(node, 2):
        return transposed(node, None)
    return transposed(node, elements(node, 2) or ())


@row("Range", domain=MS)
def range_of(node: Node) -> Types:
    return range_(node) if present(node, 2) else [TensorType(dtype_of(node, 0), (None,))]


row("Affine", "ImageScaler", "ScaledTanh", "ParametricSoftplus")(like_first)


# -- with CUDA kernels only


@row("BiasDropout", domain=MS)
def bias_dropout(node: Node) -> Types:
    return [tensor(node, 0), TensorType(DType.BOOL, shape_of(node, 0))]


@row("SkipGroupNorm", domain=MS)
def skip_group_norm(node: Node) -> Types:
    return [tensor(node, 0), tensor(node, 0)]


@row("BiasSplitGelu", domain=MS)
def bias_split_gelu(node: Node) -> Types:
    x = tensor(node, 0)
    if x is None or not x.shape:
        return [x]
    return [TensorType(x.dtype, (*x.shape[:-1], floordiv(x.shape[-1], 2)))]


def _channels_second(shape: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
    return None if shape is None or len(shape) < 2 else (shape[0], shape[-1], *shape[1:-1])


@row("NhwcConv", domain=MS)
def nhwc_conv(node: Node) -> Types:
    """Data, weight and result have the channels last."""
    found = convolved(node, _channels_second(shape_of(node, 0)), _channels_second(shape_of(node, 1)))
    return [TensorType(dtype_of(node, 0), None if found is None else (found[0], *found[2:], found[1]))]


@row("NhwcFusedConv", domain=MS)
def nhwc_fused_conv(node: Node) -> Types:
    """Data and result have the channels last, the weight second."""
    found = convolved(node, _channels_second(shape_of(node, 0)), shape_of(node, 1))
    return [TensorType(dtype_of(node, 0), None if found is None else (found[0], *found[2:], found[1]))]


@row("GemmaRotaryEmbedding", domain=MS)
def gemma_rotary(node: Node) -> Types:
    return [tensor(node, 1), tensor(node, 3)]


@row("GemmFastGelu", "QOrderedMatMul", domain=MS)
def plain_product(node: Node) -> Types:
    b = 2 if node.op == "QOrderedMatMul" else 1
    return [TensorType(dtype_of(node, 0), multiplied(node, shape_of(node, 0), shape_of(node, b)))]


@row("RelativePositionBias", domain=MS)
def relative_position_bias(node: Node) -> Types:
    """``[1, heads, query length, key length]``; the lengths are values."""
    table, lengths = tensor(node, 0), (elements(node, 1), elements(node, 2))
    heads = table.shape[1] if table is not None and table.shape is not None and len(table.shape) == 2 else None
    sizes = [found[0] if found is not None and len(found) == 1 else None for found in lengths]
    return [TensorType(dtype_of(node, 0), (1, heads, *sizes))]


@row("GatedRelativePositionBias", domain=MS)
def gated_relative_position_bias(node: Node) -> Types:
    """``[B, heads, S, S]`` from a bias ``[1, heads, S, S]``."""
    query, bias = shape_of(node, 0), shape_of(node, 2)
    if bias is None or len(bias) != 4:
        return [TensorType(dtype_of(node, 0))]
    batch = query[0] if query is not None and not present(node, 6) else None
    return [TensorType(dtype_of(node, 0), (batch, *bias[1:]))]


@row("PackedAttention", domain=MS)
def packed_attention(node: Node) -> Types:
    """Rows ``[tokens, in]``, weight ``[in, 3 * hidden]``."""
    x, w = shape_of(node, 0), shape_of(node, 1)
    sizes = node.attrs.get("qkv_hidden_sizes")
    hidden: Dim = None
    if isinstance(sizes, tuple) and len(sizes) == 3 and isinstance(sizes[2], int):
        hidden = sizes[2]
    elif w is not None and len(w) == 2:
        hidden = floordiv(w[1], 3)
    return [TensorType(dtype_of(node, 0), (x[0] if x else None, hidden))]


@row("PackedMultiHeadAttention", domain=MS)
def packed_multi_head_attention(node: Node) -> Types:
    """Rows ``[tokens, hidden]``, or ``[tokens, heads, 3, size]`` with keys and values among them."""
    q, v = shape_of(node, 0), shape_of(node, 2)
    if q is not None and len(q) == 4:
        return [TensorType(dtype_of(node, 0), (q[0], mul(q[1], q[3])))]
    return [TensorType(dtype_of(node, 0), (q[0] if q else None, v[1] if v is not None and len(v) == 2 else None))]


@row("PagedAttention", domain=MS)
def paged_attention(node: Node) -> Types:
    """Rows ``[tokens, heads * size]``, or with keys and values behind them; the caches are handed on."""
    q, heads, kv_heads = shape_of(node, 0), int_attr(node, "num_heads", 0), int_attr(node, "kv_num_heads", 0)
    caches: list[Type | None] = [tensor(node, 3), tensor(node, 4)]
    if q is None or len(q) != 2 or heads <= 0 or kv_heads <= 0:
        return [TensorType(dtype_of(node, 0)), *caches]
    hidden = q[1] if present(node, 1) else mul(floordiv(q[1], heads + 2 * kv_heads), heads)
    return [TensorType(dtype_of(node, 0), (q[0], hidden)), *caches]


@row("RemovePadding", domain=MS)
def remove_padding(node: Node) -> Types:
    """``[B, S, hidden]`` to the rows that count, and where they were."""
    x = tensor(node, 0)
    shape = x.shape if x is not None else None
    if x is None or shape is None or len(shape) != 3:
        return [TensorType(dtype_of(node, 0)), *[TensorType(DType.I32)] * 3]
    return [
        TensorType(x.dtype, (None, shape[2])),
        TensorType(DType.I32, shape[:2]),
        TensorType(DType.I32, (add(shape[0], 1),)),
        TensorType(DType.I32, (1,)),
    ]


@row("RestorePadding", domain=MS)
def restore_padding(node: Node) -> Types:
    x, offsets = tensor(node, 0), shape_of(node, 1)
    if x is None or x.shape is None or len(x.shape) != 2 or offsets is None or len(offsets) != 2:
        return [TensorType(dtype_of(node, 0))]
    return [TensorType(x.dtype, (*offsets, x.shape[1]))]
