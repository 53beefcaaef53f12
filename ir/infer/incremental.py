"""Inference after a change: the changed nodes, and users of what changes for as long as something changes."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from ..graph import Graph, Node
from .engine import Inference

UNORDERED_VISITS = 16
"""Changes that die out sooner are followed in order of discovery; beyond, an order of the graph is worth its price."""


def update_from(nodes: Iterable[Node]) -> list[Node]:
    """Infers the given nodes again, and users of what changes for as long as something changes.

    Give them in topological order where possible. Callers of a changed function body are not followed.
    Returns the nodes whose results changed, in order of first change. Raises ``ModelError`` where operands
    of a node that had types before now contradict its operator.
    """
    # Not strict: until all operands of a node are up to date they may contradict each other.
    inference = Inference(strict=False)
    changed: dict[Node, None] = {}
    untyped: set[Node] = set()
    work = _Worklist(nodes)
    while (node := work.pop()) is not None:
        if all(out.type is None for out in node.outputs):
            untyped.add(node)
        if not inference.node(node):
            continue
        changed[node] = None
        for out in node.outputs:
            for user, _ in out.uses:
                # What a body returns is a result of the node that runs it.
                target = user if not user.is_return else user.graph.parent if user.graph is not None else None
                if target is not None:
                    work.add(target)
    for node, error in inference.errors.items():
        if node not in untyped:
            raise error
    return list(changed)


class _Worklist:
    """Nodes still to visit, each once: first in order of discovery, after many visits in order of the graph."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._waiting: dict[Node, None] = dict.fromkeys(nodes)
        self._heap: list[tuple[tuple[int, int], int, Node]] = []
        self._order: dict[Node, tuple[int, int]] = {}
        self._visits = 0

    def add(self, node: Node) -> None:
        if node not in self._waiting:
            self._waiting[node] = None
            if self._order:
                self._push(node)

    def pop(self) -> Node | None:
        while self._waiting:
            self._visits += 1
            if self._visits == UNORDERED_VISITS:
                self._sort()
            node = heappop(self._heap)[2] if self._order else next(iter(self._waiting))
            del self._waiting[node]
            if not node.erased and node.graph is not None:
                return node
        return None

    def _push(self, node: Node) -> None:
        # Nodes of another root (a function's body) have no place in the order: last.
        heappush(self._heap, (self._order.get(node, (1 << 60, 0)), id(node), node))

    def _sort(self) -> None:
        roots = dict.fromkeys(node.graph.root for node in self._waiting if node.graph is not None)
        self._order = positions(roots)
        for node in self._waiting:
            self._push(node)


def positions(roots: Iterable[Graph]) -> dict[Node, tuple[int, int]]:
    """Sortable positions in topological order, a node behind the nodes of its bodies."""
    order: dict[Node, tuple[int, int]] = {}
    at = 0
    for root in roots:
        for node in root.all_nodes():
            inside = sum(1 for body in node.subgraphs for _ in body.all_nodes()) if node.attrs else 0
            order[node] = (at + inside, -at)
            at += 1
    return order
