"""The quantizers of one matrix: none is worse than plain rounding by its own measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.passes.shared.quant.awq import input_scales, search_scales
from planish.passes.shared.quant.blocks import (
    Blocked,
    BlockScheme,
    round_to_nearest,
    row_chunks,
    search_parameters,
    squared_error,
)
from planish.passes.shared.quant.gptq import (
    descend,
    gptq,
    inverse_factor,
    output_error,
    quantize_for_outputs,
    refit_scales,
    regularized,
)
from planish.passes.shared.quant.hqq import hqq

Array = np.ndarray[Any, Any]

SCHEMES = st.builds(
    BlockScheme,
    bits=st.sampled_from([2, 4, 8]),
    block=st.sampled_from([0, 16, 32]),
    symmetric=st.booleans(),
    positive=st.booleans(),
)


@st.composite
def matrices(draw: st.DrawFn) -> Array:
    """[N, K] with outliers, zero rows and every size of numbers."""
    n, k, seed = draw(st.integers(1, 6)), draw(st.integers(1, 50)), draw(st.integers(0, 1 << 30))
    rng = np.random.default_rng(seed)
    w = rng.standard_t(2, (n, k)) * 10.0 ** draw(st.integers(-12, 8))
    w[rng.random(n) < 0.2] = 0.0
    w[rng.random((n, k)) < draw(st.sampled_from([0.0, 0.5]))] = 0.0
    return np.asarray(w, np.float32)


def moments(k: int, rows: int, seed: int = 0) -> tuple[Array, Array]:
    """Correlated inputs [rows, K] and their moments."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, k)) @ (rng.standard_normal((k, k)) * np.exp(rng.standard_normal(k)))
    return x, x.T @ x


@given(matrices(), SCHEMES)
@settings(max_examples=60, deadline=None)
def test_codes_and_parameters_are_storable(w: Array, scheme: BlockScheme) -> None:
    for found in (round_to_nearest(w, scheme), search_parameters(w, scheme), hqq(w, scheme)):
        assert found.codes.shape == w.shape
        assert found.scale.shape == found.zero.shape == (len(w), scheme.count(w.shape[1]))
        assert found.codes.max(initial=0) <= scheme.levels
        assert found.zero.max(initial=0) <= scheme.levels
        assert np.isfinite(found.scale).all()
        assert (found.scale != 0).all()
        if scheme.positive or not scheme.symmetric:
            assert (found.scale > 0).all()
        if scheme.symmetric:
            assert (found.zero == scheme.middle).all()
        assert not found.real()[~w.any(axis=1)].any(), "a row of zeros stays"


@given(matrices(), SCHEMES)
@settings(max_examples=60, deadline=None)
def test_rounding_is_within_half_a_step(w: Array, scheme: BlockScheme) -> None:
    found = round_to_nearest(w, scheme)
    step = np.abs(found.spread(found.scale)).astype(np.float64)
    # A rounded zero point, and the side of a symmetric range that has one code less, cost up to one step.
    assert (np.abs(w - found.real().astype(np.float64)) <= 1.001 * step).all()


