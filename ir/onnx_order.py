"""Topological order of the nodes of an ONNX graph that lists them otherwise.

The standard demands the order and its checker refuses anything else; ONNX Runtime sorts. The reader
comes here only after it met a name that no node before had defined.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NoReturn

from .errors import ReadError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def sorted_nodes(nodes: list[NodeProto], depth_limit: int) -> list[NodeProto]:
    """``nodes`` so that each follows what it uses, its bodies' captures included; otherwise in file order.

    Raises ``ReadError`` that names the nodes of a cycle.
    """
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    needs: list[set[int]] = []
    for i, node in enumerate(nodes):
        used = {producer[name] for name in free_names(node, depth_limit) if name in producer}
        if i in used:
            _cycle(nodes, [i])
        needs.append(used)
    feeds: list[list[int]] = [[] for _ in nodes]
    for i, used in enumerate(needs):
        for j in used:
            feeds[j].append(i)
    missing = [len(used) for used in needs]
    ready = [i for i, count in enumerate(missing) if not count]
    order: list[NodeProto] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(nodes[i])
        for j in feeds[i]:
            missing[j] -= 1
            if not missing[j]:
                heapq.heappush(ready, j)
    if len(order) < len(nodes):
        _cycle(nodes, _find_cycle(needs, missing))
    return order


def free_names(node: NodeProto, depth_limit: int) -> set[str]:
    """Names that the node takes from around it: its operands, and what its bodies use without defining it."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            names |= _free_in(body, depth_limit)
    return names


def _free_in(body: GraphProto, depth_limit: int) -> set[str]:
    if not depth_limit:
        raise ReadError("bodies are nested too deeply", where="read", help="the model is damaged or hostile")
    defined = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    defined |= {tensor.values.name for tensor in body.sparse_initializer}
    used = {value.name for value in body.output}
    for node in body.node:
        used |= free_names(node, depth_limit - 1)
        defined.update(node.output)
    return used - defined


def _find_cycle(needs: list[set[int]], missing: list[int]) -> list[int]:
    """Nodes of one cycle among those that never became ready; each has such a node among its needs."""
    at = next(i for i, count in enumerate(missing) if count)
    seen: dict[int, int] = {}
    path: list[int] = []
    while at not in seen:
        seen[at] = len(path)
        path.append(at)
        at = min(j for j in needs[at] if missing[j])
    return path[seen[at] :][::-1]


def _cycle(nodes: list[NodeProto], indices: list[int]) -> NoReturn:
    shown = " -> ".join(f"{nodes[i].op_type} {nodes[i].name or ','.join(nodes[i].output)!r}" for i in indices[:8])
    more = f" and {len(indices) - 8} more" if len(indices) > 8 else ""
    raise ReadError(
        f"the graph has a cycle of {len(indices)} nodes: {shown}{more}",
        where="read",
        help="no order of execution exists; the model is at fault",
    )
