"""Residual networks for images (He et al., CVPR 2016), as torchvision builds and PyTorch exports them."""

from __future__ import annotations

from ..ir.builder import DEFAULT_OPSET, Builder
from ..ir.dtypes import DType
from ..ir.errors import UsageError
from ..ir.graph import Model, Value
from .layers import batch_norm, conv
from .weights import SeededWeights, Weights

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_BRANCH_GAIN = 0.3
"""Gain of the last normalization of a residual branch: sums of many branches stay in range."""


def resnet(
    depth: int = 50,
    *,
    width: int = 64,
    classes: int = 1000,
    size: int | str = 224,
    batch: int | str = "N",
    seed: int = 0,
    opset: int = DEFAULT_OPSET,
) -> Model:
    """``input`` [batch, 3, size, size] to ``output`` [batch, classes], float32 logits.

    ``depth`` is 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks); ``width`` the channels of the first
    stage. BatchNormalization is not folded. Raises UsageError for another depth.
    """
    if depth not in _BLOCKS:
        raise UsageError(f"no residual network has depth {depth}, expected one of {sorted(_BLOCKS)}", where="models")
    b, w = Builder(opset=opset), SeededWeights(seed)
    x = b.input("input", DType.F32, (batch, 3, size, size))
    x = b.Relu(batch_norm(b, w, conv(b, w, x, "conv1", 3, width, 7, stride=2), "bn1", width))
    x = b.MaxPool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    bottleneck = depth >= 50
    channels = width
    for stage, count in enumerate(_BLOCKS[depth]):
        inner = width << stage
        outer = inner * (4 if bottleneck else 1)
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            block = _bottleneck if bottleneck else _basic
            branch = block(b, w, x, f"layer{stage + 1}.{i}", channels, inner, stride)
            x = b.Relu(b.Add(branch, _shortcut(b, w, x, f"layer{stage + 1}.{i}.downsample", channels, outer, stride)))
            channels = outer
    x = b.Flatten(b.GlobalAveragePool(x), axis=1)
    weight = b.const(w.kernel("fc.weight", (classes, channels)), "fc.weight")
    b.output(b.Gemm(x, weight, b.const(w.vector("fc.bias", classes), "fc.bias"), transB=1), "output")
    return b.model()


def _basic(b: Builder, w: Weights, x: Value, name: str, channels: int, inner: int, stride: int) -> Value:
    """Two 3 x 3 convolutions."""
    x = conv(b, w, x, f"{name}.conv1", channels, inner, 3, stride=stride)
    x = b.Relu(batch_norm(b, w, x, f"{name}.bn1", inner))
    return batch_norm(b, w, conv(b, w, x, f"{name}.conv2", inner, inner, 3), f"{name}.bn2", inner, mean=_BRANCH_GAIN)


def _bottleneck(b: Builder, w: Weights, x: Value, name: str, channels: int, inner: int, stride: int) -> Value:
    """1 x 1, 3 x 3 with the stride, 1 x 1 to four times the channels."""
    x = b.Relu(batch_norm(b, w, conv(b, w, x, f"{name}.conv1", channels, inner, 1), f"{name}.bn1", inner))
    x = conv(b, w, x, f"{name}.conv2", inner, inner, 3, stride=stride)
    x = conv(b, w, b.Relu(batch_norm(b, w, x, f"{name}.bn2", inner)), f"{name}.conv3", inner, 4 * inner, 1)
    return batch_norm(b, w, x, f"{name}.bn3", 4 * inner, mean=_BRANCH_GAIN)


def _shortcut(b: Builder, w: Weights, x: Value, name: str, channels: int, outer: int, stride: int) -> Value:
    """The input itself, or projected where channels or extent change."""
    if stride == 1 and channels == outer:
        return x
    return batch_norm(b, w, conv(b, w, x, f"{name}.0", channels, outer, 1, stride=stride), f"{name}.1", outer)
