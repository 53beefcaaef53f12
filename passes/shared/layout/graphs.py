"""The layout problem of a graph: which nodes may follow which orders of axes, and what every choice costs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ....ir.graph import RETURN, Graph, Node, Value
from ..operands import perm_of
from .costs import Sizes, conversion_ns, move_ns, transpose_ns
from .moves import Move, main
from .orders import Order, order_of, plain
from .problem import Option, Problem, Solution
from .solve import SECONDS, solve
from .table import is_plain, rule_of, unmoved

MOST_ORDERS = 6
"""Orders that are thought of for one value."""
_REWRITE = 50.0
"""Nanoseconds that a node must gain for it to be changed: of equal choices the written one stays."""

Extra = Callable[[Node], list[tuple[float, Move]]]
"""Further ways to compute a node, with their costs in nanoseconds relative to the written one."""


@dataclass
class Layouts:
    """Orders that each value could be stored in, and ways in which each node could be computed."""

    graph: Graph
    sizes: Sizes
    extra: Extra | None = None
    annotated: bool = False
    """Whether values are to be stored as their types say, instead of as is cheapest."""
    orders: dict[Value, dict[Order, None]] = field(default_factory=dict[Value, "dict[Order, None]"])
    refused: list[Node] = field(default_factory=list[Node])
    """Nodes that cannot give their results as the types say."""
    moves: dict[Node, list[tuple[float, Move]]] = field(default_factory=dict[Node, "list[tuple[float, Move]]"])

    def solution(self, *, seconds: float = SECONDS) -> Solution:
        """A best choice; the tags of options are moves."""
        return solve(self.problem(), seconds=seconds)

    def changed(self, solution: Solution) -> list[tuple[Node, Move]]:
        """The nodes that have to be made anew, with their moves, in order."""
        taken = {v: True for o in solution.chosen.values() for v, order in o.takes if order != plain(len(order))}  # type: ignore[arg-type]
        found: list[tuple[Node, Move]] = []
        for node in self.graph:
            option = solution.chosen.get(node)
            if option is None:
                continue
            x = node.inputs[0] if node.inputs else None
            if is_transpose(node) and x is not None:
                order: Order = option.tag.takes[0]
                stays = order == plain(len(order)) and node.output not in taken and self._whole(node)
            else:
                stays = option.tag is self.ways(node)[0][1]
            if not stays:
                found.append((node, option.tag))
        return found

    def _whole(self, node: Node) -> bool:
        """Whether a Transpose is best done in one step."""
        x, perm = node.inputs[0], perm_of(node)
        if x is None or perm is None or not is_plain(x):
            return True
        extents = self.sizes.extents(x)
        return transpose_ns(extents, perm, split=False) <= transpose_ns(extents, perm, split=self.sizes.steps)

    def problem(self) -> Problem:
        """The problem of the whole graph."""
        self.spread()
        problem = Problem(lambda v, a, b: conversion_ns(v, a, b, self.sizes))  # type: ignore[arg-type]
        for node in self.graph:
            if self._matters(node):
                problem.add(node, [self._option(node, cost, m) for cost, m in self._allowed(node)])
        outside = [v for v in self.orders if v.producer is None or v.producer.graph is not self.graph]
        for value in outside:
            problem.add(("given", value), [Option(gives=((value, plain(value.rank or 0)),))])
        for value in self.orders:
            if any(user.op == RETURN or user.graph is not self.graph for user, _ in value.uses):
                problem.add(("taken", value), [Option(takes=((value, plain(value.rank or 0)),))])
        return problem

    def written(self) -> float:
        """What the graph costs as it is."""
        total = 0.0
        for node in self.graph:
            if self._matters(node):
                total += self.written_cost(node)
        return total

    def written_cost(self, node: Node) -> float:
        """What a node costs as it is written: a Transpose its conversion."""
        x, perm = node.input(0), perm_of(node) if is_transpose(node) else None
        if perm is not None and x is not None:
            return transpose_ns(self.sizes.extents(x), perm, split=False)
        return move_ns(node, unmoved(node), self.sizes)

    def ways(self, node: Node) -> list[tuple[float, Move]]:
        """The ways to compute a node, the written one first (but a Transpose, which is no operator here)."""
        if node not in self.moves:
            stay = unmoved(node)
            self.moves[node] = [(move_ns(node, stay, self.sizes), stay)]
        return self.moves[node]

    def _allowed(self, node: Node) -> list[tuple[float, Move]]:
        """The ways that give what the types of the results say, where these count."""
        ways = self.ways(node)
        if not self.annotated:
            return ways
        said = tuple(stored_order(v) for v in node.outputs)
        found = [way for way in ways if way[1].gives == said]
        if not found:
            self.refused.append(node)
        return found or ways

    def _matters(self, node: Node) -> bool:
        return any(v in self.orders for v in (*node.inputs, *node.outputs) if v is not None)

    def _option(self, node: Node, cost: float, m: Move) -> Option:
        takes = dict.fromkeys(
            (v, order)
            for v, order in zip(node.inputs, m.takes, strict=True)
            if v is not None and order is not None and v in self.orders
        )
        gives = tuple((v, order) for v, order in zip(node.outputs, m.gives, strict=True) if v in self.orders)
        return Option(cost, tuple(takes), gives, m)

    def _transpose(self, node: Node) -> Move | None:
        rule = rule_of(node)
        x = node.inputs[0]
        return rule.forward(node, plain(x.rank or 0)) if rule is not None and x is not None else None

    def spread(self) -> dict[Value, dict[Order, None]]:
        """Finds the orders worth thinking of: written ones, those that make Transposes vanish, those of ``extra``, and
        what operators carry on of them."""
        work: deque[Node] = deque()
        waiting: set[Node] = set()

        def note(value: Value | None, order: Order | None) -> None:
            if value is None or order is None or value.data is not None or not is_plain(value):
                return
            found = self.orders.setdefault(value, {plain(len(order)): None})
            if order in found or (len(found) >= MOST_ORDERS):
                return
            found[order] = None
            for user in _neighbours(value, self.graph):
                if user not in waiting:
                    waiting.add(user)
                    work.append(user)

        for node in self.graph:
            self._seed(node, note)
        while work:
            node = work.popleft()
            waiting.discard(node)
            self._carry(node, note)
        return self.orders

    def _seed(self, node: Node, note: Callable[[Value | None, Order | None], None]) -> None:
        for value in node.outputs if self.annotated else ():
            if is_plain(value):
                note(value, stored_order(value))
        if is_transpose(node):
            made = self._transpose(node)
            if made is not None:
                self.moves[node] = [(0.0, made)]
                note(node.output, made.gives[0])
                rule = rule_of(node)
                note(node.inputs[0], rule.backward(node, plain(node.output.rank or 0)) if rule is not None else None)
            return
        for cost, m in self.extra(node) if self.extra is not None else ():
            self._enter(node, cost, m, note)

    def _carry(self, node: Node, note: Callable[[Value | None, Order | None], None]) -> None:
        """Everything that a node could do under the orders of its values so far."""
        rule, at = rule_of(node), main(node)
        source = node.inputs[at] if at is not None else None
        if rule is None or source is None or source.rank is None:
            return
        for order in list(self.orders.get(node.outputs[0], ())):
            before = rule.backward(node, order)
            if before is not None and len(before) == source.rank:
                note(source, before)
        for order in list(self.orders.get(source, ())):
            if order == plain(len(order)) and node.op != "Transpose":
                continue
            made = rule.forward(node, order)
            if made is not None:
                self._enter(node, move_ns(node, made, self.sizes), made, note)

    def _enter(self, node: Node, cost: float, m: Move, note: Callable[[Value | None, Order | None], None]) -> None:
        known = self.ways(node)
        if any(other.takes == m.takes and other.gives == m.gives for _, other in known):
            return
        known.append((cost + _REWRITE, m))
        for value, order in (*zip(node.inputs, m.takes, strict=True), *zip(node.outputs, m.gives, strict=True)):
            note(value, order)


def is_transpose(node: Node) -> bool:
    """Whether the node only says what is called which axis. One of an operand of unknown rank stays an operator."""
    x = node.input(0)
    return node.op == "Transpose" and not node.domain and x is not None and x.rank is not None


def stored_order(value: Value) -> Order:
    """The order that a value's type says. Raises ``ValueError`` for blocked layouts, which are no order of axes."""
    t = value.tensor
    return order_of(t.layout if t is not None else None, value.rank or 0)


def _neighbours(value: Value, graph: Graph) -> Iterable[Node]:
    if value.producer is not None and value.producer.graph is graph:
        yield value.producer
    for user, _ in value.uses:
        if user.graph is graph and user.op != RETURN:
            yield user
