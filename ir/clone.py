"""Copies of models and graphs that share constant data: what bisecting, trying out and rolling back need.

A copy is exact: names, types, provenance, and the order of uses too, so that a pass does the same to both.
"""

from __future__ import annotations

from typing import Any

from .collector import collector_paused
from .graph import Attr, Function, Graph, Model, Node, Port, Value


def clone_model(model: Model) -> Model:
    """An independent copy of the model; constant data is shared, since nothing writes to it."""
    copy = Model(clone_graph(model.graph), ir_version=model.ir_version)
    copy.producer = model.producer
    copy.domain, copy.version, copy.doc = model.domain, model.version, model.doc
    copy.metadata = dict(model.metadata)
    copy.extra = _copy_extra(model.extra)
    for function in model.functions.values():
        made = Function(function.domain, function.name, clone_graph(function.graph), function.overload)
        made.attributes = function.attributes
        made.defaults = dict(function.defaults)
        made.extra = _copy_extra(function.extra)
        copy.add_function(made)
    return copy


def clone_graph(graph: Graph, values: dict[Value, Value] | None = None) -> Graph:
    """A copy of the graph with its bodies. It belongs to no model and no node yet.

    ``values`` maps outer values that a body captures to others; captures it does not mention stay uses of
    the same value. On return it maps every value of the graph to its copy.
    """
    values = {} if values is None else values
    cloner = _Cloner(values, dict(graph.opsets))
    with collector_paused():
        copy = cloner.clone(graph)
        cloner.connect()
    return copy


class _Cloner:
    """Copies definitions first and uses after, because uses keep their order per value."""

    def __init__(self, values: dict[Value, Value], opsets: dict[str, int]) -> None:
        self.outer = dict(values)
        self.values = values
        self.opsets = opsets
        self.nodes: dict[Node, Node] = {}
        self.made: list[tuple[Value, Value]] = []
        self.todo: list[tuple[Graph, Graph]] = []

    def clone(self, graph: Graph) -> Graph:
        """All graphs, values and nodes, without uses."""
        copy = self._empty(graph)
        while self.todo:
            source, target = self.todo.pop()
            self._fill(source, target)
        return copy

    def _empty(self, graph: Graph) -> Graph:
        copy = Graph(graph.name, self.opsets)
        self.todo.append((graph, copy))
        return copy

    def _fill(self, source: Graph, target: Graph) -> None:
        for value in source.inputs:
            copy = self._value(value)
            copy.graph, copy.index = target, value.index
            target.inputs.append(copy)
        target.defaults = {self.values[value]: data for value, data in source.defaults.items()}
        for value in source.constants:
            copy = self._value(value)
            copy.graph, copy.data = target, value.data
            target.constants[copy] = None
        last = target.ret
        for node in source:
            made = self._node(node, target)
            made.prev_link, last.next_link = last, made
            last = made
        target.ret.prev_link, last.next_link = last, target.ret
        target.count = source.count
        target.ports = [Port(p.name, p.declared, _copy_extra(p.extra)) for p in source.ports]
        target.extra = _copy_extra(source.extra)
        self.nodes[source.ret] = target.ret

    def _value(self, value: Value) -> Value:
        copy = Value(value.name, value.type)
        copy.known = value.known
        if value.extra is not None:
            copy.extra = _copy_extra(value.extra)
        self.values[value] = copy
        self.made.append((value, copy))
        return copy

    def _node(self, node: Node, target: Graph) -> Node:
        made = Node(node.op, (), None, domain=node.domain, outputs=0, name=node.name, overload=node.overload)
        made.graph = target
        made.origin = node.origin
        made.extra = _copy_extra(node.extra)
        for value in node.outputs:
            copy = self._value(value)
            copy.producer, copy.index = made, value.index
            made.outputs.append(copy)
        if node.attrs:
            made.attrs = {name: self._attr(attr, made) for name, attr in node.attrs.items()}
        self.nodes[node] = made
        return made

    def _attr(self, attr: Attr, owner: Node) -> Attr:
        if isinstance(attr, Graph):
            body = self._empty(attr)
            body.parent = owner
            return body
        if isinstance(attr, tuple) and any(isinstance(a, Graph) for a in attr):
            return tuple(self._attr(a, owner) for a in attr)  # pyright: ignore[reportReturnType]
        return attr

    def connect(self) -> None:
        """Operands, then the uses of each value in the order of the original."""
        values, nodes = self.values, self.nodes
        captured: list[tuple[Value, Node, int]] = []
        for source, copy in nodes.items():
            for i, value in enumerate(source.inputs):
                new = None
                if value is not None:
                    new = values.get(value, value)
                    if new is value or value in self.outer:
                        captured.append((new, copy, i))
                copy.inputs.append(new)
        for value, copy in self.made:
            copy.uses = {(nodes[node], i): None for node, i in value.uses if node in nodes}
        for value, node, i in captured:
            value.uses[(node, i)] = None


def _copy_extra(extra: dict[str, Any] | None) -> dict[str, Any] | None:
    """A copy two levels deep: what planish does not interpret consists of texts, lists and flat dictionaries."""
    if extra is None:
        return None
    return {key: dict(v) if isinstance(v, dict) else v for key, v in extra.items()}  # pyright: ignore[reportUnknownArgumentType]
