"""Groups: which nodes become one kernel.

A group is a run of nodes whose inner values have one reader, inside the group. It has one node behind all others,
whose outputs are the group's; the group takes that node's place in the order, so that our order of nodes stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from ...ir.graph import Graph, Node, Value
from .lower.extents import count, usual
from .rules.core import Kind, kind_of, shape_of

VIEWS = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"))
"""Operators whose result is their operand's memory where that is not blocked."""
ANCHORS = frozenset(("Conv", "ConvTranspose", "MatMul", "Gemm"))
"""Operators that have kernels of their own, into whose write-back elementwise operators go."""
MAX_TAIL = 12
"""Evaluations behind sums: they are written out for every register of the tile."""
MAX_NODES = 24
"""In one group: what is longer takes the compiler long."""
MAX_EVALUATIONS = 48
"""Of nodes for one result, where values are read by several nodes of the group."""


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
        return self.nodes[0] if is_anchor(self.nodes[0]) else None

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


def is_anchor(node: Node) -> bool:
    """Whether kernels are made for this operator."""
    return node.op in ANCHORS and node.domain == ""


def groups_of(graph: Graph, absorbed: Collection[Node] = ()) -> list[Group]:
    """All nodes of a graph, in groups, in the order of the nodes; without the ``absorbed``, which
    kernels of their readers look through."""
    position = {node: i for i, node in enumerate(graph) if node not in absorbed}
    of: dict[Node, Group] = {}
    for node in position:
        group = Group([node])
        for producer in _joined(node, of):
            group.nodes.extend(producer.nodes)
        # What a kernel is made for goes first: what else is in its group reads its sums, or stands beside them.
        group.nodes.sort(key=lambda member: (not is_anchor(member), position[member]))
        of.update((member, group) for member in group.nodes)
    unique = {id(group): group for group in of.values()}
    return sorted(unique.values(), key=lambda group: position[group.last])


def _joined(node: Node, of: dict[Node, Group]) -> list[Group]:
    """Groups of producers that a node takes in: all whose results nobody else reads."""
    kind = kind_of(node)
    if is_anchor(node) or len(node.outputs) > 1 or kind is Kind.OWN:
        return []
    light = kind not in (Kind.ELEMENTWISE, Kind.MOVEMENT)  # elements are read several times: conversions only
    found: list[Group] = []
    for value in dict.fromkeys(v for v in node.inputs if v is not None and v.producer is not None):
        group = of.get(value.producer) if value.producer is not None else None
        if group is None or group.is_view or kind_of(group.last) is Kind.OWN:
            continue
        if light and group.nodes[0].op != "DequantizeLinear":
            continue
        if (light and len(group.nodes) > 1) or value.producer is not group.last or len(group.last.outputs) > 1:
            continue
        # What spreads would be computed again for every element that it is spread to.
        small = usual(count(shape_of(value))) < usual(count(shape_of(node.output)))
        if not small and _fits(node, kind, value, group, found):
            found.append(group)
    return _with_shared(node, _within(node, found), of)


def _with_shared(node: Node, groups: list[Group], of: dict[Node, Group]) -> list[Group]:
    """The groups, and those in front of them whose result several of them read, and nobody else: quantized numbers that
    an activation reads twice."""
    if not groups or kind_of(node) is not Kind.ELEMENTWISE:
        return groups
    refused: set[Node] = set()
    while True:
        members = dict.fromkeys([node, *(member for group in groups for member in group.nodes)])
        found = next((g for g in _read_by(members, of) if g.last not in refused and _shared(g, members, groups)), None)
        if found is None:
            return groups
        refused.add(found.last)
        joined = _within(node, [*groups, found])
        groups = joined if len(joined) > len(groups) else groups


def _read_by(members: Collection[Node], of: dict[Node, Group]) -> Iterator[Group]:
    """Groups in front of the members whose results these read."""
    producers = (v.producer for member in members for v in member.inputs if v is not None)
    return (of[p] for p in dict.fromkeys(producers) if p is not None and p in of and p not in members)


def _shared(group: Group, members: Collection[Node], taken: list[Group]) -> bool:
    """Whether only the members read the group's result, element by element at its own place."""
    if group.is_view or len(group.last.outputs) > 1:
        return False
    value = group.last.output
    readers = [user for user, _ in value.uses]
    own = all(kind_of(r) is Kind.ELEMENTWISE and shape_of(r.output) == shape_of(value) for r in readers)
    return own and all(r in members for r in readers) and _fits(readers[0], Kind.ELEMENTWISE, value, group, taken)


def _within(node: Node, groups: list[Group]) -> list[Group]:
    """Those of the groups whose results stay inside when all of them become one with the node."""
    while groups:
        members = {node, *(member for group in groups for member in group.nodes)}
        # An anchor's operands lie in memory, so that what it reads is in no group of its own.
        kept = [g for g in groups if all(u in members and not is_anchor(u) for u, _ in g.last.output.uses)]
        if len(kept) == len(groups):
            most = MAX_TAIL if any(map(is_anchor, members)) else MAX_EVALUATIONS
            if len(members) <= MAX_NODES and _evaluations(node, members) <= most:
                return groups
            kept = groups[:-1]
        groups = kept
    return []


def _evaluations(last: Node, members: set[Node]) -> int:
    """How many nodes are written out for one result, one for every path to it; counted as far as the limit."""
    todo, total = [last], 0
    while todo and total <= MAX_EVALUATIONS:
        total += 1
        producers = (v.producer for v in todo.pop().inputs if v is not None)
        todo.extend(p for p in producers if p is not None and p in members)
    return total


def _fits(node: Node, kind: Kind, value: Value, group: Group, taken: list[Group]) -> bool:
    """Whether the node can be computed where the group's result is."""
    if kind not in (Kind.ELEMENTWISE, Kind.MOVEMENT):
        return True
    simple = all(kind_of(n) in (Kind.ELEMENTWISE, Kind.MOVEMENT, Kind.GATHERING) for n in group.nodes)
    if simple:
        return kind is Kind.ELEMENTWISE or all(kind_of(n) is not Kind.GATHERING for n in group.nodes)
    # Behind a reduction only what has its extents, and one reduction a group.
    others = any(kind_of(n) in (Kind.STAGE, Kind.CHANNELWISE) for g in taken for n in g.nodes)
    return kind is Kind.ELEMENTWISE and not others and shape_of(value) == shape_of(node.output)
