"""A memory plan as data: where each value of a graph lies, and between which nodes.

    {"alignment": 64, "memories": [{"name": "dram", "bytes": 1024}], "buffers":
     [{"values": ["x", "y"], "memory": 0, "offset": 0, "size": 512, "first_node": 0, "last_node": 3}]}

``values`` share the buffer; a buffer without values is what the bodies of ``first_node`` need while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.errors import UsageError
from ...ir.graph import Graph, Value
from .arena.buffers import Buffer, overlapping
from .arena.place import NODES, Progress
from .arena.spaces import Space, Spread, spread
from .liveness import Liveness

KEY = "planish.memory_plan"
"""Of a model's metadata: the plan as JSON."""


def names_in_file(graph: Graph) -> dict[Value, str]:
    """What a file calls the values of a main graph whose names are unique: results of the graph by their ports."""
    found = {v: v.name for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    inputs = set(graph.inputs)
    for port, value in zip(reversed(graph.ports), reversed(graph.outputs), strict=True):
        if value in found and value not in inputs:
            found[value] = port.name
    return found


def traffic_of(live: Liveness) -> list[int]:
    """Bytes that are written to and read from each storage, the workspaces of bodies last (each once)."""
    inside: dict[Value, int] = {v: i for i, s in enumerate(live.storages) for v in s.values}
    times = [0] * len(live.storages)
    for node in live.nodes:
        readers = (node, *(inner for body in node.subgraphs for inner in body.all_nodes()))
        for value in (*node.outputs, *(v for reader in readers for v in reader.inputs if v is not None)):
            if value in inside:
                times[inside[value]] += 1
    sizes = [s.size * count for s, count in zip(live.storages, times, strict=True)]
    return sizes + [size for _, size in sorted(live.workspace.items())]


def planned(
    live: Liveness, alignment: int, spaces: Sequence[Space], *, nodes: int = NODES, progress: Progress | None = None
) -> Spread:
    """Where the storages of a graph lie, and then the workspaces of its bodies."""
    return spread(live.buffers(alignment), traffic_of(live), spaces, nodes=nodes, progress=progress)


def plan_data(graph: Graph, live: Liveness, found: Spread, alignment: int, spaces: Sequence[Space]) -> dict[str, Any]:
    """The plan as plain data; see the module."""
    names = names_in_file(graph)
    rows: list[tuple[list[str], Buffer]] = [
        ([names[v] for v in s.values], b) for s, b in zip(live.storages, live.buffers(), strict=False)
    ]
    rows += [([], b) for b in live.buffers()[len(live.storages) :]]
    return {
        "alignment": alignment,
        "memories": [
            {"name": space.name, "bytes": used, "capacity": space.capacity, "traffic": traffic}
            for space, used, traffic in zip(spaces, found.used, found.traffic, strict=True)
        ],
        "buffers": [
            {
                "values": called,
                "memory": memory,
                "offset": offset,
                "size": b.size,
                "first_node": b.lower,
                "last_node": b.upper - 1,
            }
            for (called, b), memory, offset in zip(rows, found.space, found.offset, strict=True)
        ],
    }


def check_plan(graph: Graph, plan: dict[str, Any]) -> list[str]:
    """What is wrong with a plan for a graph in its present order; empty where it holds.

    Every value that needs memory has a place, two that live at once share no bytes unless they share a buffer, and no
    buffer goes beyond its memory. For backends that take a plan from a file.
    """
    from .liveness import liveness

    live, names = liveness(graph), names_in_file(graph)
    place: dict[str, int] = {name: i for i, b in enumerate(plan["buffers"]) for name in b["values"]}
    problems = [f"%{names[v]} has no place" for s in live.storages for v in s.values if names[v] not in place]
    if problems:
        return problems
    spans: dict[int, list[int]] = {}
    for s in live.storages:
        for v in s.values:
            buffer = plan["buffers"][place[names[v]]]
            if buffer["size"] < s.size:
                problems.append(f"%{v.name} has {s.size:,} bytes, its buffer {buffer['size']:,}")
            span = spans.setdefault(place[names[v]], [s.born, s.dies])
            span[:] = [min(span[0], s.born), max(span[1], s.dies)]
    for k, memory in enumerate(plan["memories"]):
        inside = [i for i, b in enumerate(plan["buffers"]) if b["memory"] == k and i in spans]
        buffers = [Buffer(spans[i][0], spans[i][1] + 1, plan["buffers"][i]["size"]) for i in inside]
        offsets = [int(plan["buffers"][i]["offset"]) for i in inside]
        clash = overlapping(buffers, offsets)
        if clash is not None:
            names = (plan["buffers"][inside[i]]["values"][0] for i in clash)
            problems.append(f"%{' and %'.join(names)} overlap")
        if any(o + b.size > memory["bytes"] for o, b in zip(offsets, buffers, strict=True)):
            problems.append(f"memory {memory['name']} is exceeded")
    return problems


def spaces_of(texts: Sequence[str]) -> list[Space]:
    """``"tcm:262144"``, ``"dram"``: memories, the fastest first. Raises ``UsageError``."""
    found: list[Space] = []
    for text in texts:
        name, _, size = text.partition(":")
        if not name or (size and not (size.isdecimal() and int(size) > 0)):
            raise UsageError(
                f"{text!r} is no memory", where="plan-memory", help='a name and bytes, as "tcm:262144" or "dram"'
            )
        found.append(Space(name, int(size) if size else None))
    return found
