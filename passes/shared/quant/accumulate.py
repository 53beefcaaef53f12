"""Statistics of a value, taken tensor by tensor in bounded memory.

Every number counts in the range and in statistics of channels, rows and products. The histogram, the mean and the mean
square come from some of the numbers of tensors of more than ``LATER_NUMBERS``, evenly drawn. But for these, and for the
running mean of ranges, the outcome does not depend on how the data are cut into tensors or in which order these come,
up to rounding in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .histogram import LARGEST, Counter, counter_bytes
from .statistics import Channels, Kind, Observed, Want

Array = np.ndarray[Any, Any]

HISTOGRAM_NUMBERS = 1 << 13
"""A histogram takes in at most about this many numbers of one tensor, at even distances, each for all between: it costs
ten times as much as everything else. The lowest and the highest number of each tensor are always in it."""
LATER_NUMBERS = 1 << 11
"""The same once it holds ``ENOUGH_TENSORS``: ranges hardly move any more."""
ENOUGH_TENSORS = 8
_NEIGHBOURS = 4
"""Numbers that are taken together: more of one line of the cache are hardly less alike."""
AVERAGED = 100
"""Tensors over which the running mean of ranges goes."""
_BLOCK = 1 << 16
_least, _greatest = np.minimum.reduce, np.maximum.reduce
"""The lowest and the highest number of an array, NaN where one is."""
_ROW = 1024
_OF_ALL = Kind.CHANNELS | Kind.MOMENTS | Kind.TOKENS
"""Kinds that take in every number."""


@dataclass(frozen=True)
class Drawn:
    """Some of a tensor's numbers, and the range of all."""

    size: int
    low: float
    high: float
    numbers: Array
    """One axis."""
    step: int
    """For how many numbers each counts."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


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
        self._takes_all = bool(want.kinds & _OF_ALL)
        self._some = Counter(o.histogram, (o.mean * o.count, o.square * o.count), Kind.HISTOGRAM in want.kinds)
        self._arrays, self._average = o.arrays, o.average
        self._nan, self._infinite = o.nan, o.infinite
        self._declined = dict(o.declined)
        self._tokens = Counter(o.tokens) if Kind.TOKENS in want.kinds else None
        self._channels = _ChannelSums(want.axis, o.channels) if Kind.CHANNELS in want.kinds else None
        self._moments: Array | None = None if o.moments is None else np.array(o.moments)
        self._rows = o.rows
        self._steps: dict[tuple[tuple[int, ...], int], int] = {}

    def add(self, array: Array) -> Drawn | None:
        """Takes in one tensor of numbers; what it drew from it, where all of them are finite. Raises ``TypeError`` for
        anything else."""
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            array = _countable(array)
        if not array.size:
            return None
        drawn = self._draw(array)
        if not drawn.finite:
            self._add_odd(array)
            return None
        self.add_drawn(drawn)
        if self._takes_all:
            self._add_all(_narrow(array, drawn.low, drawn.high), drawn.low, drawn.high)
        return drawn

    def add_drawn(self, drawn: Drawn) -> None:
        """Takes in a tensor of which some numbers are known: all that histograms and ranges need."""
        low, high = drawn.low, drawn.high
        self._some.add(_narrow(drawn.numbers, low, high), drawn.step, drawn.size / drawn.numbers.size)
        if drawn.step > 1:
            self._some.add_ends(max(low, -LARGEST), min(high, LARGEST))
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._arrays += 1
        seen, (first, last) = min(self._arrays, AVERAGED), self._average
        self._average = (first + (low - first) / seen, last + (high - last) / seen)
        self._count += drawn.size

    def finish(self) -> Observed:
        """What was seen so far."""
        n = max(self._count, 1)
        histogram = self._some.finish()
        return Observed(
            self._count,
            self._low,
            self._high,
            self._some.sum / n,
            self._some.squares / n,
            self._arrays,
            self._average,
            self._nan,
            self._infinite,
            histogram if Kind.HISTOGRAM in self.want.kinds else None,
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
        self.add_drawn(self._draw(numbers))
        for kind in _OF_ALL:
            if kind in self.want.kinds:
                self._declined[str(kind.name)] = "some tensors hold NaN or infinities, which are left out"

    def _draw(self, array: Array) -> Drawn:
        """Groups of neighbours at even distances. Block by block, each of which stays in the cache."""
        flat, step = array.reshape(-1), self._step(array)
        if step == 1 and flat.size <= _BLOCK:
            return Drawn(flat.size, float(_least(flat)), float(_greatest(flat)), flat, 1)
        low, high, parts = np.inf, -np.inf, list[Array]()
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            low, high = np.minimum(low, _least(block)), np.maximum(high, _greatest(block))
            groups = block[: block.size - block.size % _NEIGHBOURS].reshape(-1, _NEIGHBOURS)
            parts.append(groups[(self._count - start // _NEIGHBOURS) % step :: step].reshape(-1))
        some = parts[0] if len(parts) == 1 else np.concatenate(parts)
        size = flat.size // (_NEIGHBOURS * step) * _NEIGHBOURS  # the same wherever it begins
        return Drawn(flat.size, float(low), float(high), some[:size], step)

    def _step(self, array: Array) -> int:
        """Of how many groups one is taken. The same for tensors of one shape, once there are enough of them."""
        most = HISTOGRAM_NUMBERS if self._arrays < ENOUGH_TENSORS else LATER_NUMBERS
        if array.size <= most:
            return 1
        known = self._steps.get((array.shape, most))
        if known is None:
            known = self._steps[array.shape, most] = _step(array, most)
        return known

    def _add_all(self, array: Array, low: float, high: float) -> None:
        if self._channels is not None:
            self._channels.add(array, self._declined)
        if self._tokens is not None:
            rows = _rows(array)
            self._tokens.add(np.maximum(rows.max(axis=1), -rows.min(axis=1)))
        if Kind.MOMENTS in self.want.kinds:
            self._add_moments(_rows(_squarable(array, low, high)))

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


def _countable(array: Array) -> Array:
    """In float32 or float64, and in one piece. Raises ``TypeError``."""
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    elif array.dtype not in (np.float32, np.float64):  # the smaller ones, those of ml_dtypes among them
        if array.dtype.kind not in "fV":
            raise TypeError(f"its elements are {array.dtype}, not real numbers")
        array = array.astype(np.float32)
    return np.ascontiguousarray(array)


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


def _step(array: Array, most: int) -> int:
    step = -(-array.size // most)
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
