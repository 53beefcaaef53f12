"""Ranges to quantize by, from what was observed of a value.

* ``min-max``: from the lowest to the highest number.
* ``moving-average``: the running mean of what tensors begin and end with.
* ``percentile``: all but a fraction of the numbers, half of it at either end where both signs occur.
* ``mse``: the range with the least mean squared error, clipping and rounding together.
* ``entropy``: the range whose quantized distribution of magnitudes is nearest to the original's. Source: S. Migacz,
  8-bit Inference with TensorRT, GTC 2017.

Every range holds 0. Numbers count as evenly spread within a bin of the histogram, which is 1.6 % wide at most.
"""

from __future__ import annotations

from typing import Any, cast

import ml_dtypes
import numpy as np

from .histogram import Histogram
from .scheme import LARGEST_FLOAT8, Scheme, quant_from_range
from .statistics import Observed

Array = np.ndarray[Any, Any]

METHODS = ("min-max", "moving-average", "percentile", "entropy", "mse")
PERCENTILE = 99.99
_ENTROPY_BINS = 2048
_ENTROPY_STEP = 16
_OCTAVES = 6
"""Ranges down to a 64th of the widest are tried."""


def estimate(
    observed: Observed, scheme: Scheme, method: str = "mse", *, percentile: float = PERCENTILE
) -> tuple[float, float]:
    """The lower and the upper end of the range, 0 within. (0, 0) where nothing but zeros was seen, or nothing.

    ``percentile``, in percent, is how many numbers lie in the range of the method of that name. Raises ``ValueError``
    for an unknown method, or where the method needs a histogram and there is none.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}, one of {', '.join(METHODS)}")
    low, high = min(observed.low, 0.0), max(observed.high, 0.0)
    if not observed.count or low == high:
        return 0.0, 0.0
    if method == "moving-average":
        return min(observed.average[0], 0.0), max(observed.average[1], 0.0)
    if method == "min-max":
        return low, high
    histogram = observed.histogram
    if histogram is None or not histogram.total:
        raise ValueError(f"{method} needs a histogram, which was not asked for")
    if method == "percentile":
        found = _percentile(observed, histogram, scheme, percentile / 100)
    elif method == "entropy":
        found = _entropy(observed, histogram, scheme)
    else:
        found = _least_error(observed, scheme)
    return min(max(found[0], low), 0.0), max(min(found[1], high), 0.0)


def estimate_channels(observed: Observed, scheme: Scheme, method: str = "min-max") -> tuple[Array, Array]:
    """A range for each channel, arrays of float64: of each channel's own ends, or with another method than ``min-max``
    cut where that method cuts the whole tensor. Raises ``ValueError`` where channels were not observed."""
    channels = observed.channels
    if channels is None:
        raise ValueError(f"channels were not observed: {observed.declined.get('CHANNELS', 'they were not asked for')}")
    low, high = np.minimum(channels.low, 0.0), np.maximum(channels.high, 0.0)
    if method == "min-max":
        return low, high
    ends = estimate(observed, scheme, method)
    return np.maximum(low, ends[0]), np.minimum(high, ends[1])


def token_reach(observed: Observed, fraction: float = 0.5) -> float:
    """The magnitude that the largest number of a row stays below in ``fraction`` of all rows. Raises ``ValueError``."""
    if observed.tokens is None or not observed.tokens.total:
        raise ValueError(f"rows were not observed: {observed.declined.get('TOKENS', 'they were not asked for')}")
    return min(observed.tokens.quantile(fraction), observed.absmax)


def expected_error(observed: Observed, low: Any, high: Any, scheme: Scheme) -> Array:
    """Mean squared error of storing the value by the range from ``low`` to ``high``, numbers or arrays of one shape.

    Raises ``ValueError`` where there is no histogram.
    """
    if observed.histogram is None or not observed.histogram.total:
        raise ValueError("the error needs a histogram, which was not asked for")
    ends = _bins(observed)
    return _mean_errors(ends, np.asarray(low, np.float64), np.asarray(high, np.float64), scheme)


def relative_error(observed: Observed, low: float, high: float, scheme: Scheme) -> float:
    """Root of :func:`expected_error` over the value's root mean square; 0 where the value is 0 throughout."""
    if not observed.square:
        return 0.0
    return float(np.sqrt(expected_error(observed, low, high, scheme) / observed.square))


def _bins(observed: Observed) -> tuple[Array, Array, Array]:
    """Lower ends, upper ends and shares of the bins, within what was seen."""
    assert observed.histogram is not None
    low, high, counts = observed.histogram.intervals()
    return np.clip(low, observed.low, observed.high), np.clip(high, observed.low, observed.high), counts / counts.sum()


def _mean_errors(bins: tuple[Array, Array, Array], low: Array, high: Array, scheme: Scheme) -> Array:
    """The integral of the squared error over each bin, divided by its width, summed by share.

    With ``k(x)`` the stored number less the zero point and ``r = x - s k`` the error, an antiderivative of ``r^2`` is
    ``k s^3 / 12 + r^3 / 3``, continuous everywhere, beyond the ends of the range too.
    """
    scale, zero = quant_from_range(low, high, scheme)
    s = scale.astype(np.float64)[..., None]
    if scheme.storage in LARGEST_FLOAT8:
        return _mean_errors_float(bins, s, scheme)
    stored = Scheme(scheme.storage, symmetric=False)  # the runtime clamps at the ends of the type, not of the scheme
    least, greatest = (np.asarray(end - zero, np.float64)[..., None] for end in (stored.qmin, stored.qmax))

    def error(x: Array) -> tuple[Array, Array]:
        steps = x / s  # in units of the scale: its cube would leave the range of numbers for odd data
        k = np.clip(np.rint(steps), least, greatest)
        r = steps - k
        return r, k / 12 + r * r * r / 3

    start, stop, shares = bins
    (r, below), (_, upto) = error(start), error(stop)
    wide = stop - start > 1e-9 * np.abs(stop)
    width = np.where(wide, stop - start, 1.0)
    mean = np.where(wide, (upto - below) * s / width, r * r)
    found: Array = (np.maximum(mean, 0.0) @ shares) * np.square(s[..., 0])
    return found


