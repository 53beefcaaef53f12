"""The memory plan: one arena for all values on the way, with our offsets.

A value lives from the kernel that writes it to the last that reads it or a view of it. Views take no memory. A kernel
that works element by element writes over an operand of the same form that nobody reads later.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from ...passes.shared.arena.buffers import Buffer
from ...passes.shared.arena.place import NODES, place

ALIGNMENT = 64
"""Bytes: a cache line, and what kernels were told of their operands."""


@dataclass
class Step:
    """One kernel as the planner sees it."""

    reads: list[Hashable]
    writes: list[tuple[Hashable, int]]
    """Storages with their bytes."""
    over: list[Hashable] = field(default_factory=list[Hashable])
    """Storages that its only result may take the place of, of the same size."""


@dataclass(frozen=True)
class Plan:
    """Offsets by storage."""

    offsets: dict[Hashable, int]
    taken_over: dict[int, Hashable]
    """By the number of a step: the storage that its result lies in."""
    arena_bytes: int
    bound_bytes: int
    """What lives at one moment: no arena is smaller."""


def plan_memory(steps: Sequence[Step], elsewhere: frozenset[Hashable], *, nodes: int = NODES) -> Plan:
    """Places every written storage that is not ``elsewhere`` (inputs, outputs, weights)."""
    root: dict[Hashable, Hashable] = {}
    last: dict[Hashable, int] = {}
    for i, step in enumerate(steps):
        last.update((key, i) for key in step.reads)
    size: dict[Hashable, int] = {}
    born: dict[Hashable, int] = {}
    dies: dict[Hashable, int] = {}
    taken: dict[int, Hashable] = {}
    for i, step in enumerate(steps):
        for key, amount in step.writes:
            if key in elsewhere:
                continue
            over = next((root[k] for k in step.over if k in root and dies[root[k]] == i == last[k]), None)
            if over is not None and size[over] == amount:
                root[key], taken[i] = over, over
                dies[over] = max(i, last.get(key, i))
            else:
                root[key], size[key], born[key] = key, amount, i
                dies[key] = last.get(key, i)
    keys = list(size)
    buffers = [Buffer(born[k], dies[k] + 1, -(-size[k] // ALIGNMENT) * ALIGNMENT, ALIGNMENT) for k in keys]
    placed = place(buffers, nodes=nodes)
    at = dict(zip(keys, placed.offsets, strict=True))
    return Plan({key: at[base] for key, base in root.items()}, taken, placed.height, placed.bound)
