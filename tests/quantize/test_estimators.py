"""Ranges, and the errors that they will cause, against what quantizing the data really does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.dtypes import DType
from planish.passes.shared.quant.accumulate import Accumulator
from planish.passes.shared.quant.estimators import (
    METHODS,
    estimate,
    estimate_channels,
    expected_error,
    relative_error,
    token_reach,
)
from planish.passes.shared.quant.scheme import Scheme, dequantize, quant_from_range, quantize
from planish.passes.shared.quant.statistics import Kind, Observed, Want

Array = np.ndarray[Any, Any]
U8, I8, I4 = Scheme(DType.U8, symmetric=False), Scheme(DType.I8, symmetric=True), Scheme(DType.I4, symmetric=True)
DRAW = np.random.default_rng(5)
SHAPES: dict[str, Array] = {
    "normal": DRAW.standard_normal(40_000),
    "relu": np.maximum(DRAW.standard_normal(40_000), 0),
    "laplace": DRAW.laplace(size=40_000),
    "outlier": np.append(DRAW.standard_normal(40_000), 100.0),
    "uniform": DRAW.uniform(-1, 3, 40_000),
    "negative": -np.abs(DRAW.standard_normal(40_000)) - 2,
}


def observe(data: Array, kinds: Kind = Kind.RANGE | Kind.HISTOGRAM, axis: int = -1) -> Observed:
    accumulator = Accumulator(Want("x", kinds, axis))
    for part in np.array_split(data.astype(np.float32), max(1, data.size // 5_000)):  # so that all are counted
        accumulator.add(part)
    return accumulator.finish()


def real_error(data: Array, low: float, high: float, scheme: Scheme) -> float:
    scale, zero = quant_from_range(low, high, scheme)
    data = data.astype(np.float32)
    back = dequantize(quantize(data, scale, zero, scheme.storage), scale, zero)
    return float(np.square(back.astype(np.float64) - data).mean())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", [U8, I8, I4], ids=str)
def test_the_error_is_foretold(shape: str, scheme: Scheme) -> None:
    data = SHAPES[shape]
    found = observe(data)
    for share in (1.0, 0.7, 0.3):
        low, high = share * found.low, share * found.high
        foretold = float(expected_error(found, low, high, scheme))
        assert foretold == pytest.approx(real_error(data, low, high, scheme), rel=0.06)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", [U8, I8, I4], ids=str)
def test_least_error_is_the_least(shape: str, scheme: Scheme) -> None:
    """No other method, and no range of a grid, is better by more than what bins blur."""
    data, found = SHAPES[shape], observe(SHAPES[shape])
    best = real_error(data, *estimate(found, scheme, "mse"), scheme)
    for method in METHODS:
        assert best <= 1.02 * real_error(data, *estimate(found, scheme, method), scheme)
    for low in np.linspace(0.1, 1, 10) * min(found.low, 0.0):
        for high in np.linspace(0.1, 1, 10) * max(found.high, 0.0):
            assert best <= 1.02 * real_error(data, float(low), float(high), scheme)


@given(st.integers(0, 2**32 - 1), st.sampled_from(METHODS), st.sampled_from([U8, I8, I4]))
@settings(max_examples=80)
def test_ranges_hold_zero_and_end_within_what_was_seen(seed: int, method: str, scheme: Scheme) -> None:
    draw = np.random.default_rng(seed)
    count, shift = int(draw.integers(1, 50)), float(draw.normal()) * 10.0 ** float(draw.integers(-3, 4))
    found = observe(draw.standard_normal(count) * 10.0 ** float(draw.integers(-20, 20)) + shift)
    low, high = estimate(found, scheme, method)
    assert min(found.low, 0.0) <= low <= 0.0 <= high <= max(found.high, 0.0)
    scale, _ = quant_from_range(low, high, scheme)
    assert np.isfinite(scale)
    assert scale > 0


def test_percentile_leaves_out_what_it_says() -> None:
    data = SHAPES["normal"]
    low, high = estimate(observe(data), U8, "percentile", percentile=99.0)
    outside = ((data < low) | (data > high)).mean()
    assert outside == pytest.approx(0.01, rel=0.25)
    low, high = estimate(observe(SHAPES["relu"]), U8, "percentile", percentile=99.0)
    assert low == 0.0
    assert (SHAPES["relu"] > high).mean() == pytest.approx(0.01, rel=0.25)


def test_a_single_number_far_away_in_a_large_tensor_is_seen() -> None:
    accumulator = Accumulator(Want("x"))
    accumulator.add(SHAPES["outlier"].astype(np.float32))
    low, high = estimate(accumulator.finish(), U8, "mse")
    best = real_error(SHAPES["outlier"], *estimate(observe(SHAPES["outlier"]), U8, "mse"), U8)
    assert real_error(SHAPES["outlier"], low, high, U8) < 1.05 * best


def test_entropy_cuts_outliers() -> None:
    assert estimate(observe(SHAPES["outlier"]), I8, "entropy")[1] < 20
    assert estimate(observe(SHAPES["uniform"]), I8, "entropy")[1] > 2.5


def test_constants_and_nothing() -> None:
    for method in METHODS:
        assert estimate(observe(np.full(9, 3.0)), U8, method)[0] == 0.0
        assert estimate(observe(np.full(9, 3.0)), U8, method)[1] == pytest.approx(3.0)
        assert estimate(observe(np.zeros(9)), U8, method) == (0.0, 0.0)
        assert estimate(Observed(), U8, method) == (0.0, 0.0)


def test_relative_error_and_rows() -> None:
    found = observe(np.outer([1.0, 2.0, 8.0], np.ones(4)), Kind.HISTOGRAM | Kind.TOKENS | Kind.CHANNELS)
    assert relative_error(found, 0.0, 8.0, U8) < 0.01
    assert relative_error(observe(np.zeros(3)), 0.0, 0.0, U8) == 0.0
    assert token_reach(found, 1.0) == pytest.approx(8.0)
    assert token_reach(found, 0.3) == pytest.approx(1.0, rel=0.02)


def test_channels() -> None:
    data = np.stack([np.full(5, -2.0), np.full(5, 6.0)], axis=1)
    low, high = estimate_channels(observe(data, Kind.CHANNELS, 1), I8)
    assert (low.tolist(), high.tolist()) == ([-2.0, 0.0], [0.0, 6.0])
    with pytest.raises(ValueError, match="not asked for"):
        estimate_channels(observe(data), I8)


def test_what_cannot_be_estimated_is_said() -> None:
    ranged = observe(SHAPES["normal"], Kind.RANGE)
    with pytest.raises(ValueError, match="needs a histogram"):
        estimate(ranged, U8, "mse")
    with pytest.raises(ValueError, match="unknown method"):
        estimate(ranged, U8, "magic")
    with pytest.raises(ValueError, match="histogram"):
        expected_error(ranged, 0.0, 1.0, U8)
    with pytest.raises(ValueError, match="rows"):
        token_reach(ranged)
