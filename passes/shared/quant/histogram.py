"""Histograms of floats whose bins are fixed: 64 for each power of two, of both signs, and zero.

A bin is the top 15 bits of a float32 (sign, exponent, six bits of the fraction), at most 1.6 % wide. No range has to be
known before the first number comes: counts are exact whatever arrives in which order, and histograms add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_DROPPED_BITS = 17
BINS = 1 << (32 - _DROPPED_BITS)
PAGE = 1 << 10
_NEGATIVE = BINS >> 1
_FEW = 4096
"""Numbers that are counted one by one: a table of all bins costs as much as several thousand of them."""
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Histogram:
    """How many numbers fell into which bin."""

    keys: Array
    """Bins that hold something, ascending, uint16: the top bits of their numbers."""
    counts: Array
    """int64, of the same length."""

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def intervals(self) -> tuple[Array, Array, Array]:
        """Lower ends, upper ends (float64) and counts of the bins, from the lowest number to the highest. The bin of
        zero is the point 0."""
        magnitude = self.keys.astype(np.uint32) & (_NEGATIVE - 1)
        near, far = _number(magnitude), np.minimum(_number(magnitude + 1), LARGEST)
        far = np.where(magnitude == 0, 0.0, far)
        negative = self.keys >= _NEGATIVE
        low, high = np.where(negative, -far, near), np.where(negative, -near, far)
        order = np.lexsort((high, low))
        return low[order], high[order], self.counts[order]

    def quantile(self, fraction: float) -> float:
        """The number below which ``fraction`` of all lie, evenly spread within a bin. NaN where there are none."""
        low, high, counts = self.intervals()
        if not counts.size:
            return float("nan")
        below: Array = np.cumsum(counts)
        wanted = fraction * below[-1]
        i = min(int((below < wanted).sum()), counts.size - 1)
        part = (wanted - (below[i] - counts[i])) / counts[i]
        return float(low[i] + (high[i] - low[i]) * min(max(part, 0.0), 1.0))


def _number(keys: Array) -> Array:
    """The number nearest to zero of each bin of positive numbers, float64."""
    bits: Array = np.left_shift(keys.astype(np.uint32), np.uint32(_DROPPED_BITS))
    with np.errstate(invalid="ignore"):
        found = bits.view(np.float32).astype(np.float64)
    return np.where(np.isfinite(found), found, LARGEST)


class Counter:
    """A histogram in the making: pages of 16 powers of two each, made when a number falls there."""

    def __init__(self, start: Histogram | None = None) -> None:
        self._pages: dict[int, Array] = {}
        if start is not None:
            counts = np.zeros(BINS, np.int64)
            counts[start.keys] = start.counts
            self._add(counts)

    def add(self, numbers: Array) -> None:
        """Counts finite numbers (float32, contiguous, one axis)."""
        keys: Array = np.right_shift(numbers.view(np.uint32), np.uint32(_DROPPED_BITS))
        if keys.size >= _FEW:
            self._add(np.bincount(keys))
            return
        pages = keys // PAGE
        for page in np.flatnonzero(np.bincount(pages)):
            np.add.at(self._page(int(page)), keys[pages == page] % PAGE, 1)

    def _add(self, counts: Array) -> None:
        for page in range(-(-counts.size // PAGE)):
            part = counts[page * PAGE : (page + 1) * PAGE]
            if part.any():
                self._page(page)[: part.size] += part

    def _page(self, page: int) -> Array:
        return self._pages.setdefault(page, np.zeros(PAGE, np.int64))

    def finish(self) -> Histogram:
        counts = np.zeros(BINS, np.int64)
        for page, part in self._pages.items():
            counts[page * PAGE : (page + 1) * PAGE] = part
        counts[0] += counts[_NEGATIVE]  # zero has one bin
        counts[_NEGATIVE] = 0
        keys = np.flatnonzero(counts)
        return Histogram(keys.astype(np.uint16), counts[keys])
