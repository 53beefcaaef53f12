"""Convolution of two spatial axes, direct: no padded copy, no unfolded patches.

A tile is some neighbouring pixels of one output row times some vectors of output channels. Its reduction runs over
input channels and kernel positions with one broadcast per pixel and one multiply-add per register. Pixels at the left
and right border have their own tiles, in which positions outside the image are left out when the kernel is written;
rows at the upper and lower border run fewer kernel rows. A pointwise convolution of stride 1 sees the image as one
row.

Layouts: ``NCHW`` (block 1: first layers, few channels) or ``NCHW[b]c``: shape ``[N, ceil(C / b), H, W, b]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from ....ir.errors import BackendError
from .columns import Array, Panels, pack_columns, packed_columns, split_columns
from .emit import (
    Buffer,
    Expr,
    Stmt,
    ceildiv,
    function,
    lanes,
    loop,
    maximum,
    minimum,
    parallel,
    parameter,
    seq,
    spread,
    store,
)
from .machine import Machine
from .math import with_math
from .tile import PLAIN, Epilogue, Registers, Tile, over_lanes, rank_tiles, spans

WORTH = 200_000
"""Multiply-adds from which on it pays to use several threads."""


@dataclass(frozen=True)
class Conv:
    """A convolution. Extents in elements; ``batch`` may be symbolic."""

    batch: Expr
    channels: int
    height: int
    width: int
    outputs: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, left, bottom, right."""
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    in_block: int = 1
    out_block: int = 1

    @property
    def out_height(self) -> int:
        return self._out(self.height + self.pads[0] + self.pads[2], 0)

    @property
    def out_width(self) -> int:
        return self._out(self.width + self.pads[1] + self.pads[3], 1)

    def _out(self, padded: int, axis: int) -> int:
        return (padded - (self.kernel[axis] - 1) * self.dilations[axis] - 1) // self.strides[axis] + 1

    @property
    def in_shape(self) -> tuple[Expr, ...]:
        return blocked((self.batch, self.channels, self.height, self.width), self.in_block)

    @property
    def out_shape(self) -> tuple[Expr, ...]:
        return blocked((self.batch, self.outputs, self.out_height, self.out_width), self.out_block)

    @property
    def depth(self) -> int:
        """Products in one sum."""
        return self.channels // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def products(self) -> int:
        """Multiply-adds of one sample."""
        return self.depth * self.outputs * self.out_height * self.out_width

    @property
    def flat(self) -> bool:
        """Whether pixels map to pixels one to one, so that the image may be seen as one row."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @property
    def row(self) -> int:
        """Pixels of what tiles are cut from."""
        return self.out_height * self.out_width if self.flat else self.out_width


def blocked(shape: tuple[Expr, ...], block: int) -> tuple[Expr, ...]:
    """``[N, C, ...]`` stored in blocks of channels."""
    if block == 1:
        return shape
    return (shape[0], -(-shape[1] // block), *shape[2:], block)


def tiles(conv: Conv, machine: Machine) -> list[Tile]:
    """Schedules to choose from, best guess first; at most 4."""
    ranked = rank_tiles(conv.row, conv.outputs // conv.groups, machine.registers, machine.lanes())
    unroll = 2 if conv.in_block > 1 and conv.in_block % 2 == 0 else 1
    return [replace(t, unroll=unroll) for t in ranked[:4]]


def unsupported(conv: Conv) -> str | None:
    """Why there is no kernel of this file for it; ``None`` where there is."""
    if conv.channels % conv.groups or conv.outputs % conv.groups:
        return f"{conv.channels} channels and {conv.outputs} outputs are no multiples of {conv.groups} groups"
    if conv.groups > 1 and conv.outputs // conv.groups % conv.out_block:
        return f"{conv.outputs // conv.groups} outputs a group are no multiple of blocks of {conv.out_block}"
    if conv.groups > 1 and conv.channels // conv.groups % conv.in_block:
        return f"{conv.channels // conv.groups} channels a group are no multiple of blocks of {conv.in_block}"
    return None


def packed_size(conv: Conv, tile: Tile) -> int:
    """Elements of packed weights."""
    return conv.groups * packed_columns(_panels(conv, tile)) * conv.depth


def pack(weights: Array, conv: Conv, tile: Tile) -> Array:
    """Weights ``[M, C / groups, kH, kW]`` in the order in which ``build``'s kernel reads them; flat."""
    order = reduction_order(weights, conv.in_block)
    panels = _panels(conv, tile)
    return np.concatenate([pack_columns(g.T, panels) for g in np.split(order, conv.groups)])


