"""The order with the lowest peak, by search over the sets of nodes that can be done first (ideals).

    peak(order) = max over steps of the bytes alive;    which bytes those are depends on the set done, not on its order

so that an order is a path from nothing to everything, and the best one's highest step is lowest. What keeps it small:

* sources wait until they are needed (``bundles.py``);
* a node that everything else comes before or after cuts the graph into pieces that are ordered apart, the fullest
  first: what one of them needs in any case is good enough for the others;
* nodes that may stand side by side are one unit (``units.py``);
* a piece is searched from its beginning and from its end at once (``piece.py``), for orders below a limit;
* the search commits itself where that costs nothing, and gives up more than one step at a time (``descent.py``).

Where the steps do not suffice, the limit up to which all was searched is a bound, and the best order met is taken.

Sources: B. H. Ahn et al., Ordering chaos: memory-aware scheduling of irregularly wired neural networks for edge devices
(SERENITY), MLSys 2020 (dynamic programming over sets, cuts); R. Sethi, Complete register allocation problems, 1975.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .bundles import bundled
from .piece import Piece
from .tasks import Alive, Tasks

STEPS = 10_000_000
"""Steps that are looked at, by default: some fifteen seconds at the most."""
_GUESS = 2_000_000
"""Steps within which a piece gets its first, greedy order."""

Progress = Callable[[str, int, int], None]


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
    bound = max((whole.least(i) for i in range(len(whole))), default=0)
    order: list[int | Piece] = []
    state = Alive(whole)
    for nodes in _pieces(whole):
        if len(nodes) == 1:
            bound = max(bound, state.during(nodes[0]))  # whatever the order, all others come before or after
            order.append(nodes[0])
        else:
            order.append(Piece(whole, state, nodes))
        for node in nodes:
            state.done(node)
    pieces = [piece for piece in order if isinstance(piece, Piece)]
    seen = _solve(pieces, bound, steps, progress)
    bound = max((bound, *(piece.bound for piece in pieces)))
    found = [part for item in order for node in _nodes(item) for part in parts[node]]
    best = min(found, list(range(len(tasks))), key=tasks.peak)
    peak = tasks.peak(best)
    return Ordering(best, peak, min(bound, peak), seen)


def _nodes(item: int | Piece) -> list[int]:
    return [item] if isinstance(item, int) else item.nodes


def _solve(pieces: list[Piece], bound: int, steps: int, progress: Progress | None) -> int:
    """Orders all pieces, the fullest first: what another needs in any case is good enough. Returns the steps."""
    seen = 0
    for piece in pieces:
        piece.guess(_GUESS)
    for i, piece in enumerate(sorted(pieces, key=lambda piece: -piece.peak)):
        if progress is not None:
            progress("ordering nodes", i, len(pieces))
        piece.search(bound, piece.steps + max(steps - seen, 0))
        seen += piece.steps
        bound = max(bound, piece.bound)
    return seen


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
