"""Counts against formulas written out by hand."""

from __future__ import annotations

import numpy as np

from planish.ir.builder import Builder
from planish.ir.constants import SeededConstant
from planish.ir.cost import bytes_moved, flops, total_flops
from planish.ir.dims import evaluate
from planish.ir.dtypes import DType

F32 = DType.F32


def test_conv_counts_multiply_adds_twice() -> None:
    b = Builder()
    x = b.input("x", F32, ("N", 16, 8, 8))
    y = b.Conv(x, b.weight("w", (32, 4, 3, 3), 1), b.weight("b", (32,), 2), group=4, pads=(1, 1, 1, 1))
    assert evaluate(flops(y.producer), {"N": 2}) == 2 * 32 * 8 * 8 * (2 * 4 * 9 + 1)
    assert evaluate(bytes_moved(y.producer), {"N": 2}) == 4 * (2 * 16 * 64 + 32 * 4 * 9 + 32 + 2 * 32 * 64)


def test_products() -> None:
    b = Builder()
    x = b.input("x", F32, (5, 8, 16))
    assert flops(b.MatMul(x, b.weight("w", (16, 4), 1)).producer) == 2 * 5 * 8 * 16 * 4
    a = b.input("a", F32, (16, "M"))
    y = b.Gemm(a, b.weight("v", (4, 16), 1), b.weight("c", (4,), 2), transA=1, transB=1)
    assert evaluate(flops(y.producer), {"M": 3}) == 3 * 4 * (2 * 16 + 1)
    e = b.Einsum(x, b.weight("u", (5, 16, 4), 3), equation="bij,bjk->bik")
    assert flops(e.producer) == 2 * 5 * 8 * 16 * 4


def test_transposed_conv_is_the_conv_backwards() -> None:
    b = Builder()
    small, w = b.input("x", F32, (1, 8, 4, 4)), b.weight("w", (8, 3, 2, 2), 1)
    y = b.ConvTranspose(small, w, strides=(2, 2))
    back = b.Conv(y, w, strides=(2, 2))
    assert flops(y.producer) == flops(back.producer) == 2 * 8 * 16 * 3 * 4


def test_lstm() -> None:
    b = Builder()
    x = b.input("x", F32, (7, 2, 8))
    y = b.LSTM(x, b.weight("w", (1, 64, 8), 1), b.weight("r", (1, 64, 16), 2), hidden_size=16)
    assert flops(y.producer) == 7 * 2 * 2 * 64 * (8 + 16)


def test_movement_is_free_of_operations_and_views_of_bytes() -> None:
    b = Builder()
    x = b.input("x", F32, (4, 6))
    t, r = b.Transpose(x), b.Reshape(x, np.array([24], np.int64))
    assert (flops(t.producer), bytes_moved(t.producer)) == (0, 2 * 4 * 24)
    assert (flops(r.producer), bytes_moved(r.producer)) == (0, 0)


def test_packed_types_and_shared_operands() -> None:
    b = Builder()
    x = b.input("x", F32, (4,))
    assert bytes_moved(b.Add(x, x).producer) == 2 * 16
    q = b.const(SeededConstant(1, DType.I4, (5,), "uniform", 7))
    assert bytes_moved(b.DequantizeLinear(q, b.input("s", F32, ())).producer) == 3 + 4 + 20


def test_unknown_is_said() -> None:
    b = Builder()
    x = b.input("x", F32, (None, 3))
    y, z = b.Relu(x), b.Relu(b.input("z", F32, (2, 3)))
    assert flops(y.producer) is None
    assert total_flops([y.producer, z.producer]) == (6, 1)
