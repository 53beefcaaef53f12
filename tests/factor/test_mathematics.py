"""Truncation is optimal, errors are the tail of the spectrum, the compact form is the same matrix."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.passes.shared.factor.compact import compact
from planish.passes.shared.factor.inputs import Inputs
from planish.passes.shared.factor.options import options_for
from planish.passes.shared.factor.svd import (
    compact_parameters,
    compact_rank,
    decompose,
    mean_shift,
    pair_parameters,
    pair_rank,
)

Array = np.ndarray[Any, Any]
SHAPES = [(12, 7), (7, 12), (9, 9)]


def data(k: int, n: int, seed: int = 0, rows: int = 200) -> tuple[Array, Array]:
    """A weight, and inputs of falling variance that are correlated and have a mean."""
    rng = np.random.default_rng([seed, k, n])
    mixed = rng.normal(size=(k, k)) * np.logspace(0, -3, k)
    return rng.normal(size=(k, n)), rng.normal(size=(rows, k)) @ mixed + rng.normal(size=k)


def root_mean(x: Array) -> float:
    return float(np.sqrt((x * x).mean()))


@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_the_error_is_the_tail_of_the_spectrum(k: int, n: int) -> None:
    w, x = data(k, n)
    found = decompose(w, x.T @ x / len(x))
    for rank in range(1, min(k, n) + 1):
        a, b = found.factors(rank)
        assert a.shape == (k, rank)
        assert b.shape == (rank, n)
        measured = root_mean(x @ w - x @ a @ b) / root_mean(x @ w)
        assert measured == pytest.approx(found.errors[rank], rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_no_matrix_of_the_rank_is_better(k: int, n: int) -> None:
    """By Eckart and Young: the tail of the singular values of the outputs themselves."""
    w, x = data(k, n)
    singular = np.linalg.svd(x @ w, compute_uv=False)
    found = decompose(w, x.T @ x / len(x)).errors
    for rank in range(min(k, n)):
        assert found[rank] == pytest.approx(np.sqrt((singular[rank:] ** 2).sum() / (singular**2).sum()), rel=1e-5)


def test_without_inputs_it_is_the_plain_decomposition() -> None:
    w, _ = data(9, 6)
    a, b = decompose(w).factors(3)
    u, s, v = np.linalg.svd(w)
    assert np.allclose(a @ b, (u[:, :3] * s[:3]) @ v[:3])


@pytest.mark.parametrize(("k", "n"), SHAPES)
@pytest.mark.parametrize("full", [False, True])
def test_outputs_that_count_more_lose_less(k: int, n: int, full: bool) -> None:
    """With weights of output errors it is optimal by them, and worse without."""
    w, x = data(k, n)
    rng = np.random.default_rng(5)
    root = rng.normal(size=(n, n)) if full else np.diag(rng.uniform(0.1, 5, n))
    weights = root @ root.T if full else np.diagonal(root) ** 2
    second = x.T @ x / len(x)
    blind, seeing = decompose(w, second), decompose(w, second, weights)
    for rank in (1, 3, 5):
        losses = [np.linalg.norm(x @ (w - a @ b) @ root) for a, b in (blind.factors(rank), seeing.factors(rank))]
        best = np.linalg.svd(x @ w @ root, compute_uv=False)[rank:]
        assert losses[1] == pytest.approx(np.linalg.norm(best), rel=1e-5)
        assert losses[1] <= losses[0] * (1 + 1e-9)


def test_inputs_that_never_vary_do_no_harm() -> None:
    """Fewer samples than inputs, some inputs always zero: finite factors, exact on what was seen."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=(5, 12)), np.zeros((5, 4))], axis=1)
    w = rng.normal(size=(16, 10))
    a, b = decompose(w, x.T @ x / 5).factors(5)
    assert np.abs(a @ b).max() <= 10 * np.abs(w).max()
    assert np.allclose(x @ a @ b, x @ w)


def test_a_bias_keeps_the_mean_that_the_factors_need_not() -> None:
    w, x = data(8, 8)
    x += 20
    inputs = Inputs(x.T @ x, x.mean(axis=0), len(x))
    centred, plain = decompose(w, inputs.covariance(0.0)), decompose(w, inputs.second(0.0))
    a, b = centred.factors(3)
    y = x @ a @ b + mean_shift(w, (a, b), inputs.mean)
    assert np.allclose(y.mean(axis=0), (x @ w).mean(axis=0))
    c, d = plain.factors(3)
    assert root_mean(y - x @ w) < 0.9 * root_mean(x @ c @ d - x @ w)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.data())
