"""Graphs played in an arena of tokens, where every operand must still be found."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Value
from planish.passes.shared.arena.buffers import overlapping
from planish.passes.shared.arena.place import place
from planish.passes.shared.liveness import Liveness


def play(graph: Graph, live: Liveness, alignment: int = 1) -> int:
    """Runs the graph in its arena, values standing for their bytes, and returns how high it was written.

    A result overwrites what lies at its place. An operand that is not there any more, itself or as what it is a view
    of, was overwritten too early.
    """
    buffers = live.buffers(alignment)
    offsets = place(buffers, nodes=200).offsets
    assert overlapping(buffers, offsets) is None
    height = max((o + b.size for o, b in zip(offsets, buffers, strict=True)), default=0)
    arena = np.full(height, -1, np.int64)
    at = {v: (o, s.size) for s, o in zip(live.storages, offsets, strict=False) for v in s.values}
    token: dict[Value, int] = {}

    def write(value: Value, mark: int) -> None:
        token[value] = mark
        offset, size = at[value]
        arena[offset : offset + size] = mark

    def read(value: Value) -> None:
        offset, size = at[value]
        assert (arena[offset : offset + size] == token[value]).all(), f"{value.name} is gone"

    for i, value in enumerate(v for v in graph.inputs if v in at):
        write(value, -2 - i)
    for i, node in enumerate(live.nodes):
        for reader in (node, *(inner for body in node.subgraphs for inner in body.all_nodes())):
            for value in reader.inputs:
                if value in token:
                    read(value)
        work = live.workspace.get(i, 0)
        if work:
            order = sorted(live.workspace)
            offset = offsets[len(live.storages) + order.index(i)]
            arena[offset : offset + work] = -1
        for value in node.outputs:
            source = node.inputs[0] if node.inputs else None
            same = source in token and node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
            write(value, token[source] if same and source is not None else i)
    for value in graph.outputs:
        if value in token:
            read(value)
    return height
