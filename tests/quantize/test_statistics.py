"""Statistics taken piece by piece equal those of all data at once, however they were cut and whatever their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.passes.shared.quant.accumulate import HISTOGRAM_NUMBERS, Accumulator
from planish.passes.shared.quant.histogram import BINS, Counter, Histogram
from planish.passes.shared.quant.statistics import Kind, Observed, Want

Array = np.ndarray[Any, Any]
ALL = Kind.RANGE | Kind.HISTOGRAM | Kind.CHANNELS | Kind.MOMENTS | Kind.TOKENS


def observed(arrays: list[Array], kinds: Kind = ALL, axis: int = -1) -> Observed:
    accumulator = Accumulator(Want("x", kinds, axis))
    for array in arrays:
        accumulator.add(array)
    return accumulator.finish()


def equal(a: Histogram | None, b: Histogram | None) -> bool:
    assert a is not None
    assert b is not None
    return np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts)


@st.composite
def rows(draw: st.DrawFn) -> Array:
    """Between 1 and 40 rows of 5 numbers of all magnitudes."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    count = draw(st.integers(1, 40))
    scale = 10.0 ** generator.integers(-6, 7, (count, 5))
    found = generator.standard_normal((count, 5)) * scale
    found[generator.random((count, 5)) < 0.2] = 0.0
    return found.astype(np.float32)


@given(rows(), st.lists(st.integers(0, 40), max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_cutting_and_order_do_not_matter(data: Array, cuts: list[int], random: Any) -> None:
    parts = np.split(data, sorted(min(c, len(data)) for c in cuts))
    random.shuffle(parts)
    found, whole = observed(parts), data.astype(np.float64)
    assert found.count == data.size
    assert (found.low, found.high) == (whole.min(), whole.max())
    scale = np.abs(whole).max()
    assert found.mean == pytest.approx(whole.mean(), abs=1e-6 * scale)
    assert found.square == pytest.approx(np.square(whole).mean(), rel=1e-5)
    assert equal(found.histogram, observed([data]).histogram)
    assert equal(found.tokens, observed([data]).tokens)
    channels = found.channels
    assert channels is not None
    np.testing.assert_array_equal(channels.low, whole.min(axis=0))
    np.testing.assert_array_equal(channels.high, whole.max(axis=0))
    np.testing.assert_allclose(channels.mean, whole.mean(axis=0), atol=1e-6 * scale)
    np.testing.assert_allclose(channels.absmean, np.abs(whole).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(channels.square, np.square(whole).mean(axis=0), rtol=1e-5)
    size = np.linalg.norm(whole, axis=0)
    assert found.moments is not None
    assert found.rows == len(data)
    np.testing.assert_allclose(found.moments, whole.T @ whole, atol=float(1e-5 * np.outer(size, size).max()))


@given(rows(), st.integers(0, 40))
@settings(max_examples=30)
def test_going_on_is_the_same_as_not_having_stopped(data: Array, cut: int) -> None:
    first, second = data[:cut], data[cut:]
    resumed = Accumulator(Want("x", ALL, -1), observed([first]))
    resumed.add(second)
    found, expected = resumed.finish(), observed([first, second])
    assert equal(found.histogram, expected.histogram)
    assert (found.count, found.low, found.high, found.arrays) == (
        expected.count,
        expected.low,
        expected.high,
        expected.arrays,
    )
    assert found.square == pytest.approx(expected.square, rel=1e-12)
    assert found.average == pytest.approx(expected.average)
    assert found.moments is not None
    assert expected.moments is not None
    np.testing.assert_allclose(found.moments, expected.moments)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_every_number_lies_in_its_bin(numbers: list[float]) -> None:
    for number in numbers:
        counter = Counter()
        counter.add(np.array([number], np.float32))
        low, high, counts = counter.finish().intervals()
        assert counts.tolist() == [1]
        if abs(number) < 2.0**-126:  # subnormals fall into bins that are wider
            assert high[0] - low[0] <= 2.0**-126
        else:
            assert low[0] <= number <= high[0]
            assert high[0] - low[0] <= abs(number) / 64 * 1.001


def test_bins_are_in_order_and_quantiles_are_those_of_the_data() -> None:
    data = np.random.default_rng(1).standard_normal(50_000).astype(np.float32)
    counter = Counter()
    counter.add(data)
    histogram = counter.finish()
    low, high, _ = histogram.intervals()
    assert (high[:-1] <= low[1:]).all()
    assert histogram.keys.size < BINS
    for fraction in (0.001, 0.25, 0.5, 0.99):
        assert histogram.quantile(fraction) == pytest.approx(float(np.quantile(data, fraction)), rel=0.02, abs=2e-3)


def test_large_tensors_are_sampled_evenly() -> None:
    """A period of the step would hide whole columns."""
    data = np.tile(np.array([1.0, 2.0, 3.0, 4.0], np.float32), HISTOGRAM_NUMBERS).reshape(1, -1, 4)
    histogram = observed([data], Kind.HISTOGRAM).histogram
    assert histogram is not None
    assert histogram.total == pytest.approx(data.size, rel=0.01)
    assert histogram.keys.size == 4
    np.testing.assert_allclose(histogram.counts / histogram.total, 0.25, atol=0.01)


def test_numbers_that_are_none_are_counted_and_left_out() -> None:
    found = observed([np.array([[1.0, np.nan], [np.inf, -3.0]], np.float32), np.array([[2.0, 5.0]], np.float32)])
    assert (found.nan, found.infinite, found.count) == (1, 1, 4)
    assert (found.low, found.high) == (-3.0, 5.0)
    assert found.histogram is not None
    assert found.histogram.total == 4
    assert found.rows == 1
    assert set(found.declined) == {"CHANNELS", "TOKENS", "MOMENTS"}


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint8", "bool"])
def test_other_types(dtype: str) -> None:
    data = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    found = observed([data])
    assert (found.low, found.high, found.mean) == (0.0, 1.0, pytest.approx(4 / 6))


def test_doubles_beyond_single_precision() -> None:
    found = observed([np.array([[1e300, -2.0]])])
    assert (found.low, found.high) == (-2.0, 1e300)
    assert found.histogram is not None
    assert found.histogram.total == 2


def test_squares_do_not_overflow() -> None:
    assert observed([np.full((2, 2), 1e30, np.float32)]).square == pytest.approx(1e60)


def test_running_mean_of_ranges() -> None:
    found = observed([np.array([[0.0, 4.0]]), np.array([[-2.0, 2.0]])])
    assert found.average == (-1.0, 3.0)


def test_empty_tensors_constants_and_scalars() -> None:
    nothing = observed([np.zeros((0, 3), np.float32)])
    assert nothing.count == 0
    assert nothing.absmax == 0.0
    assert observed([np.full((4, 3), 7.0, np.float32)]).rms == pytest.approx(7.0)
    assert observed([np.array(2.0, np.float32)], Kind.RANGE | Kind.MOMENTS).count == 1


def test_axes_that_change_are_declined() -> None:
    found = observed([np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)])
    assert "4" in found.declined["CHANNELS"]
    assert "4" in found.declined["MOMENTS"]
    assert found.count == 14


def test_strings_are_refused() -> None:
    with pytest.raises(TypeError, match="not real numbers"):
        Accumulator(Want("x")).add(np.array(["a"], object))