@given(matrices(), SCHEMES, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_search_is_never_worse_than_rounding(w: Array, scheme: BlockScheme, seed: int) -> None:
    importance = np.random.default_rng(seed).random(w.shape[1]).astype(np.float32)
    plain, found = round_to_nearest(w, scheme), search_parameters(w, scheme, importance)
    assert squared_error(w, found, importance) <= squared_error(w, plain, importance) * (1 + 1e-4)


@given(matrices(), SCHEMES)
@settings(max_examples=40, deadline=None)
def test_half_quadratic_is_never_worse_in_its_norm(w: Array, scheme: BlockScheme) -> None:
    unit = np.sqrt(np.mean(np.square(w, dtype=np.float64))) or 1.0

    def norm(found: Blocked) -> float:
        return float(np.power(np.abs(w - found.real().astype(np.float64)) / unit, 0.7).sum())

    one = BlockScheme(scheme.bits, 0, scheme.symmetric, scheme.positive)  # one block: the sum is what it minimizes
    for row in np.split(w, len(w)):
        w = row
        assert norm(hqq(row, one)) <= norm(round_to_nearest(row, one)) * (1 + 1e-3) + 1e-3


@pytest.mark.parametrize("rows", [1, 7, 400])
@pytest.mark.parametrize(
    "scheme", [BlockScheme(4, 16), BlockScheme(4, 16, True), BlockScheme(2, 32, True, True), BlockScheme(8, 0)]
)
def test_outputs_are_never_worse_than_with_searched_rounding(rows: int, scheme: BlockScheme) -> None:
    """Row by row, by the moments that were given; also from fewer rows of data than inputs."""
    w = np.random.default_rng(3).standard_t(4, (12, 40)).astype(np.float32)
    h = regularized(moments(40, rows)[1], rows)
    start = search_parameters(w, scheme, np.diagonal(h))
    found = quantize_for_outputs(w, scheme, h)
    assert (output_error(w, found, h) <= output_error(w, start, h) * (1 + 1e-9)).all()
    assert output_error(w, found, h).sum() <= 0.9 * output_error(w, round_to_nearest(w, scheme), h).sum()


def test_the_error_on_data_that_was_not_seen() -> None:
    w = np.random.default_rng(5).standard_t(4, (24, 64)).astype(np.float32)
    x, _ = moments(64, 600)
    seen, unseen = x[:200], x[200:]
    scheme = BlockScheme(4, 32)
    found = quantize_for_outputs(w, scheme, regularized(seen.T @ seen, 200))
    plain = round_to_nearest(w, scheme)

    def error(q: Blocked) -> float:
        return float(np.square(unseen @ (w - q.real()).T).sum())

    assert error(found) < 0.5 * error(plain)


def test_descent_and_refit_do_not_raise_the_error() -> None:
    w = np.random.default_rng(1).standard_normal((10, 48))
    h = regularized(moments(48, 100)[1], 100)
    grid = search_parameters(w.astype(np.float32), BlockScheme(4, 16), np.diagonal(h))
    before = output_error(w, grid, h)
    lower = descend(w, grid, h)
    after = output_error(w, lower, h)
    assert (after <= before * (1 + 1e-9)).all()
    assert (output_error(w, refit_scales(w, lower, h), h) <= after * (1 + 1e-5)).all()
    assert output_error(w, gptq(w, grid, h), h).sum() < before.sum()


def test_rounding_errors_are_made_up_for_exactly_as_the_formula_says() -> None:
    """Two inputs that are always equal: what one weight loses the other gains."""
    h = regularized(np.ones((2, 2)) * 100, 100_000, damping=1e-6)
    w = np.array([[0.4, 0.4]], np.float32)
    grid = Blocked(
        BlockScheme(4, 0), np.zeros((1, 2), np.uint8), np.ones((1, 1), np.float32), np.zeros((1, 1), np.uint8)
    )
    assert sorted(gptq(w, grid, h).codes[0]) == [0, 1]  # 0.8 is nearer to 1 than to 0


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_moments_of_few_rows_can_be_inverted(rows: int) -> None:
    x = np.random.default_rng(0).standard_normal((rows, 30)) * (np.arange(30) % 3 > 0)
    h = regularized(x.T @ x, rows)
    _, factor = inverse_factor(h)
    assert np.isfinite(factor).all()
    assert (np.diagonal(factor) > 0).all()


def test_moments_that_are_not_definite_get_more_damping() -> None:
    h = np.ones((5, 5)) - 1e-3 * np.eye(5)
    _, factor = inverse_factor(h)
    assert np.isfinite(factor).all()


def test_scales_of_inputs_are_found_where_magnitudes_differ() -> None:
    x, second = moments(64, 500)
    w = np.random.default_rng(2).standard_normal((20, 64)).astype(np.float32)
    magnitudes = np.abs(x).mean(axis=0)
    exponent, scales = search_scales([w], magnitudes, BlockScheme(4, 16), regularized(second, 500))
    assert exponent > 0
    assert np.isclose(np.log(scales).mean(), 0, atol=1e-5)
    assert (input_scales(np.zeros(3), 0.5) == 1).all()


def test_chunks_cover_all_rows() -> None:
    covered = [i for rows in row_chunks(10, 1 << 20) for i in range(rows.start, rows.stop)]
    assert covered == list(range(10))
