"""A placement and how good it can be: greedy ones first, then the exact search where they stay above the bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .buffers import Buffer, Sections, overlapping, sections_of
from .fit import fit, too_large
from .greedy import Gap, orders, place_in_order

NODES = 20_000
"""Of the search, by default: about ten seconds interpreted, a fraction of one compiled."""
_SHARE_BOUND = 0.5
"""Of the nodes, for reaching the bound itself; the rest is for what lies between it and the best so far."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Placement:
    """Where each buffer lies."""

    offsets: list[int]
    """Bytes; buffers of no size or no life lie at 0."""
    height: int
    """Bytes of the arena."""
    bound: int
    """Bytes: no placement is lower."""
    greedy: int
    """Bytes that the best of the greedy placements takes."""
    nodes: int
    """Nodes of the search."""

    @property
    def gap(self) -> float:
        """How far above the bound, relative to it."""
        return self.height / self.bound - 1 if self.bound else 0.0


def place(
    buffers: Sequence[Buffer], capacity: int | None = None, *, nodes: int = NODES, progress: Progress | None = None
) -> Placement:
    """The lowest placement that is found, or one below ``capacity`` bytes as soon as there is one.

    Deterministic: the search is limited by its ``nodes``. Parts of the time in which different buffers live are
    placed apart.
    """
    offsets = [0] * len(buffers)
    parts = _parts(buffers)
    bound = max((part.sections.bound for part in parts), default=0)
    greedy = 0
    for part in parts:
        part.place_greedily(max(bound, capacity or 0))
        greedy = max(greedy, part.height)
    spent = 0
    for done, part in enumerate(sorted(parts, key=lambda part: -part.height)):
        wanted = max(bound, capacity or 0)
        if part.height <= wanted:
            break
        if progress is not None:
            progress("placing buffers", done, len(parts))
        spent += part.search(wanted, nodes - spent, only=capacity is not None)
        bound = max(bound, part.bound)
    for part in parts:
        for i, offset in zip(part.members, part.offsets, strict=True):
            offsets[i] = offset
    clash = overlapping(buffers, offsets)
    if clash is not None:
        raise AssertionError(f"buffers {clash[0]} and {clash[1]} overlap: a fault of the planner")
    return Placement(offsets, max((part.height for part in parts), default=0), bound, greedy, spent)


class _Part:
    """Buffers of a stretch of time at whose ends nothing lives."""

    def __init__(self, members: list[int], buffers: Sequence[Buffer]) -> None:
        self.members = members
        self.buffers = [buffers[i] for i in members]
        self.sections: Sections = sections_of(self.buffers)
        self.bound = self.sections.bound
        self.offsets: list[int] = []
        self.height = 0

    def place_greedily(self, enough: int) -> None:
        """In any way, until ``enough`` bytes suffice, which are at least this part's bound."""
        for order in orders(self.buffers, self.sections):
            for gap in Gap:
                self._take(place_in_order(self.buffers, self.sections, order, gap, enough))
                if self.height <= enough:
                    return

    def _take(self, offsets: list[int]) -> None:
        height = max((o + b.size for o, b in zip(offsets, self.buffers, strict=True)), default=0)
        if not self.offsets or height < self.height:
            self.offsets, self.height = offsets, height

    def search(self, wanted: int, nodes: int, *, only: bool) -> int:
        """Looks for a placement below ``wanted``, then (unless ``only``) for the lowest above it."""
        if too_large(self.buffers, self.sections):
            return 0
        step = math.gcd(*(b.size for b in self.buffers), *(b.alignment for b in self.buffers if b.alignment > 1))
        spent = self._try(wanted, nodes if only else int(nodes * _SHARE_BOUND), step)
        if only:
            return spent
        low = wanted // step * step  # where nothing was found; heights are multiples of the step
        while low + step < self.height and spent < nodes:
            middle = low + max((self.height - low) // 2 // step * step, step)
            before = self.height
            spent += self._try(middle, (nodes - spent + 1) // 2, step)
            if self.height == before:
                low = middle
        return spent

    def _try(self, capacity: int, nodes: int, step: int) -> int:
        found = fit(self.buffers, self.sections, capacity, nodes)
        if found.offsets is not None:
            self._take(found.offsets)
        elif found.impossible:
            self.bound = max(self.bound, capacity // step * step + step)
        return found.nodes


def _parts(buffers: Sequence[Buffer]) -> list[_Part]:
    """Buffers with a size and a life, cut where nothing lives across."""
    living = [i for i, b in enumerate(buffers) if b.size > 0 and b.upper > b.lower]
    living.sort(key=lambda i: (buffers[i].lower, i))
    if not living:
        return []
    reach = np.maximum.accumulate([buffers[i].upper for i in living])
    starts = np.array([buffers[i].lower for i in living])
    cuts = np.flatnonzero(starts[1:] >= reach[:-1]) + 1
    return [_Part(sorted(members.tolist()), buffers) for members in np.split(np.array(living), cuts)]
