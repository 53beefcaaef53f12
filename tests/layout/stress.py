"""Layouts drawn at random: every value of a graph in any order, whatever it costs, and the graph made so."""

from __future__ import annotations

from random import Random
from typing import Any

from planish.ir.graph import Graph, Model, Value
from planish.passes.core import Context
from planish.passes.rewrite.rewriter import Rewriter
from planish.passes.shared.layout.apply import Applied
from planish.passes.shared.layout.convolutions import channels_last, swapped
from planish.passes.shared.layout.costs import Sizes
from planish.passes.shared.layout.graphs import Layouts
from planish.passes.shared.layout.orders import Order
from planish.passes.shared.layout.problem import Option, Problem
from planish.passes.shared.layout.solve import solve
from planish.passes.shared.layout.table import is_plain


class RandomLayouts(Layouts):
    """Thinks of random orders, and finds random ones cheap."""

    random: Random

    def problem(self) -> Problem:
        problem = super().problem()
        found = Problem(lambda *_: self.random.uniform(0, 3))
        for node, options in problem.options.items():
            found.add(node, [Option(self.random.uniform(-4, 4), o.takes, o.gives, o.tag) for o in options])
        return found

    def spread(self) -> dict[Value, dict[Order, None]]:
        for node in self.graph:
            for value in node.outputs:
                if self.random.random() < 0.4 and is_plain(value) and (value.rank or 0) > 1:
                    order = list(range(value.rank or 0))
                    self.random.shuffle(order)
                    self.orders.setdefault(value, {tuple(range(len(order))): None})[tuple(order)] = None
        return super().spread()


def scramble(model: Model, seed: int) -> tuple[int, list[tuple[str, Order]]]:
    """Stores values of all graphs in random orders; how many nodes changed, and what became of operators."""
    random, changes = Random(seed), list[tuple[str, Order]]()
    r = Rewriter(Context(), "scramble")
    for graph in list(model.all_graphs()):
        changes += _scramble(graph, r, random)
    return len(changes), changes


def _scramble(graph: Graph, r: Rewriter, random: Random) -> list[tuple[str, Order]]:
    def ways(node: Any) -> list[Any]:
        if node.op != "Conv" or node.domain or node.output.rank != 4 or node.inputs[1].data is None:
            return []
        last = channels_last(node)
        return [(0.0, swapped(node)), *([(0.0, last)] if last is not None else [])]

    sizes = Sizes(steps=random.random() < 0.5)
    layouts = RandomLayouts(graph, sizes, ways)
    layouts.random = random
    solution = solve(layouts.problem(), seconds=2.0)
    changed = layouts.changed(solution)
    Applied(r, sizes).apply(changed)
    return [(node.op, move.gives[0]) for node, move in changed]
