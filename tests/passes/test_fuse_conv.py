"""Random convolutional networks through ``fuse-conv``: the same outputs, and nothing left to do the second time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.backends.ort.session import Session
from planish.ir import Builder
from planish.ir.dtypes import DType
from planish.ir.graph import Value
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.verify import verify
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.target import get_target

SEEDS = range(60)
CHANNELS = (1, 2, 3, 4, 6, 8, 9, 12, 17, 24, 33)


class _Net:
    """A random network of ``spatial`` axes, built from blocks that the passes look for."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.spatial = 1 + seed % 2
        self.b = Builder(opset=(13, 18, 21)[seed % 3])
        extents = (40,) if self.spatial == 1 else (12, 14)
        batch: Any = "N" if seed % 4 else 2
        self.shape = (2, 4, *extents)
        self.x = self.b.input("x", DType.F32, (batch, 4, *extents))

    def pick(self, *options: Any) -> Any:
        return options[int(self.draw.integers(len(options)))]

    def weights(self, *shape: int) -> np.ndarray[Any, Any]:
        fan_in = max(1, int(np.prod(shape[1:])))
        return (self.draw.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

    def conv(self, x: Value, outputs: int, kernel: int, **attrs: Any) -> Value:
        assert x.shape is not None
        inputs = x.shape[1]
        assert isinstance(inputs, int)
        operands = [self.weights(outputs, inputs // attrs.get("group", 1), *[kernel] * self.spatial)]
        if self.draw.random() < 0.5:
            operands.append(self.weights(outputs))
        pads = (kernel // 2,) * (2 * self.spatial)
        return self.b.Conv(x, *operands, pads=pads, **attrs)

    def channels(self, x: Value) -> int:
        assert x.shape is not None
        found = x.shape[1]
        assert isinstance(found, int)
        return found

    def activation(self, x: Value) -> Value:
        b = self.b
        match self.pick("none", "relu", "sigmoid", "silu", "hardswish", "clip", "affine", "square"):
            case "relu":
                return b.Relu(x)
            case "sigmoid":
                return b.Sigmoid(x)
            case "silu":
                return b.Mul(x, b.Sigmoid(x))
            case "hardswish":
                return b.Mul(x, b.HardSigmoid(x, alpha=1 / 6, beta=0.5))
            case "clip":
                return b.Clip(x, -1.0, 1.0)
            case "affine":
                per_channel = self.weights(self.channels(x), *[1] * self.spatial)
                return b.Add(b.Mul(x, self.pick(per_channel, 1.5)), 0.25)
            case "square":
                return b.Sqrt(b.Pow(x, 2.0))
            case _:
                return x

    def block(self, x: Value) -> Value:
        b, c = self.b, self.channels(x)
        match self.pick(
            "conv",
            "filter",
            "wide gate",
            "depthwise",
            "residual",
            "gate",
            "split",
            "concat",
            "pool",
            "slice",
            "softmax",
        ):
            case "depthwise":
                return self.conv(x, c, 3, group=c)
            case "residual":
                return b.Add(x, self.conv(x, c, self.pick(1, 3)))
            case "gate":
                y = b.GlobalAveragePool(x)
                gate = b.HardSigmoid(self.conv(self.activation(self.conv(y, self.pick(*CHANNELS), 1)), c, 1))
                product = b.Mul(x, gate)
                return self.pick(product, b.Add(x, product))
            case "wide gate":
                y = b.Conv(x, self.weights(5 * c, c, *[1] * self.spatial))
                gate = b.Sigmoid(self.conv(b.GlobalAveragePool(y), 5 * c, 1))
                return self.conv(b.Mul(y, gate), self.pick(*CHANNELS), 1)
            case "filter":
                strides = self.pick((1,), (2,)) * self.spatial
                return self.conv(self.activation(self.conv(x, self.pick(1, 2, 3), 15, strides=strides)), 4, 1)
            case "split":
                parts = b.Split(self.activation(self.conv(x, 8, 1)), np.array([4, 4]), axis=1, _outputs=2)
                return b.Mul(parts[0], self.conv(parts[1], 4, 1))
            case "concat":
                return self.conv(b.Concat(x, self.conv(x, self.pick(1, 4), 1), axis=1), self.pick(*CHANNELS), 3)
            case "pool":
                widths = {"kernel_shape": (2,) * self.spatial, "strides": self.pick((1,), (2,)) * self.spatial}
                return b.AveragePool(self.conv(x, self.pick(8, 9), 1), pads=(0, 1) * self.spatial, **widths)
            case "slice":
                return b.Slice(self.conv(x, 4, 3), np.array([1]), np.array([1 << 40]), np.array([-1]))
            case "softmax":
                return self.conv(b.Softmax(x, axis=1), self.pick(1, 2), 1)
            case _:
                return self.conv(x, self.pick(*CHANNELS), self.pick(1, 3))

    def model(self) -> Any:
        x = self.conv(self.x, self.pick(*CHANNELS), 3)
        for _ in range(int(self.draw.integers(3, 8))):
            x = self.activation(self.block(x))
        self.b.output(self.conv(x, self.pick(1, 2, 8), self.pick(1, 3)), "y")
        return self.b.model()


@pytest.mark.parametrize("target", ["generic", "x86-64-v4"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks_keep_their_outputs(seed: int, target: str) -> None:
    net = _Net(seed)
    model = net.model()
    sample = {"x": net.draw.standard_normal(net.shape).astype(np.float32)}
    before = Session(model_to_bytes(model)).run(sample)[0]
    pipeline = Pipeline("fuse-conv,widen-convolution{lanes=16,least=1}")
    pipeline.run(model, Context(target=get_target(target)))
    verify(model)
    after = Session(model_to_bytes(model)).run(sample)[0]
    assert after.shape == before.shape
    scale = float(np.abs(before).max())
    # A few dozen layers, each of at most 33 * 9 terms: the bound of one sum, times the number of layers, rounded up.
    assert np.abs(after - before).max() <= 32 * 300 * np.finfo(np.float32).eps * max(scale, 1e-3)
