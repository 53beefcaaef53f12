"""MobileNetV2 (Sandler et al., CVPR 2018) and MobileNetV3 (Howard et al., ICCV 2019), after torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..ir.builder import DEFAULT_OPSET, Builder
from ..ir.dtypes import DType
from ..ir.errors import UsageError
from ..ir.graph import Model, Value
from .layers import batch_norm, conv, hard_swish
from .weights import SeededWeights, Weights

Activation = Callable[[Builder, Value], Value]


def _relu6(b: Builder, x: Value) -> Value:
    """Clip to [0, 6]."""
    return b.Clip(x, 0.0, 6.0)


def _relu(b: Builder, x: Value) -> Value:
    return b.Relu(x)


class _Block(NamedTuple):
    """An inverted residual: expand by 1 x 1, filter by depth, (squeeze and excite,) project by 1 x 1."""

    size: int
    expanded: int
    outer: int
    stride: int
    excite: bool
    activation: Activation


_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repeats, first stride: table 2 of the paper."""

_V3_LARGE = (
    "3 16 16 1 - r|3 64 24 2 - r|3 72 24 1 - r|5 72 40 2 s r|5 120 40 1 s r|5 120 40 1 s r|3 240 80 2 - h|"
    "3 200 80 1 - h|3 184 80 1 - h|3 184 80 1 - h|3 480 112 1 s h|3 672 112 1 s h|5 672 160 2 s h|"
    "5 960 160 1 s h|5 960 160 1 s h"
)
_V3_SMALL = (
    "3 16 16 2 s r|3 72 24 2 - r|3 88 24 1 - r|5 96 40 2 s h|5 240 40 1 s h|5 240 40 1 s h|5 120 48 1 s h|"
    "5 144 48 1 s h|5 288 96 2 s h|5 576 96 1 s h|5 576 96 1 s h"
)
"""Kernel, expanded channels, channels, stride, squeeze-and-excite, Relu or HardSwish: tables 1 and 2."""

_V3 = {"large": (_V3_LARGE, 1280), "small": (_V3_SMALL, 1024)}


def mobilenet_v2(
    *,
    width: float = 1.0,
    classes: int = 1000,
    size: int | str = 224,
    batch: int | str = "N",
    seed: int = 0,
    opset: int = DEFAULT_OPSET,
) -> Model:
    """``input`` [batch, 3, size, size] to ``output`` [batch, classes], float32 logits; channels times ``width``."""
    b, w = Builder(opset=opset), SeededWeights(seed)
    x = b.input("input", DType.F32, (batch, 3, size, size))
    channels = _rounded(32 * width)
    x = _conv_norm(b, w, x, "features.0", 3, channels, 3, _relu6, stride=2)
    number = 0
    for expansion, outer, count, first_stride in _V2:
        for i in range(count):
            number += 1
            stride = first_stride if i == 0 else 1
            block = _Block(3, channels * expansion, _rounded(outer * width), stride, False, _relu6)
            x = _inverted_residual(b, w, x, f"features.{number}", channels, block)
            channels = block.outer
    last = _rounded(1280 * max(1.0, width))
    x = _conv_norm(b, w, x, f"features.{number + 1}", channels, last, 1, _relu6)
    x = b.Flatten(b.GlobalAveragePool(x), axis=1)
    b.output(_classifier(b, w, x, "classifier.1", last, classes), "output")
    return b.model()


def mobilenet_v3(
    variant: str = "large",
    *,
    width: float = 1.0,
    classes: int = 1000,
    size: int | str = 224,
    batch: int | str = "N",
    seed: int = 0,
    opset: int = DEFAULT_OPSET,
) -> Model:
    """As `mobilenet_v2`; ``variant`` is ``large`` or ``small``. Raises UsageError for another."""
    if variant not in _V3:
        raise UsageError(f"no MobileNetV3 is called {variant!r}, expected 'large' or 'small'", where="models")
    rows, hidden = _V3[variant]
    b, w = Builder(opset=opset), SeededWeights(seed)
    x = b.input("input", DType.F32, (batch, 3, size, size))
    channels = _rounded(16 * width)
    x = _conv_norm(b, w, x, "features.0", 3, channels, 3, hard_swish, stride=2)
    blocks = [_parse(row, width) for row in rows.split("|")]
    for i, block in enumerate(blocks, 1):
        x = _inverted_residual(b, w, x, f"features.{i}", channels, block)
        channels = block.outer
    x = _conv_norm(b, w, x, f"features.{len(blocks) + 1}", channels, 6 * channels, 1, hard_swish)
    x = b.Flatten(b.GlobalAveragePool(x), axis=1)
    x = hard_swish(b, _classifier(b, w, x, "classifier.0", 6 * channels, hidden))
    b.output(_classifier(b, w, x, "classifier.3", hidden, classes), "output")
    return b.model()


def _parse(row: str, width: float) -> _Block:
    size, expanded, outer, stride, excite, activation = row.split()
    return _Block(
        int(size),
        _rounded(int(expanded) * width),
        _rounded(int(outer) * width),
        int(stride),
        excite == "s",
        hard_swish if activation == "h" else _relu,
    )


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, not more than a tenth below (the papers' ``make_divisible``)."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _conv_norm(
    b: Builder,
    w: Weights,
    x: Value,
    name: str,
    inner: int,
    outer: int,
    size: int,
    activation: Activation | None,
    *,
    stride: int = 1,
    groups: int = 1,
    gain: float = 1.0,
) -> Value:
    """Convolution, normalization, activation."""
    x = conv(b, w, x, f"{name}.0", inner, outer, size, stride=stride, groups=groups)
    x = batch_norm(b, w, x, f"{name}.1", outer, mean=gain)
    return x if activation is None else activation(b, x)


def _inverted_residual(b: Builder, w: Weights, x: Value, name: str, channels: int, block: _Block) -> Value:
    y, step = x, 0
    if block.expanded != channels:
        y, step = _conv_norm(b, w, y, f"{name}.block.0", channels, block.expanded, 1, block.activation), 1
    expanded = block.expanded
    y = _conv_norm(
        b,
        w,
        y,
        f"{name}.block.{step}",
        expanded,
        expanded,
        block.size,
        block.activation,
        stride=block.stride,
        groups=expanded,
    )
    if block.excite:
        step += 1
        y = _squeeze_excite(b, w, y, f"{name}.block.{step}", expanded)
    residual = block.stride == 1 and channels == block.outer
    gain = 0.5 if residual else 1.0
    y = _conv_norm(b, w, y, f"{name}.block.{step + 1}", expanded, block.outer, 1, None, gain=gain)
    return b.Add(x, y) if residual else y


def _squeeze_excite(b: Builder, w: Weights, x: Value, name: str, channels: int) -> Value:
    """Scales channels by a gate computed from their means (Hu et al., CVPR 2018)."""
    squeezed = _rounded(channels // 4)
    gate = conv(b, w, b.GlobalAveragePool(x), f"{name}.fc1", channels, squeezed, 1, bias=True)
    gate = conv(b, w, b.Relu(gate), f"{name}.fc2", squeezed, channels, 1, bias=True)
    return b.Mul(b.HardSigmoid(gate, alpha=1 / 6, beta=0.5), x)


def _classifier(b: Builder, w: Weights, x: Value, name: str, inner: int, outer: int) -> Value:
    weight = b.const(w.kernel(f"{name}.weight", (outer, inner), gain=2**0.5), f"{name}.weight")
    return b.Gemm(x, weight, b.const(w.vector(f"{name}.bias", outer), f"{name}.bias"), transB=1)
