"""What a model was like before a rewrite: the nodes that it changed, whoever changed them and how.

A snapshot holds, for each node, what computes its results. Comparing it with the model after a rewrite finds the nodes
that were erased, made or changed; everything else is the same on both sides. Nothing has to be recorded while a rule
is at work, so that nothing a rule does escapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...ir.graph import Graph, Model, Node, Value


class State:
    """What one node computes: operator, operands, attributes."""

    __slots__ = ("attrs", "domain", "graph", "inputs", "node", "op", "outputs", "overload")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.op, self.domain, self.overload = node.op, node.domain, node.overload
        self.inputs = list(node.inputs)
        self.outputs = list(node.outputs)
        self.attrs: dict[str, Any] = dict(node.attrs)
        self.graph = node.graph

    def holds(self, node: Node) -> bool:
        """Whether the node is still like that."""
        return (
            self.inputs == node.inputs
            and self.attrs == node.attrs
            and self.outputs == node.outputs
            and (self.op, self.domain, self.overload) == (node.op, node.domain, node.overload)
        )

    def same_operation(self, other: State) -> bool:
        """Whether both are one node with other operands at most, none of which is left out on one side only."""
        mine = (self.op, self.domain, self.overload, self.attrs, self.outputs, self._given)
        return mine == (other.op, other.domain, other.overload, other.attrs, other.outputs, other._given)

    @property
    def _given(self) -> list[bool]:
        return [v is not None for v in self.inputs]


@dataclass
class World:
    """One side of a rewrite: all nodes, those that differ from ``base`` on top."""

    base: dict[Node, State]
    own: dict[Node, State | None] = field(default_factory=dict[Node, "State | None"])
    """States of nodes that were different; ``None`` for those that did not exist."""
    orders: dict[Graph, list[Node]] = field(default_factory=dict[Graph, list[Node]])
    """Nodes of each graph, in order."""
    inputs: dict[Graph, list[Value]] = field(default_factory=dict[Graph, "list[Value]"])
    functions: dict[Any, Any] = field(default_factory=dict[Any, Any])
    opsets: dict[str, int] = field(default_factory=dict[str, int])

    def state(self, node: Node | None) -> State | None:
        """What the node computes in this world; ``None`` where it does not exist."""
        if node is None:
            return None
        return self.own[node] if node in self.own else self.base.get(node)

    def definition(self, value: Value) -> State | None:
        """What computes the value; ``None`` for inputs and constants."""
        return self.state(value.producer)


@dataclass
class Change:
    """One rewrite: what was different before it and after it."""

    label: str
    before: World
    after: World
    changed: list[Node]
    """Nodes that were erased, made, or are not as they were; return nodes among them."""

    @property
    def empty(self) -> bool:
        return not self.changed


class Snapshot:
    """The model as it was at the last look."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.states: dict[Node, State] = {}
        self.orders: dict[Graph, list[Node]] = {}
        self.inputs: dict[Graph, list[Value]] = {}
        self.functions: dict[Any, Any] = {}
        self.opsets: dict[str, int] = {}
        self._look()

    @property
    def between_opsets(self) -> bool:
        """Whether the model imports another version of something since the last look."""
        return any(self.model.opsets.get(domain, version) != version for domain, version in self.opsets.items())

    def change(self, label: str) -> Change:
        """What changed since the last look, which this one becomes."""
        earlier = (self.orders, self.inputs, self.functions, self.opsets)
        was = self._look()
        before = World(self.states, was, *earlier)
        after = World(self.states, {}, self.orders, self.inputs, self.functions, self.opsets)
        return Change(label, before, after, list(was))

    def _look(self) -> dict[Node, State | None]:
        """Takes in the model as it is; returns what the nodes that are not as they were had been."""
        states, was = self.states, dict[Node, "State | None"]()
        self.orders = {graph: list(graph) for graph in self.model.all_graphs()}
        self.inputs = {graph: list(graph.inputs) for graph in self.orders}
        self.functions, self.opsets = dict(self.model.functions), dict(self.model.opsets)
        count = 0
        for node in _nodes(self.orders):
            count += 1
            known = states.get(node)
            if known is not None and known.holds(node):
                continue
            was[node] = known
            states[node] = State(node)
        if count != len(states):
            present = set(_nodes(self.orders))
            for node in [n for n in states if n not in present]:
                was[node] = states.pop(node)
        return was


def _nodes(orders: dict[Graph, list[Node]]) -> Iterable[Node]:
    for graph, nodes in orders.items():
        yield from nodes
        yield graph.ret
