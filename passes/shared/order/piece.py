"""The order of one piece of a graph: depth first over the sets of units that can be done first, below a limit.

Sets are bits of integers; f(D) are the bytes alive after a set D. As a storage is alive from the first of its users to
the last, f is submodular: f(P + Q) - f(P) <= f(D + Q) - f(D) for every P that has D. With it:

* **Commitment.** Where Q fits under the limit behind D and leaves no more alive than D, while none of its own
  beginnings leaves less than Q does, any order from D stays below the limit with Q in front. So single units of that
  kind are done at once (``_settle``);
* **Back-jumping.** and where D + Q has no way to the end, D has none either, whatever else could be done behind D
  (``_least_between``).

Sets without a way to the end are remembered. A limit at which nothing is found is proved too low, and the least that
any step wanted above it is the new bound; between that and the best order found the limit is halved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .tasks import Alive, Tasks
from .units import Units

BEAM = 16
"""Sets of one size that the first, greedy search keeps."""
_MOST = 2_000
"""Units of a piece that is searched; of larger ones only greedy orders are tried."""
_MOST_BETWEEN = 200
"""Sets that are looked at to prove that none between two others leaves less alive."""

Key = Callable[[int, int, int], tuple[int, ...]]
"""Of the most so far, the bytes while a unit runs and after it: what is to be least."""
_KEYS: tuple[tuple[int, Key], ...] = (
    (BEAM, lambda most, during, after: (max(most, during), after)),
    (1, lambda most, during, after: (during, after)),
    (1, lambda most, during, after: (after, during)),
)
"""Widths of the beam, with what it goes by."""


@dataclass(frozen=True)
class _Set:
    """Units done."""

    done: int
    alive: int
    """Bytes alive after them."""
    open: int
    """Units that may be ready: sources, and what comes behind those done."""
    path: tuple[int, ...] = ()
    """How it was reached from the set before."""


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
        self.alive = state.bytes
        self.steps = 0
        """Steps looked at: a unit behind a set of others."""
        self.needs = [_bits(number[j] for j in units.before[root]) for root in number]
        self.after = [_bits(number[j] for j in units.after[root]) for root in number]
        self.near = list(self.after)
        """Units that may be done at once when each has been: what comes behind, and who shares its operands."""
        self.phases = [self._phases(units, root, number) for root in number]
        self.whole = (1 << len(number)) - 1
        self.bound = max(self.alive, *(tasks.least(node) for node in nodes))
        """Bytes: no order needs less."""
        self.order: list[int] = []
        """The best order of the units so far."""
        self.peak = 1 << 62
        """Its bytes."""

    def _phases(self, units: Units, root: int, number: dict[int, int]) -> list[_Phase]:
        i, size = number[root], units.tasks.size

        def others(storages: tuple[int, ...]) -> list[tuple[int, int]]:
            return [(_bits(number[u] for u in units.users[s] if u != root), size[s]) for s in storages]

        found = [(p.hump, p.net, others(p.credits), others(p.frees)) for p in units.phases(root)]
        for _, _, credits, frees in found:
            for users, _ in (*credits, *frees):
                self.near[i] |= users
        return found

    @property
    def nodes(self) -> list[int]:
        """In the best order so far."""
        return [node for i in self.order for node in self.members[i]]

    def guess(self, steps: int) -> None:
        """Greedy orders: always the best step, and the best few."""
        for width, key in _KEYS:
            if self.steps < steps and self.peak > self.bound:
                self._take(self._beam(key, width, steps))

    def search(self, enough: int, steps: int) -> None:
        """Until the order is proved best, or needs no more than ``enough``, or so many ``steps`` were looked at."""
        limit, share = max(self.bound, enough), 4
        if self.peak <= limit or len(self.members) > _MOST:
            return
        while self.peak > max(self.bound, enough) and self.steps < steps:
            before = self.peak
            if not self._below(limit, steps):
                return
            share = 4 if self.peak == before else 2
            limit = max(self.bound, enough, (self.bound * (share - 1) + self.peak) // share)
            limit = min(limit, self.peak - 1)

    def step(self, done: int, alive: int, unit: int) -> tuple[int, int]:
        """Bytes at the most while the unit runs, and after it."""
        self.steps += 1
        most = 0
        for hump, net, credits, frees in self.phases[unit]:
            during = alive + hump
            if credits:
                during -= max((size for users, size in credits if not users & ~done), default=0)
            most = max(most, during)
            alive += net
            for users, size in frees:
                if not users & ~done:
                    alive -= size
        return most, alive

    def _below(self, limit: int, steps: int) -> bool:
        """Finds an order that needs no more than the limit, or raises the bound; false where steps did not suffice."""
        failed: set[int] = set()
        wanted = self.peak
        first = self._settle(0, self.alive, self._sources(), limit)
        if first.done == self.whole:
            return self._take(list(first.path))
        stack = [(first, self._ways(first))]
        while stack:
            at, ways = stack[-1]
            if self.steps > steps:
                return False
            if ways and ways[-1][1] <= limit:
                unit = ways.pop()[2]
                to = self._do(at, unit, limit)
                if to.done == self.whole:
                    return self._take([i for found, _ in stack for i in found.path] + list(to.path))
                if to.done not in failed:
                    stack.append((to, self._ways(to)))
                    continue
                dead = to
            elif ways:
                wanted = min(wanted, ways.pop()[1])
                continue
            else:
                dead = at
                failed.add(at.done)
                stack.pop()
            while stack and self._least_between(stack[-1][0], dead):
                failed.add(stack.pop()[0].done)
        self.bound = min(max(wanted, self.bound), self.peak)
        return True

    def _ways(self, at: _Set) -> list[tuple[int, int, int]]:
        """Bytes after and during each unit that is ready, and the unit; what leaves least is last."""
        steps = ((i, *self.step(at.done, at.alive, i)) for i in self._ready(at.done, at.open))
        return sorted(((after, during, i) for i, during, after in steps), reverse=True)

    def _least_between(self, low: _Set, high: _Set) -> bool:
        """Whether the higher set leaves no more alive than any from the lower one up to it."""
        if low.alive < high.alive:
            return False
        units = list(_members(high.done & ~low.done))
        seen, queue = {low.done}, [(low.done, low.alive)]
        for done, alive in queue:
            for i in self._ready(done, _bits(units) & ~done):
                then = done | 1 << i
                if then not in seen:
                    _, left = self.step(done, alive, i)
                    if left < high.alive or len(seen) > _MOST_BETWEEN:
                        return False
                    seen.add(then)
                    queue.append((then, left))
        return True

    def _ready(self, done: int, among: int) -> list[int]:
        return [i for i in _members(among) if not self.needs[i] & ~done]

    def _sources(self) -> int:
        return _bits(i for i, needs in enumerate(self.needs) if not needs)

    def _do(self, at: _Set, unit: int, limit: int) -> _Set:
        """One unit, and what can be done at once behind it."""
        _, alive = self.step(at.done, at.alive, unit)
        to = self._settle(at.done | 1 << unit, alive, self._opened(at.open, unit), limit)
        return _Set(to.done, to.alive, to.open, (unit, *to.path))

    def _opened(self, open_: int, unit: int) -> int:
        return open_ & ~(1 << unit) | self.after[unit]

    def _settle(self, done: int, alive: int, open_: int, limit: int) -> _Set:
        """Does all single units that can be done at once."""
        path: list[int] = []
        fresh = open_
        while fresh:
            again = 0
            for i in self._ready(done, fresh):
                during, left = self.step(done, alive, i)
                if during <= limit and left <= alive:
                    done, alive, open_ = done | 1 << i, left, self._opened(open_, i)
                    path.append(i)
                    again |= self.near[i]
            fresh = again & open_
        return _Set(done, alive, open_, tuple(path))

    def _take(self, order: list[int] | None) -> bool:
        """Keeps the order where it is better."""
        if order is None:
            return False
        done, alive, peak = 0, self.alive, self.alive
        for i in order:
            during, alive = self.step(done, alive, i)
            done, peak = done | 1 << i, max(peak, during)
        if peak < self.peak:
            self.order, self.peak = order, peak
        return True

    def _beam(self, key: Key, width: int, steps: int) -> list[int] | None:
        """Sets grow; of those of a generation the best go on. ``None`` where steps did not suffice."""
        first = self._settle(0, self.alive, self._sources(), self.bound)
        came: dict[int, tuple[int, tuple[int, ...]]] = {first.done: (0, first.path)}
        level = [(self.bound, first)]
        while level[0][1].done != self.whole:
            if self.steps > steps:
                return None
            ways: dict[int, tuple[tuple[int, ...], int, _Set, int]] = {}
            for most, at in level:
                for after, during, unit in self._ways(at):
                    rank = (*key(most, during, after), unit)
                    then = at.done | 1 << unit
                    if then not in ways or rank < ways[then][0]:
                        ways[then] = (rank, max(most, during), at, unit)
            grown: dict[int, tuple[int, _Set]] = {}
            for _, most, at, unit in sorted(ways.values(), key=lambda way: way[0])[:width]:
                to = self._do(at, unit, most)
                if to.done not in came:
                    came[to.done] = (at.done, to.path)
                    grown[to.done] = (most, to)
            ended = grown.get(self.whole)
            level = [ended] if ended is not None else list(grown.values())
        parts: list[tuple[int, ...]] = []
        done = self.whole
        while done:
            done, part = came[done]
            parts.append(part)
        return [i for part in reversed(parts) for i in part]


_Phase = tuple[int, int, list[tuple[int, int]], list[tuple[int, int]]]
"""Hump and net in bytes; then users that must be done, and bytes, of what is written over and of what becomes free."""


def _bits(members: Iterable[int]) -> int:
    found = 0
    for i in members:
        found |= 1 << i
    return found


def _members(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
