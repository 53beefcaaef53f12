"""Where to compute in 16 bits: the cut between the two precisions that costs least.

Every node that may compute in 16 bits gains by it, every value that crosses from one precision to the other costs a
cast, once for all users on the other side: a choice between two labels, which ``layout/solve.py`` makes by minimum cut.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...ir.dims import SymDim
from ...ir.dtypes import DType
from ...ir.graph import RETURN, Graph, Node, Value
from .layout.problem import Option, Problem
from .layout.solve import solve

_nx: Any = importlib.import_module("networkx")  # its types are incomplete
_GUESS = 16
"""Extent taken for a symbol."""


def best_half(graph: Graph, gains: Mapping[Node, float]) -> list[Node]:
    """The nodes of ``graph`` that are to compute in 16 bits, in order.

    ``gains`` says what each node that may saves, in elements read and written; all other nodes, the graph's inputs and
    outputs and what bodies take stay in 32 bits. Constants are stored in either precision and cost no cast.
    """
    cast = dict.fromkeys(
        v for v in [*graph.inputs, *(out for node in graph for out in node.outputs)] if v.dtype is DType.F32
    )
    problem = Problem(lambda value, *_: 2 * elements_of(value))  # type: ignore[arg-type]
    for node in graph:
        takes = [v for v in dict.fromkeys(node.inputs) if v in cast]
        gives = [v for v in node.outputs if v in cast]
        ways = (("full", gains[node]), ("half", 0.0)) if node in gains else (("full", 0.0),)
        problem.add(
            node, [Option(cost, tuple((v, w) for v in takes), tuple((v, w) for v in gives), w) for w, cost in ways]
        )
    for value in cast:
        if value.producer is None:
            problem.add((value, "given"), [Option(gives=((value, "full"),))])
        if any(user.op == RETURN or user.graph is not graph for user, _ in value.uses):
            problem.add((value, "taken"), [Option(takes=((value, "full"),))])
    chosen = solve(problem).chosen
    return [node for node in graph if chosen[node].tag == "half"]


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
