"""Minimum cut: the best choice between two options for every node."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .problem import Key, Label, Option, Problem

_RANGE = 1 << 30
"""Costs are scaled to integers whose sum is at most this, and rounded down, so that the cut stays a lower bound:
differences below a billionth of the sum are not seen."""
_NEVER = (1 << 31) - 1


@dataclass
class Network:
    """Edges with capacities between numbered points."""

    count: int = 2
    edges: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])

    def point(self) -> int:
        self.count += 1
        return self.count - 1

    def add(self, a: int, b: int, capacity: float) -> None:
        """Adds to the edge from ``a`` to ``b``."""
        if a != b and capacity > 0:
            self.edges[a, b] = self.edges.get((a, b), 0.0) + capacity

    def cut(self) -> tuple[set[int], float]:
        """The points on the side of point 0, and the capacity that is cut. Raises ``ValueError`` if it is infinite."""
        if not self.edges:
            return {0}, 0.0
        sparse: Any = importlib.import_module("scipy.sparse")
        graphs: Any = importlib.import_module("scipy.sparse.csgraph")
        pairs = np.array(list(self.edges), np.int64)
        finite = [c for c in self.edges.values() if c != math.inf]
        # A power of two: costs that are whole numbers stay exact where there is room for them.
        scale = 2.0 ** math.floor(math.log2(_RANGE / max(sum(finite), 1e-300)))
        amounts = np.array([_NEVER if c == math.inf else math.floor(c * scale) for c in self.edges.values()], np.int32)
        matrix = sparse.csr_array((amounts, (pairs[:, 0], pairs[:, 1])), shape=(self.count, self.count))
        flow = graphs.maximum_flow(matrix, 0, 1)
        if flow.flow_value >= _RANGE:
            raise ValueError("every choice has an infinite cost")
        left = matrix - flow.flow
        left.data = np.where(left.data > 0, 1, 0)
        left.eliminate_zeros()
        reached = graphs.breadth_first_order(left, 0, return_predecessors=False)
        return {int(i) for i in reached}, flow.flow_value / scale


def cut(problem: Problem, sides: dict[Key, dict[Label, int]]) -> tuple[dict[Key, int], float]:
    """The index of each node's best option, and the cost of all. ``sides`` are those of ``solve.two_sides``."""
    network = Network()
    free = {n: _flip(o, sides) for n, o in problem.options.items() if len(o) > 1}
    points = {node: network.point() for node in free}
    base = 0.0
    for node, options in problem.options.items():
        costs = [o.cost for o in options]
        base += min(costs)
        if node in free:
            zero, one = costs if free[node] == 0 else costs[::-1]
            network.add(0, points[node], one - min(costs))
            network.add(points[node], 1, zero - min(costs))
    for value, (giver, takers) in problem.values().items():
        if giver is None or len(sides[value]) < 2:
            continue
        labels = {side: label for label, side in sides[value].items()}
        begin = _end(problem, giver, value, sides, points)
        ends = {_end(problem, taker, value, sides, points): None for taker in takers}
        up, down = network.point(), network.point()
        network.add(begin, up, problem.convert(value, labels[0], labels[1]))
        network.add(down, begin, problem.convert(value, labels[1], labels[0]))
        for end in ends:
            network.add(up, end, math.inf)
            network.add(end, down, math.inf)
    zero_side, least = network.cut()
    chosen = dict.fromkeys(problem.options, 0)
    for node, point in points.items():
        side = 0 if point in zero_side else 1
        chosen[node] = side ^ free[node]
    return chosen, base + least


def _flip(options: list[Option], sides: dict[Key, dict[Label, int]]) -> int:
    """The side of the first option."""
    first, second = ((*o.takes, *o.gives) for o in options)
    for (value, a), (_, b) in zip(first, second, strict=True):
        if a != b:
            return sides[value][a]
    return 0


def _end(problem: Problem, node: Key, value: Key, sides: dict[Key, dict[Label, int]], points: dict[Key, int]) -> int:
    """The point that says under which label ``node`` gives or takes ``value``: its own, or a terminal."""
    found = {label for o in problem.options[node] for v, label in (*o.takes, *o.gives) if v == value}
    return points[node] if len(found) > 1 else sides[value][found.pop()]
