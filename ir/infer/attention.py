"""Type rules of attention and its companions, in the standard and in ONNX Runtime's domain."""

from __future__ import annotations

from ..dims import Dim, Shape, add, floordiv, mul
from ..dtypes import DType
from ..graph import Node
from ..types import TensorType, Type
from .elementwise import like_first
from .rules import Types, dtype_of, elements, equal_dim, fail, int_attr, ints_attr, present, row, shape_of, tensor

MS = "com.microsoft"
row("RotaryEmbedding", "GemmaRotaryEmbedding", "MRotaryEmbedding", "MoE", "QMoE", domain=MS)(like_first)
row("TensorScatter")(like_first)


def _heads(node: Node, i: int, attr: str) -> tuple[Dim, Dim, Dim, Dim] | None:
    """Batch, heads, steps and head size of operand ``i``, which is split into heads (rank 4) or packed (rank 3)."""
    shape = shape_of(node, i)
    if shape is None:
        return None
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    if len(shape) != 3:
        fail(node, f"operand {i} has rank {len(shape)}, expected 3 or 4")
    heads = int_attr(node, attr, 0)
    return shape[0], heads or None, shape[1], floordiv(shape[2], heads) if heads else None


@row("Attention")
def attention(node: Node) -> Types:
    """Results Y, present key, present value, QK. Source: Attention-23, 24."""
    dtype, value_dtype = dtype_of(node, 0), dtype_of(node, 2)
    q, k, v = _heads(node, 0, "q_num_heads"), _heads(node, 1, "kv_num_heads"), _heads(node, 2, "kv_num_heads")
    past = shape_of(node, 4)
    total: Dim = None
    if k is not None and (past is not None or not present(node, 4)):
        total = add(k[2], past[2]) if past is not None and len(past) == 4 else k[2] if past is None else None
    y: Shape | None = None
    if q is not None:
        batch, heads, steps, _ = q
        size = v[3] if v is not None else None
        y = (batch, heads, steps, size) if shape4(node, 0) else (batch, steps, mul(heads, size))
    keys = (k[0], k[1], total, k[3]) if k is not None else (None,) * 4
    values = (v[0], v[1], total, v[3]) if v is not None else (None,) * 4
    scores = (q[0], q[1], q[2], total) if q is not None else (None,) * 4
    return [
        TensorType(dtype, y),
        TensorType(dtype, keys),
        TensorType(value_dtype, values),
        TensorType(dtype, scores),
    ]


def shape4(node: Node, i: int) -> bool:
    """Whether operand ``i`` has rank 4."""
    shape = shape_of(node, i)
    return shape is not None and len(shape) == 4


def linear_attention(node: Node) -> Types:
    """Packed ``[B, T, H * D]``; the state is ``[B, H_kv, d_k, d_v]``. Source: LinearAttention-27."""
    q, k, v = shape_of(node, 0), shape_of(node, 1), shape_of(node, 2)
    heads, kv_heads = int_attr(node, "q_num_heads", 0), int_attr(node, "kv_num_heads", 0)
    if not heads or not kv_heads or any(s is not None and len(s) != 3 for s in (q, k, v)):
        return None
    key_size = floordiv(k[2], kv_heads) if k is not None else None
    value_size = floordiv(v[2], kv_heads) if v is not None else None
    batch, steps = (q[0], q[1]) if q is not None else (None, None)
    past = tensor(node, 3)
    state = past.dtype if past is not None else None if present(node, 3) else dtype_of(node, 0)
    return [
        TensorType(dtype_of(node, 0), (batch, steps, mul(value_size, heads))),
        TensorType(state, (batch, kv_heads, key_size, value_size)),
    ]


row("LinearAttention")(linear_attention)


@row("CausalConvWithState")
def causal_conv(node: Node) -> Types:
    """The state holds the last ``k - 1`` positions. Source: CausalConvWithState-27."""
    x, w = tensor(node, 0), shape_of(node, 1)
    if x is None or x.shape is None or len(x.shape) != 3:
        return [x, None]
    width = add(w[-1], -1) if w is not None and len(w) == 3 else None
    return [x, TensorType(x.dtype, (*x.shape[:2], width))]


# -- ONNX Runtime's


def _packed(node: Node, x: int, weight: int, before: int, dtype: DType | None) -> Types:
    """Attention with its projection: data ``[B, S, in]``, weight ``[in, q + k + v]``, result ``[B, S, v]``."""
    data, w = shape_of(node, x), shape_of(node, weight)
    heads = int_attr(node, "num_heads", 0)
    sizes = ints_attr(node, "qkv_hidden_sizes")
    hidden: Dim = sizes[2] if sizes is not None and len(sizes) == 3 else None
    if sizes is None and w is not None and len(w) == 2:
        hidden = floordiv(w[1], 3)
    if data is None or len(data) != 3:
        return [TensorType(dtype), TensorType(dtype)]
    past, steps = shape_of(node, before), data[1] if not present(node, before) else None
    if past is not None and len(past) == 5 and not node.attrs.get("past_present_share_buffer"):
        steps = add(past[3], data[1])
    size = floordiv(hidden, heads) if heads > 0 else None
    cache: Type | None = TensorType(dtype, (2, data[0], heads or None, steps, size))
    return [TensorType(dtype, (data[0], data[1], hidden)), cache]


