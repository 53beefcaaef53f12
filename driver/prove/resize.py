"""Resize and Upsample of exact numbers: along each axis weighted sums of one or two elements.

Coordinates are rational, so that floors and ties are decided exactly. Source: Upsample-7, 9; Resize-10, 11, 13, 18, 19.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ...ir.graph import Node
from . import number as N
from .number import Number, Undecided
from .operators import Item, int_items, maybe, num, operator


@dataclass(frozen=True)
class _Axis:
    """One axis: extents, and elements of the result for one element of the operand."""

    size: int
    out: int
    scale: Fraction


@operator("Resize", "Upsample")
def _resize(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    mode = _text(node, "mode", "nearest")
    for axis, places in _axes(node, items, x.shape).items():
        coordinates = [_coordinate(node, places, i) for i in range(places.out)]
        x = _taken(node, x, axis, coordinates) if mode == "nearest" else _blended(node, x, axis, coordinates, places)
    return [x]


def _text(node: Node, name: str, default: str) -> str:
    given: Any = node.attr(name, default)
    return given.decode() if isinstance(given, bytes) else str(given)


def _axes(node: Node, items: list[Item], shape: tuple[int, ...]) -> dict[int, _Axis]:
    """The axes that are resized."""
    rank = len(shape)
    given: Any = node.attrs.get("axes")
    axes = [a % rank for a in given] if given is not None else list(range(rank))
    old = node.op == "Upsample" or node.version < 11
    sizes = None if old else int_items(items, 3)
    scales = None if sizes else _scales(node, maybe(items, 1 if old else 2))
    if sizes and _text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Undecided("Resize that keeps the aspect ratio")
    found: dict[int, _Axis] = {}
    for i, axis in enumerate(axes):
        scale = Fraction(sizes[i], shape[axis]) if sizes else scales[i] if scales else Fraction(1)
        found[axis] = _Axis(shape[axis], sizes[i] if sizes else math.floor(shape[axis] * scale), scale)
    return found


def _scales(node: Node, operand: Number | None) -> list[Fraction]:
    given: Any = node.attrs.get("scales") if operand is None else N.concrete(operand).reshape(-1).tolist()
    if given is None:
        raise Undecided(f"{node.op} without scales")
    return [Fraction(float(s)) for s in given]


def _coordinate(node: Node, axis: _Axis, i: int) -> Fraction:
    """Where element ``i`` of the result lies in the operand."""
    half = Fraction(1, 2)
    old = node.op == "Upsample" or node.version < 11
    match "asymmetric" if old else _text(node, "coordinate_transformation_mode", "half_pixel"):
        case "half_pixel":
            return (i + half) / axis.scale - half
        case "pytorch_half_pixel":
            return (i + half) / axis.scale - half if axis.out > 1 else Fraction(0)
        case "half_pixel_symmetric":
            adjusted = Fraction(axis.out) / (axis.scale * axis.size)
            return Fraction(axis.size, 2) * (1 - adjusted) + (i + half) / axis.scale - half
        case "align_corners":
            return Fraction(i * (axis.size - 1), axis.out - 1) if axis.out > 1 else Fraction(0)
        case "asymmetric":
            return Fraction(i) / axis.scale
        case other:
            raise Undecided(f"Resize with {other}")


_HALF = Fraction(1, 2)
_NEAREST: dict[str, Callable[[Fraction], int]] = {
    "round_prefer_floor": lambda c: math.ceil(c - _HALF),
    "round_prefer_ceil": lambda c: math.floor(c + _HALF),
    "floor": math.floor,
    "ceil": math.ceil,
}


def _taken(node: Node, x: Number, axis: int, coordinates: list[Fraction]) -> Number:
    """The nearest elements."""
    old = node.op == "Upsample" or node.version < 11
    if old and any(b - a > 1 for a, b in itertools.pairwise(coordinates)):
        raise Undecided("Resize-10 that makes smaller: its rounding is not specified")
    rounded = _NEAREST.get("floor" if old else _text(node, "nearest_mode", "round_prefer_floor"))
    if rounded is None:
        raise Undecided("an unknown nearest_mode")
    places = [min(max(rounded(c), 0), x.shape[axis] - 1) for c in coordinates]
    return x.map(lambda a: a.take(places, axis))


def _blended(node: Node, x: Number, axis: int, coordinates: list[Fraction], places: _Axis) -> Number:
    """Linear interpolation, and of any kind where every coordinate is an element's own."""
    if all(c.denominator == 1 and 0 <= c < places.size for c in coordinates):
        return x.map(lambda a: a.take([int(c) for c in coordinates], axis))
    if _text(node, "mode", "nearest") != "linear" or node.attr("exclude_outside", 0):
        raise Undecided("Resize by cubic interpolation")
    if node.attr("antialias", 0) and places.scale < 1:
        raise Undecided("Resize with a filter against aliasing")
    inside = [min(max(c, Fraction(0)), Fraction(places.size - 1)) for c in coordinates]
    low = [math.floor(c) for c in inside]
    high = [min(n + 1, places.size - 1) for n in low]
    rest = _column([c - n for c, n in zip(inside, low, strict=True)], len(x.shape) - axis)
    left, right = (x.map(lambda a, at=at: a.take(at, axis)) for at in (low, high))
    return N.add(left, N.multiply(N.subtract(right, left), rest))


def _column(parts: list[Fraction], rank: int) -> Number:
    """Rational numbers along the first of ``rank`` axes."""
    shape = (len(parts), *[1] * (rank - 1))
    above, below = ([p.numerator for p in parts], [p.denominator for p in parts])
    return N.divide(*(N.from_ints(np.array(part, np.int64).reshape(shape)) for part in (above, below)))
