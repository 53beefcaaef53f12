"""Gates, branches and their norms (ONNX Runtime's contrib operators of recent language models) in standard operators.

Source: the registry's schemas of ONNX Runtime 1.31; compared with its CPU kernels.
"""

from __future__ import annotations

import math

from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .emit import CONTRIB, reduce_to_one, unsqueeze
from .equations import (
    Equation,
    Results,
    activated,
    extent,
    ints,
    is_used,
    narrowed,
    normalized,
    operand,
    rank_of,
    require,
    widened,
)


def _scaled_silu(r: Rewriter, node: Node) -> Results:
    x, scale = operand(node, 0), node.input(1)
    z = r.Mul(x, scale if scale is not None else float(node.attr("alpha", 1.0)))
    return [r.Mul(z, r.Sigmoid(z))]


def _gated_add(r: Rewriter, node: Node) -> Results:
    return [r.Add(operand(node, 0), r.Mul(operand(node, 1), operand(node, 2)))]


def _gated_rmsnorm(r: Rewriter, node: Node) -> Results:
    """Rows are as long as the scale; the data's last axis may hold several of them."""
    require(r, node)
    x, scale, gate = operand(node, 0), operand(node, 1), operand(node, 2)
    if rank_of(scale) != 1:  # the kernel counts its elements, the operator's description wants a vector
        raise NoMatch(f"the scale %{scale.name} is {scale.type}, expected a vector")
    width, whole = extent(scale, 0), extent(x, -1)
    rows = [0] * (rank_of(x) - 1)
    wide = widened(r, x)
    split = wide if whole == width else r.Reshape(wide, ints(*rows, whole // width, width))
    normal = r.Mul(normalized(r, split, float(node.attr("epsilon", 1e-5))), widened(r, scale))
    normal = normal if whole == width else r.Reshape(normal, ints(*rows, whole))
    return [narrowed(r, r.Mul(normal, activated(r, widened(r, gate), str(node.attr("activation", "silu")))), x)]


def _branches(r: Rewriter, node: Node, x: Value) -> tuple[Value, int, int]:
    """``[..., C, H]`` of grouped or flattened data, with C and H."""
    count = int(node.attr("num_branches", 0))
    if not count:
        return x, extent(x, -2), extent(x, -1)
    width = extent(x, -1)
    if width % count or (rank_of(x) > 1 and x.shape is not None and x.shape[-2] == count):
        raise NoMatch(f"%{x.name} of {x.type} may be grouped or flattened")
    return r.Reshape(x, ints(*[0] * (rank_of(x) - 1), count, width // count)), count, width // count


def _branchwise_rmsnorm(r: Rewriter, node: Node) -> Results:
    require(r, node)
    x, scale = operand(node, 0), node.input(1)
    grouped, count, width = _branches(r, node, x)
    normal = normalized(r, widened(r, grouped), float(node.attr("epsilon", 1e-5)))
    if scale is not None:
        flat = scale.rank == 1 and extent(scale, 0) == count * width != width
        normal = r.Mul(normal, widened(r, r.Reshape(scale, ints(count, width)) if flat else scale))
    normal = narrowed(r, normal, x)
    return [normal if grouped is x else r.Reshape(normal, r.Shape(x))]


def _linear_attention_gate(r: Rewriter, node: Node) -> Results:
    """decay = decay_scale softplus(a + dt_bias), beta = sigmoid(b), in float32."""
    a, b = operand(node, 0), node.input(3)
    decay = r.Mul(r.Softplus(r.Add(widened(r, a), operand(node, 1))), operand(node, 2))
    beta = narrowed(r, r.Sigmoid(widened(r, b)), b) if b is not None and is_used(node, 1) else None
    return [narrowed(r, decay, a), beta]


def _mix(r: Rewriter, mix: Value, rank: int, count: int, width: int) -> Value:
    """``[..., C, 1]`` or ``[..., C, H]`` of a mix in any of its forms."""
    if mix.rank == rank:
        return mix
    if mix.rank != rank - 1:
        raise NoMatch(f"a mix of rank {mix.rank} for branches of rank {rank}")
    last = extent(mix, -1)
    if last == count:
        return unsqueeze(r, mix, [-1])
    if last != count * width:
        raise NoMatch(f"a mix of {last} for {count} branches of {width}")
    return r.Reshape(mix, ints(*[0] * (rank - 2), count, width))


def _pre_mix(r: Rewriter, node: Node) -> Results:
    require(r, node)
    x = operand(node, 0)
    grouped, count, width = _branches(r, node, x)
    mix = _mix(r, operand(node, 1), rank_of(grouped), count, width)
    total = _sum(r, r.Mul(widened(r, grouped), widened(r, mix)), -2)
    scale = float(node.attr("reduction_scale", 1.0))
    return [narrowed(r, total if scale == 1 else r.Mul(total, scale), x)]


def _sum(r: Rewriter, x: Value, axis: int) -> Value:
    return r.ReduceSum(x, ints(axis), keepdims=0)


def _post_mix(r: Rewriter, node: Node) -> Results:
    require(r, node)
    x, block, stream_mix = operand(node, 0), operand(node, 1), node.input(3)
    grouped, count, width = _branches(r, node, x)
    rank = rank_of(grouped)
    post = _mix(r, operand(node, 2), rank, count, width)
    kept = widened(r, grouped)
    if stream_mix is not None:
        swap = (*range(rank - 2), rank - 1, rank - 2)
        kept = r.MatMul(r.Transpose(widened(r, stream_mix), perm=swap), kept)
    y = narrowed(r, r.Add(kept, r.Mul(widened(r, post), unsqueeze(r, widened(r, block), [-2]))), x)
    return [y if grouped is x else r.Reshape(y, r.Shape(x))]


def _engram_gate(r: Rewriter, node: Node) -> Results:
    """gate = sigmoid(sign(d) sqrt(max(|d|, 1e-6))), d = <RMSNorm(key), RMSNorm(query)> / sqrt(D)."""
    require(r, node)
    key, query, value = (operand(node, i) for i in range(3))
    epsilon = float(node.attr("epsilon", 1e-5))
    k = r.Mul(normalized(r, widened(r, key), epsilon), widened(r, operand(node, 3)))
    q = r.Mul(normalized(r, widened(r, query), epsilon), widened(r, operand(node, 4)))
    dot = r.Mul(reduce_to_one(r, "ReduceSum", r.Mul(k, q), [-1]), 1.0 / math.sqrt(extent(key, -1)))
    gate = r.Sigmoid(r.Mul(r.Sign(dot), r.Sqrt(r.Max(r.Abs(dot), 1e-6))))
    y = r.Mul(gate, unsqueeze(r, widened(r, value), [-2]))
    normal = None
    if is_used(node, 1):
        normal = narrowed(r, r.Mul(normalized(r, y, epsilon), widened(r, operand(node, 5))), value)
    return [narrowed(r, y, value), normal]


GATED_EQUATIONS: dict[tuple[str, str], Equation] = {
    (CONTRIB, "ScaledSiLU"): _scaled_silu,
    (CONTRIB, "GatedAdd"): _gated_add,
    (CONTRIB, "GatedRMSNorm"): _gated_rmsnorm,
    (CONTRIB, "BranchwiseRMSNorm"): _branchwise_rmsnorm,
    (CONTRIB, "LinearAttentionGate"): _linear_attention_gate,
    (CONTRIB, "HyperConnectionPreMix"): _pre_mix,
    (CONTRIB, "HyperConnectionPostMix"): _post_mix,
    (CONTRIB, "EngramGate"): _engram_gate,
}
