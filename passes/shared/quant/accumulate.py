"""Statistics of a value, taken tensor by tensor in bounded memory.

The outcome does not depend on how the data are cut into tensors or in which order these come, up to rounding in
float64, but for the running mean of ranges and, in tensors of more than ``HISTOGRAM_NUMBERS``, which of their numbers
the histogram holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from .histogram import LARGEST, Counter, counter_bytes
from .statistics import Channels, Kind, Observed, Want

Array = np.ndarray[Any, Any]

HISTOGRAM_NUMBERS = 1 << 13
"""A histogram takes in at most about this many numbers of one tensor, at even distances, each for all between: it costs
ten times as much as everything else. The lowest and the highest number are always in it."""
_NEIGHBOURS = 16
"""Numbers that are taken together: those in one line of the cache."""
AVERAGED = 100
"""Tensors over which the running mean of ranges goes."""
_BLOCK = 1 << 16
_ROW = 1024
"""Float32 sums are added up in float64 after this many numbers."""


class Accumulator:
    """Takes in the tensors of one value."""

    def __init__(
        self, want: Want, start: Observed | None = None, *, matrix: Callable[[int], Array] | None = None
    ) -> None:
        """Goes on from ``start``, if given. ``matrix`` makes the square of zeros for sums of products."""
        self._matrix = matrix if matrix is not None else _square
        o = start if start is not None else Observed()
        self.want = want
        self._count, self._low, self._high = o.count, o.low, o.high
        self._sum, self._squares = o.mean * o.count, o.square * o.count
        self._arrays, self._average = o.arrays, o.average
        self._nan, self._infinite = o.nan, o.infinite
        self._declined = dict(o.declined)
        self._histogram = Counter(o.histogram) if Kind.HISTOGRAM in want.kinds else None
        self._tokens = Counter(o.tokens) if Kind.TOKENS in want.kinds else None
        self._channels = _ChannelSums(want.axis, o.channels) if Kind.CHANNELS in want.kinds else None
        self._moments: Array | None = None if o.moments is None else np.array(o.moments)
        self._rows = o.rows

    def add(self, array: Array) -> None:
        """Takes in one tensor of numbers. Raises ``TypeError`` for anything else."""
        if array.dtype.kind in "iub":
            array = array.astype(np.float64)
        elif array.dtype not in (np.float32, np.float64):  # the smaller ones, those of ml_dtypes among them
            if array.dtype.kind not in "fV":
                raise TypeError(f"its elements are {array.dtype}, not real numbers")
            array = array.astype(np.float32)
        array = np.ascontiguousarray(array)
        if not array.size:
            return
        totals = _totals(array.reshape(-1))
        if totals is None:
            self._add_odd(array)
            return
        self._add_totals(array.size, totals)
        low, high = totals.low, totals.high
        narrow = _narrow(array, low, high)
        if self._histogram is not None:
            self._count_some(self._histogram, narrow, low, high)
        if self._channels is not None:
            self._channels.add(narrow, self._declined)
        if self._tokens is not None:
            rows = _rows(narrow)
            self._tokens.add(np.maximum(rows.max(axis=1), -rows.min(axis=1)))
        if Kind.MOMENTS in self.want.kinds:
            self._add_moments(_rows(_squarable(narrow, low, high)))

    def finish(self) -> Observed:
        """What was seen so far."""
        n = max(self._count, 1)
        return Observed(
            self._count,
            self._low,
            self._high,
            self._sum / n,
            self._squares / n,
            self._arrays,
            self._average,
            self._nan,
            self._infinite,
            None if self._histogram is None else self._histogram.finish(),
            None if self._channels is None else self._channels.finish(),
            self._moments,
            self._rows,
            None if self._tokens is None else self._tokens.finish(),
            dict(self._declined),
        )

    def _add_odd(self, array: Array) -> None:
        """A tensor with NaN or infinities: the finite numbers count; rows with others are in no statistics of rows."""
        finite = np.isfinite(array)
        nan = int(np.isnan(array).sum())
        self._nan += nan
        self._infinite += int(array.size - finite.sum()) - nan
        numbers = array[finite]
        if not numbers.size:
            return
        totals = _totals(numbers)
        assert totals is not None
        self._add_totals(numbers.size, totals)
        if self._histogram is not None:
            low, high = totals.low, totals.high
            self._count_some(self._histogram, _narrow(numbers, low, high), low, high)
        for kind in (Kind.CHANNELS, Kind.TOKENS, Kind.MOMENTS):
            if kind in self.want.kinds:
                self._declined[str(kind.name)] = "some tensors hold NaN or infinities, which are left out"

    def _count_some(self, histogram: Counter, array: Array, low: float, high: float) -> None:
        """Groups of neighbours at even distances, ``HISTOGRAM_NUMBERS`` at most, for all; and both ends."""
        step, flat = _step(array), array.reshape(-1)
        if step == 1:
            histogram.add(flat)
            return
        groups = flat[: flat.size - flat.size % _NEIGHBOURS].reshape(-1, _NEIGHBOURS)
        histogram.add(np.ascontiguousarray(groups[self._count % step :: step]).reshape(-1), step)
        histogram.add_one(max(low, -LARGEST))
        histogram.add_one(min(high, LARGEST))

    def _add_totals(self, count: int, totals: _Totals) -> None:
        low, high = totals.low, totals.high
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._arrays += 1
        seen, old = min(self._arrays, AVERAGED), self._average
        self._average = (old[0] + (low - old[0]) / seen, old[1] + (high - old[1]) / seen)
        self._count += count
        self._sum += totals.sum
        self._squares += totals.squares

    def _add_moments(self, rows: Array) -> None:
        width = rows.shape[1]
        if self._moments is None:
            self._moments = self._matrix(width)
        if self._moments.shape[0] != width:
            self._declined[str(Kind.MOMENTS.name)] = (
                f"rows have {width} numbers, those before had {self._moments.shape[0]}"
            )
            return
        self._rows += len(rows)
        for start in range(0, len(rows), _ROW):
            part = rows[start : start + _ROW]
            self._moments += part.T @ part


@dataclass
class _Totals:
    """Of finite numbers."""

    low: float = math.inf
    high: float = -math.inf
    sum: float = 0.0
    squares: float = 0.0


def _totals(flat: Array) -> _Totals | None:
    """Block by block, each of which stays in the cache; ``None`` where some number is not finite."""
    found = _Totals()
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        low, high = float(block.min()), float(block.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return None
        found.low, found.high = min(found.low, low), max(found.high, high)
        block = _squarable(block, low, high)
        whole = block.size - block.size % _ROW
        for part in (block[:whole].reshape(-1, _ROW), block[None, whole:]):
            if part.size:
                found.sum += float((part @ np.ones(part.shape[1], part.dtype)).sum(dtype=np.float64))
                with np.errstate(over="ignore") if part.dtype == np.float64 else nullcontext():
                    found.squares += float(np.vecdot(part, part).sum(dtype=np.float64))
    return found


class _ChannelSums:
    """Statistics along one axis in the making."""

    def __init__(self, axis: int, start: Channels | None) -> None:
        self.axis = axis
        self.count = 0 if start is None else start.count
        self.low = None if start is None else start.low
        self.high = None if start is None else start.high
        self.sums = None if start is None else np.stack([start.mean, start.absmean, start.square]) * start.count

    def add(self, array: Array, declined: dict[str, str]) -> None:
        axis = self.axis + array.ndim if self.axis < 0 else self.axis
        label = str(Kind.CHANNELS.name)
        if not 0 <= axis < array.ndim:
            declined[label] = f"a tensor of rank {array.ndim} has no axis {self.axis}"
            return
        cut = array.reshape(math.prod(array.shape[:axis]), array.shape[axis], -1)
        if self.low is not None and self.low.size != cut.shape[1]:
            declined[label] = f"axis {self.axis} has {cut.shape[1]} elements, before it had {self.low.size}"
            return
        low, high = (f(f(cut, axis=2), axis=0).astype(np.float64) for f in (np.min, np.max))
        magnitude = np.abs(cut)
        cut = _squarable(cut, float(low.min()), float(high.max()))
        sums = np.stack([_channel_sums(cut), _channel_sums(magnitude), _channel_sums(np.square(cut))])
        if self.low is None or self.high is None or self.sums is None:
            self.low, self.high, self.sums = low, high, sums
        else:
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
            self.sums = self.sums + sums
        self.count += cut.shape[0] * cut.shape[2]

    def finish(self) -> Channels | None:
        if self.low is None or self.high is None or self.sums is None:
            return None
        mean, absmean, square = self.sums / max(self.count, 1)
        return Channels(self.axis, self.count, self.low, self.high, mean, absmean, square)


def _channel_sums(cut: Array) -> Array:
    if cut.shape[2] == 1:
        return cut[:, :, 0].sum(axis=0, dtype=np.float64)
    return cut.sum(axis=2, dtype=np.float64).sum(axis=0)


def _squarable(array: Array, low: float, high: float) -> Array:
    """In a type that holds sums of a few thousand squares."""
    return array if max(-low, high) < 1e16 else array.astype(np.float64)


def _square(width: int) -> Array:
    return np.zeros((width, width))


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1] if array.ndim else 1)


def _narrow(array: Array, low: float, high: float) -> Array:
    """In float32; numbers beyond become the largest."""
    if array.dtype == np.float32:
        return array
    if max(-low, high) > LARGEST:
        array = np.clip(array, -LARGEST, LARGEST)
    return array.astype(np.float32)


def _step(array: Array) -> int:
    """Of how many numbers one is counted."""
    if array.size <= HISTOGRAM_NUMBERS:
        return 1
    step = -(-array.size // HISTOGRAM_NUMBERS)
    while any(math.gcd(step, extent) > 1 for extent in array.shape):  # else some columns would never come
        step += 1
    return step


def kept_bytes(want: Want, shape: tuple[int, ...]) -> int:
    """About what an accumulator of tensors of this shape keeps."""
    found = counter_bytes() * sum(kind in want.kinds for kind in (Kind.HISTOGRAM, Kind.TOKENS))
    if Kind.CHANNELS in want.kinds and -len(shape) <= want.axis < len(shape):
        found += 40 * shape[want.axis]
    if Kind.MOMENTS in want.kinds and shape:
        found += 8 * shape[-1] * shape[-1]
    return found


def passing_bytes(want: Want, shape: tuple[int, ...]) -> int:
    """What it takes while it takes in a tensor."""
    found = 16 * HISTOGRAM_NUMBERS
    if Kind.CHANNELS in want.kinds:
        found += 8 * math.prod(shape)
    if Kind.MOMENTS in want.kinds and shape:
        found += 4 * shape[-1] * shape[-1]
    return found
