"""The scheduler of tensor expressions, and its functions of single precision, against numpy in double precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from planish.passes.target import get_target, native

tvm = pytest.importorskip("tvm")

from planish.backends.tvm.kernels.arithmetic import requantized  # noqa: E402
from planish.backends.tvm.kernels.machine import Machine  # noqa: E402
from planish.backends.tvm.kernels.schedule import schedule  # noqa: E402
from planish.backends.tvm.kernels.stages import scratch_bytes  # noqa: E402

te, tirx = tvm.te, tvm.tirx
MACHINE = Machine(get_target(native()))


def ran(tensors: list[Any], inputs: list[np.ndarray], shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    kernel = tvm.compile(schedule(te.create_prim_func(tensors), MACHINE), target=MACHINE.target())["main"]
    out = tvm.runtime.tensor(np.full(shape, 77, dtype))
    kernel(*[tvm.runtime.tensor(np.ascontiguousarray(x)) for x in inputs], out)
    return out.numpy()


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def axis(extent: Any, name: str) -> Any:
    return te.reduce_axis((0, extent), name)


def test_elementwise_with_operands_of_fewer_axes() -> None:
    x, b = te.placeholder((2, 3, 5, 7), name="x"), te.placeholder((3, 1, 1), name="b")
    y = te.compute(x.shape, lambda n, c, h, w: tirx.max(x[n, c, h, w] * 2.0 + b[c, 0, 0], 0.0))
    given = [values(2, 3, 5, 7), values(3, 1, 1)]
    np.testing.assert_array_equal(ran([x, b, y], given, (2, 3, 5, 7)), np.maximum(given[0] * 2 + given[1], 0))


def test_a_position_that_the_expression_reads_is_not_merged_away() -> None:
    x = te.placeholder((3, 5, 6), name="x")
    y = te.compute(x.shape, lambda n, h, w: x[n, h, w] + tirx.Cast("float32", h * 10 + w))
    place = np.arange(5)[:, None] * 10 + np.arange(6)
    np.testing.assert_array_equal(ran([x, y], [values(3, 5, 6)], (3, 5, 6)), values(3, 5, 6) + place.astype("f4"))


@pytest.mark.parametrize(("columns", "want"), [(255, 0), (256, 1024), (3000, 12_000)])
def test_scratch_memory_is_what_does_not_fit_on_the_stack(columns: int, want: int) -> None:
    """Powers of one row at a time."""
    x, k = te.placeholder((4, columns), name="x"), axis(columns, "k")
    power = te.compute((4, columns), lambda i, j: tirx.exp(x[i, j]))
    total = te.compute((4,), lambda i: te.sum(power[i, k], axis=k))
    y = te.compute((4, columns), lambda i, j: power[i, j] / total[i])
    assert scratch_bytes(schedule(te.create_prim_func([x, y]), MACHINE)) == want


@pytest.mark.parametrize("rows", [33, "S"])
@pytest.mark.parametrize("columns", [10, 37, 128, "N"])
def test_softmax(rows: Any, columns: Any) -> None:
    m, n = [tirx.Var(e, "int32") if isinstance(e, str) else e for e in (rows, columns)]
    x, k, r = te.placeholder((m, n), name="x"), axis(n, "k"), axis(n, "r")
    top = te.compute((m,), lambda i: te.max(x[i, k], axis=k))
    power = te.compute((m, n), lambda i, j: tirx.exp(x[i, j] - top[i]))
    total = te.compute((m,), lambda i: te.sum(power[i, r], axis=r))
    y = te.compute((m, n), lambda i, j: power[i, j] / total[i])
    shape = (rows if isinstance(rows, int) else 21, columns if isinstance(columns, int) else 53)
    given = values(*shape) * 5
    powers = np.exp(given.astype(np.float64) - given.max(1, keepdims=True))
    np.testing.assert_allclose(ran([x, y], [given], shape), powers / powers.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 7, 7, 16), (1, 5, 3, 4, 8)])
def test_means_over_space_in_blocks(shape: tuple[int, ...]) -> None:
    n, c, h, w, b = shape
    x, i, j = te.placeholder(shape, name="x"), axis(h, "i"), axis(w, "j")
    total = te.compute((n, c, 1, 1, b), lambda n, c, y, z, k: te.sum(x[n, c, i, j, k], axis=[i, j]))
    mean = te.compute((n, c, 1, 1, b), lambda n, c, y, z, k: total[n, c, 0, 0, k] / float(h * w))
    want = values(*shape).astype(np.float64).mean((2, 3), keepdims=True)
    np.testing.assert_allclose(ran([x, mean], [values(*shape)], want.shape), want, atol=1e-6)


@pytest.mark.parametrize("axes", [(2, 3), (1,), (0, 1, 2, 3), (3,)])
def test_sums_over_any_axes(axes: tuple[int, ...]) -> None:
    shape = (2, 19, 5, 13)
    x = te.placeholder(shape, name="x")
    loops = {a: axis(shape[a], f"r{a}") for a in axes}
    kept = tuple(1 if i in axes else e for i, e in enumerate(shape))
    at = lambda index: [loops.get(i, e) for i, e in enumerate(index)]  # noqa: E731
    y = te.compute(kept, lambda *index: te.sum(x[tuple(at(index))], axis=list(loops.values())))
    got = ran([x, y], [values(*shape)], kept)
    np.testing.assert_allclose(got, values(*shape).astype(np.float64).sum(axes, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("blocked", [True, False])
def test_pooling_windows_with_borders(blocked: bool) -> None:
    shape = (1, 2, 9, 11, 8) if blocked else (1, 2, 9, 11)
    x, i, j = te.placeholder(shape, name="x"), axis(3, "i"), axis(3, "j")

    def window(n: Any, c: Any, h: Any, w: Any, *k: Any) -> Any:
        y, z = h * 2 + i - 1, w * 2 + j - 1
        inside = tirx.all(y >= 0, y < 9, z >= 0, z < 11)
        return te.max(tirx.if_then_else(inside, x[(n, c, y, z, *k)], tirx.const(-3e38, "float32")), axis=[i, j])

    out = (1, 2, 5, 6, *shape[4:])
    padded = np.pad(values(*shape), ((0, 0), (0, 0), (1, 1), (1, 1), *[(0, 0)] * blocked), constant_values=-3e38)
    parts = [padded[:, :, dy : dy + 9 : 2, dx : dx + 11 : 2] for dy in range(3) for dx in range(3)]
    np.testing.assert_array_equal(ran([x, te.compute(out, window)], [values(*shape)], out), np.max(parts, axis=0))


def test_tensors_between_stages_whose_axes_are_run_over_as_one() -> None:
    x, r, q = te.placeholder((2, 3, 4), name="x"), axis(2, "r"), axis(2, "q")
    best = te.compute((1, 3, 4), lambda a, b, c: te.max(x[r, b, c], axis=[r]))
    first = lambda b, c: tirx.Select(tirx.EQ(x[q, b, c], best[0, b, c]), q.var, tirx.const(2, "int32"))  # noqa: E731
    at = te.compute((1, 3, 4), lambda a, b, c: te.min(first(b, c), axis=[q]))
    out = te.compute((1, 3, 4), lambda a, b, c: at[0, b, c] * 2)
    want = 2 * values(2, 3, 4).argmax(0)[None]
    np.testing.assert_array_equal(ran([x, out], [values(2, 3, 4)], (1, 3, 4), "int32"), want)


def test_named_values_of_an_expression_that_is_used_twice() -> None:
    x, name = te.placeholder((3, 9), name="x"), tirx.Var("t", "float32")

    def element(i: Any, j: Any) -> Any:
        square = tirx.Let(name, x[i, j] * 2.0, name * name)
        return square + square * 0.5

    want = 6 * values(3, 9) ** 2
    np.testing.assert_allclose(ran([x, te.compute((3, 9), element)], [values(3, 9)], (3, 9)), want, rtol=1e-6)


def test_two_results_at_once_keep_their_loops() -> None:
    x = te.placeholder((4, 9), name="x")
    y = tvm.topi.argmax(x, axis=1)
    np.testing.assert_array_equal(ran([x, y], [values(4, 9)], (4,), "int32"), values(4, 9).argmax(1))


def test_requantization_rounds_ties_to_even_and_saturates() -> None:
    totals = np.array([1, 3, 5, -1, -3, 7, 10**6, -(10**6), 0, 2], np.int32)
    x = te.placeholder(totals.shape, dtype="int32", name="x")
    y = te.compute(totals.shape, lambda i: requantized(x[i], tirx.const(0.5, "float32"), 10, "uint8"))
    want = np.clip(np.rint(totals * np.float32(0.5)) + 10, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(ran([x, y], [totals], totals.shape, "uint8"), want)


def samples() -> np.ndarray:
    near = np.linspace(-20, 20, 40_001)
    tiny = np.geomspace(1e-30, 1, 2_000)
    edges = [-np.inf, np.inf, np.nan, 0.0, -0.0, 88.72, 88.73, -87.3, -103.9, -150, 200, 89]
    return np.concatenate([near, tiny, -tiny, np.linspace(-104, 89, 20_001), edges]).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "exact", "ulp"),
    [
        ("exp", np.exp, 1.1),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 3),
        ("tanh", np.tanh, 5),
        ("erf", np.vectorize(math.erf), 2),
    ],
)
def test_functions_of_single_precision(name: str, exact: Any, ulp: float) -> None:
    given = samples()
    x = te.placeholder(given.shape, name="x")
    y = te.compute(given.shape, lambda i: getattr(tirx, name)(x[i]))
    got = ran([x, y], [given], given.shape)
    with np.errstate(over="ignore"):
        want = exact(given.astype(np.float64))
        single = want.astype(np.float32)
    finite = np.isfinite(single)
    np.testing.assert_array_equal(got[~finite], single[~finite])
    gap = np.spacing(np.maximum(abs(single[finite]), np.float32(2**-126)))
    assert (abs(got[finite] - want[finite]) / gap).max() <= ulp


def test_names_do_not_nest_where_the_extent_is_open() -> None:
    """TVM's passes take ten times as long for each name around another: this took hours."""
    n = tirx.Var("n", "int32")
    x = te.placeholder((n,), name="x")

    def chain(i: Any) -> Any:
        found = x[i]
        for _ in range(6):
            found = tirx.tanh(tirx.exp(found))
        return found

    y = te.compute((n,), chain)
    assert "T.Let" not in schedule(te.create_prim_func([x, y]), MACHINE).script()
    given, want = values(37), values(37).astype(np.float64)
    for _ in range(6):
        want = np.tanh(np.exp(want))
    np.testing.assert_allclose(ran([x, y], [given], (37,)), want, rtol=1e-5)


def test_what_stands_behind_a_condition_is_read_only_where_it_holds() -> None:
    """Named values too: reading in front of an operand ended the process (found by Inception's normalization)."""
    x = te.placeholder((64,), name="x")
    t = tirx.Var("t", "float32")

    def before(i: Any) -> Any:
        return tirx.if_then_else(i >= 32, tirx.Let(t, x[i - 32], t * t), 0.0)

    script = schedule(te.create_prim_func([x, te.compute((64,), before)]), MACHINE).script()
    assert "= x[" not in script
    assert "T.Let" in script
