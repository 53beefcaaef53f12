"""What Fourier transforms compute, on exact numbers."""

from __future__ import annotations

import numpy as np

from ...ir.graph import Node
from ...passes.shared.kernels import axis_attr
from . import number as N
from .number import Number, Undecided
from .operators import Item, int_items, maybe, num, operator


@operator("STFT")
def _frames(node: Node, items: list[Item]) -> list[Item]:
    x, window = _real(num(items, 0), 2), maybe(items, 2)
    step, lengths = int_items(items, 1), int_items(items, 3) or (window.shape if window is not None else None)
    if not step or not lengths:
        raise Undecided("frames of no step or no length")
    length = lengths[0]
    starts = np.arange(0, x.shape[1] - length + 1, step[0])
    places = starts[:, None] + np.arange(length)
    frames = x.map(lambda a: a[:, places])
    if window is not None:
        frames = N.multiply(frames, window)
    return [_transformed(frames, length, half=bool(node.attr("onesided", 1)))]


@operator("DFT")
def _rows(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    rank = len(x.shape)
    if node.attr("inverse", 0):
        raise Undecided("an inverse transform")
    lengths, axes = int_items(items, 1), int_items(items, 2)
    axis = axis_attr(node, rank, 1) if node.version < 20 else axes[0] % rank if axes else rank - 2
    rows = _real(x, 0).map(lambda a: np.moveaxis(a, axis, -1))
    length = lengths[0] if lengths else x.shape[axis]
    found = _transformed(rows, length, half=bool(node.attr("onesided", 0)))
    return [found.map(lambda a: np.moveaxis(a, -2, axis))]


def _real(x: Number, plain: int) -> Number:
    """Without the last axis, of 1, which signals of rank ``plain`` do not have."""
    if len(x.shape) == plain:
        return x
    if x.shape[-1] != 1:
        raise Undecided("a transform of complex numbers")
    return x.map(lambda a: a[..., 0])


def _transformed(rows: Number, length: int, *, half: bool) -> Number:
    """Real and imaginary parts ``[..., bins, 2]`` of rows ``[..., count]``, cut or filled with zeros to ``length``."""
    count = min(rows.shape[-1], length)
    bins = length // 2 + 1 if half else length
    angles = np.multiply.outer(np.arange(count), np.arange(bins)) % length * (2 * np.pi / length)
    kept = rows.map(lambda a: a[..., :count])
    parts = [N.matmul(kept, N.constant(part)) for part in (np.cos(angles), -np.sin(angles))]
    return Number.of(np.stack(pair, axis=-1) for pair in zip(*(p.parts for p in parts), strict=True))
