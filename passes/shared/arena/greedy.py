"""Fast placements: one buffer after another, each in a free gap: the lowest, the tightest, or one at an end.

Sources: Y. Pisarchyk, J. Lee, Efficient memory management for deep neural net inference, 2020 (greedy by size);
P. Wilson et al., Dynamic storage allocation: a survey, 1995 (first fit, best fit).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum

import numpy as np

from .buffers import Array, Buffer, Sections


class Gap(Enum):
    """Where a buffer goes."""

    ENDS = "ends"
    """To the lower end of the arena or else to its upper end, so that of two which follow each other both are free
    again where the third comes: what a chain needs."""
    LOWEST = "lowest"
    TIGHTEST = "tightest"
    """Into the smallest gap that is large enough, else the lowest."""


def orders(buffers: Sequence[Buffer], sections: Sections) -> Iterator[Array]:
    """Orders in which to place: as time goes, by size, by area, by width, and by the fullest moment."""
    size = np.array([b.size for b in buffers], np.int64)
    width = sections.last - sections.first
    fullest = fullest_of(sections)
    index = np.arange(len(buffers))
    yield np.lexsort((index, -size, sections.first))
    yield np.lexsort((index, -width, -size))
    yield np.lexsort((index, -size, -width * size))
    yield np.lexsort((index, -size, -width))
    yield np.lexsort((index, -size, -width, -fullest))


def fullest_of(sections: Sections) -> Array:
    """[n] Bytes alive at the fullest moment of each buffer's life; a sparse table of maxima over powers of two."""
    width = np.maximum(sections.last - sections.first, 1)
    level = np.log2(width).astype(np.int64)
    table = [sections.live]
    for step in range(int(level.max(initial=0))):
        half = 1 << step
        table.append(np.maximum(table[-1][:-half], table[-1][half:]))
    found = np.zeros(len(width), np.int64)
    for step, maxima in enumerate(table):
        at = np.flatnonzero((level == step) & (sections.last > sections.first))
        low, high = sections.first[at], sections.last[at] - (1 << step)
        found[at] = np.maximum(maxima[low], maxima[high])
    return found


def place_in_order(buffers: Sequence[Buffer], sections: Sections, order: Array, gap: Gap, capacity: int) -> list[int]:
    """Offsets. Only ``ENDS`` looks at the ``capacity``, and goes beyond it where nothing is free below."""
    offsets = [0] * len(buffers)
    placed: list[list[int]] = [[] for _ in range(len(sections.live))]
    first, last = sections.first.tolist(), sections.last.tolist()
    turns: list[int] = order.tolist()
    for i in turns:
        buffer = buffers[i]
        span = range(first[i], last[i])
        others = {j for s in span for j in placed[s]}
        taken = sorted((offsets[j], offsets[j] + buffers[j].size) for j in others)
        offsets[i] = _free(taken, buffer, gap, capacity)
        for s in span:
            placed[s].append(i)
    return offsets


def _free(taken: list[tuple[int, int]], buffer: Buffer, gap: Gap, capacity: int) -> int:
    """An offset for a buffer between intervals that are sorted by their beginning."""
    size, alignment = buffer.size, buffer.alignment
    at, best, best_room, above = 0, -1, 0, 0
    for low, high in taken:
        if at + size <= low:
            if gap is Gap.LOWEST or (gap is Gap.ENDS and at == 0):
                return at
            if best < 0 or low - at < best_room:
                best, best_room = at, low - at
        above = max(above, high)
        at = max(at, -(-high // alignment) * alignment)
    upper = (capacity - size) // alignment * alignment
    if gap is Gap.ENDS and upper >= above > 0:
        return upper
    return best if best >= 0 else at
