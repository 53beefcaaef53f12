"""Random quantized models in the forms that tools and hands write them: pairs that match or not, shared, doubled, bare.

Most choices repeat (few scales, few types) so that units form often; every condition of the runtime is broken now and
then: other parameters in front and behind, a missing zero point, i8 beside u8, 16 bits, a float operand, a second
reader, a result of the graph between an operator and its QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.builder import Builder
from ...ir.dtypes import DType
from ...ir.graph import Model, Value

SCALES = (0.05, 0.1)
CHANNELS, SIZE = 4, 6


class Sketch:
    """A model in the making: feature maps [1, 4, H, W] and matrices [3, 8]."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.opset = int(self.draw.choice([13, 17, 21]))
        self.b = Builder(opset=self.opset)
        self.maps: list[Value] = [self.b.input("image", DType.F32, (1, CHANNELS, SIZE, SIZE))]
        self.matrices: list[Value] = [self.b.input("matrix", DType.F32, (3, 8))]
        self.outputs: list[Value] = []

    # -- choices

    def chance(self, p: float) -> bool:
        return bool(self.draw.random() < p)

    def pick(self, values: list[Value]) -> Value:
        """Mostly the newest, so that chains are long."""
        return values[-1] if self.chance(0.6) else values[int(self.draw.integers(len(values)))]

    def dtype(self) -> type[np.generic]:
        kinds: list[type[np.generic]] = [np.uint8, np.int8, np.uint16 if self.opset >= 21 else np.uint8]
        return kinds[int(self.draw.choice(3, p=[0.72, 0.2, 0.08]))]

    def zero(self, dtype: type[np.generic]) -> int:
        low = int(np.iinfo(dtype).min)  # type: ignore[arg-type]
        return low if self.chance(0.6) else low + int(self.draw.integers(1, 4)) * 10

    # -- pairs

    def pair(self, x: Value) -> Value:
        """QuantizeLinear and DequantizeLinear behind ``x``, seldom two of them, without zero point, or per axis."""
        dtype = self.dtype()
        scale, zero = self.scale(), self.b.const(np.array(self.zero(dtype), dtype))
        bare = self.chance(0.04) and dtype is np.uint8
        operands = [scale] if bare else [scale, zero]
        q = self.b.QuantizeLinear(x, *operands)
        if self.chance(0.04):
            operands = [self.scale(), zero]
        y = self.b.DequantizeLinear(q, *operands)
        return self.pair(y) if self.chance(0.04) else y

    def scale(self) -> Value:
        return self.b.const(np.float32(SCALES[int(self.chance(0.2))]))

    def weight(self, shape: tuple[int, ...], axis: int | None) -> Value:
        """Constant stored integers with DequantizeLinear, per tensor or along ``axis``; seldom plain floats."""
        if self.chance(0.08):
            return self.b.const(self.draw.standard_normal(shape).astype(np.float32))
        dtype = np.int8 if self.chance(0.75) else np.uint8
        data = self.b.const(self.draw.integers(0, 60, shape).astype(dtype))
        if axis is None or self.chance(0.5):
            return self.b.DequantizeLinear(data, self.b.const(np.float32(0.02)), self.b.const(dtype(0)))
        count = shape[axis]
        scale = self.b.const(np.full(count, 0.02, np.float32))
        return self.b.DequantizeLinear(data, scale, self.b.const(np.zeros(count, dtype)), axis=axis)

    def bias(self, count: int) -> Value | None:
        kind = int(self.draw.integers(3))
        if kind == 0:
            return None
        if kind == 1:
            return self.b.const(np.ones(count, np.float32))
        return self.b.DequantizeLinear(self.b.const(np.ones(count, np.int32)), self.b.const(np.float32(0.001)))

    # -- operators

    def add_map(self) -> None:
        makers: list[Callable[[Value], Value]] = [
            self.conv,
            self.conv,
            lambda x: self.b.MaxPool(x, kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
            lambda x: self.b.AveragePool(x, kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
            lambda x: self.b.Add(x, self.pick(self.maps)),
            lambda x: self.b.Mul(x, self.pick(self.maps)),
            lambda x: self.b.Mul(x, self.b.GlobalAveragePool(self.pick(self.maps))),
            self.concat,
            self.split,
            self.resize,
            lambda x: self.b.Relu(x),
            self.clip,
            lambda x: self.b.Sigmoid(x),
            lambda x: self.b.LeakyRelu(x, alpha=0.1),
            lambda x: self.b.Tanh(x),
            lambda x: self.b.Transpose(self.b.Transpose(x, perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2)),
            lambda x: self.b.Identity(x),
            self.where,
        ]
        self.maps.append(self.finish(makers[int(self.draw.integers(len(makers)))](self.pick(self.maps))))

    def add_matrix(self) -> None:
        makers: list[Callable[[Value], Value]] = [
            self.matmul,
            self.matmul,
            self.gemm,
            lambda x: self.b.Add(x, self.pick(self.matrices)),
            lambda x: self.b.Softmax(x, axis=1),
            lambda x: self.b.Relu(x),
            lambda x: self.b.Tanh(x),
            lambda x: self.b.Reshape(x, self.b.const(np.array([3, 8]))),
            lambda x: self.b.Reshape(self.b.Unsqueeze(x, self.b.const(np.array([0]))), self.b.const(np.array([3, 8]))),
            lambda x: self.b.Transpose(self.b.Reshape(x, self.b.const(np.array([8, 3]))), perm=(1, 0)),
            lambda x: self.b.Gather(x, self.b.const(np.array([0, 1, 1])), axis=0),
        ]
        self.matrices.append(self.finish(makers[int(self.draw.integers(len(makers)))](self.pick(self.matrices))))

    def finish(self, y: Value) -> Value:
        """Pairs behind most results; some results are also the graph's."""
        if self.chance(0.06):
            self.outputs.append(y)
        if self.chance(0.15):
            y = self.b.Relu(y)
        if self.chance(0.1) and len(self.outputs) < 3:
            z = self.pair(y)
            self.outputs.append(z)
            return z if self.chance(0.5) else self.pair(y)
        return self.pair(y) if self.chance(0.75) else y

    def conv(self, x: Value) -> Value:
        w = self.weight((CHANNELS, CHANNELS, 3, 3), 0)
        bias = self.bias(CHANNELS)
        y = self.b.Conv(x, w, *([] if bias is None else [bias]), pads=(1, 1, 1, 1))
        return self.b.Relu(y) if self.chance(0.3) else self.clip(y) if self.chance(0.15) else y

    def clip(self, x: Value) -> Value:
        high = float(self.draw.choice([1.0, 6.0, 100.0]))
        return self.b.Clip(x, self.b.const(np.float32(0)), self.b.const(np.float32(high)))

    def concat(self, x: Value) -> Value:
        y = self.b.Concat(x, self.pick(self.maps), axis=1)
        y = self.pair(y) if self.chance(0.6) else y
        return self.b.Slice(
            y, self.b.const(np.array([0])), self.b.const(np.array([CHANNELS])), self.b.const(np.array([1]))
        )

    def split(self, x: Value) -> Value:
        first, second = self.b.op("Split", x, self.b.const(np.array([2, 2])), _outputs=2, axis=1)
        if self.chance(0.7):
            first, second = self.pair(first), self.pair(second)
        return self.b.Concat(second, first, axis=1)

    def resize(self, x: Value) -> Value:
        mode = "nearest" if self.chance(0.6) else "linear"
        sizes = self.b.const(np.array([1, 1, 1, 1], np.float32))
        return self.b.Resize(x, None, sizes, mode=mode)

    def where(self, x: Value) -> Value:
        mask = self.b.const(np.arange(SIZE) % 2 == 0)
        other = self.b.const(np.float32(1)) if self.chance(0.4) else self.pick(self.maps)
        return self.b.Where(mask, x, other)

    def matmul(self, x: Value) -> Value:
        y = self.b.MatMul(x, self.weight((8, 8), 1))
        if self.chance(0.4):
            y = self.b.Add(y, self.b.const(np.ones(8, np.float32)))
        return y

    def gemm(self, x: Value) -> Value:
        bias = self.bias(8)
        transposed = int(self.chance(0.3))
        w = self.weight((8, 8), 0 if transposed else 1)
        return self.b.Gemm(x, w, *([] if bias is None else [bias]), transB=transposed)


def random_quantized(seed: int, nodes: int = 12) -> Model:
    """A model of about ``nodes`` operators with their pairs; valid at its opset."""
    sketch = Sketch(seed)
    for _ in range(nodes):
        if sketch.chance(0.6):
            sketch.add_map()
        else:
            sketch.add_matrix()
    for i, value in enumerate(dict.fromkeys([sketch.maps[-1], sketch.matrices[-1], *sketch.outputs])):
        sketch.b.output(sketch.b.Identity(value) if value.producer is None else value, f"out{i}")
    return sketch.b.model()
