"""ONNX Runtime's contrib operators in terms of the standard's.

Source: docs/ContribOperators.md of ONNX Runtime 1.31 and the registry's schemas. Each equation raises
:class:`NoMatch` for the forms it does not cover.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...ir.dims import same_dim
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .decompose_attention import ATTENTION_EQUATIONS
from .decompose_cached import CACHED_EQUATIONS
from .decompose_cuda import CUDA_EQUATIONS
from .decompose_experts import EXPERT_EQUATIONS
from .decompose_gated import GATED_EQUATIONS
from .decompose_quantized import QUANTIZED_EQUATIONS
from .decompose_twins import TWIN_EQUATIONS
from .emit import CONTRIB, reduce_to_one

Results = list[Value | None]


def _in(node: Node, i: int) -> Value:
    value = node.input(i)
    if value is None:
        raise NoMatch(f"operand {i} of {node.op} is absent")
    return value


def _used(node: Node, i: int) -> bool:
    return i < len(node.outputs) and bool(node.outputs[i].uses)


def _gelu(r: Rewriter, x: Value) -> Value:
    return r.Mul(r.Mul(x, r.Add(r.Erf(r.Div(x, math.sqrt(2))), 1.0)), 0.5)


def _bias_gelu(r: Rewriter, node: Node) -> Results:
    return [_gelu(r, r.Add(_in(node, 0), _in(node, 1)))]


def _plain_gelu(r: Rewriter, node: Node) -> Results:
    return [_gelu(r, _in(node, 0))]


def _fast_gelu(r: Rewriter, node: Node) -> Results:
    if node.output.dtype is DType.F64:
        raise NoMatch("the function body of FastGelu takes its constants in float32, for float64 too")
    bias = node.input(1)
    x = _in(node, 0) if bias is None else r.Add(_in(node, 0), bias)
    inner = r.Mul(r.Add(x, r.Mul(r.Mul(r.Mul(x, x), x), 0.044715)), math.sqrt(2 / math.pi))
    return [r.Mul(r.Mul(x, r.Add(r.Tanh(inner), 1.0)), 0.5)]


def _quick_gelu(r: Rewriter, node: Node) -> Results:
    x = _in(node, 0)
    return [r.Mul(x, r.Sigmoid(r.Mul(x, float(node.attr("alpha", 1.702)))))]


def _fused_matmul(r: Rewriter, node: Node) -> Results:
    if node.attr("transBatchA", 0) or node.attr("transBatchB", 0):
        raise NoMatch("FusedMatMul transposes batches")
    a, b = _in(node, 0), _in(node, 1)
    product = r.MatMul(_swapped(r, a, node.attr("transA", 0)), _swapped(r, b, node.attr("transB", 0)))
    alpha = float(node.attr("alpha", 1.0))
    return [product if alpha == 1 else r.Mul(product, alpha)]


def _swapped(r: Rewriter, x: Value, wanted: Any) -> Value:
    if not wanted or x.rank == 1:
        return x
    if x.rank is None:
        raise NoMatch(f"the rank of %{x.name} is unknown")
    return r.Transpose(x, perm=(*range(x.rank - 2), x.rank - 1, x.rank - 2))


def _activated(r: Rewriter, y: Value, name: str, params: list[float], node: Node) -> Value:
    """The activation of a FusedConv or FusedGemm; ``params`` in the order of the operator's attributes."""
    name = name.decode() if isinstance(name, bytes) else name
    match name:
        case "":
            return y
        case "Relu" | "Sigmoid" | "Tanh" | "HardSwish":
            return r.op(name, y)
        case "LeakyRelu" if len(params) <= 1:
            return r.LeakyRelu(y, alpha=params[0] if params else None)
        case "HardSigmoid" if len(params) in (0, 2):
            return r.HardSigmoid(y, alpha=params[0] if params else None, beta=params[1] if params else None)
        case "Clip" if len(params) == 2:
            if r.opset() >= 11:
                return r.Clip(y, params[0], params[1])
            return r.Clip(y, min=params[0], max=params[1])
        case _:
            raise NoMatch(f"activation {name!r} of {node.op} with {len(params)} parameters")


def _fused_conv(r: Rewriter, node: Node) -> Results:
    attrs: dict[str, Any] = {k: v for k, v in node.attrs.items() if not k.startswith("activation")}
    bias, other = node.input(2), node.input(3)
    y = r.op("Conv", _in(node, 0), _in(node, 1), *([] if bias is None else [bias]), **attrs)
    if other is not None:
        y = r.Add(y, other)
    params = [float(p) for p in node.attrs.get("activation_params", ())]  # pyright: ignore
    return [_activated(r, y, str(node.attr("activation", "")), params, node)]