def _mean_errors_float(bins: tuple[Array, Array, Array], scale: Array, scheme: Scheme) -> Array:
    """The same for float8, by the middle of each bin: steps double with each power of two, but for the smallest."""
    kind = cast("Any", ml_dtypes).finfo(scheme.storage.numpy)
    smallest, bits = float(kind.smallest_normal), int(kind.nmant)
    start, stop, shares = bins
    x: Array = np.abs(start + stop) / 2 / scale
    beyond = np.maximum(x - scheme.qmax, 0.0)
    step = 2.0 ** (np.floor(np.log2(np.clip(x, smallest, scheme.qmax))) - bits)
    within = np.where(x > 0, np.minimum(np.square(step) / 12, np.square(x)), 0.0)  # too small for half a step: 0
    found: Array = (np.where(beyond > 0, np.square(beyond), within) @ shares) * np.square(scale[..., 0])
    return found


def _percentile(observed: Observed, histogram: Histogram, scheme: Scheme, fraction: float) -> tuple[float, float]:
    if scheme.symmetric or not observed.low < 0 < observed.high:
        reach = _magnitudes(histogram).quantile(fraction)
        return -reach, reach
    outside = (1 - fraction) / 2
    return histogram.quantile(outside), histogram.quantile(1 - outside)


def _magnitudes(histogram: Histogram) -> Histogram:
    keys, places = np.unique(histogram.keys & np.uint16(0x3FFF), return_inverse=True)
    return Histogram(keys, np.bincount(places, histogram.counts).astype(np.int64))


def _least_error(observed: Observed, scheme: Scheme) -> tuple[float, float]:
    """First how much of the whole range, then each end by itself, in steps that grow finer."""
    bins = _bins(observed)
    low, high = min(observed.low, 0.0), max(observed.high, 0.0)
    if scheme.symmetric:
        low, high = -max(-low, high), max(-low, high)
    shares = 2.0 ** -np.linspace(0, _OCTAVES, 4 * _OCTAVES + 1)
    best = shares[np.argmin(_mean_errors(bins, low * shares, high * shares, scheme))]
    ends = [low * float(best), high * float(best)]
    for spread in (0.5, 0.1, 0.02):
        factors = 2.0 ** np.linspace(-spread, spread, 13)
        for side in (0,) if scheme.symmetric else (0, 1):
            tried = ends[side] * factors
            if scheme.symmetric:
                errors = _mean_errors(bins, tried, -tried, scheme)
            else:
                other = np.full(tried.shape, ends[1 - side])
                errors = _mean_errors(bins, *((tried, other) if side == 0 else (other, tried)), scheme)
            ends[side] = float(tried[np.argmin(errors)])
            if scheme.symmetric:
                ends[1] = -ends[0]
    return max(ends[0], low), min(ends[1], high)


def _entropy(observed: Observed, histogram: Histogram, scheme: Scheme) -> tuple[float, float]:
    """By magnitudes; zeros, which are stored exactly, tell nothing."""
    counts, width = _even_bins(observed, histogram)
    levels = min(scheme.qmax - scheme.qmin, 1 << scheme.storage.bits)
    if scheme.symmetric or observed.low < 0 < observed.high:
        levels //= 2
    best, reach = np.inf, counts.size
    for size in range(min(levels, counts.size), counts.size + 1, _ENTROPY_STEP):
        divergence = _divergence(counts, size, levels)
        if divergence < best:
            best, reach = divergence, size
    return -reach * width, reach * width


def _even_bins(observed: Observed, histogram: Histogram) -> tuple[Array, float]:
    """Counts of magnitudes above 0 in bins of equal width, and that width."""
    low, high, counts = _magnitudes(histogram).intervals()
    high = np.minimum(high, observed.absmax)
    edges = np.linspace(0.0, observed.absmax, _ENTROPY_BINS + 1)
    inner = high > 0
    points = np.stack([low[inner], np.maximum(high[inner], low[inner])], axis=1).reshape(-1)
    below = np.concatenate([[0], np.cumsum(counts[inner])])
    sums = np.stack([below[:-1], below[1:]], axis=1).reshape(-1)
    return np.diff(np.interp(edges, points, sums)), float(edges[1])


def _divergence(counts: Array, size: int, levels: int) -> float:
    """Kullback-Leibler, of the first ``size`` bins with the rest in the last one, from the same in ``levels`` steps."""
    p = counts[:size].copy()
    filled = p > 0
    starts = np.arange(levels) * size // levels
    sums, used = np.add.reduceat(p, starts), np.add.reduceat(filled.astype(np.float64), starts)
    lengths = np.diff(np.append(starts, size))
    q = np.repeat(sums / np.maximum(used, 1), lengths) * filled
    p[-1] += counts[size:].sum()
    if not p.sum() or not q.sum():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    tiny = 1e-12
    return float((p[p > 0] * np.log(p[p > 0] / np.maximum(q[p > 0], tiny))).sum())
