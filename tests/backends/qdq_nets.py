"""A builder of small quantized models."""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.ir import Builder, DType
from planish.ir.graph import Model, Value


class Net(Builder):
    """A builder with pairs; scale 0.1 for activations, 0.02 for weights."""

    def x(self, *shape: int) -> Value:
        return self.Tanh(self.input("x", DType.F32, shape))

    def pair(self, x: Value, scale: float = 0.1, zero: int = 0, dtype: Any = np.uint8, *, bare: bool = False) -> Value:
        s, z = self.const(np.float32(scale)), [] if bare else [self.const(dtype(zero))]
        return self.DequantizeLinear(self.QuantizeLinear(x, s, *z), s, *z)

    def stored(self, *shape: int, dtype: Any = np.int8, most: int = 60, axis: int | None = None) -> Value:
        data = np.random.default_rng(0).integers(0 if dtype is np.uint8 else -most, most, shape).astype(dtype)
        count = () if axis is None else (shape[axis],)
        zero = np.zeros(count, dtype)
        attrs = {} if axis is None else {"axis": axis}
        return self.DequantizeLinear(
            self.const(data), self.const(np.full(count, 0.02, np.float32)), self.const(zero), **attrs
        )

    def shift(self, count: int, scale: float = 0.002) -> Value:
        return self.DequantizeLinear(self.const(np.full(count, 50, np.int32)), self.const(np.float32(scale)))

    def done(self, y: Value) -> Model:
        self.output(self.Erf(y), "y")
        return self.model()
