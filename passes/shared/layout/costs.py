"""What it costs to store values in another order of axes, and what operators cost under each order: a table.

Measured for ONNX Runtime 1.31.1 on one core of an x86-64 processor with AVX-512 (float32, tensors that fit its caches);
figures are nanoseconds. Only their relations decide: what moves one axis costs little more than a copy, a general
Transpose 15 to 25 times as much, so that two or three moves of one axis each are cheaper than it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ....ir.dims import Dim, evaluate, product
from ....ir.graph import Node, Value
from .moves import Move
from .orders import Order, between, permuted, plain

_COPY = 0.08
"""An element copied."""
_MOVED = 0.25
"""An element of a tensor of which one axis is moved."""
_SCATTERED = 3.7
"""An element of a general Transpose."""
_RUN = 13.0
"""A run of elements that stay together in one."""
_CALL = 2000.0
"""One more operator."""
_PIECE = 3.0
"""A run that is cut out or joined."""
_REDUCED, _REDUCED_ACROSS = 0.08, 0.45
_SOFTMAX, _SOFTMAX_INNER, _SOFTMAX_ACROSS = 0.4, 1.1, 8.6
"""An element along the last axis, the last but one, another one."""
_GUESS = 16
"""Extent taken for a symbol of which no sample says what it is."""

_FUSED = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish"})
"""Activations that become part of the convolution right in front of them."""
_PIECES = frozenset({"Concat", "Split", "Slice", "Pad", "Gather", "Tile"})


class _Guessed(dict[str, int]):
    """Symbols, of which those that nothing is known of have a guess."""

    def get(self, key: str, default: int | None = None) -> int:  # type: ignore[override]
        return super().get(key, _GUESS)


@dataclass
class Sizes:
    """Extents as numbers."""

    known: Mapping[str, int] = field(default_factory=dict[str, int])
    """Symbols that samples tell."""
    steps: bool = True
    """Whether a Transpose may be several that move one axis each."""

    def told(self, d: Dim) -> int | None:
        """The extent, where it is known."""
        return evaluate(d, self.known) if d is not None else None

    def extent(self, d: Dim) -> int:
        """The extent, or a guess."""
        found = evaluate(d, _Guessed(self.known)) if d is not None else _GUESS
        return max(found or 1, 1)

    def extents(self, value: Value) -> tuple[int, ...]:
        return tuple(self.extent(d) for d in value.shape or ())

    def count(self, value: Value) -> int:
        return math.prod(self.extents(value))


def merged(extents: Sequence[Dim], perm: Order) -> tuple[list[Dim], Order]:
    """The same Transpose without axes of extent 1, with axes that stay neighbours as one."""
    axes = [a for a in perm if extents[a] != 1]
    groups: list[list[int]] = []
    large = sorted(axes)
    for axis in axes:
        behind = large.index(axis)
        if groups and behind and large[behind - 1] == groups[-1][-1]:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    firsts = sorted(g[0] for g in groups)
    sizes = {g[0]: product(extents[a] for a in g) for g in groups}
    return [sizes[a] for a in firsts], tuple(firsts.index(g[0]) for g in groups)


def _product(items: Iterable[Dim]) -> int:
    return math.prod(n for n in items if isinstance(n, int))


def single_moves(perm: Order) -> list[tuple[int, int]]:
    """A shortest list of moves ``(from, to)`` of one axis each that makes ``perm`` of the written order."""
    stay = _longest_rising(perm)
    current = list(range(len(perm)))
    moves: list[tuple[int, int]] = []
    placed = set(stay)
    for at, axis in enumerate(perm):
        if axis in placed:
            continue
        start = current.index(axis)
        current.pop(start)
        before = next((p for p in reversed(perm[:at]) if p in placed), None)
        end = current.index(before) + 1 if before is not None else 0
        current.insert(end, axis)
        placed.add(axis)
        moves.append((start, end))
    return moves


def _longest_rising(perm: Order) -> list[int]:
    best: list[list[int]] = []
    for axis in perm:
        before = max((b for b in best if b[-1] < axis), key=len, default=list[int]())
        best.append([*before, axis])
    return max(best, key=len, default=list[int]())


def transpose_ns(extents: Sequence[int], perm: Order, *, split: bool) -> float:
    """Time of a Transpose; with ``split`` of several, each of which moves one axis, where that takes less."""
    sizes, order = merged(extents, perm)
    count = _product(sizes)
    if len(sizes) < 2 or order == plain(len(order)):
        return _CALL + _COPY * count
    moves = len(single_moves(order))
    apart = moves * (_CALL + _MOVED * count)
    if moves == 1:
        return apart
    run = _product(sizes[-1:]) if order[-1] == len(order) - 1 else 1
    whole = _CALL + min(_SCATTERED, _COPY + _RUN / run) * count
    return min(whole, apart) if split else whole


def conversion_ns(value: Value, given: Order, wanted: Order, sizes: Sizes) -> float:
    """Time that it takes to store a value in another order too, and to keep an activation out of a convolution."""
    time = transpose_ns(permuted(sizes.extents(value), given), between(given, wanted), split=sizes.steps)
    fused = value.producer is not None and value.producer.op == "Conv" and _activation(value)
    return time + (_CALL + _COPY * sizes.count(value) if fused else 0.0)


def _activation(value: Value) -> bool:
    user = value.sole_user
    return user is not None and user.op in _FUSED and not user.domain


def apart_ns(conv: Node, sizes: Sizes) -> float:
    """Time of the bias and the activation of a convolution by themselves: a product of matrices takes neither in."""
    parts = (conv.input(2) is not None) + _activation(conv.output)
    return parts * (_CALL + _COPY * sizes.count(conv.output))


def move_ns(node: Node, move: Move, sizes: Sizes) -> float:
    """Time of a node that moves or reduces elements, as far as the order of axes changes it."""
    if move.cut is None or not node.outputs:
        return 0.0
    if node.op in _PIECES:
        values = node.outputs if node.op == "Split" else node.outputs[:1]
        parts = len(node.inputs) if node.op == "Concat" else 1
        return sum(_pieces_ns(v, order, move.cut, sizes, parts) for v, order in zip(values, move.gives, strict=False))
    source = node.inputs[0]
    if source is None or source.rank is None:
        return 0.0
    order = move.takes[0] or plain(source.rank)
    stored = permuted(sizes.extents(source), order)
    behind = sum(n != 1 for n in stored[move.cut + 1 :])
    ahead = _product(stored[: move.cut])
    if node.op.startswith(("Softmax", "LogSoftmax")):
        rate = _SOFTMAX if not behind else _SOFTMAX_INNER if behind == 1 and ahead != 1 else _SOFTMAX_ACROSS
        return rate * _product(stored)
    return (_REDUCED if behind < 2 else _REDUCED_ACROSS) * _product(stored)


def _pieces_ns(value: Value, order: Order, cut: int, sizes: Sizes, parts: int) -> float:
    stored = permuted(sizes.extents(value), order)
    run = _product(stored[cut:]) / parts
    return _product(stored) * min(_COPY + _PIECE / run, 0.5)
