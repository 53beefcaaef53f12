"""Depth first from one side over the sets that can be taken, below a limit.

f is submodular on either side: f(P + Q) - f(P) <= f(T + Q) - f(T) for every P that has T. With it:

* **Commitment.** Where Q fits under the limit behind T and leaves no more alive than T, while none of its own
  beginnings leaves less than Q does, any order from T stays below the limit with Q in front. So single units of that
  kind are taken at once (``Side.take``);
* **Back-jumping.** and where T + Q has no way to the end, T has none either, whatever else could be taken behind T
  (``Side.least_between``).

Sets without a way to the end are remembered. Where nothing is found the limit is too low, and the least that any step
wanted above it is a bound.
"""

from __future__ import annotations

from .side import Side, Taken

_MOST_BETWEEN = 200
"""Sets that are looked at to prove that none between two others leaves less alive."""


class Descent:
    """Looks for an order that needs no more than the limit; goes on where it stopped."""

    def __init__(self, side: Side, limit: int) -> None:
        self.side = side
        self.limit = limit
        self.order: list[int] | None = None
        """In which the side takes all units."""
        self.wanted = 1 << 62
        """Bytes: where no order was found, all need as much."""
        self.steps = 0
        self._failed: set[int] = set()
        self._stack: list[tuple[Taken, list[tuple[int, int, int]]]] = []
        self._push(side.first(limit))

    def run(self, steps: int) -> bool:
        """Whether it ended within so many more steps; ``order`` is None where there is no order."""
        side, failed, stack, limit = self.side, self._failed, self._stack, self.limit
        start = side.steps
        while stack and self.order is None and side.steps - start < steps:
            at, ways = stack[-1]
            if not ways:
                failed.add(at.units)
                stack.pop()
                self._jump(at)
                continue
            _, during, unit = ways.pop()
            if during > limit:
                self.wanted = min(self.wanted, during)
                continue
            to = side.take(at, unit, limit)
            if to.units in failed:
                self._jump(to)
            else:
                self._push(to)
        self.steps += side.steps - start
        return self.order is not None or not stack

    def _push(self, to: Taken) -> None:
        self._stack.append((to, self.side.ways(to)))
        if to.units == self.side.whole:
            self.order = [i for at, _ in self._stack for i in at.path]

    def _jump(self, dead: Taken) -> None:
        """Back behind sets that have no way to the end since this one has none."""
        stack = self._stack
        while stack and self.side.least_between(stack[-1][0], dead, _MOST_BETWEEN):
            self._failed.add(stack.pop()[0].units)
