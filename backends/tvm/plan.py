"""The memory plan: one arena for all values on the way, with our offsets.

A value lives from the kernel that writes it to the last that reads it or a view of it. Views take no memory. A kernel
that works element by element writes over an operand of the same form that nobody reads later.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ...passes.shared.arena.buffers import Buffer
from ...passes.shared.arena.place import NODES, place
from .lower.extents import Extent, usual

Key: TypeAlias = Hashable
"""A storage: a value as it lies, ``("copy", value, block)`` for other blocks, ``("out", i)`` for a copied output."""
ALIGNMENT = 64
"""Bytes: a cache line, and what kernels were told of their operands."""


@dataclass
class Step:
    """One kernel as the planner sees it."""

    reads: list[Key]
    writes: list[tuple[Key, Extent]]
    """Storages with their bytes."""
    over: list[Key] = field(default_factory=list[Key])
    """Storages that its only result may take the place of, of the same size."""


@dataclass(frozen=True)
class Part:
    """Room in the arena, for all that lies in it one after the other."""

    key: Key
    size: Extent
    """Bytes."""
    above: list[int]
    """Numbers of the parts that live with it and end where it may begin; those below them are left out."""


@dataclass(frozen=True)
class Plan:
    """Offsets by storage. Where sizes are open: for usual extents, and ``lowest_first`` says what holds for any."""

    offsets: dict[Key, int]
    lies_in: dict[Key, Key]
    """The storage whose room is a storage's own."""
    taken_over: dict[int, Key]
    """By the number of a step: the storage that its result lies in."""
    lowest_first: list[Part]
    arena_bytes: int
    bound_bytes: int
    """What lives at one moment: no arena is smaller."""

    @property
    def open(self) -> bool:
        """Whether offsets have to be computed when extents are known."""
        return any(not isinstance(part.size, int) for part in self.lowest_first)


def plan_memory(steps: Sequence[Step], elsewhere: frozenset[Key], *, nodes: int = NODES) -> Plan:
    """Places every written storage that is not ``elsewhere`` (inputs, outputs, weights)."""
    root: dict[Key, Key] = {}
    last: dict[Key, int] = {}
    for i, step in enumerate(steps):
        last.update((key, i) for key in step.reads)
    size: dict[Key, Extent] = {}
    born: dict[Key, int] = {}
    dies: dict[Key, int] = {}
    taken: dict[int, Key] = {}
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
    buffers = [Buffer(born[k], dies[k] + 1, -(-usual(size[k]) // ALIGNMENT) * ALIGNMENT, ALIGNMENT) for k in keys]
    placed = place(buffers, nodes=nodes)
    at = dict(zip(keys, placed.offsets, strict=True))
    order = sorted(range(len(keys)), key=lambda i: (placed.offsets[i], i))
    above = _above([buffers[i] for i in order])
    parts = [Part(keys[i], size[keys[i]], below) for i, below in zip(order, above, strict=True)]
    return Plan({key: at[base] for key, base in root.items()}, root, taken, parts, placed.height, placed.bound)


def _above(buffers: Sequence[Buffer]) -> list[list[int]]:
    """For every buffer, the lowest first, those that it has to lie above, without what lies below these anyway."""
    found: list[list[int]] = []
    below: list[set[int]] = []
    for i, buffer in enumerate(buffers):
        kept: list[int] = []
        covered: set[int] = set()
        for j in reversed(range(i)):
            if j not in covered and buffers[j].lower < buffer.upper and buffer.lower < buffers[j].upper:
                kept.append(j)
                covered |= below[j] | {j}
        found.append(kept[::-1])
        below.append(covered)
    return found
