"""The copy of a graph on which the runtime's changes are replayed."""

from __future__ import annotations

from dataclasses import dataclass, field

from ....ir.graph import Graph, Node


@dataclass
class Work:
    """A graph in work, and which node of the model each of its nodes stands for."""

    graph: Graph
    origin: dict[Node, Node]
    gone: dict[Node, str] = field(default_factory=dict[Node, str])
    """Nodes of the model that vanished, and why."""
    forwarded: list[Node] = field(default_factory=list[Node])
    """QuantizeLinear nodes added behind movement of data, with the type of a DequantizeLinear in front of it."""

    def drop(self, node: Node, why: str) -> None:
        """``node`` is about to vanish."""
        if node in self.origin:
            self.gone[self.origin[node]] = why