def _fused_gemm(r: Rewriter, node: Node) -> Results:
    attrs: dict[str, Any] = {k: v for k, v in node.attrs.items() if not k.startswith("activation")}
    y = r.op("Gemm", *node.inputs, **attrs)
    given = [node.attrs.get(f"activation_{k}") for k in ("alpha", "beta", "gamma")]
    params = [p for p in given if isinstance(p, float)]
    return [_activated(r, y, str(node.attr("activation", "")), params, node)]


def _skip_layernorm(r: Rewriter, node: Node) -> Results:
    total = _skip_sum(r, node, 4)
    bias = node.input(3)
    scale = _in(node, 2)
    y = r.LayerNormalization(total, scale, *([] if bias is None else [bias]), axis=-1, epsilon=_epsilon(node))
    return _with_sum(node, y, total)


def _skip_rmsnorm(r: Rewriter, node: Node) -> Results:
    total = _skip_sum(r, node, 3)
    return _with_sum(node, _rms(r, total, _in(node, 2), node), total)


def _skip_sum(r: Rewriter, node: Node, bias: int) -> Value:
    x, skip, b = _in(node, 0), _in(node, 1), node.input(bias)
    pairs = zip(reversed(x.shape or ()), reversed(skip.shape or ()), strict=False)
    if x.shape is None or skip.shape is None or not all(d == 1 or same_dim(a, d) for a, d in pairs):
        # The kernel takes rows in turn where there are fewer of them; Add does not.
        raise NoMatch(f"the skipped value {skip.type} is not known to be broadcast to {x.type}")
    total: Value = r.Add(x, skip)
    return total if b is None else r.Add(total, b)


def _with_sum(node: Node, y: Value, total: Value) -> Results:
    if _used(node, 1) or _used(node, 2):
        raise NoMatch(f"the statistics of {node.op} are used")
    return [y, None, None, total if _used(node, 3) else None]


def _epsilon(node: Node) -> float:
    return float(node.attr("epsilon", 1e-5))


def _rms(r: Rewriter, x: Value, scale: Value, node: Node) -> Value:
    """RMSNormalization where the opset has it, else spelled out (single precision only)."""
    if r.opset() >= 23:
        return r.RMSNormalization(x, scale, axis=-1, epsilon=_epsilon(node))
    if x.dtype is None or x.dtype.bits < 32:
        raise NoMatch(f"{node.op} of {x.dtype!r} needs opset 23, the model imports {r.opset()}")
    root = r.Sqrt(r.Add(reduce_to_one(r, "ReduceMean", r.Mul(x, x), [-1]), _epsilon(node)))
    return r.Mul(r.Div(x, root), scale)


def _simplified_layernorm(r: Rewriter, node: Node) -> Results:
    if node.attr("axis", -1) != -1:
        raise NoMatch(f"axis is {node.attr('axis')}, expected -1")
    if _used(node, 1):
        raise NoMatch("the statistics are used")
    return [_rms(r, _in(node, 0), _in(node, 1), node)]


def _transpose_matmul(r: Rewriter, node: Node) -> Results:
    return _fused_matmul(r, node)


CONTRIB_EQUATIONS: dict[tuple[str, str], Callable[[Rewriter, Node], Results]] = {
    (CONTRIB, "Gelu"): _plain_gelu,
    (CONTRIB, "BiasGelu"): _bias_gelu,
    (CONTRIB, "FastGelu"): _fast_gelu,
    (CONTRIB, "QuickGelu"): _quick_gelu,
    (CONTRIB, "FusedMatMul"): _fused_matmul,
    (CONTRIB, "TransposeMatMul"): _transpose_matmul,
    (CONTRIB, "FusedConv"): _fused_conv,
    (CONTRIB, "FusedGemm"): _fused_gemm,
    (CONTRIB, "SkipLayerNormalization"): _skip_layernorm,
    (CONTRIB, "SkipSimplifiedLayerNormalization"): _skip_rmsnorm,
    ("", "SimplifiedLayerNormalization"): _simplified_layernorm,
    **ATTENTION_EQUATIONS,
    **CACHED_EQUATIONS,
    **CUDA_EQUATIONS,
    **EXPERT_EQUATIONS,
    **GATED_EQUATIONS,
    **QUANTIZED_EQUATIONS,
    **TWIN_EQUATIONS,
}
