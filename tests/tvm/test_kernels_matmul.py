"""Matrix products of the TVM backend against numpy in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.passes.target import cpu_flags, get_target, native

tvm = pytest.importorskip("tvm")

from planish.backends.tvm.kernels import blocked_weights  # noqa: E402
from planish.backends.tvm.kernels import matmul as products  # noqa: E402
from planish.backends.tvm.kernels.blocked_weights import BlockedWeights  # noqa: E402
from planish.backends.tvm.kernels.machine import Machine  # noqa: E402
from planish.backends.tvm.kernels.matmul import MatMul  # noqa: E402
from planish.backends.tvm.kernels.tile import Epilogue, Tile  # noqa: E402

MACHINE = Machine(get_target(native()))
AVX2 = "avx2" in cpu_flags()
S = tvm.tirx.Var("S", "int32")
N = tvm.tirx.Var("N", "int32")
CASES = [
    MatMul((), 37, 24, 100),
    MatMul((2, 3), 7, 33, 21),
    MatMul((), 1, 64, 90),
    MatMul((), 7, 24, 30, a_axes=(1, 0)),
    MatMul((), 9, 12, 20, packed=False, b_axes=(1, 0)),
    MatMul((2,), S, 16, 40),
    MatMul((N, 2), 5, 8, 16, a_axes=(0, 2, 1, 3), out_axes=(0, 2, 1, 3)),
    MatMul((1, 3), 13, 8, 29, packed=False),
    MatMul((1, 3), 13, 8, 29, packed=False, a_axes=(0, 2, 1, 3), b_axes=(0, 2, 1, 3), out_axes=(0, 2, 1, 3)),
    MatMul((2, 4), 19, 10, 23, packed=False, b_batch=(1, 4), b_axes=(1, 0, 3, 2)),
    MatMul((2,), S, N, 12, packed=False),
    MatMul((2,), S, 9, N, packed=False, b_axes=(0, 2, 1)),
    MatMul((2,), S, 9, N, packed=False),
]


def numbers(extents: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(e if isinstance(e, int) else {"S": 23, "N": 51}[e.name] for e in extents)


def stored(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(axes) if axes else x)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_products(case: MatMul) -> None:
    batch, (m, k, n) = numbers(case.batch), numbers((case.rows, case.depth, case.columns))
    rng = np.random.default_rng(0)
    a = rng.standard_normal((*batch, m, k)).astype(np.float32)
    b = rng.standard_normal((k, n) if case.packed else (*(case.b_batch or batch), k, n)).astype(np.float32)
    residual = rng.standard_normal((*batch, m, n)).astype(np.float32)

    epilogue = Epilogue(lambda v, i, e: tvm.tirx.max(v + e[0][i], 0.0), ((case.out_shape, "float32"),))
    # With open extents every rest has code of its own: a small tile compiles in a tenth of the time.
    tile = products.tiles(case, MACHINE)[0] if isinstance(case.columns, int) else Tile(5, 2, 4)
    kernel = tvm.compile(products.build(case, MACHINE, tile, epilogue), target=MACHINE.target())["matmul"]
    second = products.pack(b, case, tile) if case.packed else stored(b, case.b_axes)
    out = tvm.runtime.tensor(np.full(numbers(case.out_shape), np.nan, np.float32))
    inputs = [stored(a, case.a_axes), second, stored(residual, case.out_axes)]
    kernel(*[tvm.runtime.tensor(x) for x in inputs], out)

    want = stored(np.maximum(a.astype(np.float64) @ b + residual, 0), case.out_axes)
    magnitude = stored(abs(a).astype(np.float64) @ abs(b) + abs(residual), case.out_axes)
    assert (abs(out.numpy() - want) <= (k + 2) * 2**-24 * magnitude).all()


@pytest.mark.parametrize(
    ("case", "target"),
    [
        (MatMul((), 9, 27, 40, dtype="uint8"), native()),
        (MatMul((2,), S, 64, 33, dtype="int8"), native()),
        *[(MatMul((), 9, 27, 40, dtype="uint8"), "x86-64-v3")] * AVX2,
        (MatMul((2,), 5, 12, 19, packed=False, dtype="uint8", b_dtype="int8"), native()),
        (MatMul((2,), 5, 12, 19, packed=False, dtype="int8", b_dtype="uint8", b_axes=(0, 2, 1)), native()),
    ],
)
def test_integer_products_are_exact(case: MatMul, target: str) -> None:
    machine = Machine(get_target(target))
    batch, (m, k, n) = numbers(case.batch), numbers((case.rows, case.depth, case.columns))
    rng = np.random.default_rng(0)
    low, second = np.iinfo(case.dtype), np.iinfo(case.b_dtype or "int8")
    a = rng.integers(low.min, low.max + 1, (*batch, m, k)).astype(case.dtype)
    b = rng.integers(second.min, second.max + 1, (k, n) if case.packed else (*batch, k, n)).astype(second.dtype)
    a[..., : k // 2], b[..., 0] = low.max, second.max
    tile = products.tiles(case, machine)[0]
    kernel = tvm.compile(products.build(case, machine, tile, Epilogue(dtype="int32")), target=machine.target())
    packed = products.pack(b, case, tile) if case.packed else stored(b, case.b_axes)
    out = tvm.runtime.tensor(np.zeros((*batch, m, n), np.int32))
    kernel["matmul"](tvm.runtime.tensor(a), tvm.runtime.tensor(packed), out)
    zero = products.seen_zero_point(case, machine, 5) * b.sum(-2, keepdims=True, dtype=np.int64)
    np.testing.assert_array_equal(out.numpy() - zero, (a.astype(np.int64) - 5) @ b.astype(np.int64))


@pytest.mark.parametrize(("bits", "block", "shape"), [(4, 32, (5, 96, 40)), (4, 16, (2, 45, 19)), (8, 8, (9, 20, 33))])
def test_products_by_blocked_weights(bits: int, block: int, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    product, weights = MatMul((1,), m, k, n), BlockedWeights(bits, block)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((1, m, k)).astype(np.float32)
    q = rng.integers(0, 1 << bits, (k, n)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, (weights.groups(k), n)).astype(np.float32)
    zeros = rng.integers(0, 1 << bits, scales.shape).astype(np.float32)
    tile = products.tiles(product, MACHINE)[0]
    kernel = tvm.compile(blocked_weights.build(product, weights, MACHINE, tile), target=MACHINE.target())["matmul"]
    out = tvm.runtime.tensor(np.full((1, m, n), np.nan, np.float32))
    inputs = [a, *blocked_weights.pack(q, scales, zeros, product, tile, weights)]
    kernel(*[tvm.runtime.tensor(x) for x in inputs], out)
    group = np.arange(k) // block
    b = (q - zeros[group]) * scales[group]  # in single precision, as the operator says
    magnitude = abs(a).astype(np.float64) @ abs(b).astype(np.float64)
    assert (abs(out.numpy() - a.astype(np.float64) @ b) <= (k + 1) * 2**-24 * magnitude).all()
