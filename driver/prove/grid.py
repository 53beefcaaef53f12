"""GridSample of exact numbers: weighted sums of the elements around coordinates that are numbers themselves.

Between which elements a coordinate lies is decided by the number beside its image. Source: GridSample-16, 20, 22.
"""

from __future__ import annotations

import itertools

import numpy as np

from ...ir.graph import Node
from . import number as N
from .number import Array, Number, Undecided
from .operators import Item, num, operator
from .ring import ring, same

_LINEAR = ("linear", "bilinear")
"""What it is called, and what it was called before opset 20."""


@operator("GridSample")
def _grid_sample(node: Node, items: list[Item]) -> list[Item]:
    x, grid = num(items, 0), num(items, 1)
    mode, padding = str(node.attr("mode", "linear")), str(node.attr("padding_mode", "zeros"))
    if mode not in (*_LINEAR, "nearest") or padding not in ("zeros", "border"):
        raise Undecided(f"GridSample by {mode}, with {padding}")
    sizes = x.shape[2:]
    places = [
        _place(grid.map(lambda a, k=k: a[..., -1 - k]), size, bool(node.attr("align_corners", 0)), padding)
        for k, size in enumerate(sizes)
    ]
    if mode == "nearest":
        return [_taken(x, [_whole(p, 0.5) for p in places])]
    lows = [_whole(p, 0.0) for p in places]
    rests = [N.subtract(p, N.from_ints(low)) for p, low in zip(places, lows, strict=True)]
    found: Number | None = None
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        part = _taken(x, [low + step for low, step in zip(lows, corner, strict=True)])
        for step, rest in zip(corner, rests, strict=True):
            weight = rest if step else N.subtract(N.number(1.0), rest)
            part = N.multiply(part, weight.map(lambda a: a[:, None]))
        found = part if found is None else N.add(found, part)
    return [found]


def _place(coordinate: Number, size: int, corners: bool, padding: str) -> Number:
    """Where a coordinate between -1 and 1 lies along an axis, in elements."""
    shifted = N.multiply(N.add(coordinate, N.number(1.0)), N.number(size - 1 if corners else size))
    found = N.multiply(shifted if corners else N.subtract(shifted, N.number(1.0)), N.number(0.5))
    if padding == "zeros":
        return found
    return N.smallest(N.largest(found, N.number(0.0)), N.number(size - 1))


def _whole(x: Number, shift: float) -> Array:
    """The largest integers up to ``x + shift``. Raises :class:`Undecided` where that is too close to call."""
    near = x.near + shift
    whole = np.rint(near)
    exact = same(x.field, ring().from_floats(whole - shift))
    if ((np.abs(near - whole) < N.CLOSE * (1 + np.abs(near))) & ~exact).any() or (shift and exact.any()):
        raise Undecided("a coordinate is too close to an element's border")
    return np.where(exact, whole, np.floor(near)).astype(np.int64)


def _taken(x: Number, places: list[Array]) -> Number:
    """The elements there (``[N, C, ...]``); zeros outside."""
    sizes = x.shape[2:]
    inside = np.all([(p >= 0) & (p < n) for p, n in zip(places, sizes, strict=True)], axis=0)
    batch = np.arange(x.shape[0]).reshape(-1, *[1] * len(sizes))
    bounded = tuple(np.clip(p, 0, n - 1) for p, n in zip(places, sizes, strict=True))
    found = x.map(lambda a: np.moveaxis(np.moveaxis(a, 1, -1)[(batch, *bounded)], -1, 1))
    return N.choose(inside[:, None], found, N.number(0.0))
