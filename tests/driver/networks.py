"""Small networks for the tests of the driver."""

from __future__ import annotations

import numpy as np

from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.graph import Model


def array(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def classifier(*, negate: bool = False, scale: float = 1.0, transpose: bool = False, nan: bool = False) -> Model:
    """Conv, BatchNormalization, Relu, mean, MatMul, Softmax, with an Identity on the way; and planted differences."""
    b = Builder()
    x = b.input("x", DType.F32, ("N", 3, 16, 16))
    h = b.Conv(x, b.const(array(8, 3, 3, 3, seed=1, scale=0.3), "w1"), pads=(1, 1, 1, 1), _name="conv")
    parameters = [array(8, seed=2), array(8, seed=3), array(8, seed=4), np.abs(array(8, seed=5)) + np.float32(0.5)]
    h = b.BatchNormalization(h, *[b.const(p, f"bn{i}") for i, p in enumerate(parameters)], _name="bn")
    h = b.Relu(b.Identity(h, _name="id"), _name="relu")
    h = b.Flatten(b.GlobalAveragePool(h))
    w = array(8, 10, seed=6) * np.float32(-1 if negate else 1) * np.float32(scale)
    h = b.MatMul(h, b.const(w, "w2"), _name="fc")
    if nan:
        h = b.Sqrt(b.Sub(h, 1.0))
    y = b.Softmax(h, axis=-1, _name="softmax")
    if transpose:
        y = b.Transpose(b.Reshape(y, b.const(np.array([0, 2, 5]))), perm=(0, 2, 1))
        y = b.Reshape(y, b.const(np.array([0, 10])))
    b.output(y, "y")
    return b.model()


def detector(*, score_factor: float = 1.0) -> Model:
    """Boxes up to hundreds and scores below one in one output, as YOLO has them: channels 0-3 and 4-7 of [N,8,64]."""
    b = Builder()
    x = b.input("x", DType.F32, ("N", 6, 64))
    boxes = b.Mul(b.Sigmoid(b.Conv(x, b.const(array(4, 6, 1, seed=7), "wb"))), 640.0)
    scores = b.Softmax(b.Conv(x, b.const(array(4, 6, 1, seed=8), "ws")), axis=1)
    if score_factor != 1.0:
        scores = b.Mul(scores, score_factor)
    b.output(b.Concat(boxes, scores, axis=1), "y")
    return b.model()


def embedder() -> Model:
    """Token ids and a mask; Gather from 11 rows, a top index as second output."""
    b = Builder()
    ids = b.input("input_ids", DType.I64, ("batch", "length"))
    mask = b.input("attention_mask", DType.I64, ("batch", "length"))
    h = b.Gather(b.const(array(11, 4, seed=9), "table"), ids)
    h = b.Mul(h, b.Unsqueeze(b.Cast(mask, to=1), b.const(np.array([-1]))))
    total = b.ReduceSum(h, b.const(np.array([1])), keepdims=0)
    b.output(total, "embedding")
    b.output(b.ArgMax(total, axis=-1, keepdims=0), "best")
    return b.model()


def unstable() -> Model:
    """Subtracts nearly equal numbers and multiplies what is left of the digits."""
    b = Builder()
    x = b.input("x", DType.F32, (4, 64))
    big = b.Add(x, 1e6)
    y = b.Mul(b.Sub(b.MatMul(big, b.const(np.eye(64, dtype=np.float32))), 1e6), 1e3)
    b.output(y, "y")
    return b.model()


def images(count: int = 3, batch: int = 2) -> np.ndarray:
    return np.stack([array(batch, 3, 16, 16, seed=20 + i) for i in range(count)])
