"""Nodes that some best order has side by side, as one unit: fewer sets to search.

With memory relative to before a node, its *hump* (while it runs) and its *net* (after it), of which parts depend on
whether others have read an operand before:

* u goes right in front of v, its only reader, where waiting costs nothing (net of u >= 0 even if all its operands are
  free then) and u's hump there is not above v's;
* v goes right behind u, the only node it waits for, where going early costs nothing (net of v <= 0 even if no operand
  that others read is free yet) and v's hump there is not above u's.

Applied until nothing changes, chains become the hills and valleys of Liu's theorem; but either end may have others.

Source: J. W. H. Liu, An application of generalized tree pebbling to sparse matrix factorization, SIAM Journal on
Algebraic and Discrete Methods 8, 1987.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from .tasks import Tasks

_MOST_MEMBERS = 48
"""Of a unit: long chains take linear time."""
_MOST_SHARED = 6
"""Storages of which it is tried whether others have read them, in all combinations."""


@dataclass(frozen=True)
class Phase:
    """A node of a unit, in bytes above what is alive before it."""

    hump: int
    """While it runs."""
    net: int
    """After it."""
    credits: tuple[int, ...] = ()
    """Storages that it writes over where all others have read them."""
    frees: tuple[int, ...] = ()
    """Storages that are free after it where all others have read them."""


class Units:
    """Nodes of a piece, merged. ``free`` are the storages that become free when nodes of the piece have read them."""

    def __init__(self, tasks: Tasks, nodes: Sequence[int], free: Iterable[int]) -> None:
        self.tasks = tasks
        self.free = set(free)
        self.members: dict[int, list[int]] = {node: [node] for node in nodes}
        """Nodes of each unit in their order, by its first number."""
        inside = set(nodes)
        self.before = {n: {j for j in tasks.before[n] if j in inside} for n in nodes}
        self.after: dict[int, set[int]] = {n: set() for n in nodes}
        for n, needs in self.before.items():
            for j in needs:
                self.after[j].add(n)
        self.users = {s: {u for u in tasks.users[s] if u in inside} for s in self.free}
        """Units that read or write each storage."""

    def merge(self) -> None:
        """Until nothing changes."""
        waiting = dict.fromkeys(self.members)
        while waiting:
            unit = next(iter(waiting))
            del waiting[unit]
            while unit in self.members:
                other = self._partner(unit)
                if other is None:
                    break
                self._join(*other)
                unit = other[0]
                waiting.update(dict.fromkeys((*self.before[unit], *self.after[unit])))

    def _partner(self, unit: int) -> tuple[int, int] | None:
        """Two units that may be one, in their order, one of them this."""
        if len(self.after[unit]) == 1:
            (reader,) = self.after[unit]
            if self._adjoining(unit, reader, late=True):
                return unit, reader
        for reader in self.after[unit]:
            if len(self.before[reader]) == 1 and self._adjoining(unit, reader, late=False):
                return unit, reader
        return None

    def _adjoining(self, first: int, second: int, *, late: bool) -> bool:
        """Whether the first may go right in front of the second (late), or the second right behind the first."""
        own = (first, second)
        head, tail = self.members[first], self.members[second]
        if len(head) + len(tail) > _MOST_MEMBERS:
            return False
        phases = self._phases([*head, *tail], own)
        shared = sorted({s for p in phases for s in (*p.credits, *p.frees)})
        if len(shared) > _MOST_SHARED:
            return False
        cut = len(head)
        for choice in product((False, True), repeat=len(shared)):
            free = {s for s, chosen in zip(shared, choice, strict=True) if chosen}
            humps, between, end = self._played(phases, free, cut)
            high, low = max(humps[:cut]), max(humps[cut:])
            if (high > low) if late else (low > high):
                return False
            if late and len(free) == len(shared) and between < 0:
                return False
            if not late and not free and end > between:
                return False
        return True

    def _played(self, phases: list[Phase], free: set[int], cut: int) -> tuple[list[int], int, int]:
        """Humps, and what is alive more after the first ``cut`` phases and after all."""
        alive = between = 0
        humps: list[int] = []
        size = self.tasks.size
        for i, p in enumerate(phases):
            if i == cut:
                between = alive
            humps.append(alive + p.hump - max((size[s] for s in p.credits if s in free), default=0))
            alive += p.net - sum(size[s] for s in p.frees if s in free)
        return humps, between, alive

    def phases(self, unit: int) -> list[Phase]:
        """Of a unit, as few as say the same."""
        found: list[Phase] = []
        for p in self._phases(self.members[unit], (unit,)):
            last = found[-1] if found else None
            if last is not None and not last.frees and not last.credits and not p.credits:
                found[-1] = Phase(max(last.hump, last.net + p.hump), last.net + p.net, (), p.frees)
            else:
                found.append(p)
        return found

    def _phases(self, members: list[int], own: tuple[int, ...]) -> list[Phase]:
        tasks = self.tasks
        last: dict[int, int] = {}
        for i, node in enumerate(members):
            for s in (*tasks.touched[node], *tasks.made[node]):
                if s in self.free:
                    last[s] = i
        only = {s for s in last if self.users[s].issubset(own)}
        found: list[Phase] = []
        for i, node in enumerate(members):
            made = sum(tasks.size[s] for s in tasks.made[node])
            ends = [s for s in dict.fromkeys((*tasks.touched[node], *tasks.made[node])) if last.get(s) == i]
            over = [s for s in tasks.overwrites[node] if last.get(s) == i]
            sure = max((tasks.size[s] for s in over if s in only), default=0)
            found.append(
                Phase(
                    made + tasks.work[node] - sure,
                    made - sum(tasks.size[s] for s in ends if s in only),
                    () if sure else tuple(s for s in over if s not in only),
                    tuple(s for s in ends if s not in only and tasks.size[s]),
                )
            )
        return found

    def _join(self, first: int, second: int) -> None:
        """The second becomes part of the first."""
        moved = self.members.pop(second)
        self.members[first] += moved
        for s in dict.fromkeys(s for n in moved for s in (*self.tasks.touched[n], *self.tasks.made[n])):
            if s in self.users:
                self.users[s].discard(second)
                self.users[s].add(first)
        for j in self.before.pop(second):
            self.after[j].discard(second)
            if j != first:
                self.after[j].add(first)
                self.before[first].add(j)
        for j in self.after.pop(second):
            self.before[j].discard(second)
            self.before[j].add(first)
            self.after[first].add(j)
