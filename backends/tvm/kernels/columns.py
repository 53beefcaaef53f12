"""How the columns of a product (output channels, or N) are split into panels, and weights packed for them.

A panel is what one register tile computes side by side: ``vectors`` registers of ``lanes`` columns. Weights lie panel
after panel, in each the columns of every reduction index together: ``[panel, depth, width]``, read once from front
to back. Columns left over make one last, narrower panel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Panels:
    """A run of equal panels."""

    begin: int
    """First column."""
    count: int
    vectors: int
    lanes: int
    offset: int
    """Where their packed weights start, in columns: times the depth it is an index."""

    @property
    def width(self) -> int:
        return self.vectors * self.lanes


def split_columns(columns: int, vectors: int, lanes: int) -> tuple[Panels, ...]:
    """Full panels, then one for the rest with the fewest lanes (4 at least, unless ``lanes`` are fewer) that hold it.

    The last panel may be wider than what is left; what it computes beyond ``columns`` is not stored.
    """
    width = vectors * lanes
    full, rest = divmod(columns, width)
    found: list[Panels] = []
    if full:
        found.append(Panels(0, full, vectors, lanes, 0))
    if rest:
        narrow = min(lanes, max(4, 1 << (rest - 1).bit_length()))
        found.append(Panels(full * width, 1, -(-rest // narrow), narrow, full * width))
    return tuple(found)


def split_exactly(columns: int, vectors: int, lanes: int) -> tuple[Panels, ...]:
    """Panels of exactly ``columns``: nothing beyond them may be read. The rest has ever fewer lanes."""
    found: list[Panels] = []
    begin = 0
    while begin < columns:
        left = columns - begin
        while lanes > left:
            lanes //= 2
        vectors = min(vectors, left // lanes)
        count = left // (vectors * lanes)
        found.append(Panels(begin, count, vectors, lanes, begin))
        begin += count * vectors * lanes
    return tuple(found)


def packed_columns(panels: tuple[Panels, ...]) -> int:
    """Columns that packed weights have, those of padding among them."""
    return sum(p.count * p.width for p in panels)


def pack_columns(matrix: Array, panels: tuple[Panels, ...], depth: int = 1) -> Array:
    """``matrix`` [K, N] as panels, one after another, flat. ``depth`` neighbours in K stay together for each column
    (dot products of 8-bit integers take 4 at once); K is filled up with zeros to a multiple of it."""
    k = -(-matrix.shape[0] // depth) * depth
    parts: list[Array] = []
    for p in panels:
        wanted = p.count * p.width
        part = matrix[:, p.begin : p.begin + wanted]
        full = np.zeros((k, wanted), matrix.dtype)
        full[: part.shape[0], : part.shape[1]] = part
        split = full.reshape(k // depth, depth, p.count, p.width)
        parts.append(split.transpose(2, 0, 3, 1).reshape(-1))
    return np.concatenate(parts)