def test_the_compact_form_is_the_product_of_the_pair(k: int, n: int, more: st.DataObject) -> None:
    rank = more.draw(st.integers(1, min(k, n)))
    side = more.draw(st.sampled_from(["output", "input"]))
    largest = more.draw(st.sampled_from([0.0, 1e4]))
    a, b = decompose(data(k, n)[0]).factors(rank)
    found = compact(a, b, side, None, largest)
    size = np.abs(a @ b).max()
    assert np.abs(found.matrix() - a @ b).max() <= 1e-9 * size * max(1.0, float(np.abs(found.t).max(initial=0.0)))
    assert found.a.size + found.t.size == compact_parameters(k, n, rank)
    assert not largest or found.growth <= largest or not (found.first or found.last)


def test_the_compact_form_is_exact_in_rationals() -> None:
    """The same formula in fractions: ``[a, a t]`` with ``a = A B_kept`` is ``A B`` without any error."""
    rng = np.random.default_rng(2)
    a, b = rng.integers(-5, 6, (4, 2)), rng.integers(-5, 6, (2, 5))
    found = compact(a.astype(float), b.astype(float), "output")
    own = [[Fraction(int(b[i, j])) for j in found.kept] for i in range(2)]
    determinant = own[0][0] * own[1][1] - own[0][1] * own[1][0]
    inverse = [[own[1][1] / determinant, -own[0][1] / determinant], [-own[1][0] / determinant, own[0][0] / determinant]]
    for column, j in enumerate(found.rest):
        t = [sum((inverse[i][m] * int(b[m, j]) for m in range(2)), Fraction(0)) for i in range(2)]
        assert [float(v) for v in t] == pytest.approx(list(found.t[:, column]))
        for row in range(4):
            kept = [sum(int(a[row, m]) * int(b[m, i]) for m in range(2)) for i in found.kept]
            assert sum(p * q for p, q in zip(kept, t, strict=True)) == sum(
                int(a[row, m]) * int(b[m, j]) for m in (0, 1)
            )


def test_dead_rows_and_columns() -> None:
    """Weights with inputs that they ignore and outputs that are always zero: the form is finite and the same."""
    w = data(10, 8)[0]
    w[:6] = 0
    w[:, 5:] = 0
    for rank in (3, 4, 5):
        a, b = decompose(w).factors(rank)
        for side in ("output", "input"):
            found = compact(a, b, side, None, 1e4)
            assert np.allclose(found.matrix(), a @ b, atol=1e-9)
            assert np.isfinite(found.growth)


def test_kept_in_the_middle_are_put_in_order() -> None:
    b = np.array([[0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 2.0, 0.0]])
    found = compact(np.eye(2), b, "output", None, 10.0)
    assert list(found.kept) == [1, 2]
    joined = np.concatenate([found.a, found.a @ found.t], axis=1)
    assert np.allclose(joined[:, found.order], b)


@given(st.integers(2, 400), st.integers(2, 400), st.floats(0.01, 0.99))
def test_ranks_are_the_largest_within_the_parameters(k: int, n: int, share: float) -> None:
    room = share * k * n
    for rank_of, count in ((pair_rank, pair_parameters), (compact_rank, compact_parameters)):
        rank = rank_of(k, n, room)
        assert count(k, n, rank) <= room * (1 + 1e-9)
        assert rank == min(k, n) or count(k, n, rank + 1) > room * (1 - 1e-9)


def test_options_save_most_first_and_always_something() -> None:
    errors = decompose(data(64, 48)[0]).errors
    found = options_for(64, 48, errors)
    assert [o.parameters for o in found] == sorted(o.parameters for o in found)
    assert all(o.parameters < 64 * 48 and o.rank < 48 for o in found)
    assert {o.form for o in found} == {"compact", "pair"}
    for o in found:
        assert o.error == errors[o.rank]
        assert o.label == f"{o.form[0].replace('p', 'r')}{o.rank}"
