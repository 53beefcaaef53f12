"""Buffers in several memories: the fast and small one takes those that are used most, the next one what is left.

Which buffers go into a memory of some capacity is a knapsack whose constraint holds at every moment,

    maximize  sum traffic x    where at every section  sum of sizes x <= capacity,  x in {0, 1}

solved by integer programming, to 0.1 % or as many nodes as are allowed; then they are placed in it, and what has no
place goes to the next memory. The program's bound says how much traffic the fast memory could have taken at the best.

Source: O. Avissar, R. Barua, D. Stewart, An optimal memory allocation scheme for scratch-pad-based embedded systems,
ACM Transactions on Embedded Computing Systems 1, 2002 (the integer program, without time).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .buffers import Buffer, sections_of
from .place import NODES, Progress, place

_GAP = 1e-3
_PROGRAM_NODES = 10_000


@dataclass(frozen=True)
class Space:
    """A memory that buffers may lie in."""

    name: str
    capacity: int | None = None
    """Bytes; ``None`` for as many as are wanted."""


@dataclass(frozen=True)
class Spread:
    """Where each buffer lies."""

    space: list[int]
    """Index of its memory; -1 where none had room."""
    offset: list[int]
    """Bytes within it."""
    used: list[int]
    """Bytes of each memory that are used."""
    traffic: list[int]
    """Bytes read from and written to each memory."""
    bound: list[int]
    """Bytes that could be read and written there at most, of what was left for it."""

    @property
    def fits(self) -> bool:
        return min(self.space, default=0) >= 0


def spread(
    buffers: Sequence[Buffer],
    traffic: Sequence[int],
    spaces: Sequence[Space],
    *,
    nodes: int = NODES,
    progress: Progress | None = None,
) -> Spread:
    """Places buffers in ``spaces``, the fastest first. ``traffic``: bytes that are read and written of each.

    Deterministic. One memory without a capacity is what ``place`` does.
    """
    left = list(range(len(buffers)))
    found = Spread([-1] * len(buffers), [0] * len(buffers), [], [], [])
    for k, memory in enumerate(spaces):
        chosen, bound = left, sum(traffic[i] for i in left)
        if memory.capacity is not None:
            chosen, bound = _chosen([buffers[i] for i in left], [traffic[i] for i in left], memory.capacity)
            chosen = [left[i] for i in chosen]
        placed = place([buffers[i] for i in chosen], nodes=nodes, progress=progress)
        if memory.capacity is not None and placed.height > memory.capacity:
            placed = place([buffers[i] for i in chosen], memory.capacity, nodes=nodes, progress=progress)
        used = 0
        for i, offset in zip(chosen, placed.offsets, strict=True):
            end = offset + buffers[i].size
            if memory.capacity is None or end <= memory.capacity:
                found.space[i], found.offset[i] = k, offset
                used = max(used, end)
        found.used.append(used)
        found.traffic.append(sum(traffic[i] for i in left if found.space[i] == k))
        found.bound.append(bound)
        left = [i for i in left if found.space[i] < 0]
    return found


def _chosen(buffers: Sequence[Buffer], traffic: Sequence[int], capacity: int) -> tuple[list[int], int]:
    """Those with the most traffic that fit at every moment, and the bound on their traffic."""
    possible = [i for i, b in enumerate(buffers) if b.size <= capacity]
    sections = sections_of([buffers[i] for i in possible])
    if sections.bound <= capacity:
        return possible, sum(traffic[i] for i in possible)
    from scipy import optimize, sparse

    solver: Any = optimize
    matrices: Any = sparse
    rows = [s for n in range(len(possible)) for s in range(sections.first[n], sections.last[n])]
    widths = sections.last - sections.first
    columns = np.repeat(np.arange(len(possible)), widths)
    sizes = np.repeat([buffers[i].size for i in possible], widths)
    shape = (len(sections.live), len(possible))
    matrix = matrices.csr_matrix((sizes, (rows, columns)), shape)
    gains = np.array([traffic[i] for i in possible], float)
    solved = solver.milp(
        -gains,
        constraints=solver.LinearConstraint(matrix, ub=capacity),
        integrality=1,
        bounds=solver.Bounds(0, 1),
        options={"mip_rel_gap": _GAP, "node_limit": _PROGRAM_NODES},
    )
    if solved.x is None:
        return [], sum(traffic[i] for i in possible)
    bound = int(-solved.mip_dual_bound) if solved.mip_dual_bound is not None else int(gains.sum())
    return [i for i, x in zip(possible, solved.x, strict=True) if x > 0.5], bound
