"""One side from which a piece of a graph is ordered: from its beginning, or backwards from its end.

Sets of units that are *taken* are bits of integers: those done, or, from the end, those undone. Either way f(T), the
bytes alive where T was taken, is submodular, as a storage is alive from the first of its users to the last, and what
follows from it (``descent.py``) holds on both sides. One of them may meet several times as many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

_MOST_KNOWN = 10_000
"""Effects that are remembered of a unit."""

Effect = tuple[int, int]
"""Of a unit, relative to the bytes alive before it: the most while it runs, and the change."""


@dataclass(frozen=True)
class Phase:
    """What a unit does at a time, in bytes above what is alive before it; ``users``: units that must be done."""

    hump: int
    """While it runs."""
    net: int
    """After it."""
    credits: tuple[tuple[int, int], ...] = ()
    """Users and bytes of what is written over once they are done."""
    frees: tuple[tuple[int, int], ...] = ()
    """Users and bytes of what is free once they are done."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A set of units, and how it was reached from the one before."""

    units: int
    alive: int
    """Bytes alive."""
    ready: tuple[int, ...]
    """Units that can be taken next."""
    path: tuple[int, ...] = ()


class Side:
    """Units with what must be taken before each (``needs``, bits) and what comes behind (``after``)."""

    def __init__(
        self, needs: Sequence[int], after: Sequence[int], phases: Sequence[Sequence[Phase]], alive: int, *, back: bool
    ) -> None:
        self.back = back
        self.needs = after if back else needs
        behind = needs if back else after
        self.after = [tuple(members(bits)) for bits in behind]
        self.users = [_users(parts) for parts in phases]
        """Units on which each one's effect depends."""
        self.near = [bits | users for bits, users in zip(behind, self.users, strict=True)]
        """Units that may be taken at once where each has been: what comes behind, and who shares its operands."""
        self.effects = [_Effects(_effect(p, u, back=back)) for p, u in zip(phases, self.users, strict=True)]
        self.whole = (1 << len(needs)) - 1
        self.alive = alive
        self.steps = 0
        """Units looked at behind a set of others."""

    def first(self, limit: int) -> Taken:
        """Nothing, and what can be taken at once."""
        ready = tuple(i for i, needs in enumerate(self.needs) if not needs)
        return self._settle(0, self.alive, ready, self.whole, limit, ())

    def take(self, at: Taken, unit: int, limit: int) -> Taken:
        """One unit, and what can be taken at once behind it."""
        units = at.units | 1 << unit
        alive = at.alive + self.effects[unit][at.units & self.users[unit]][1]
        fresh = self.near[unit] if alive >= at.alive else self.whole
        return self._settle(units, alive, self._ready(at.ready, unit, units), fresh, limit, (unit,))

    def ways(self, at: Taken) -> list[tuple[int, int, int]]:
        """Bytes after and during each unit that is ready, and the unit; what leaves least is last."""
        taken, alive, users, effects = at.units, at.alive, self.users, self.effects
        found: list[tuple[int, int, int]] = []
        for i in at.ready:
            most, change = effects[i][taken & users[i]]
            found.append((alive + change, alive + most, i))
        found.sort(reverse=True)
        self.steps += len(found)
        return found

    def walk(self, order: Iterable[int]) -> tuple[int, int]:
        """Bytes at the peak, and in the end, where units are taken so."""
        taken, alive = 0, self.alive
        peak = alive
        for i in order:
            most, change = self.effects[i][taken & self.users[i]]
            peak = max(peak, alive + most)
            alive += change
            taken |= 1 << i
        return peak, alive

    def least_between(self, low: Taken, high: Taken, most: int) -> bool:
        """Whether the higher set leaves no more alive than any from the lower one up to it, of up to so many."""
        if low.alive < high.alive:
            return False
        inside = high.units & ~low.units
        seen = {low.units}
        queue = [(low.units, low.alive, tuple(i for i in low.ready if inside >> i & 1))]
        for units, alive, ready in queue:
            self.steps += len(ready)
            for i in ready:
                then = units | 1 << i
                if then not in seen:
                    left = alive + self.effects[i][units & self.users[i]][1]
                    if left < high.alive or len(seen) > most:
                        return False
                    seen.add(then)
                    queue.append((then, left, tuple(j for j in self._ready(ready, i, then) if inside >> j & 1)))
        return True

    def _ready(self, ready: tuple[int, ...], unit: int, units: int) -> tuple[int, ...]:
        """After a unit that was ready, where ``units`` are taken."""
        found = [i for i in ready if i != unit]
        found += [i for i in self.after[unit] if not self.needs[i] & ~units]
        return tuple(found)

    def _settle(
        self, units: int, alive: int, ready: tuple[int, ...], fresh: int, limit: int, path: tuple[int, ...]
    ) -> Taken:
        """Takes all single units that can be taken at once, beginning with ``fresh`` ones."""
        users, effects = self.users, self.effects
        while fresh:
            again = 0
            for i in ready:
                if fresh >> i & 1:
                    self.steps += 1
                    most, change = effects[i][units & users[i]]
                    if change <= 0 and alive + most <= limit:
                        units |= 1 << i
                        alive += change
                        path = (*path, i)
                        ready = self._ready(ready, i, units)
                        again |= self.near[i] if change == 0 else self.whole
            fresh = again
        return Taken(units, alive, ready, path)


class _Effects(dict[int, Effect]):
    """Of a unit, by the users of its storages that are taken; found when asked for."""

    def __init__(self, find: Callable[[int], Effect]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, taken: int) -> Effect:
        if len(self) >= _MOST_KNOWN:
            self.clear()
        effect = self[taken] = self._find(taken)
        return effect


def _effect(phases: Sequence[Phase], users: int, *, back: bool) -> Callable[[int], Effect]:
    def find(taken: int) -> Effect:
        done = users & ~taken if back else taken
        most, alive = -1 << 62, 0
        for p in phases:
            credit = max((size for others, size in p.credits if not others & ~done), default=0)
            most = max(most, alive + p.hump - credit)
            alive += p.net - sum(size for others, size in p.frees if not others & ~done)
        return (max(most, 0) - alive, -alive) if back else (most, alive)

    return find


def _users(phases: Iterable[Phase]) -> int:
    found = 0
    for p in phases:
        for others, _ in (*p.credits, *p.frees):
            found |= others
    return found


def bits(numbers: Iterable[int]) -> int:
    """Of a set."""
    found = 0
    for i in numbers:
        found |= 1 << i
    return found


def members(of: int) -> Iterator[int]:
    """Of a set of bits, ascending."""
    while of:
        low = of & -of
        yield low.bit_length() - 1
        of ^= low
