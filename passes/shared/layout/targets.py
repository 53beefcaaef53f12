"""Which operators have kernels for other layouts on a target, and what those take."""

from __future__ import annotations

from ....ir.graph import Node
from ...target import Target
from .convolutions import Race, ways
from .costs import Sizes
from .graphs import Extra
from .moves import Move


def has_table(target: Target) -> bool:
    """Whether times of kernels under other layouts are known for the target: they were measured with AVX-512."""
    return target.runtime == "ort" and target.arch == "x86_64" and target.vector_bits >= 512


def ways_on(target: Target | None, sizes: Sizes, race: Race | None) -> Extra:
    """Further ways to compute nodes on the target; without a table those that won a ``race`` there."""
    table = target is None or has_table(target)

    def found(node: Node) -> list[tuple[float, Move]]:
        every = ways(node, sizes, target.vector_bits // 32 if target is not None else 16, race)
        return every if table else [way for way in every if way[0] < 0]

    return found
