"""Models of half precision: products by templates, summed in single precision; beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.lower.program import Module
from planish.backends.tvm.ready import readied
from planish.driver.checks.reference import Reference
from planish.ir import Builder, DType
from planish.ir.graph import Model, Value
from planish.passes.target import get_target

NATIVE = get_target("native")
DRAW = np.random.default_rng(8)


def half(*shape: int) -> np.ndarray:
    return (DRAW.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float16)


def dense(b: Builder, x: Value) -> Value:
    return b.Relu(b.Conv(x, b.const(half(24, 16, 3, 3)), b.const(half(24)), pads=(1, 1, 1, 1), strides=(2, 2)))


def depthwise(b: Builder, x: Value) -> Value:
    return b.Clip(b.Conv(x, b.const(half(16, 1, 3, 3)), b.const(half(16)), pads=(1, 1, 1, 1), group=16))


def linear(b: Builder, x: Value) -> Value:
    rows = b.Reshape(x, b.const(np.array([64, 35], np.int64)))
    return b.Gemm(rows, b.const(half(20, 35)), b.const(half(20)), transB=1)


def attention(b: Builder, x: Value) -> Value:
    first = b.Reshape(x, b.const(np.array([4, 14, 40], np.int64)))
    return b.Add(b.MatMul(b.Softmax(b.MatMul(first, b.Transpose(first, perm=(0, 2, 1)))), first), first)


@pytest.mark.parametrize("make", [dense, depthwise, linear, attention])
def test_products_of_half_precision(make: Callable[[Builder, Value], Value]) -> None:
    b = Builder()
    b.output(make(b, b.input("x", DType.F16, (1, 16, 10, 14))), "y")
    model, feeds = b.model(), {"x": half(1, 16, 10, 14) * 40}
    reference = Reference(model, optimizer_noise=False)
    reference.samples.append(feeds)
    found = TvmBackend().lower(model, NATIVE).run(feeds)
    assert [str(c) for c in reference.compare(0, found) if not c.equivalent] == []
    assert templates(model)


def templates(model: Model) -> list[str]:
    """Keys of kernels that templates make."""
    machine = Machine(NATIVE)
    (piece,) = readied(model, machine)[1]
    keys = [call.kernel.key for call in Module(machine).lower(piece.model.graph, "main").calls]
    return [key for key in keys if key.startswith(("Conv(", "MatMul("))]
