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
_WAITING = 1 << 14
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
    return 4 * _WAITING + 6 * 8 * PAGE


def _number(keys: Array) -> Array:
    """The number nearest to zero of each bin of positive numbers, float64."""
    bits: Array = np.left_shift(keys.astype(np.uint32), np.uint32(_DROPPED_BITS))
    with np.errstate(invalid="ignore"):
        found = bits.view(np.float32).astype(np.float64)
    return np.where(np.isfinite(found), found, LARGEST)


class Counter:
    """A histogram in the making, and sums: pages of 16 powers of two each, made when a number falls there.

    New numbers wait until there are so many that going over a page costs nothing beside them.
    """

    def __init__(
        self, start: Histogram | None = None, sums: tuple[float, float] = (0.0, 0.0), counting: bool = True
    ) -> None:
        """``sums``: of the numbers before and of their squares. ``counting``: else sums are all there is."""
        self._pages: dict[int, Array] = {}
        self._sum, self._squares = sums
        self._counting = counting
        self._waiting = np.empty(_WAITING, np.float32)
        self._count = 0
        self._parts: list[tuple[int, int, float]] = []
        self._ends: list[float] = []
        if start is not None:
            counts = np.zeros(BINS, np.int64)
            counts[start.keys] = start.counts
            self._add(counts)

    def add(self, numbers: Array, weight: int = 1, share: float = 1.0) -> None:
        """Counts finite numbers (float32, one axis, at least one), each as ``weight``, in the sums as ``share``."""
        size = numbers.size
        if self._count + size > _WAITING:
            self._flush()
        if size > _WAITING:
            self._take(numbers, [(size, weight, share)])
            return
        self._waiting[self._count : self._count + size] = numbers
        self._count += size
        self._parts.append((size, weight, share))

    def add_ends(self, low: float, high: float) -> None:
        """Counts two more, which are not in the sums."""
        if self._counting:
            self._ends += (low, high)
            if len(self._ends) >= PAGE:
                self._flush_ends()

    @property
    def sum(self) -> float:
        self._flush()
        return self._sum

    @property
    def squares(self) -> float:
        """The sum of them."""
        self._flush()
        return self._squares

    def _flush(self) -> None:
        if self._count:
            self._take(self._waiting[: self._count], self._parts)
        self._count, self._parts = 0, []

    def _flush_ends(self) -> None:
        if self._ends:
            self._add(_bins(np.array(self._ends, np.float32)))
            self._ends = []

    def _take(self, numbers: Array, parts: list[tuple[int, int, float]]) -> None:
        """``parts``: sizes, with what each of their numbers counts for."""
        sizes, weights, shares = zip(*parts, strict=True)
        wide = numbers.astype(np.float64)
        starts = np.r_[0, np.cumsum(sizes)[:-1]]
        self._sum += float(np.dot(np.add.reduceat(wide, starts), shares))
        self._squares += float(np.dot(np.add.reduceat(np.square(wide), starts), shares))
        if self._counting and len(set(weights)) == 1:
            self._add(_bins(numbers) * weights[0])
        elif self._counting:
            self._add(_bins(numbers, np.repeat(weights, sizes)).astype(np.int64))

    def _add(self, counts: Array) -> None:
        pages = counts.reshape(-1, PAGE)
        for page in np.flatnonzero(pages.max(axis=1)):
            found = self._pages.get(int(page))
            if found is None:
                found = self._pages[int(page)] = np.zeros(PAGE, np.int64)
            found += pages[page]

    def finish(self) -> Histogram:
        self._flush()
        self._flush_ends()
        counts = np.zeros(BINS, np.int64)
        for page, part in self._pages.items():
            counts[page * PAGE : (page + 1) * PAGE] = part
        counts[0] += counts[_NEGATIVE]  # zero has one bin
        counts[_NEGATIVE] = 0
        keys = np.flatnonzero(counts)
        return Histogram(keys.astype(np.uint16), counts[keys])


def _bins(numbers: Array, weights: Array | None = None) -> Array:
    """How many float32 numbers fall into each bin."""
    keys: Array = np.right_shift(numbers.view(np.uint32), np.uint32(_DROPPED_BITS))
    return np.bincount(keys, weights, BINS)
