"""Delta debugging: the smallest model that still shows a failure.

Any subset of the nodes is a valid model: what the others computed becomes an input, fed with the values recorded in
the original run. So nodes can be taken out in any combination, and the search halves (Zeller's ddmin). What is left is
simplified: outputs, attributes, operands, constants, extents, symbols, bodies. A candidate is kept where the caller's
test says that it still fails in the same way; the test must not raise.
Source: A. Zeller, R. Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE TSE 28(2), 2002.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from ...backends.core import Sample
from ...ir.graph import Model, Node
from .cut import Situation, keep_nodes, tidied
from .record import try_record
from .simplify import candidates

NEIGHBOURS = 3
"""How far around the nodes that a rewrite changed the reason is looked for before all of the model is searched."""
Test = Callable[[Model, Sequence[Sample]], bool]


@dataclass
class Reduced:
    """What came out."""

    model: Model
    samples: list[Sample]
    tests: int
    seconds: float


def reduce_model(
    model: Model,
    samples: Sequence[Sample],
    fails: Test,
    *,
    seconds: float = 60.0,
    near: Sequence[Node] = (),
) -> Reduced:
    """The smallest model and the fewest samples found within ``seconds`` for which ``fails`` is true.

    ``fails`` is true for the arguments themselves, else they are returned as they are. They are not changed.
    ``near``: nodes of the main graph that are known to matter; they and their neighbours are tried alone first.
    """
    return _Reduction(Situation(model, list(samples)), fails, seconds).run(near)


class _Reduction:
    def __init__(self, start: Situation, fails: Test, seconds: float) -> None:
        self.best, self.fails = start, fails
        self.start = time.monotonic()
        self.deadline = self.start + seconds
        self.tests = 0

    def run(self, near: Sequence[Node] = ()) -> Reduced:
        if self._test(self.best):
            self._one_sample()
            if near and len(self.best.samples) == 1:
                self._only_near(near)
            while self._round() and time.monotonic() < self.deadline:
                pass
        return Reduced(self.best.model, self.best.samples, self.tests, time.monotonic() - self.start)

    def _test(self, candidate: Situation | None) -> bool:
        if candidate is None or time.monotonic() > self.deadline:
            return False
        self.tests += 1
        return self.fails(candidate.model, candidate.samples)

    def _accept(self, candidate: Situation | None) -> bool:
        if candidate is None or not self._test(candidate):
            return False
        self.best = candidate
        return True

    def _one_sample(self) -> None:
        for sample in self.best.samples if len(self.best.samples) > 1 else ():
            if self._accept(Situation(self.best.model, [sample])):
                return

    def _round(self) -> bool:
        """One round of everything; whether it made the model smaller."""
        before = str(self.best.model)
        if len(self.best.samples) == 1:
            self._fewer_nodes()
        self._simpler()
        return str(self.best.model) != before

    # -- nodes

    def _only_near(self, near: Sequence[Node]) -> None:
        """The given nodes with ever more neighbours, until the failure shows."""
        places = {node: i for i, node in enumerate(self.best.model.graph)}
        keep = {places[node] for node in near}
        nodes = list(places)
        recorded = try_record(self.best.model, self.best.samples[0])
        for _ in range(NEIGHBOURS + 1):
            if 2 * len(keep) > len(nodes) or self._accept(keep_nodes(self.best, keep, recorded)):
                return
            around = (m for i in keep for m in _neighbours(nodes[i]))
            keep |= {places[m] for m in around if m in places}

    def _fewer_nodes(self) -> None:
        """ddmin over the main graph's nodes."""
        parts = 2
        while time.monotonic() < self.deadline:
            count = self.best.model.graph.count
            if count < 2:
                return
            parts = min(parts, count)
            recorded = try_record(self.best.model, self.best.samples[0])
            for chunk in _chunks(count, parts):
                for constants in (False, True):
                    if self._accept(keep_nodes(self.best, set(range(count)) - chunk, recorded, constants=constants)):
                        break
                else:
                    continue
                break
            else:
                if parts == count:
                    return
                parts = min(2 * parts, count)
                continue
            parts = max(2, min(parts, self.best.model.graph.count))

    # -- the rest

    def _simpler(self) -> None:
        progress = True
        while progress and time.monotonic() < self.deadline:
            progress = False
            for candidate in chain(tidied(self.best), candidates(self.best)):
                if self._accept(candidate):
                    progress = True
                    break


def _neighbours(node: Node) -> Iterator[Node]:
    """Producers of the operands and users of the results."""
    yield from (v.producer for v in node.inputs if v is not None and v.producer is not None)
    yield from (user for out in node.outputs for user in out.users)


def _chunks(count: int, parts: int) -> Iterator[set[int]]:
    """The last nodes first: what lies behind a failure is not needed to show it."""
    edges = [round(i * count / parts) for i in range(parts + 1)]
    for i in reversed(range(parts)):
        if edges[i] < edges[i + 1]:
            yield set(range(edges[i], edges[i + 1]))
