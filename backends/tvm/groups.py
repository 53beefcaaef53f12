"""Groups: which nodes become one kernel.

A group is a run of nodes whose inner values have one reader, inside the group. It has one node behind all others,
whose outputs are the group's; the group takes that node's place in the order, so that our order of nodes stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ...ir.graph import Graph, Node, Value
from .rules.core import Kind, kind_of, static_shape

VIEWS = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"))
"""Operators whose result is their operand's memory where that is not blocked."""
ANCHORS = frozenset(("Conv", "ConvTranspose", "MatMul", "Gemm"))
"""Operators that have kernels of their own, into whose write-back elementwise operators go."""
MAX_NODES = 24
"""In one group: what is longer takes the compiler long."""


@dataclass
class Group:
    """Nodes of one kernel, in order."""

    nodes: list[Node] = field(default_factory=list[Node])

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    @property
    def anchor(self) -> Node | None:
        """The node with a kernel of its own."""
        return self.nodes[0] if self.nodes[0].op in ANCHORS and self.nodes[0].domain == "" else None

    @property
    def is_view(self) -> bool:
        return len(self.nodes) == 1 and self.last.op in VIEWS and self.last.domain == ""

    @property
    def outputs(self) -> list[Value]:
        return [v for v in self.last.outputs if v.uses]

    @property
    def inputs(self) -> list[Value]:
        """Values that come from outside, constants too, in order of their first use."""
        inner = {out for node in self.nodes for out in node.outputs}
        return list(dict.fromkeys(v for node in self.nodes for v in node.inputs if v is not None and v not in inner))


def groups_of(graph: Graph) -> list[Group]:
    """All nodes of a graph with static extents, in groups, in the order of the nodes."""
    position = {node: i for i, node in enumerate(graph)}
    of: dict[Node, Group] = {}
    for node in position:
        group = Group([node])
        for producer in _joined(node, of):
            group.nodes.extend(producer.nodes)
        group.nodes.sort(key=lambda member: position[member])
        of.update((member, group) for member in group.nodes)
    unique = {id(group): group for group in of.values()}
    return sorted(unique.values(), key=lambda group: position[group.last])


def _joined(node: Node, of: dict[Node, Group]) -> list[Group]:
    """Groups of producers that a node takes in."""
    kind = kind_of(node)
    if kind not in (Kind.ELEMENTWISE, Kind.MOVEMENT) or len(node.outputs) > 1:
        return []
    found: list[Group] = []
    size = 1
    for value in node.inputs:
        group = of.get(value.producer) if value is not None and value.producer is not None else None
        if value is None or group is None or group in found or not _inner(value, group):
            continue
        if math.prod(static_shape(value)) < math.prod(static_shape(node.output)):
            continue  # it would be computed again for every element that it is spread to
        if size + len(group.nodes) > MAX_NODES or group.is_view:
            continue
        if not _fits(node, kind, value, group, found):
            continue
        found.append(group)
        size += len(group.nodes)
    return found


def _inner(value: Value, group: Group) -> bool:
    """Whether the value is read once, by a node of the same graph."""
    return (
        len(value.uses) == 1
        and value.producer is group.last
        and len(group.last.outputs) == 1
        and not any(user.is_return for user, _ in value.uses)
    )


def _fits(node: Node, kind: Kind, value: Value, group: Group, taken: list[Group]) -> bool:
    """Whether the node can be computed where the group's result is."""
    simple = all(kind_of(n) in (Kind.ELEMENTWISE, Kind.MOVEMENT, Kind.GATHERING) for n in group.nodes)
    if simple:
        return kind is Kind.ELEMENTWISE or all(kind_of(n) is not Kind.GATHERING for n in group.nodes)
    # Behind a reduction only what has its extents, and one reduction a group.
    others = any(kind_of(n) in (Kind.STAGE, Kind.CHANNELWISE) for g in taken for n in g.nodes)
    return kind is Kind.ELEMENTWISE and not others and static_shape(value) == static_shape(node.output)
