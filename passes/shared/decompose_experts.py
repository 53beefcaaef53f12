"""A mixture of experts in standard operators: every expert computes every token, at ``experts / k`` times the cost.

    y = sum_e w_e(x) FC2_e(act(FC1_e(x)) [FC3_e(x)]),   w = softmax(router) where among the k largest, else 0

Source: the schema of MoE in ONNX Runtime 1.31; compared with its CPU kernel.
"""

from __future__ import annotations

import math
from typing import Any

from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .emit import CONTRIB, unsqueeze
from .equations import Equation, Results, extent, ints, operand, rank_of, require


def _mixture(r: Rewriter, node: Node) -> Results:
    require(r, node, use_sparse_mixer=0, swiglu_fusion=0)
    x, router = operand(node, 0), operand(node, 1)
    width = extent(operand(node, 4), 1)
    rows = x if rank_of(x) == 2 else r.Reshape(x, ints(-1, width))
    hidden = _activated(r, node, _layer(r, node, rows, 2))
    if node.input(6) is not None:
        hidden = r.Mul(hidden, _layer(r, node, rows, 6))
    each = _layer(r, node, hidden, 4)  # [E, T, width]
    weights = unsqueeze(r, r.Transpose(_weights(r, node, router), perm=(1, 0)), [-1])
    y = r.ReduceSum(r.Mul(each, weights), ints(0), keepdims=0)
    return [y if rows is x else r.Reshape(y, r.Shape(x))]


def _layer(r: Rewriter, node: Node, x: Value, i: int) -> Any:
    """All experts' products with the weights ``[E, out, in]`` of operand ``i``, and the bias behind it."""
    bias = node.input(i + 1)
    y = r.MatMul(x, r.Transpose(operand(node, i), perm=(0, 2, 1)))
    return y if bias is None else r.Add(y, unsqueeze(r, bias, [1]))


def _activated(r: Rewriter, node: Node, y: Value) -> Any:
    match str(node.attr("activation_type", "relu")):
        case "relu":
            return r.Relu(y)
        case "silu":
            return r.Mul(y, r.Sigmoid(y))
        case "identity":
            return y
        case "gelu":
            return r.Mul(r.Mul(y, r.Add(r.Erf(r.Div(y, math.sqrt(2))), 1.0)), 0.5)
        case name:
            raise NoMatch(f"activation {name!r} of MoE")


def _weights(r: Rewriter, node: Node, router: Value) -> Any:
    """``[T, E]``: the share of each expert, 0 for those that are not chosen."""
    shares = r.Softmax(router, axis=-1)
    best, at = r.op("TopK", shares, ints(int(node.attr("k", 1))), axis=-1, _outputs=2)
    if node.attr("normalize_routing_weights", 0):
        best = r.Div(best, r.ReduceSum(best, ints(-1), keepdims=1))
    return r.ScatterElements(r.Mul(shares, 0.0), at, best, axis=-1)


EXPERT_EQUATIONS: dict[tuple[str, str], Equation] = {(CONTRIB, "MoE"): _mixture}
