"""Operators that move elements: the same for numbers (in all three parts), integers, booleans and strings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from ...ir.graph import Node
from ...passes.shared import kernels_movement  # noqa: F401  # pyright: ignore[reportUnusedImport]  (it registers)
from ...passes.shared.kernels import KERNELS, NoKernel, axis_attr
from . import number as N
from .number import Array, Number, Undecided
from .operators import Item, int_items

_BY_KERNEL = frozenset(
    (
        *("Identity", "Transpose", "Concat", "Slice", "Gather", "GatherElements", "GatherND", "Expand"),
        *("Tile", "Trilu", "DepthToSpace", "SpaceToDepth", "ScatterND", "ScatterElements", "OneHot"),
    )
)
_SHAPES = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))
MOVES = _BY_KERNEL | _SHAPES | {"Pad", "Split", "Shape", "Size"}
"""Elements of the results are elements of operands, or depend on shapes alone."""


def move(node: Node, items: list[Item]) -> list[Item]:
    """The results of a node of ``MOVES``. ``node`` has constant operands where ``items`` has integers."""
    if node.op in ("Shape", "Size"):
        x = items[0]
        shape = () if x is None else x.shape
        whole = np.array(shape[node.attr("start", 0) : node.attr("end")], np.int64)
        return [whole if node.op == "Shape" else np.array(math.prod(shape), np.int64)]
    if node.op == "Pad":
        return [_pad(node, items)]
    moved = _moved_operands(node)
    if node.op == "Split":
        return _split(node, items)
    if node.op in _SHAPES:
        shape = _new_shape(node, items)
        return _on_parts(items, moved, lambda operands: [operands[0].reshape(shape)])
    return _on_parts(items, moved, lambda operands: KERNELS[node.op](node, operands))


def _moved_operands(node: Node) -> Callable[[int], bool]:
    """Which operands hold what is moved; the others say where to."""
    if node.op == "OneHot":
        return lambda i: i == 2
    if node.op in ("ScatterND", "ScatterElements"):
        return lambda i: i in (0, 2)
    return lambda i: i == 0 or node.op == "Concat"


def _on_parts(items: list[Item], moved: Callable[[int], bool], function: Callable[[Any], list[Array]]) -> list[Item]:
    numbers = [x for i, x in enumerate(items) if moved(i) and isinstance(x, Number)]
    if numbers and any(moved(i) and isinstance(x, np.ndarray) for i, x in enumerate(items)):
        raise Undecided("numbers stand beside integers")
    try:
        if not numbers:
            return list(function(items))
        parts = [function([x.parts[i] if isinstance(x, Number) else x for x in items]) for i in range(3)]
    except (NoKernel, ValueError, IndexError) as error:
        raise Undecided(str(error)) from error
    grid = numbers[0].grid if all(x.grid is numbers[0].grid for x in numbers) else None
    return [Number.of(results, grid) for results in zip(*parts, strict=True)]


def _new_shape(node: Node, items: list[Item]) -> tuple[int, ...]:
    x = items[0]
    assert x is not None
    given: Any = node.attrs.get("axes")
    axes = list(given) if given is not None else int_items(items, 1)
    match node.op:
        case "Reshape":
            wanted: Any = node.attrs.get("shape")
            return _reshaped(node, x.shape, list(wanted) if wanted is not None else int_items(items, 1) or [])
        case "Flatten":
            axis = int(node.attr("axis", 1))
            axis += len(x.shape) if axis < 0 else 0
            return math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
        case "Unsqueeze":
            rank = len(x.shape) + len(axes or ())
            places = {a % rank for a in axes or ()}
            sizes = iter(x.shape)
            return tuple(1 if i in places else next(sizes) for i in range(rank))
        case _:
            gone = {a % len(x.shape) for a in axes} if axes else {i for i, n in enumerate(x.shape) if n == 1}
            if any(x.shape[i] != 1 for i in gone):
                raise Undecided("Squeeze of an extent that is not 1")
            return tuple(n for i, n in enumerate(x.shape) if i not in gone)


def _reshaped(node: Node, shape: tuple[int, ...], wanted: list[int]) -> tuple[int, ...]:
    if not node.attr("allowzero", 0):
        wanted = [shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(wanted)]
    rest = math.prod(n for n in wanted if n != -1)
    if -1 in wanted:
        if not rest or math.prod(shape) % rest:
            raise Undecided(f"Reshape of {list(shape)} to {wanted}")
        wanted = [math.prod(shape) // rest if n == -1 else n for n in wanted]
    if math.prod(wanted) != math.prod(shape):
        raise Undecided(f"Reshape of {list(shape)} to {wanted}")
    return tuple(wanted)


def _split(node: Node, items: list[Item]) -> list[Item]:
    x = items[0]
    assert x is not None
    axis = axis_attr(node, len(x.shape), 0)
    given: Any = node.attrs.get("split")
    sizes = list(given) if given is not None else int_items(items, 1)
    if sizes is None:
        parts = int(node.attr("num_outputs", 0) or len(node.outputs))
        size = -(-x.shape[axis] // parts)
        sizes = [min(size, max(0, x.shape[axis] - i * size)) for i in range(parts)]
    if sum(sizes) != x.shape[axis] or len(sizes) != len(node.outputs):
        raise Undecided(f"split {sizes} does not fit extent {x.shape[axis]}")
    places = [0, *np.cumsum(sizes).tolist()]
    at = [(*[slice(None)] * axis, slice(a, b)) for a, b in itertools.pairwise(places)]
    return [x.map(lambda a, s=s: a[s]) if isinstance(x, Number) else x[s] for s in at]


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _pad(node: Node, items: list[Item]) -> Item:
    x = items[0]
    assert x is not None
    rank = len(x.shape)
    given: Any = node.attrs.get("pads") or node.attrs.get("paddings")
    pads = list(given) if given is not None else int_items(items, 1) or []
    axes = int_items(items, 3) if len(items) > 3 and items[3] is not None else list(range(rank))
    assert axes is not None
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    mode: Any = node.attr("mode", "constant")
    places = np.arange(math.prod(x.shape)).reshape(x.shape)
    try:
        cut = places[tuple(slice(max(-a, 0), n + min(b, 0)) for n, (a, b) in zip(x.shape, widths, strict=True))]
        plus = [(max(a, 0), max(b, 0)) for a, b in widths]
        how: dict[str, Any] = {"constant_values": -1} if mode in ("constant", b"constant") else {}
        index = np.pad(cut, plus, mode=cast("Any", _MODES[mode.decode() if isinstance(mode, bytes) else mode]), **how)
    except (ValueError, KeyError) as error:
        raise Undecided(f"Pad: {error}") from error
    return _filled(node, items, index)


def _filled(node: Node, items: list[Item], index: Array) -> Item:
    x, fill = items[0], items[2] if len(items) > 2 else None
    assert x is not None
    if fill is None:
        fill = N.number(float(node.attr("value", 0.0))) if isinstance(x, Number) else np.zeros((), x.dtype)
    if isinstance(x, Number) != isinstance(fill, Number):
        raise Undecided("numbers stand beside integers")
    if isinstance(x, Number) and isinstance(fill, Number):
        pairs = zip(x.parts, fill.parts, strict=True)
        return Number.of((_taken(a, b, index) for a, b in pairs), x.grid if fill.grid is x.grid else None)
    return _taken(cast("Array", x), cast("Array", fill), index)


def _taken(a: Array, fill: Array, index: Array) -> Array:
    """The elements at ``index``; -1 stands for the fill."""
    return np.append(a.reshape(-1), fill.reshape(-1)[:1])[index]
