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
_WAITING = 1 << 15
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


def counter_bytes() -> int:
    """What a counter takes, about."""
    return 2 * _WAITING + 6 * 8 * PAGE


def _number(keys: Array) -> Array:
    """The number nearest to zero of each bin of positive numbers, float64."""
    bits: Array = np.left_shift(keys.astype(np.uint32), np.uint32(_DROPPED_BITS))
    with np.errstate(invalid="ignore"):
        found = bits.view(np.float32).astype(np.float64)
    return np.where(np.isfinite(found), found, LARGEST)


class Counter:
    """A histogram in the making: pages of 16 powers of two each, made when a number falls there.

    Bins of new numbers wait until there are so many that going over a page costs nothing beside them.
    """

    def __init__(self, start: Histogram | None = None) -> None:
        self._pages: dict[int, Array] = {}
        self._waiting = np.empty(_WAITING, np.uint16)
        self._count = 0
        self._weight = 1
        if start is not None:
            counts = np.zeros(BINS, np.int64)
            counts[start.keys] = start.counts
            self._add(counts)

    def add(self, numbers: Array, weight: int = 1) -> None:
        """Counts finite numbers (float32, contiguous, one axis), each as ``weight``."""
        if weight != self._weight:
            self._flush()
            self._weight = weight
        keys: Array = np.right_shift(numbers.view(np.uint32), np.uint32(_DROPPED_BITS))
        if keys.size > _WAITING:
            self._add(np.bincount(keys, minlength=BINS) * weight)
            return
        if self._count + keys.size > _WAITING:
            self._flush()
        self._waiting[self._count : self._count + keys.size] = keys
        self._count += keys.size

    def _flush(self) -> None:
        if self._count:
            self._add(np.bincount(self._waiting[: self._count], minlength=BINS) * self._weight)
        self._count = 0

    def add_one(self, number: float) -> None:
        """Counts one more."""
        key = int(np.array(number, np.float32).view(np.uint32)) >> _DROPPED_BITS
        self._page(key // PAGE)[key % PAGE] += 1

    def _add(self, counts: Array) -> None:
        pages = counts.reshape(-1, PAGE)
        for page in np.flatnonzero(pages.max(axis=1)):
            found = self._page(int(page))
            found += pages[page]

    def _page(self, page: int) -> Array:
        found = self._pages.get(page)
        if found is None:
            found = self._pages[page] = np.zeros(PAGE, np.int64)
        return found

    def finish(self) -> Histogram:
        self._flush()
        counts = np.zeros(BINS, np.int64)
        for page, part in self._pages.items():
            counts[page * PAGE : (page + 1) * PAGE] = part
        counts[0] += counts[_NEGATIVE]  # zero has one bin
        counts[_NEGATIVE] = 0
        keys = np.flatnonzero(counts)
        return Histogram(keys.astype(np.uint16), counts[keys])
