"""ONNX Runtime's attention, rotary, embedding and NHWC operators in terms of the standard's.

Source: docs/ContribOperators.md of ONNX Runtime 1.31 and the registry's schemas; compared with its CPU kernels. Each
equation raises :class:`NoMatch` for the forms it does not cover.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .emit import CONTRIB, split, squeeze, unsqueeze

Results = list[Value | None]
_HEADS_FIRST = (0, 2, 1, 3)
_OPSET = 13


def _in(node: Node, i: int) -> Value:
    value = node.input(i)
    if value is None:
        raise NoMatch(f"operand {i} of {node.op} is absent")
    return value


def _used(node: Node, i: int) -> bool:
    return i < len(node.outputs) and bool(node.outputs[i].uses)


def _require(r: Rewriter, node: Node, operands: int, **attrs: Any) -> None:
    """Raises :class:`NoMatch` for operands beyond the first ``operands`` and other values of the attributes."""
    if r.opset() < _OPSET:
        raise NoMatch(f"{node.op} is spelled out from opset {_OPSET} on, the model imports {r.opset()}")
    if any(v is not None for v in node.inputs[operands:]):
        raise NoMatch(f"{node.op} with more than {operands} operands")
    for name, wanted in attrs.items():
        if node.attr(name, wanted) != wanted:
            raise NoMatch(f"{name} of {node.op} is {node.attr(name)}, expected {wanted}")


def _static(v: Value, axis: int) -> int:
    d = v.shape[axis] if v.shape is not None and v.rank is not None and v.rank > axis else None
    if not isinstance(d, int):
        raise NoMatch(f"extent {axis} of %{v.name} is not a known number")
    return d


def _ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def _heads(r: Rewriter, x: Value, heads: int) -> Any:
    """[B, S, N*D] to [B, N, S, D]."""
    size = _static(x, 2) // heads
    return r.Transpose(r.Reshape(x, _ints(0, 0, heads, size)), perm=_HEADS_FIRST)


def _merged(r: Rewriter, x: Value, width: int) -> Any:
    """[B, N, S, D] to [B, S, N*D]."""
    return r.Reshape(r.Transpose(x, perm=_HEADS_FIRST), _ints(0, 0, width))


def _attend(r: Rewriter, q: Value, k: Value, v: Value, scale: float, masks: list[Value]) -> Any:
    """softmax(scale q k^T + masks) v, everything [B, N, S, D]."""
    scores = r.Mul(r.MatMul(q, r.Transpose(k, perm=(0, 1, 3, 2))), scale)
    for mask in masks:
        scores = r.Add(scores, mask)
    return r.MatMul(r.Softmax(scores, axis=-1), v)


def _padding(r: Rewriter, node: Node, keep: Value, like: Value) -> Any:
    """[B, T] with 1 for what counts, as [B, 1, 1, T] to be added."""
    if keep.rank != 2:
        raise NoMatch(f"the mask of {node.op} has rank {keep.rank}, expected 2")
    assert like.dtype is not None
    hidden = r.Sub(r.const(1.0, like.dtype), r.Cast(keep, to=like.dtype.code))
    return unsqueeze(r, r.Mul(hidden, float(node.attr("mask_filter_value", -10000.0))), [1, 2])


def _later(r: Rewriter, node: Node, q: Value, k: Value) -> Any:
    """[S, T] to be added: hides the keys [B, N, T, D] behind each query [B, N, S, D], of which the last stand side by
    side."""
    steps, total = (squeeze(r, r.Slice(r.Shape(x), _ints(2), _ints(3)), [0]) for x in (q, k))
    zero, one = r.const(np.int64(0)), r.const(np.int64(1))
    rows = r.Add(unsqueeze(r, r.Range(zero, steps, one), [1]), r.Sub(total, steps))
    assert q.dtype is not None
    fill = float(node.attr("mask_filter_value", -10000.0))
    return r.Where(r.LessOrEqual(r.Range(zero, total, one), rows), r.const(0.0, q.dtype), r.const(fill, q.dtype))


def _cached(r: Rewriter, past: Value | None, new: Value) -> Any:
    return new if past is None else r.Concat(past, new, axis=2)


def _multi_head(r: Rewriter, node: Node) -> Results:
    """MultiHeadAttention of separate [B, S, N*D] queries, keys and values."""
    _require(r, node, 8)
    q, k, v = _in(node, 0), _in(node, 1), _in(node, 2)
    if not q.rank == k.rank == v.rank == 3 or _used(node, 3):
        raise NoMatch("MultiHeadAttention of packed or 4-dimensional operands, or with scores as a result")
    heads = int(node.attr("num_heads"))
    bias = node.input(3)
    if bias is not None:
        sizes = [_static(q, 2), _static(k, 2), _static(v, 2)]
        q, k, v = (r.Add(x, b) for x, b in zip((q, k, v), split(r, bias, sizes, 0), strict=True))
    scale = float(node.attr("scale", 0.0) or 0.0) or 1.0 / math.sqrt(_static(q, 2) // heads)
    masks = [m for m in (node.input(5),) if m is not None]
    keep = node.input(4)
    if keep is not None:
        masks.append(_padding(r, node, keep, q))
    width = _static(v, 2)
    key, value = _cached(r, node.input(6), _heads(r, k, heads)), _cached(r, node.input(7), _heads(r, v, heads))
    query = _heads(r, q, heads)
    masks += [_later(r, node, query, key)] if node.attr("unidirectional", 0) else []
    y = _attend(r, query, key, value, scale, masks)
    return [_merged(r, y, width), key if _used(node, 1) else None, value if _used(node, 2) else None]


def _packed(r: Rewriter, node: Node) -> Results:
    """Attention of one [B, S, W] input with weights [W, 3*N*D]."""
    _require(r, node, 6, do_rotary=0, past_present_share_buffer=0)
    x, w, heads = _in(node, 0), _in(node, 1), int(node.attr("num_heads"))
    if node.input(4) is not None or _used(node, 1):
        raise NoMatch("Attention with a cache of its own form")
    given = node.attrs.get("qkv_hidden_sizes")
    sizes = [int(d) for d in given] if isinstance(given, tuple) else [_static(w, 1) // 3] * 3  # type: ignore[arg-type]
    bias = node.input(2)
    product = r.MatMul(x, w)
    parts = split(r, product if bias is None else r.Add(product, bias), sizes, -1)
    masks = [m for m in (node.input(5),) if m is not None]
    keep = node.input(3)
    if keep is not None:
        masks.append(_padding(r, node, keep, x))
    scale = float(node.attr("scale", 0.0) or 0.0) or 1.0 / math.sqrt(sizes[0] // heads)
    q, k, v = (_heads(r, part, heads) for part in parts)
    masks += [_later(r, node, q, k)] if node.attr("unidirectional", 0) else []
    return [_merged(r, _attend(r, q, k, v, scale, masks), sizes[2])]


def _rotary(r: Rewriter, node: Node) -> Results:
    """RotaryEmbedding of [B, S, N*D] or [B, N, S, D] by caches [positions, D/2]."""
    _require(r, node, 4, interleaved=0, rotary_embedding_dim=0, is_packed_batching=0)
    x, positions, cos, sin = (_in(node, i) for i in range(4))
    half = _static(cos, 1)
    if positions.rank != 2 or x.rank not in (3, 4):
        raise NoMatch(f"positions of rank {positions.rank} for %{x.name} of rank {x.rank}, expected 2, and 3 or 4")
    heads = _static(x, 2) // (2 * half) if x.rank == 3 else _static(x, 1)
    turned = _heads(r, x, heads) if x.rank == 3 else x
    rows = [unsqueeze(r, r.Gather(table, positions, axis=0), [1]) for table in (cos, sin)]
    low, high = split(r, turned, [half, half], -1)
    first = r.Sub(r.Mul(low, rows[0]), r.Mul(high, rows[1]))
    second = r.Add(r.Mul(low, rows[1]), r.Mul(high, rows[0]))
    scale = float(node.attr("scale", 1.0))
    y = r.Concat(first, second, axis=-1)
    y = y if scale == 1 else r.Mul(y, scale)
    return [_merged(r, y, 2 * half * heads) if x.rank == 3 else y]


def _embeddings(r: Rewriter, node: Node) -> Results:
    """EmbedLayerNormalization: words, segments and positions, normalized."""
    _require(r, node, 9, mask_index_type=0)
    ids, words, places = _in(node, 0), _in(node, 2), _in(node, 3)
    if r.opset() < 17 or _used(node, 1):
        raise NoMatch("EmbedLayerNormalization needs opset 17, and an unused mask index")
    given = node.input(8)
    if given is not None:
        at = r.Gather(places, given, axis=0)
    else:
        length = r.Shape(ids, start=1, end=2)
        at = unsqueeze(r, r.Slice(places, _ints(0), length, _ints(0)), [0])
    total = r.Add(r.Gather(words, ids, axis=0), at)
    segments, kinds = node.input(1), node.input(4)
    if segments is not None and kinds is not None:
        total = r.Add(total, r.Gather(kinds, segments, axis=0))
    y = r.LayerNormalization(total, _in(node, 5), _in(node, 6), epsilon=float(node.attr("epsilon", 1e-12)))
    return [y, None, total if _used(node, 2) else None]


def _nhwc_conv(r: Rewriter, node: Node) -> Results:
    """NhwcFusedConv: FusedConv with the channels last; the weights stay [M, C, kH, kW]."""
    x = _in(node, 0)
    if x.rank != 4 or x.dtype not in (DType.F32, DType.F16):
        raise NoMatch(f"NhwcFusedConv of {x.type}")
    rest = list(node.inputs[1:])
    if len(rest) > 2 and rest[2] is not None:
        rest[2] = r.Transpose(rest[2], perm=(0, 3, 1, 2))
    attrs: dict[str, Any] = dict(node.attrs)
    name = f"{CONTRIB}::FusedConv" if node.attr("activation") or len(rest) > 2 else "Conv"
    y = r.op(name, r.Transpose(x, perm=(0, 3, 1, 2)), *rest, **attrs)
    return [r.Transpose(y, perm=(0, 2, 3, 1))]


ATTENTION_EQUATIONS: dict[tuple[str, str], Callable[[Rewriter, Node], Results]] = {
    (CONTRIB, "MultiHeadAttention"): _multi_head,
    (CONTRIB, "Attention"): _packed,
    (CONTRIB, "RotaryEmbedding"): _rotary,
    (CONTRIB, "EmbedLayerNormalization"): _embeddings,
    (CONTRIB, "NhwcFusedConv"): _nhwc_conv,
}
