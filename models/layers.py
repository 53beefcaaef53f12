"""Layers in the spelling of PyTorch's ONNX exporter, for whatever opset the builder declares.

What the opset lacks is decomposed just as exporters do: LayerNormalization before 17, axes of reductions
as attributes before 18, Gelu before 20, RMSNormalization before 23.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..ir.builder import Builder
from ..ir.dtypes import DType
from ..ir.graph import Value
from .weights import Weights

_LEAST = float(np.finfo(np.float32).min)


def opset_of(b: Builder) -> int:
    """Version of the default domain that the graph declares."""
    return b.graph.opsets[""]


# ---- shapes


def extent(b: Builder, x: Value, axis: int) -> int | Value:
    """Extent of an axis: a number where it is known, else Shape and Gather (a scalar)."""
    known = x.shape[axis] if x.shape is not None else None
    return known if isinstance(known, int) else b.Gather(b.Shape(x), b.const(axis), axis=0)


def view(b: Builder, x: Value, dims: Sequence[int | Value]) -> Value:
    """Reshape to ``dims``; where some are scalars of the graph, through Unsqueeze and Concat as traced models do."""
    return b.Reshape(x, shape_vector(b, dims))


def shape_vector(b: Builder, dims: Sequence[int | Value]) -> Value:
    """An int64 vector of numbers and scalars of the graph."""
    if all(isinstance(d, int) for d in dims):
        return b.const(list(dims))
    parts = [b.Unsqueeze(d, b.const([0])) if isinstance(d, Value) else b.const([d]) for d in dims]
    return b.Concat(*parts, axis=0)


def reduce_mean(b: Builder, x: Value, axes: Sequence[int], *, keepdims: int = 1) -> Value:
    """ReduceMean, with its axes where the opset wants them."""
    if opset_of(b) < 18:
        return b.ReduceMean(x, axes=tuple(axes), keepdims=keepdims)
    return b.ReduceMean(x, b.const(list(axes)), keepdims=keepdims)


# ---- layers


def linear(
    b: Builder, w: Weights, x: Value, name: str, inner: int, outer: int, *, gain: float = 1.0, bias: bool = True
) -> Value:
    """``x @ W + c`` over the last axis, as MatMul and Add; parameters ``name.weight`` and ``name.bias``."""
    weight = b.const(w.matrix(f"{name}.weight", inner, outer, gain=gain), f"{name}.weight")
    y = b.MatMul(x, weight, _name=f"{name}/MatMul")
    if not bias:
        return y
    return b.Add(b.const(w.vector(f"{name}.bias", outer), f"{name}.bias"), y, _name=f"{name}/Add")


def layer_norm(b: Builder, w: Weights, x: Value, name: str, size: int, epsilon: float = 1e-5) -> Value:
    """Layer normalization over the last axis (Ba et al., 2016)."""
    gain = b.const(w.vector(f"{name}.weight", size, mean=1.0), f"{name}.weight")
    shift = b.const(w.vector(f"{name}.bias", size), f"{name}.bias")
    if opset_of(b) >= 17:
        return b.LayerNormalization(x, gain, shift, axis=-1, epsilon=epsilon, _name=f"{name}/LayerNormalization")
    centred = b.Sub(x, reduce_mean(b, x, [-1]))
    variance = reduce_mean(b, b.Pow(centred, 2.0), [-1])
    return b.Add(b.Mul(b.Div(centred, b.Sqrt(b.Add(variance, epsilon))), gain), shift)


def rms_norm(b: Builder, w: Weights, x: Value, name: str, size: int, epsilon: float = 1e-6) -> Value:
    """Root-mean-square normalization over the last axis (Zhang and Sennrich, NeurIPS 2019)."""
    gain = b.const(w.vector(f"{name}.weight", size, mean=1.0), f"{name}.weight")
    if opset_of(b) >= 23:
        return b.RMSNormalization(x, gain, axis=-1, epsilon=epsilon, _name=f"{name}/RMSNormalization")
    mean_square = reduce_mean(b, b.Pow(x, 2.0), [-1])
    return b.Mul(gain, b.Mul(x, b.Reciprocal(b.Sqrt(b.Add(mean_square, epsilon)))))


def gelu(b: Builder, x: Value) -> Value:
    """Gelu with the error function (Hendrycks and Gimpel, 2016)."""
    if opset_of(b) >= 20:
        return b.Gelu(x)
    erf = b.Erf(b.Div(x, math.sqrt(2.0)))
    return b.Mul(b.Mul(x, b.Add(erf, 1.0)), 0.5)


def silu(b: Builder, x: Value) -> Value:
    """``x * sigmoid(x)``."""
    return b.Mul(x, b.Sigmoid(x))


def hard_swish(b: Builder, x: Value) -> Value:
    """``x * clip(x / 6 + 1/2, 0, 1)`` (Howard et al., ICCV 2019); HardSigmoid and Mul before opset 14."""
    return b.HardSwish(x) if opset_of(b) >= 14 else b.Mul(x, b.HardSigmoid(x, alpha=1 / 6, beta=0.5))


def batch_norm(b: Builder, w: Weights, x: Value, name: str, channels: int, *, mean: float = 1.0) -> Value:
    """BatchNormalization of inference; seeded gains lie around ``mean``."""
    parameters = [
        b.const(w.vector(f"{name}.{part}", channels, mean=centre, spread=spread), f"{name}.{part}")
        for part, centre, spread in (
            ("weight", mean, 0.3 * mean),
            ("bias", 0.0, 0.1),
            ("running_mean", 0.0, 0.1),
            ("running_var", 1.0, 0.3),
        )
    ]
    return b.BatchNormalization(x, *parameters, epsilon=1e-5, _name=f"{name}/BatchNormalization")


def conv(
    b: Builder,
    w: Weights,
    x: Value,
    name: str,
    inner: int,
    outer: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> Value:
    """A square convolution with "same" padding; seeded weights by He's rule (ICCV 2015)."""
    kernel = w.kernel(f"{name}.weight", (outer, inner // groups, size, size), gain=math.sqrt(2.0))
    operands = [b.const(kernel, f"{name}.weight")]
    if bias:
        operands.append(b.const(w.vector(f"{name}.bias", outer), f"{name}.bias"))
    pad = size // 2
    return b.Conv(
        x,
        *operands,
        kernel_shape=(size, size),
        strides=(stride, stride),
        pads=(pad, pad, pad, pad),
        dilations=(1, 1),
        group=groups,
        _name=f"{name}/Conv",
    )


# ---- attention


def split_heads(b: Builder, x: Value, heads: int, size: int, *, transposed: bool = False) -> Value:
    """[B, S, heads * size] to [B, heads, S, size], or with ``transposed`` to [B, heads, size, S]."""
    batch, length = extent(b, x, 0), extent(b, x, 1)
    parts = view(b, x, [batch, length, heads, size])
    return b.Transpose(parts, perm=(0, 2, 3, 1) if transposed else (0, 2, 1, 3))


def merge_heads(b: Builder, x: Value, width: int) -> Value:
    """[B, heads, S, size] to [B, S, width]."""
    joined = b.Transpose(x, perm=(0, 2, 1, 3))
    return view(b, joined, [extent(b, joined, 0), extent(b, joined, 1), width])


def attend(b: Builder, q: Value, k: Value, v: Value, size: int, mask: Value | None = None) -> Value:
    """``softmax(q k / sqrt(size) + mask) v`` with ``k`` already transposed (Vaswani et al., NeurIPS 2017)."""
    scores = b.Div(b.MatMul(q, k), math.sqrt(size))
    if mask is not None:
        scores = b.Add(scores, mask)
    return b.MatMul(b.Softmax(scores, axis=-1), v)


def additive_mask(b: Builder, keep: Value) -> Value:
    """0 where ``keep`` (int64, 1 or 0) is 1, the least float32 where it is 0."""
    as_float = b.Cast(keep, to=DType.F32.code)
    return b.Mul(b.Sub(b.const(np.float32(1)), as_float), _LEAST)
