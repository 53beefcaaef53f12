"""The order with the lowest peak, by search over the sets of nodes that can be done first (ideals).

    peak(order) = max over steps of the bytes alive;    which bytes those are depends on the set done, not on its order

so that the best order is a path from nothing to everything whose highest step is lowest: Dijkstra's algorithm with
maxima for sums. A few things keep it small:

* a node that everything else comes before or after cuts the graph; between two of them the order is found apart;
* a ready node that needs no more than the limit so far and leaves no more alive than before can be done at once:
  whatever order is best without it is no worse with it in front;
* sources wait until they are needed (``bundles.py``); of equal limits the set with most nodes goes first.

Where the sets are too many the limit reached so far is a bound, and the best of several greedy orders is taken.

Sources: B. H. Ahn et al., Ordering chaos: memory-aware scheduling of irregularly wired neural networks for edge devices
(SERENITY), MLSys 2020 (dynamic programming over sets, cuts); R. Sethi, Complete register allocation problems, 1975.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .bundles import bundled
from .tasks import Tasks

STEPS = 200_000
"""Steps that are looked at, by default: a few seconds."""
_MOST = 2_000
"""Nodes of a piece that is ordered; larger ones stay as they are."""

Progress = Callable[[str, int, int], None]


Rule = Callable[[int, int, int], tuple[int, ...]]
"""Of bytes while a node runs, bytes after it, and the most so far, what is to be least."""
_RULES: tuple[Rule, ...] = (
    lambda during, after, most: (during, after),
    lambda during, after, most: (after, during),
    lambda during, after, most: (max(during, most), after),
)


@dataclass(frozen=True)
class Ordering:
    """An order of the nodes."""

    order: list[int]
    peak: int
    """Bytes alive at its fullest step."""
    bound: int
    """Bytes: no order needs less."""
    steps: int
    """Steps looked at: a node behind a set of others."""

    @property
    def gap(self) -> float:
        """How far above the bound, relative to it."""
        return self.peak / self.bound - 1 if self.bound else 0.0


def best_order(tasks: Tasks, *, steps: int = STEPS, progress: Progress | None = None) -> Ordering:
    """The best order that is found; never worse than the present one. Deterministic: ``steps`` limit the search."""
    whole, parts = bundled(tasks)
    order: list[int] = []
    bound, seen = max((whole.least(i) for i in range(len(whole))), default=0), 0
    pieces = list(_pieces(whole))
    state = _Alive(whole)
    for i, piece in enumerate(pieces):
        if progress is not None and len(piece) > 1:
            progress("ordering nodes", i, len(pieces))
        found = _Piece(whole, state, piece).solve(steps - seen) if 1 < len(piece) <= _MOST else None
        if found is not None:
            bound, seen = max(bound, found.bound), seen + found.steps
        if len(piece) == 1:
            bound = max(bound, state.during(piece[0]))  # whatever the order, all of the others come before or after
        for node in piece if found is None else found.order:
            order += parts[node]
            state.done(node)
    best = min(order, list(range(len(tasks))), key=tasks.peak)
    peak = tasks.peak(best)
    return Ordering(best, peak, min(bound, peak), seen)


def _pieces(tasks: Tasks) -> Iterator[list[int]]:
    """Nodes between those that everything comes before or after, in order; these are pieces of their own.

    In an order of the nodes the node at ``i`` is behind everything before it where each of these has a successor at
    ``i`` or sooner, and in front of everything after it where each of those has a predecessor at ``i`` or later.
    """
    count = len(tasks)
    first_after = [count] * count
    last_before = [-1] * count
    for i, before in enumerate(tasks.before):
        for j in before:
            first_after[j] = min(first_after[j], i)
        last_before[i] = max(before, default=-1)
    late = [0] * (count + 1)  # nodes whose first successor comes behind a position
    for i, after in enumerate(first_after):
        late[i + 1] += 1
        late[min(after, count)] -= 1
    soon = [0] * (count + 1)  # nodes whose last predecessor comes before it
    for i, last in enumerate(last_before):
        soon[last + 1] += 1
        soon[i] -= 1
    piece: list[int] = []
    open_before = open_after = 0
    for i in range(count):
        open_before += late[i]
        open_after += soon[i]
        if open_before == 0 and open_after == 0:
            if piece:
                yield piece
            yield [i]
            piece = []
        else:
            piece.append(i)
    if piece:
        yield piece


class _Alive:
    """What is alive after some nodes."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        self.waiting = [len(users) for users in tasks.users]
        self.bytes = sum(tasks.size[s] for s in tasks.given)

    def during(self, node: int) -> int:
        """Bytes while the node runs next."""
        tasks = self.tasks
        credit = max((tasks.size[s] for s in tasks.overwrites[node] if self.waiting[s] == 1), default=0)
        return self.bytes + sum(tasks.size[s] for s in tasks.made[node]) - credit + tasks.work[node]

    def done(self, node: int) -> None:
        tasks = self.tasks
        self.bytes += sum(tasks.size[s] for s in tasks.made[node])
        for s in {*tasks.touched[node], *tasks.made[node]}:
            self.waiting[s] -= 1
            if not self.waiting[s] and not tasks.kept[s]:
                self.bytes -= tasks.size[s]


@dataclass(frozen=True, order=True)
class _Set:
    """Nodes done."""

    done: int
    alive: int
    """Bytes alive after them."""
    open: int
    """Nodes that may be ready: sources, and what comes behind those done."""
    path: tuple[int, ...]
    """How it was reached from the set before."""


