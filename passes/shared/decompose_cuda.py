"""Contrib operators of which ONNX Runtime has kernels for CUDA, DirectML or ROCm only, in standard operators.

Source: the registry's schemas of ONNX Runtime 1.31 and its docs/OperatorKernels.md. No CPU kernel exists: the tests
compare with the formulas of the schemas, written down in numpy.
"""

from __future__ import annotations

import math
from typing import Any

from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .emit import CONTRIB, reduce_to_one, split, unsqueeze
from .equations import Equation, Results, extent, ints, is_used, narrowed, operand, rank_of, require, widened


def _bias_add(r: Rewriter, node: Node) -> Results:
    return [r.Add(r.Add(operand(node, 0), operand(node, 1)), operand(node, 2))]


def _bias_split_gelu(r: Rewriter, node: Node) -> Results:
    """The left half times Gelu of the right half."""
    x = r.Add(operand(node, 0), operand(node, 1))
    half = extent(operand(node, 0), -1) // 2
    left, right = split(r, x, [half, half], -1)
    gelu = r.Mul(r.Mul(right, r.Add(r.Erf(r.Div(right, math.sqrt(2))), 1.0)), 0.5)
    return [r.Mul(left, gelu)]


def _bias_softmax(r: Rewriter, node: Node) -> Results:
    """Softmax over all axes from ``axis`` on; the bias lacks leading axes, or those right before ``axis``."""
    require(r, node)
    x, bias = operand(node, 0), operand(node, 1)
    rank, axis = rank_of(x), int(node.attr("axis", 1))
    axis += rank if axis < 0 else 0
    if axis != rank - 1:
        raise NoMatch(f"axis is {axis}, expected the last of {rank}")
    missing = rank - rank_of(bias)
    if missing and not node.attr("is_inner_broadcast", 0):  # the bias has the outermost axes
        bias = unsqueeze(r, bias, list(range(axis - missing, axis)))
    return [r.Softmax(r.Add(x, bias), axis=-1)]


def _channels_first(r: Rewriter, x: Value) -> Any:
    rank = rank_of(x)
    return r.Transpose(x, perm=(0, rank - 1, *range(1, rank - 1)))


def _channels_last(r: Rewriter, x: Value) -> Any:
    rank = rank_of(x)
    return r.Transpose(x, perm=(0, *range(2, rank), 1))


def _group_norm(r: Rewriter, node: Node) -> Results:
    return [_grouped(r, node, operand(node, 0))]


def _grouped(r: Rewriter, node: Node, x: Value) -> Any:
    """Normalizes ``[N, ..., C]`` (or ``[N, C, ...]``) over each group of channels, in float32."""
    require(r, node)
    last = bool(node.attr("channels_last", 1))
    wide = widened(r, x)
    data = _channels_first(r, wide) if last else wide
    groups = r.Reshape(data, ints(0, int(node.attr("groups")), -1))
    centred = r.Sub(groups, reduce_to_one(r, "ReduceMean", groups, [-1]))
    variance = reduce_to_one(r, "ReduceMean", r.Mul(centred, centred), [-1])
    normal = r.Div(centred, r.Sqrt(r.Add(variance, float(node.attr("epsilon", 1e-5)))))
    normal = r.Reshape(normal, r.Shape(data))
    column = ints(-1, *[1] * (rank_of(x) - 2))
    scale, bias = (r.Reshape(widened(r, operand(node, i)), column) for i in (1, 2))
    y = r.Add(r.Mul(normal, scale), bias)
    if node.attr("activation"):
        y = r.Mul(y, r.Sigmoid(y))
    return narrowed(r, _channels_last(r, y) if last else y, x)


def _skip_group_norm(r: Rewriter, node: Node) -> Results:
    """The skipped value is ``[N, H, W, C]``, ``[N, 1, 1, C]`` or ``[N, C]``."""
    require(r, node, channels_last=1)
    x, skip, bias = operand(node, 0), operand(node, 3), node.input(4)
    if rank_of(skip) == 2:
        skip = unsqueeze(r, skip, list(range(1, rank_of(x) - 1)))
    total = r.Add(x, skip)
    total = total if bias is None else r.Add(total, bias)
    return [_grouped(r, node, total), total if is_used(node, 1) else None]


def _nhwc_conv(r: Rewriter, node: Node) -> Results:
    """Data, weights and result with the channels last."""
    x, w, bias = operand(node, 0), operand(node, 1), node.input(2)
    attrs: dict[str, Any] = dict(node.attrs)
    y = r.op("Conv", _channels_first(r, x), _channels_first(r, w), *([] if bias is None else [bias]), **attrs)
    return [_channels_last(r, y)]


def _gemma_rotary(r: Rewriter, node: Node) -> Results:
    emb, q, q_rot, k, k_rot = (operand(node, i) for i in range(5))
    sin, cos = (unsqueeze(r, narrowed(r, f(emb), q), [1]) for f in (r.Sin, r.Cos))
    return [
        r.Add(r.Mul(x, cos), r.Mul(turned, sin)) if is_used(node, i) else None
        for i, (x, turned) in enumerate([(q, q_rot), (k, k_rot)])
    ]


def _gemm_fast_gelu(r: Rewriter, node: Node) -> Results:
    x, bias = r.MatMul(operand(node, 0), operand(node, 1)), node.input(2)
    x = x if bias is None else r.Add(x, bias)
    inner = r.Mul(r.Add(x, r.Mul(r.Mul(r.Mul(x, x), x), 0.044715)), math.sqrt(2 / math.pi))
    return [r.Mul(r.Mul(x, r.Add(r.Tanh(inner), 1.0)), 0.5)]


def _gated_position_bias(r: Rewriter, node: Node) -> Results:
    """Gates of a relative position bias, from the query. Source: the schema of GatedRelativePositionBias."""
    require(r, node, absent=(6,))
    query, query_bias, rel_pos, weight, bias, eco = (operand(node, i) for i in range(6))
    heads, hidden = int(node.attr("num_heads")), extent(query, -1)
    gates = extent(weight, -1)
    rows = r.Reshape(r.Add(query, query_bias), ints(0, 0, heads, hidden // heads))
    rows = r.Transpose(rows, perm=(0, 2, 1, 3))
    mixed = r.Reshape(r.Add(r.MatMul(rows, weight), bias), ints(0, 0, 0, 2, gates // 2))
    u, v = split(r, r.Sigmoid(r.ReduceSum(mixed, ints(-1), keepdims=0)), [1, 1], -1)
    return [r.Mul(r.Add(r.Mul(u, r.Sub(r.Mul(v, eco), 1.0)), 2.0), rel_pos)]


CUDA_EQUATIONS: dict[tuple[str, str], Equation] = {
    (CONTRIB, "BiasAdd"): _bias_add,
    (CONTRIB, "BiasSplitGelu"): _bias_split_gelu,
    (CONTRIB, "BiasSoftmax"): _bias_softmax,
    (CONTRIB, "GroupNorm"): _group_norm,
    (CONTRIB, "SkipGroupNorm"): _skip_group_norm,
    (CONTRIB, "NhwcConv"): _nhwc_conv,
    (CONTRIB, "GemmaRotaryEmbedding"): _gemma_rotary,
    (CONTRIB, "GemmFastGelu"): _gemm_fast_gelu,
    (CONTRIB, "GatedRelativePositionBias"): _gated_position_bias,
}
