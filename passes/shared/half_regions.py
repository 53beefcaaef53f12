"""Where to compute in 16 bits: the cut between the two precisions that costs least.

Every node that may compute in 16 bits gains by it, every value that crosses from one precision to the other costs a
cast, once for all users on the other side. The best choice is a minimum cut (Ford, Fulkerson 1956); of a value with
several users the cast is an edge of its own behind the producer, with edges to the users that nothing cuts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...ir.dims import SymDim
from ...ir.dtypes import DType
from ...ir.graph import RETURN, Graph, Node, Value

_nx: Any = importlib.import_module("networkx")  # its types are incomplete
_GUESS = 16
"""Extent taken for a symbol."""


def best_half(graph: Graph, gains: Mapping[Node, float]) -> list[Node]:
    """The nodes of ``graph`` that are to compute in 16 bits, in order.

    ``gains`` says what each node that may saves, in elements read and written; all other nodes, the graph's inputs and
    outputs and what bodies take stay in 32 bits. Constants are stored in either precision and cost no cast.
    """
    network: Any = _nx.DiGraph()
    network.add_nodes_from(("half", "full"))
    for node, gain in gains.items():
        network.add_edge("half", node, capacity=gain)
    for node in graph:
        if node not in gains:
            network.add_edge(node, "full")
    for value in [*graph.inputs, *(out for node in graph for out in node.outputs)]:
        if value.dtype is DType.F32:
            _add_casts(network, graph, value, gains)
    half: set[Any] = _nx.minimum_cut(network, "half", "full")[1][0]
    return [node for node in graph if node in half]


def _add_casts(network: Any, graph: Graph, value: Value, gains: Mapping[Node, float]) -> None:
    producer: Any = value.producer if value.producer is not None else "full"
    users: dict[Any, None] = {}
    for user, _ in value.uses:
        users["full" if user.op == RETURN or user.graph is not graph or user not in gains else user] = None
    if not users or (producer not in gains and set(users) == {"full"}):
        return
    cost = 2 * elements_of(value)
    narrowed, widened = (value, "narrowed"), (value, "widened")
    network.add_edge(producer, widened, capacity=cost)
    network.add_edge(narrowed, producer, capacity=cost)
    for user in users:
        network.add_edge(widened, user)
        network.add_edge(user, narrowed)


def elements_of(value: Value) -> float:
    """Elements of a tensor, symbols and unknown extents guessed."""
    count = 1.0
    for d in value.shape or ():
        count *= _GUESS if d is None or isinstance(d, SymDim) else d
    return max(count, 1.0)


def connected(nodes: Sequence[Node], linked: Callable[[Value], bool]) -> list[list[Node]]:
    """Parts of ``nodes`` that values for which ``linked`` holds connect, each in order."""
    network: Any = _nx.Graph()
    network.add_nodes_from(nodes)
    chosen = set(nodes)
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.producer in chosen and linked(value):
                network.add_edge(value.producer, node)
    order = {node: i for i, node in enumerate(nodes)}
    parts = [sorted(part, key=order.__getitem__) for part in _nx.connected_components(network)]
    return sorted(parts, key=lambda part: order[part[0]])