def reduction_order(weights: Array, block: int) -> Array:
    """``[M, C, kH, kW]`` as ``[M, K]``, K running over blocks of channels, kernel positions, channels of a block."""
    outputs, channels = weights.shape[:2]
    full = channels // block * block
    parts = [weights[:, :full].reshape(outputs, full // block, block, *weights.shape[2:]), weights[:, None, full:]]
    return np.concatenate([p.transpose(0, 1, 3, 4, 2).reshape(outputs, -1) for p in parts], axis=1)


def build(conv: Conv, machine: Machine, tile: Tile, epilogue: Epilogue = PLAIN, *, name: str = "conv") -> Any:
    """The kernel ``(x, weights as packed, extras..., output)``. Raises ``BackendError`` where ``unsupported``."""
    if (why := unsupported(conv)) is not None:
        raise BackendError(f"no kernel for {conv}: {why}", where="tvm", help="planish must not have asked for it")
    writer = _Writer(conv, tile, epilogue)
    extras = writer.extras
    body = seq([writer.panels(panels) for panels in _panels(conv, tile)])
    return with_math(function([writer.x, writer.weights, *extras, writer.out], body, name))


def _panels(conv: Conv, tile: Tile) -> tuple[Panels, ...]:
    return split_columns(conv.outputs // conv.groups, tile.vectors, tile.lanes)


@dataclass(frozen=True)
class _Place:
    """Where a tile lies: sample, group, panel, and its first pixel."""

    n: Expr
    group: Expr
    panel: Expr
    y: Expr
    x: Expr


class _Writer:
    """Writes the loop nest of one convolution."""

    def __init__(self, conv: Conv, tile: Tile, epilogue: Epilogue) -> None:
        self.conv, self.tile, self.epilogue = conv, tile, epilogue
        self.x: Buffer = parameter("x", conv.in_shape, "float32")
        self.weights: Buffer = parameter("weights", (packed_size(conv, tile),), "float32")
        self.extras = epilogue.parameters()
        self.out: Buffer = parameter("out", conv.out_shape, epilogue.dtype)
        self.group_size = packed_columns(_panels(conv, tile)) * conv.depth

    def panels(self, panels: Panels) -> Stmt:
        """All output of a run of panels."""
        conv = self.conv
        worth = conv.products > WORTH

        def row(n: Expr, group: Expr, panel: Expr, y: Expr) -> Stmt:
            return seq([self._span(panels, _Place(n, group, panel, y, 0), *s) for s in self._spans()])

        if not conv.flat:
            return parallel((conv.batch, conv.groups, panels.count, conv.out_height), row, worth=worth)

        def part(span: tuple[int, int, int], n: Expr, group: Expr, panel: Expr, t: Expr) -> Stmt:
            return self._tile(panels, _Place(n, group, panel, 0, span[0] + t * span[2]), span[2])

        extents = (conv.batch, conv.groups, panels.count)
        return seq([parallel((*extents, span[1]), partial(part, span), worth=worth) for span in self._spans()])

    def _spans(self) -> Iterator[tuple[int, int, int]]:
        """Tiles of a row, those that touch a border one by one."""
        for begin, count, rows in spans(self.conv.row, self.tile.rows):
            inner = [t for t in range(count) if self._inside(begin + t * rows, rows)]
            if not inner:
                yield from ((begin + t * rows, 1, rows) for t in range(count))
                continue
            yield from ((begin + t * rows, 1, rows) for t in range(inner[0]))
            yield begin + inner[0] * rows, inner[-1] - inner[0] + 1, rows
            yield from ((begin + t * rows, 1, rows) for t in range(inner[-1] + 1, count))

    def _inside(self, begin: int, rows: int) -> bool:
        """Whether no pixel of a tile reads left or right of the image."""
        return all(self._valid(begin + r, kx) for r in (0, rows - 1) for kx in (0, self.conv.kernel[1] - 1))

    def _valid(self, x: int, kx: int) -> bool:
        conv = self.conv
        return 0 <= x * conv.strides[1] - conv.pads[1] + kx * conv.dilations[1] < conv.width or conv.flat

    def _span(self, panels: Panels, place: _Place, begin: int, count: int, rows: int) -> Stmt:
        inside = self._inside(begin, rows)
        return loop(
            count,
            lambda t: self._tile(panels, replace(place, x=begin + t * rows), rows, inside=inside),
            name="xt",
        )

    def _tile(self, panels: Panels, place: _Place, rows: int, *, inside: bool = True) -> Stmt:
        registers = Registers(rows, panels.vectors, panels.lanes)
        sums = [self._reduce(registers, panels, place, *chunk, inside) for chunk in self._chunks()]
        return seq(registers.start(), sums, self._write(registers, panels, place))

    def _chunks(self) -> list[tuple[int, int, int, int]]:
        """The reduction's blocks of channels: (first block, blocks, channels of each, first reduction index)."""
        conv = self.conv
        channels = conv.channels // conv.groups
        full, rest = divmod(channels, conv.in_block)
        positions = conv.kernel[0] * conv.kernel[1]
        found = [(0, full, conv.in_block, 0)] if full else []
        return [*found, (full, 1, rest, full * conv.in_block * positions)] if rest else found

    def _reduce(
        self,
        registers: Registers,
        panels: Panels,
        place: _Place,
        first: int,
        blocks: int,
        length: int,
        offset: int,
        inside: bool,
    ) -> Stmt:
        conv = self.conv
        kernel_width = conv.kernel[1]
        begin, end = self._kernel_rows(place.y)

        def position(b: Expr, ky: Expr, kx: Expr, rows: Sequence[int]) -> Stmt:
            k = offset + ((b * conv.kernel[0] + ky) * kernel_width + kx) * length
            unroll = self.tile.unroll if length % self.tile.unroll == 0 else 1

            def steps(c: Expr) -> Stmt:
                return seq([step(c * unroll + u) for u in range(unroll)])

            def step(c: Expr) -> Stmt:
                return registers.step(
                    lambda r: spread(self._input(place, first + b, ky, kx, c, r), panels.lanes),
                    lambda v: self._weight(panels, place, k + c, v),
                    rows,
                )

            return loop(length // unroll, steps, name="c")

        def columns(b: Expr, ky: Expr) -> Stmt:
            every = tuple(range(registers.rows))
            if inside:
                return loop(kernel_width, lambda kx: position(b, ky, kx, every), name="kx")
            runs = groupby(range(kernel_width), lambda kx: tuple(r for r in every if self._valid(place.x + r, kx)))
            parts: list[Stmt] = []
            for rows, run in runs:
                run = list(run)
                one = partial(position, b, ky, rows=rows)
                parts.extend([loop(len(run), one, name="kx", begin=run[0])] if rows else [])
            return seq(parts)

        def block(b: Expr) -> Stmt:
            return loop(end - begin, lambda ky: columns(b, ky), name="ky", begin=begin)

        return loop(blocks, block, name="block")

    def _kernel_rows(self, y: Expr) -> tuple[Expr, Expr]:
        """Kernel rows that lie inside the image for an output row."""
        conv = self.conv
        size, stride, dilation, pad = conv.kernel[0], conv.strides[0], conv.dilations[0], conv.pads[0]
        lowest = (conv.out_height - 1) * stride - pad + (size - 1) * dilation
        begin = maximum(0, ceildiv(pad - y * stride, dilation)) if pad else 0
        end = minimum(size, ceildiv(conv.height + pad - y * stride, dilation)) if lowest >= conv.height else size
        return begin, end

    def _input(self, place: _Place, block: Expr, ky: Expr, kx: Expr, c: Expr, row: int) -> Expr:
        conv = self.conv
        y = place.y * conv.strides[0] - conv.pads[0] + ky * conv.dilations[0]
        x = (place.x + row) * conv.strides[1] - conv.pads[1] + kx * conv.dilations[1]
        block = place.group * (conv.channels // conv.groups // conv.in_block) + block
        # A flat image is read beyond its first row: the address is the same.
        return self.x[place.n, block, y, x] if conv.in_block == 1 else self.x[place.n, block, y, x, c]

    def _weight(self, panels: Panels, place: _Place, k: Expr, vector: int) -> Expr:
        start = place.group * self.group_size + panels.offset * self.conv.depth
        column = (place.panel * self.conv.depth + k) * panels.width + vector * panels.lanes
        return self.weights[lanes(start + column, panels.lanes)]

    def _write(self, registers: Registers, panels: Panels, place: _Place) -> Stmt:
        conv, block = self.conv, self.conv.out_block
        group_columns = conv.outputs // conv.groups
        stored = -(-group_columns // block) * block
        piece = min(block, panels.lanes)

        def put(row: int, column: int, element: Callable[[Expr], Expr]) -> Stmt | None:
            if panels.begin + column >= stored:
                return None
            channel = place.group * group_columns + panels.begin + place.panel * panels.width + column
            x = place.x + row
            # The epilogue gets the true row and column; our own store goes by the address, which is the same.
            at = (x // conv.out_width, x % conv.out_width) if conv.flat else (place.y, x)

            def one(j: Expr) -> Stmt:
                def index(y: Expr, x: Expr) -> tuple[Expr, ...]:
                    if block == 1:
                        return (place.n, channel, y, x)
                    return (place.n, channel // block, y, x, channel % block + j)

                value = self.epilogue.apply(element(j), index(*at), self.extras)
                return store(self.out, value, *index(place.y, x))

            return over_lanes(piece, one)

        return registers.write(piece, put)