@row("Attention", domain=MS)
def packed_attention(node: Node) -> Types:
    return _packed(node, 0, 1, 4, dtype_of(node, 0))


@row("QAttention", domain=MS)
def quantized_attention(node: Node) -> Types:
    return _packed(node, 0, 1, 8, dtype_of(node, 3))


@row("MultiHeadAttention", "DecoderMaskedMultiHeadAttention", domain=MS)
def multi_head_attention(node: Node) -> Types:
    """Query ``[B, S, hidden]`` (or packed ``[B, S, heads, 3, size]``), value ``[B, L, v]`` or split."""
    dtype, q, v = dtype_of(node, 0), shape_of(node, 0), shape_of(node, 2)
    heads = int_attr(node, "num_heads", 0) or None
    cache = TensorType(dtype, (q[0] if q else None, heads, None, None))
    if q is None or len(q) not in (3, 5) or (node.op != "MultiHeadAttention" and not present(node, 2)):
        return [TensorType(dtype), cache, cache, TensorType(None)]
    cache = _cache(node, dtype, heads)
    hidden: Dim = None
    if len(q) == 5:
        hidden = mul(q[2], q[4])
    elif v is not None:
        hidden = v[2] if len(v) == 3 else mul(v[1], v[3]) if len(v) == 4 else None
    elif not present(node, 2):
        hidden = q[2]  # keys and values are packed together
    return [TensorType(dtype, (q[0], q[1], hidden)), cache, cache, TensorType(None)]


def _cache(node: Node, dtype: DType | None, heads: int | None) -> TensorType:
    """The keys behind those of the past, ``[B, heads, L, size]``, of a MultiHeadAttention."""
    q, k, past = shape_of(node, 0), shape_of(node, 1), shape_of(node, 6)
    unknown = TensorType(dtype, (q[0] if q else None, heads, None, None))
    if heads is None or k is None or len(k) not in (3, 4) or (present(node, 6) and (past is None or len(past) != 4)):
        return unknown
    if node.op != "MultiHeadAttention" or present(node, 8):  # a cache that is written in place
        return unknown
    steps, size = (k[1], floordiv(k[2], heads)) if len(k) == 3 else (k[2], k[3])
    return TensorType(dtype, (k[0], heads, add(past[2], steps) if past is not None else steps, size))


def _cached_steps(node: Node, new: Dim) -> Dim:
    """How many positions the cache of a GroupQueryAttention holds afterwards."""
    past, total = shape_of(node, 3), elements(node, 6)
    if node.op == "SparseAttention":  # written in place
        return past[2] if past is not None and len(past) == 4 else None
    if past is None:
        return None if present(node, 3) else new
    held, seen = past[2] if len(past) == 4 else None, total[0] if total is not None and len(total) == 1 else None
    return max(held, seen) if isinstance(held, int) and isinstance(seen, int) else None


@row("GroupQueryAttention", "SparseAttention", domain=MS)
def group_query_attention(node: Node) -> Types:
    """Query ``[B, S, heads * size]``, or with keys and values packed behind it."""
    dtype, q = dtype_of(node, 0), shape_of(node, 0)
    heads, kv_heads = int_attr(node, "num_heads", 0), int_attr(node, "kv_num_heads", 0)
    cache_dtype = dtype_of(node, 3) if present(node, 3) else dtype
    if q is None or len(q) != 3 or not heads or not kv_heads:
        return [TensorType(dtype), TensorType(cache_dtype), TensorType(cache_dtype), TensorType(dtype)]
    size = floordiv(q[2], heads if present(node, 1) else heads + 2 * kv_heads)
    hidden = q[2] if present(node, 1) else mul(size, heads)
    past, steps = shape_of(node, 3), _cached_steps(node, q[1])
    if past is not None:  # it may be quantized to several elements a byte
        size = past[3] if len(past) == 4 else None
    cache = TensorType(cache_dtype, (q[0], kv_heads, steps, size))
    return [TensorType(dtype, (q[0], q[1], hidden)), cache, cache, TensorType(dtype)]


@row("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MS)
def skip_layer_normalization(node: Node) -> Types:
    """Results normalized, mean, inverse deviation, and the sum that was normalized."""
    x = tensor(node, 0)
    shape = None if x is None or x.shape is None else (*x.shape[:-1], 1)
    statistics = TensorType(DType.F32, shape)
    return [x, statistics, statistics, x]


@row("EmbedLayerNormalization", domain=MS)
def embed_layer_normalization(node: Node) -> Types:
    """Ids ``[B, S]``, word embedding ``[words, hidden]``."""
    ids, table = shape_of(node, 0), shape_of(node, 2)
    if ids is not None and len(ids) != 2:
        fail(node, f"ids have rank {len(ids)}, expected 2")
    batch, steps = ids if ids is not None else (None, None)
    hidden = table[1] if table is not None and len(table) == 2 else None
    gamma = shape_of(node, 5)
    if gamma is not None and len(gamma) == 1:
        hidden = equal_dim(node, hidden, gamma[0], "hidden size of embedding and gamma")
    out = TensorType(dtype_of(node, 2), (batch, steps, hidden))
    mask = TensorType(DType.I32, None if "mask_index_type" in node.attrs else (batch,))
    return [out, mask, out]
