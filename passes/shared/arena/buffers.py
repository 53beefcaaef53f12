"""Buffers, the moments that matter, and what no arena can be smaller than."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Buffer:
    """Bytes that are needed from ``lower`` until just before ``upper``, in any unit of time."""

    lower: int
    upper: int
    size: int
    """Bytes."""
    alignment: int = 1
    """Its offset is a multiple of this."""


@dataclass(frozen=True)
class Sections:
    """The maximal sets of buffers that live together, in the order of time; all else follows from them.

    Buffers are given as intervals of sections: two of them live together exactly where their intervals meet.
    """

    first: Array
    """[n] int64, the first section of each buffer."""
    last: Array
    """[n] int64, one behind its last section."""
    live: Array
    """[sections] int64, bytes alive."""

    @property
    def bound(self) -> int:
        """Bytes: what lives at one moment; no arena can be smaller."""
        return int(self.live.max(initial=0))


def sections_of(buffers: Sequence[Buffer]) -> Sections:
    """A section ends where a buffer does after another began: only there is a set of live buffers maximal."""
    events = sorted([(b.upper, 0) for b in buffers] + [(b.lower, 1) for b in buffers])
    moments: list[int] = []
    began: int | None = None
    for moment, begins in events:
        if begins:
            began = moment
        elif began is not None:
            moments.append(began)
            began = None
    times = np.array(moments, np.int64)
    first = np.searchsorted(times, [b.lower for b in buffers], "left").astype(np.int64)
    last = np.searchsorted(times, [b.upper for b in buffers], "left").astype(np.int64)
    steps = np.zeros(len(times) + 1, np.int64)
    sizes = np.array([b.size for b in buffers], np.int64)
    np.add.at(steps, first, sizes)
    np.add.at(steps, last, -sizes)
    return Sections(first, last, np.cumsum(steps[:-1]))


def overlapping(buffers: Sequence[Buffer], offsets: Sequence[int]) -> tuple[int, int] | None:
    """Two buffers that share bytes while both live, if there are any: the check of every placement.

    A sweep over time that keeps live buffers in the order of their offsets, where only neighbours can meet.
    """
    from bisect import bisect_left, insort

    events = sorted(
        [(b.upper, 0, i) for i, b in enumerate(buffers) if b.size and b.upper > b.lower]
        + [(b.lower, 1, i) for i, b in enumerate(buffers) if b.size and b.upper > b.lower]
    )
    live: list[tuple[int, int]] = []
    for _, begins, i in events:
        at = bisect_left(live, (offsets[i], i))
        if not begins:
            del live[at]
            continue
        for _, other in live[max(at - 1, 0) : at + 1]:
            apart = offsets[i] + buffers[i].size <= offsets[other] or offsets[other] + buffers[other].size <= offsets[i]
            if not apart:
                return min(i, other), max(i, other)
        insort(live, (offsets[i], i))
    return None
