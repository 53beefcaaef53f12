"""The order of one piece of a graph, from both sides at once.

A limit between the bound and the best order found is tried by two searches in turns, one that takes units from the
beginning and one that takes them back from the end (``descent.py``); the first to end decides. Mostly one side meets
far fewer sets, and which one shows only then: it gets more of the turns from there on. Orders are cheap to find where
the limit is loose, and limits far too low are cheap to refute; what costs is the proof just below the best. So the
limit comes from above, in steps that become smaller where a short try decides nothing; if that does not get to the end,
the bound is raised from below.
"""

from __future__ import annotations

from collections.abc import Callable

from .descent import Descent
from .side import Phase, Side, Taken, bits
from .tasks import Alive, Tasks
from .units import Units

BEAM = 16
"""Sets of one size that the first, greedy search keeps."""
_MOST = 2_000
"""Units of a piece that is searched; of larger ones only greedy orders are tried."""
_TURN = 2_000
"""Steps after which the other side has its turn."""
_FAVOUR = 4
"""Turns of the side that was first the last time, to one of the other."""
_TRY = 40_000
"""Steps of a short try at a limit."""

Key = Callable[[int, int, int], tuple[int, ...]]
"""Of the most so far, the bytes while a unit runs and after it: what is to be least."""
_KEYS: tuple[tuple[int, Key], ...] = (
    (BEAM, lambda most, during, after: (max(most, during), after)),
    (1, lambda most, during, after: (during, after)),
    (1, lambda most, during, after: (after, during)),
)
"""Widths of the beam, with what it goes by."""


class Piece:
    """Nodes whose order is found apart, after those that ``state`` has seen."""

    def __init__(self, tasks: Tasks, state: Alive, nodes: list[int]) -> None:
        inside = set(nodes)
        free = {
            s
            for node in nodes
            for s in (*tasks.touched[node], *tasks.made[node])
            if not tasks.kept[s] and sum(u in inside for u in tasks.users[s]) == state.waiting[s]
        }
        units = Units(tasks, nodes, free)
        units.merge()
        number = {root: i for i, root in enumerate(units.members)}
        self.members = list(units.members.values())
        needs = [bits(number[j] for j in units.before[root]) for root in number]
        after = [bits(number[j] for j in units.after[root]) for root in number]
        phases = [_phases(units, root, number) for root in number]
        front = Side(needs, after, phases, state.bytes, back=False)
        _, left = front.walk(_in_order(needs))
        self.sides = (front, Side(needs, after, phases, left, back=True))
        self.bound = max(state.bytes, left, *(tasks.least(node) for node in nodes))
        """Bytes: no order needs less."""
        self.order: list[int] = []
        """The best order of the units so far."""
        self.peak = 1 << 62
        """Its bytes."""
        self._better = 0
        """The side that decided last."""

    @property
    def steps(self) -> int:
        """Looked at: a unit behind a set of others."""
        return sum(side.steps for side in self.sides)

    @property
    def nodes(self) -> list[int]:
        """In the best order so far."""
        return [node for i in self.order for node in self.members[i]]

    def guess(self, steps: int) -> None:
        """Greedy orders from both sides: always the best step, and the best few."""
        for side in self.sides:
            for width, key in _KEYS:
                if self.steps < steps and self.peak > self.bound:
                    self._take(side, _beam(side, self.bound, key, width, steps))

    def search(self, enough: int, steps: int) -> None:
        """Until the order is proved best, or needs no more than ``enough``, or so many ``steps`` were looked at."""
        if len(self.members) > _MOST:
            return
        enough = max(enough, self.bound)
        most = self.steps + steps
        self._lower(enough, most - steps // 4)
        while self.peak > max(self.bound, enough) and self.steps < most:
            limit = max(self.bound, enough, (3 * self.bound + self.peak) // 4)
            if not self._decide(self._descents(min(limit, self.peak - 1)), most):
                return

    def _lower(self, enough: int, most: int) -> None:
        """Limits from above, nearer to the peak where a short try does not decide; the last one is gone on with."""
        share, least = 4, enough
        while self.peak > max(self.bound, enough) and self.steps < most:
            limit = max(least, self.bound, self.peak - (self.peak - self.bound) // share)
            descents = self._descents(min(limit, self.peak - 1))
            if self._decide(descents, min(self.steps + _TRY, most)):
                continue
            share, least = 2 * share, min(d.wanted for d in descents)
            if least >= self.peak and not self._decide(descents, most):  # any limit up to the peak is the same to them
                return

    def _descents(self, limit: int) -> tuple[Descent, ...]:
        return tuple(Descent(side, limit) for side in self.sides)

    def _decide(self, descents: tuple[Descent, ...], most: int) -> bool:
        """Finds an order below their limit, or raises the bound; false where ``steps`` came to the most before."""
        while self.steps < most:
            for i in (*([self._better] * _FAVOUR), 1 - self._better):
                if descents[i].run(_TURN):
                    self._better = i
                    found = descents[i].order
                    if found is None:
                        self.bound = min(max(self.bound, descents[i].wanted), self.peak)
                    else:
                        self._take(self.sides[i], found)
                    return True
        return False

    def _take(self, side: Side, order: list[int] | None) -> None:
        """Keeps the order where it is better."""
        if order is not None:
            peak, _ = side.walk(order)
            if peak < self.peak:
                self.order, self.peak = order[::-1] if side.back else order, peak


def _phases(units: Units, root: int, number: dict[int, int]) -> list[Phase]:
    size = units.tasks.size

    def others(storages: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        return tuple((bits(number[u] for u in units.users[s] if u != root), size[s]) for s in storages)

    return [Phase(p.hump, p.net, others(p.credits), others(p.frees)) for p in units.phases(root)]


def _in_order(needs: list[int]) -> list[int]:
    """Some order of units that need others done."""
    found: list[int] = []
    done = 0
    while len(found) < len(needs):
        fresh = [i for i, before in enumerate(needs) if not done >> i & 1 and not before & ~done]
        found += fresh
        done |= bits(fresh)
    return found


def _beam(side: Side, bound: int, key: Key, width: int, steps: int) -> list[int] | None:
    """Sets grow; of those of a generation the best go on. ``None`` where steps did not suffice."""
    first = side.first(bound)
    came: dict[int, tuple[int, tuple[int, ...]]] = {first.units: (0, first.path)}
    level = [(bound, first)]
    while level[0][1].units != side.whole:
        if side.steps > steps:
            return None
        ways: dict[int, tuple[tuple[int, ...], int, Taken, int]] = {}
        for most, at in level:
            for after, during, unit in side.ways(at):
                rank = (*key(most, during, after), unit)
                then = at.units | 1 << unit
                if then not in ways or rank < ways[then][0]:
                    ways[then] = (rank, max(most, during), at, unit)
        grown: dict[int, tuple[int, Taken]] = {}
        for _, most, at, unit in sorted(ways.values(), key=lambda way: way[0])[:width]:
            to = side.take(at, unit, most)
            if to.units not in came:
                came[to.units] = (at.units, to.path)
                grown[to.units] = (most, to)
        ended = grown.get(side.whole)
        level = [ended] if ended is not None else list(grown.values())
    parts: list[tuple[int, ...]] = []
    units = side.whole
    while units:
        units, part = came[units]
        parts.append(part)
    return [i for part in reversed(parts) for i in part]
