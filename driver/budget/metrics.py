"""Named error metrics: how far one output is from the original's, judged slice by slice.

A slice is what is left of an output when one coordinate of one axis is fixed: a channel, a class over all positions,
a position over all classes. Slices of at least ``SLICE`` elements count, and the whole output. The scale of a slice is
never taken below ``QUIET`` of the output's own (a class that no sample shows has no digits worth keeping), nor below
0.5 behind a Sigmoid (``noise.resolutions``).

Every metric also gives an *amplitude*, which grows in proportion to a small disturbance, so that what several
changes cost adds up, at most: 1 - cosine grows with the square of the angle, decibels with the logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ...backends.core import Array
from ..checks.compare import SLICE, is_float, surroundings

QUIET = 2.0**-13
"""Below this fraction of the output's largest magnitude nothing is a signal: 1e-4, less than scores beside boxes."""

Found: TypeAlias = tuple[float, str]
"""An error, and where it is largest."""


@dataclass(frozen=True)
class Metric:
    """A named metric. ``measure(expected, found, floor)``: arrays in float64 and the least scale."""

    measure: Callable[[Array, Array, float], Found]
    amplitude: Callable[[float], float] = lambda error: error
    """Of an error: what adds up when disturbances do."""


def output_error(metric: str, expected: Any, found: Any, *, resolution: float = 0.0) -> Found:
    """How far ``found`` is from ``expected`` (arrays; ``None`` is an absent optional), and where or why."""
    if expected is None or found is None:
        same = expected is None and found is None
        return (_none(metric), "") if same else (_worst(metric), "one of the two is absent")
    if expected.dtype != found.dtype or expected.shape != found.shape:
        was, is_ = (f"{a.dtype}{list(a.shape)}" for a in (expected, found))
        return _worst(metric), f"{was} became {is_}"
    if not is_float(expected):
        differs = np.asarray(expected != found, bool)
        count = int(differs.sum())
        if not count:
            return _none(metric), ""
        return _worst(metric), f"{count} of {differs.size} elements differ, which must be equal"
    if not expected.size:
        return _none(metric), ""
    a, b = expected.astype(np.float64), found.astype(np.float64)
    odd = ~(np.isfinite(a) & np.isfinite(b)) & ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if odd.any():
        return _worst(metric), f"{int(odd.sum())} elements are NaN or infinite on one side only"
    finite = np.isfinite(a)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    floor = max(resolution, QUIET * float(np.abs(a).max(initial=0.0)))
    return METRICS[metric].measure(a, b, floor)


def whole_error(expected: Any, found: Any) -> float:
    """Root mean square of the difference over that of ``expected``, whatever the slices: what grows with its causes
    where the worst slice is one that holds nothing. 0 where they are no floats."""
    if expected is None or found is None or not is_float(expected) or expected.shape != found.shape:
        return 0.0
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    signal, noise = float(np.square(a[finite]).sum()), float(np.square(a[finite] - b[finite]).sum())
    if not math.isfinite(noise):
        return math.inf
    return math.sqrt(noise / signal) if signal > 0 else 0.0


def _none(metric: str) -> float:
    return math.inf if metric == "snr" else 0.0


def _worst(metric: str) -> float:
    return -math.inf if metric == "snr" else math.inf


# -- the metrics


def _absolute(a: Array, b: Array, floor: float) -> Found:
    return _largest(np.abs(a - b))


def _relative(a: Array, b: Array, floor: float) -> Found:
    error = np.abs(a - b)
    if not error.any():
        return 0.0, ""
    return _largest(error / np.maximum(surroundings(np.abs(a)), max(floor, np.finfo(np.float32).tiny)))


def _largest(error: Array) -> Found:
    if not error.any():
        return 0.0, ""
    at = np.unravel_index(int(np.argmax(error)), error.shape)
    return float(error[at]), f"element {[int(i) for i in at]}"


def _rms(a: Array, b: Array, floor: float) -> Found:
    worst: Found = (0.0, "")
    noise, signal = (a - b) ** 2, a**2
    for axes, axis in _slices(a):
        n, s = noise.mean(axis=axes), np.maximum(signal.mean(axis=axes), floor**2)
        worst = max(worst, _at(np.sqrt(n / np.where(s > 0, s, np.inf)), axis), key=lambda found: found[0])
    return worst


def _cosine(a: Array, b: Array, floor: float) -> Found:
    worst: Found = (0.0, "")
    for axes, axis in _slices(a):
        count = a.size // (a.shape[axis] if axis is not None else 1)
        quiet = floor * math.sqrt(count)
        x, y = np.sqrt((a * a).sum(axis=axes)), np.sqrt((b * b).sum(axis=axes))
        # 1 - cos = |a/|a| - b/|b||^2 / 2, which keeps the digits that 1 - a.b/(|a||b|) cancels.
        shape = [1] * a.ndim if axis is None else [-1 if i == axis else 1 for i in range(a.ndim)]
        u, v = (np.where(n > 0, n, 1.0).reshape(shape) for n in (x, y))
        angle = ((a / u - b / v) ** 2).sum(axis=axes) / 2
        silent = (x <= quiet) & (y <= 2 * quiet)
        worst = max(worst, _at(np.where(silent, 0.0, angle), axis), key=lambda found: found[0])
    return worst


def _snr(a: Array, b: Array, floor: float) -> Found:
    error, where = _rms(a, b, floor)
    return (-20 * math.log10(error) if error else math.inf), where


def _slices(a: Array) -> Iterator[tuple[tuple[int, ...], int | None]]:
    """Axes to sum over, and the axis that stays: ``None`` for the whole."""
    yield tuple(range(a.ndim)), None
    for axis in range(a.ndim):
        if a.shape[axis] > 1 and a.size // a.shape[axis] >= SLICE:
            yield tuple(i for i in range(a.ndim) if i != axis), axis


def _at(errors: Any, axis: int | None) -> Found:
    if axis is None:
        return float(errors), "the whole"
    i = int(np.argmax(errors))
    return float(errors[i]), f"axis {axis} at {i}"


METRICS: dict[str, Metric] = {
    "relative": Metric(_relative),
    "absolute": Metric(_absolute),
    "rms": Metric(_rms),
    "cosine": Metric(_cosine, lambda error: math.sqrt(max(error, 0.0))),
    "snr": Metric(_snr, lambda decibels: 10 ** (-decibels / 20) if decibels > -6000 else math.inf),
}
"""By name."""