class _Piece:
    """Nodes whose order is found apart, numbered anew; sets of them are bits of integers."""

    def __init__(self, tasks: Tasks, state: _Alive, nodes: Sequence[int]) -> None:
        self.nodes = list(nodes)
        self.alive = state.bytes
        self.steps = 0
        self.least = max(self.alive, *(tasks.least(node) for node in self.nodes))
        number = {node: i for i, node in enumerate(self.nodes)}
        self.needs = [_bits(number[j] for j in tasks.before[node] if j in number) for node in self.nodes]
        self.after: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for j in tasks.before[node]:
                if j in number:
                    self.after[number[j]].append(i)
        self.grows = [sum(tasks.size[s] for s in tasks.made[node]) for node in self.nodes]
        self.work = [tasks.work[node] for node in self.nodes]
        users: dict[int, int] = {}  # of storages that become free within the piece
        for node in self.nodes:
            for s in (*tasks.touched[node], *tasks.made[node]):
                inside = [number[u] for u in tasks.users[s] if u in number]
                if s not in users and not tasks.kept[s] and len(inside) == state.waiting[s]:
                    users[s] = _bits(inside)
        self.frees = [
            [(users[s], tasks.size[s]) for s in {*tasks.touched[node], *tasks.made[node]} if s in users]
            for node in self.nodes
        ]
        self._near = [_bits(self.after[i]) for i in range(len(self.nodes))]
        """Nodes that may be done at once when each has been: what comes behind, and who shares its operands."""
        for i, frees in enumerate(self.frees):
            for sharing, _ in frees:
                self._near[i] |= sharing
        self.over = [[(users[s], tasks.size[s]) for s in tasks.overwrites[node] if s in users] for node in self.nodes]

    def step(self, done: int, alive: int, node: int) -> tuple[int, int]:
        """Bytes while the node runs, and after it."""
        self.steps += 1
        mask = done | 1 << node
        during = alive + self.grows[node] + self.work[node]
        during -= max((size for users, size in self.over[node] if not users & ~mask), default=0)
        freed = sum(size for users, size in self.frees[node] if not users & ~mask)
        return during, alive + self.grows[node] - freed

    def ready(self, done: int, among: int) -> list[int]:
        return [i for i in _members(among) if not self.needs[i] & ~done]

    def solve(self, steps: int) -> Ordering:
        """By search; where that takes too long, greedily."""
        whole = (1 << len(self.nodes)) - 1
        first = self._settle(0, self.alive, self._sources(), self.least)
        queue = [(self.least, 0, first)]
        came: dict[int, tuple[int, int, tuple[int, ...]]] = {first.done: (self.least, 0, first.path)}
        closed: set[int] = set()
        limit = self.least
        while queue:
            limit, _, at = heapq.heappop(queue)
            if at.done == whole:
                return Ordering(self._trace(came, whole), limit, limit, self.steps)
            if at.done in closed:
                continue
            closed.add(at.done)
            if self.steps > steps:
                break
            for node in self.ready(at.done, at.open):
                during, _ = self.step(at.done, at.alive, node)
                reached = max(limit, during)
                to = self._do(at, node, reached)
                if to.done not in closed and reached < came.get(to.done, (reached + 1,))[0]:
                    came[to.done] = (reached, at.done, to.path)
                    heapq.heappush(queue, (reached, -to.done.bit_count(), to))
        peak, order = min((self._greedy(rule) for rule in _RULES), key=lambda found: found[0])
        return Ordering([self.nodes[i] for i in order], peak, min(limit, peak), self.steps)

    def _sources(self) -> int:
        return _bits(i for i, needs in enumerate(self.needs) if not needs)

    def _do(self, at: _Set, node: int, limit: int) -> _Set:
        """One node, and what can be done at once behind it."""
        _, alive = self.step(at.done, at.alive, node)
        to = self._settle(at.done | 1 << node, alive, self._opened(at.open, node), limit)
        return replace(to, path=(node, *to.path))

    def _opened(self, open_: int, node: int) -> int:
        return open_ & ~(1 << node) | _bits(self.after[node])

    def _settle(self, done: int, alive: int, open_: int, limit: int) -> _Set:
        """Does all that can be done at once."""
        path: list[int] = []
        fresh = open_
        while fresh:
            again = 0
            for i in self.ready(done, fresh):
                during, left = self.step(done, alive, i)
                if during <= limit and left <= alive:
                    done, alive, open_ = done | 1 << i, left, self._opened(open_, i)
                    path.append(i)
                    again |= self._near[i]
            fresh = again & open_
        return _Set(done, alive, open_, tuple(path))

    def _trace(self, came: dict[int, tuple[int, int, tuple[int, ...]]], done: int) -> list[int]:
        parts: list[tuple[int, ...]] = []
        while done:
            _, done, part = came[done]
            parts.append(part)
        return [self.nodes[i] for part in reversed(parts) for i in part]

    def _greedy(self, rule: Rule) -> tuple[int, list[int]]:
        """Peak and order of always doing what a rule likes best, and what can be done at once."""
        whole = (1 << len(self.nodes)) - 1
        limit = self.least
        at = self._settle(0, self.alive, self._sources(), limit)
        order = [*at.path]
        while at.done != whole:
            steps = {i: self.step(at.done, at.alive, i) for i in self.ready(at.done, at.open)}
            node = min(steps, key=lambda i: (*rule(*steps[i], limit), i))
            limit = max(limit, steps[node][0])
            at = self._do(at, node, limit)
            order += at.path
        return limit, order


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
