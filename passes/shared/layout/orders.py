"""Orders of axes: ``order[i]`` is the axis of a value that comes ``i``-th in memory, as in Transpose's ``perm``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from ....ir.dims import Dim, SymDim, floordiv, mul
from ....ir.types import Layout

Order = tuple[int, ...]
_T = TypeVar("_T")


def plain(rank: int) -> Order:
    """The order in which a value is written."""
    return tuple(range(rank))


_LETTERS = {3: "NCW", 4: "NCHW", 5: "NCDHW"}
_OTHERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def layout_of(order: Order) -> Layout | None:
    """The name of an order: ``NHWC``, ``NCWH``; letters from A on where axes have none. The written order has none."""
    letters = _LETTERS.get(len(order), _OTHERS)
    return None if order == plain(len(order)) else Layout("".join(letters[a] for a in order))


def order_of(layout: Layout | None, rank: int) -> Order:
    """The order that a name says; raises ``ValueError`` for a name that is none of ``rank`` axes."""
    letters = _LETTERS.get(rank, _OTHERS)[:rank]
    if layout is None:
        return plain(rank)
    if sorted(layout.name) != sorted(letters):
        raise ValueError(f"layout {layout} is no order of the axes {letters}")
    return tuple(letters.index(letter) for letter in layout.name)


def inverse(order: Order) -> Order:
    """Where each axis is."""
    return tuple(order.index(a) for a in range(len(order)))


def permuted(items: Sequence[_T], order: Order) -> tuple[_T, ...]:
    """One item for each axis, in memory order."""
    return tuple(items[a] for a in order)


def between(a: Order, b: Order) -> Order:
    """``perm`` of the Transpose that makes a value stored in order ``b`` of one stored in order ``a``."""
    return tuple(a.index(axis) for axis in b)


def without(order: Order, gone: Sequence[int]) -> Order:
    """The order of what is left of the axes, counted anew, when some are taken out."""
    kept = [a for a in sorted(order) if a not in set(gone)]
    return tuple(kept.index(a) for a in order if a not in set(gone))


def with_axes(order: Order, fresh: Sequence[int]) -> Order:
    """The order where new axes come in at positions ``fresh`` of the result; each is stored behind the axis that it is
    written behind, first where there is none."""
    rank = len(order) + len(fresh)
    kept = [a for a in range(rank) if a not in set(fresh)]
    found = [kept[a] for a in order]
    for axis in sorted(fresh):
        found.insert(found.index(axis - 1) + 1 if axis else 0, axis)
    return tuple(found)


def refined(source: Sequence[Dim], grouped: Sequence[Dim]) -> tuple[list[Dim], list[list[int]]] | str:
    """The finest extents that two shapes of a Reshape are made of, and for each axis of ``grouped`` the positions that
    it takes; else why there are none that can be seen."""
    atoms: list[Dim] = []
    groups: list[list[int]] = []
    left = list(reversed(source))
    for extent in grouped:
        own: list[int] = []
        groups.append(own)
        rest = extent
        while rest != 1 or (not own and left and left[-1] == 1):
            if not left:
                return f"{list(grouped)} does not group {list(source)}"
            piece = left.pop()
            if piece == rest:
                rest = 1
            elif piece == 1:
                pass  # goes along with the group
            elif (quotient := exactly(rest, piece)) is not None:
                rest = quotient
            elif (quotient := exactly(piece, rest)) is not None:
                left.append(quotient)
                piece, rest = rest, 1
            else:
                return f"extents {rest} and {piece} share no visible factor"
            own.append(len(atoms))
            atoms.append(piece)
    if left:
        return f"{list(grouped)} does not group {list(source)}"
    return atoms, groups


def exactly(a: Dim, b: Dim) -> Dim:
    """``a / b`` where it is exact for all values of the symbols."""
    if a is None or b is None or b == 1 or b == 0:
        return None
    quotient = floordiv(a, b)
    known = isinstance(quotient, int) or (isinstance(quotient, SymDim) and "floordiv" not in str(quotient))
    return quotient if known and mul(quotient, b) == a else None


def regrouped(order: Order, source: Sequence[Sequence[int]], result: Sequence[Sequence[int]]) -> Order | None:
    """The order in which a Reshape gives its result when it takes its operand in ``order``; ``None`` where the result's
    elements do not lie together so. Both groupings are of the same atoms; groups may be empty (extent 1)."""
    atoms = [atom for axis in order for atom in source[axis]]
    place = {atom: i for i, atom in enumerate(atoms)}
    starts: list[tuple[float, int]] = []
    behind = -1.0
    for axis, group in enumerate(result):
        at = [place[atom] for atom in group]
        if any(b != a + 1 for a, b in pairwise(at)):
            return None
        start = float(at[0]) if at else behind + (axis + 1) / (len(result) + 1)
        starts.append((start, axis))
        behind = at[-1] if at else behind
    return tuple(axis for _, axis in sorted(starts))
