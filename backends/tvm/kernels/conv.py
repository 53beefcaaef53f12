"""Convolution of two spatial axes, direct: no padded copy, no unfolded patches.

A tile is some neighbouring pixels of one output row times some vectors of output channels. Its reduction runs over
input channels and kernel positions with one broadcast per pixel and one multiply-add per register. Pixels at the left
and right border have their own tiles, in which positions outside the image are left out when the kernel is written;
rows at the upper and lower border run fewer kernel rows. A pointwise convolution of stride 1 sees the image as one
row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ....ir.errors import BackendError
from . import depthwise, depthwise_bytes
from .arithmetic import Arithmetic, arithmetic_of, arithmetics
from .columns import Array, Panels, pack_columns, packed_columns, split_columns
from .emit import (
    Buffer,
    Expr,
    Stmt,
    ceildiv,
    const,
    function,
    lanes,
    loop,
    maximum,
    parallel,
    parameter,
    seq,
    store,
    tir,
    when,
)
from .machine import Machine
from .math import with_math
from .pairs import registers_of
from .tile import PLAIN, Epilogue, Registers, Tile, by_lane, over_lanes, rank_tiles
from .window import (
    Conv,
    Landing,
    blocked,
    column_runs,
    inside,
    inside_when_run,
    kernel_rows,
    open_first,
    open_tiles,
    row_tiles,
    source,
)


def tiles(conv: Conv, machine: Machine) -> list[Tile]:
    """Schedules to choose from, best guess first; at most 4."""
    if depthwise.fits(conv):
        return (depthwise_bytes if depthwise_bytes.fits(conv, machine) else depthwise).tiles(conv, machine)
    rows = conv.usual_row
    way = arithmetic_of(conv.dtype, machine, narrow=conv.narrow, rows=rows, block=conv.in_block)
    depth = way.depth
    ranked = rank_tiles(rows, conv.outputs // conv.groups, machine, depth, way.bits)
    steps = 4 if by_lane(machine) else 2
    unroll = steps if conv.in_block % (steps * depth) == 0 else 1
    return [replace(t, unroll=unroll, depth=depth) for t in ranked[:4]]


def unsupported(conv: Conv) -> str | None:
    """Why there is no kernel of this file for it; ``None`` where there is."""
    if depthwise.fits(conv):
        return None
    if conv.channels % conv.groups or conv.outputs % conv.groups:
        return f"{conv.channels} channels and {conv.outputs} outputs are no multiples of {conv.groups} groups"
    if conv.groups > 1 and conv.outputs // conv.groups % conv.out_block:
        return f"{conv.outputs // conv.groups} outputs a group are no multiple of blocks of {conv.out_block}"
    if conv.groups > 1 and conv.channels // conv.groups % conv.in_block:
        return f"{conv.channels // conv.groups} channels a group are no multiple of blocks of {conv.in_block}"
    return None


def reduction(conv: Conv, depth: int) -> int:
    """Products in one sum, with those that fill up steps of ``depth``."""
    return sum(blocks * length for _, blocks, length, _ in _chunks(conv, depth)) * conv.kernel[0] * conv.kernel[1]


def packed_size(conv: Conv, tile: Tile) -> int:
    """Elements of packed weights."""
    return conv.groups * packed_columns(_panels(conv, tile)) * reduction(conv, tile.depth)


def tile_of(conv: Conv, machine: Machine) -> Tile:
    """The schedule to take: what the machine knows, or the best guess."""
    return machine.choose(conv) if machine.choose is not None else tiles(conv, machine)[0]


def pack(weights: Array, conv: Conv, tile: Tile) -> Array:
    """Weights ``[M, C / groups, kH, kW]`` in the order in which ``build``'s kernel reads them; flat."""
    if depthwise.fits(conv):
        return (depthwise_bytes if tile.depth > 1 else depthwise).pack(weights, conv)
    order = reduction_order(weights, conv.in_block, tile.depth)
    panels = _panels(conv, tile)
    return np.concatenate([pack_columns(g.T, panels, tile.depth) for g in np.split(order, conv.groups)])


def reduction_order(weights: Array, block: int, depth: int = 1) -> Array:
    """``[M, C, kH, kW]`` as ``[M, K]``, K running over blocks of channels, kernel positions, channels of a block; the
    last block's are filled up with zeros to a multiple of ``depth``."""
    outputs, channels = weights.shape[:2]
    full = channels // block * block
    rest = np.pad(weights[:, None, full:], ((0, 0), (0, 0), (0, (full - channels) % depth), (0, 0), (0, 0)))
    parts = [weights[:, :full].reshape(outputs, full // block, block, *weights.shape[2:]), rest]
    return np.concatenate([p.transpose(0, 1, 3, 4, 2).reshape(outputs, -1) for p in parts], axis=1)


def _chunks(conv: Conv, depth: int) -> list[tuple[int, int, int, int]]:
    """The reduction's blocks of channels: (first block, blocks, channels of each, first reduction index)."""
    full, rest = divmod(conv.channels // conv.groups, conv.in_block)
    positions = conv.kernel[0] * conv.kernel[1]
    found = [(0, full, conv.in_block, 0)] if full else []
    rest = -(-rest // depth) * depth
    return [*found, (full, 1, rest, full * conv.in_block * positions)] if rest else found


def build(conv: Conv, machine: Machine, tile: Tile, epilogue: Epilogue = PLAIN, *, name: str = "conv") -> Any:
    """The kernel ``(x, weights as packed, extras..., output)``. Raises ``BackendError`` where ``unsupported``."""
    if (why := unsupported(conv)) is not None:
        raise BackendError(f"no kernel for {conv}: {why}", where="tvm", help="planish must not have asked for it")
    if depthwise.fits(conv):
        if tile.depth > 1:
            return depthwise_bytes.build(conv, machine, tile, epilogue, name)
        return depthwise.build(conv, machine, tile, epilogue, name)
    writer = ConvWriter(conv, machine, tile, epilogue)
    return with_math(function([writer.x, writer.weights, *writer.extras, writer.out], writer.body(), name), machine)


def seen_zero_point(conv: Conv, machine: Machine, tile: Tile) -> int:
    """The input's zero point as it is in the kernel's sums: some instructions take bytes of the other sign."""
    return conv.zero_point if depthwise.fits(conv) else _arithmetic(conv, machine, tile).zero_point(conv.zero_point)


def _arithmetic(conv: Conv, machine: Machine, tile: Tile) -> Arithmetic:
    return next(w for w in arithmetics(conv.dtype, machine, narrow=conv.narrow) if w.depth == tile.depth)


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
    checked: bool = False
    """Whether pixels that are read left and right of the image show when it runs."""


class ConvWriter:
    """Writes the loop nest of one convolution, whose results fill the output or ``landing``'s part of it."""

    def __init__(
        self, conv: Conv, machine: Machine, tile: Tile, epilogue: Epilogue, landing: Landing | None = None
    ) -> None:
        self.conv, self.tile, self.epilogue, self.landing = conv, tile, epilogue, landing
        self.arithmetic = arithmetic = _arithmetic(conv, machine, tile)
        self.depth = reduction(conv, tile.depth)
        self.zero_point = arithmetic.zero_point(conv.zero_point)
        self.x: Buffer = parameter("x", conv.in_shape, arithmetic.inputs)
        self.weights: Buffer = parameter("weights", (packed_size(conv, tile),), arithmetic.weights)
        self.extras = epilogue.parameters()
        whole = (conv.outputs, conv.out_height, conv.out_width)
        whole = whole if landing is None else (landing.outputs, *landing.extents)
        self.out: Buffer = parameter("out", blocked((conv.batch, *whole), conv.out_block), epilogue.dtype)
        self.group_size = packed_columns(_panels(conv, tile)) * self.depth

    def body(self) -> Stmt:
        """All of the output."""
        return seq([self._panels(panels) for panels in _panels(self.conv, self.tile)])

    def _panels(self, panels: Panels) -> Stmt:
        """All output of a run of panels."""
        conv = self.conv
        worth, extents = conv.worth, (conv.batch, conv.groups, panels.count)

        def row(n: Expr, group: Expr, panel: Expr, y: Expr) -> Stmt:
            place = _Place(n, group, panel, y, 0)
            if not isinstance(conv.row, int):
                return open_tiles(conv.row, self.tile.rows, partial(self._open_row, panels, place))
            return seq([self._span(panels, place, *s) for s in row_tiles(conv, self.tile.rows)])

        if not conv.flat:
            return parallel((*extents, conv.out_height), row, worth=worth)
        if not isinstance(conv.row, int):
            return open_tiles(conv.row, self.tile.rows, partial(self._open_flat, panels))

        def part(span: tuple[int, int, int], n: Expr, group: Expr, panel: Expr, t: Expr) -> Stmt:
            return self._tile(panels, _Place(n, group, panel, 0, span[0] + t * span[2]), span[2])

        return seq(
            [
                parallel((*extents, span[1]), partial(part, span), worth=worth)
                for span in row_tiles(conv, self.tile.rows)
            ]
        )

    def _open_flat(self, panels: Panels, size: int) -> Stmt:
        """Tiles of a flat image of a symbolic number of pixels."""
        conv = self.conv

        def tile(n: Expr, group: Expr, panel: Expr, t: Expr) -> Stmt:
            first, named = open_first(conv.row, t, size)
            return seq(named, self._tile(panels, _Place(n, group, panel, 0, first), size))

        # At least one: TVM finds branches in which it would be none, and refuses to divide by it.
        count = ceildiv(conv.row, size) if size > 1 else maximum(conv.row, 1)
        return parallel((conv.batch, conv.groups, panels.count, count), tile, worth=conv.worth)

    def _open_row(self, panels: Panels, place: _Place, size: int) -> Stmt:
        """Tiles of a row whose end is symbolic."""

        def tile(t: Expr) -> Stmt:
            first, named = open_first(self.conv.row, t, size)
            here, condition = replace(place, x=first), inside_when_run(self.conv, first, size)
            if condition is None:
                return seq(named, self._tile(panels, here, size))
            checked = self._tile(panels, replace(here, checked=True), size)
            if size < self.tile.rows:  # of narrow images alone: not worth the code of both
                return seq(named, checked)
            return seq(named, when(condition, self._tile(panels, here, size), checked))

        return loop(ceildiv(self.conv.row, size), tile, name="xt")

    def _span(self, panels: Panels, place: _Place, begin: int, count: int, rows: int) -> Stmt:
        whole = inside(self.conv, begin, rows)
        return loop(
            count,
            lambda t: self._tile(panels, replace(place, x=begin + t * rows), rows, whole=whole),
            name="xt",
        )

    def _tile(self, panels: Panels, place: _Place, rows: int, *, whole: bool = True) -> Stmt:
        registers = registers_of(self.arithmetic, rows, panels.vectors, panels.lanes)
        chunks = _chunks(self.conv, self.tile.depth)
        sums = [self._reduce(registers, panels, place, *chunk, whole) for chunk in chunks]
        return seq(registers.start(), sums, self._write(registers, panels, place))

    def _reduce(
        self,
        registers: Registers,
        panels: Panels,
        place: _Place,
        first: int,
        blocks: int,
        length: int,
        offset: int,
        whole: bool,
    ) -> Stmt:
        conv = self.conv
        kernel_width = conv.kernel[1]
        begin, end = kernel_rows(conv, place.y)

        every = tuple(range(registers.rows))
        unroll = self.tile.unroll if length % (self.tile.unroll * self.tile.depth) == 0 else 1

        def position(b: Expr, ky: Expr, kx: Expr, rows: Sequence[int]) -> Stmt:
            """``rows`` read the image; the others see its border, which counts where zero is not 0."""
            k = offset + ((b * conv.kernel[0] + ky) * kernel_width + kx) * length

            def steps(s: Expr) -> Stmt:
                return seq([step((s * unroll + u) * self.tile.depth) for u in range(unroll)])

            def step(c: Expr) -> Stmt:
                return registers.step(
                    lambda r: self._input(place, first + b, ky, kx, c, r, panels.lanes, inside=r in rows),
                    lambda v: self._weight(panels, place, k + c, v),
                    every if self.zero_point else rows,
                    lambda total, a, w: self.arithmetic.add(total, a, w, panels.lanes),
                )

            return loop(length // unroll // self.tile.depth, steps, name="c")

        def columns(b: Expr, ky: Expr) -> Stmt:
            if whole:
                return loop(kernel_width, lambda kx: position(b, ky, kx, every), name="kx")
            runs = column_runs(conv, place.x, registers.rows, border=self.zero_point != 0)
            return seq([loop(n, partial(position, b, ky, rows=rows), name="kx", begin=kx) for rows, kx, n in runs])

        def outside(b: Expr, ky: Expr) -> Stmt:
            return loop(kernel_width, lambda kx: position(b, ky, kx, ()), name="kx")

        def block(b: Expr) -> Stmt:
            parts = [loop(end - begin, partial(columns, b), name="ky", begin=begin)]
            if self.zero_point:
                parts.append(loop(begin, partial(outside, b), name="ky"))
                parts.append(loop(conv.kernel[0] - end, partial(outside, b), name="ky", begin=end))
            return seq(parts)

        return registers.bursts(blocks, length * conv.kernel[0] * conv.kernel[1], block)

    def _input(
        self, place: _Place, block: Expr, ky: Expr, kx: Expr, c: Expr, row: int, count: int, *, inside: bool
    ) -> Expr:
        conv = self.conv
        if not inside:
            return self.arithmetic.constant(self.zero_point, count)
        y, x = source(conv, place.y, place.x + row, ky, kx)
        block = place.group * (conv.channels // conv.groups // conv.in_block) + block

        def read(start: Expr, neighbours: int) -> Expr:
            # A flat image is read beyond its first row: the address is the same.
            tail = () if conv.in_block == 1 else (lanes(start, neighbours),)
            if not place.checked:
                return self.x[place.n, block, y, x, *tail]
            outside = const(conv.zero_point, self.arithmetic.inputs, neighbours)
            return tir.if_then_else(tir.all(x >= 0, x < conv.width), self.x[place.n, block, y, x, *tail], outside)

        return self.arithmetic.value(read, c, count)

    def _weight(self, panels: Panels, place: _Place, k: Expr, vector: int) -> Expr:
        start = place.group * self.group_size + panels.offset * self.depth
        column = (place.panel * self.depth + k) * panels.width + vector * panels.lanes * self.tile.depth
        return self.arithmetic.column(lambda at, n: self.weights[lanes(at, n)], start + column, panels.lanes)

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
            true = at = (channel, x // conv.out_width, x % conv.out_width) if conv.flat else (channel, place.y, x)
            if self.landing is not None:
                true = at = self.landing.at(*at)
            elif conv.flat:
                at = (channel, place.y, x)

            def one(j: Expr) -> Stmt:
                def index(channel: Expr, y: Expr, x: Expr) -> tuple[Expr, ...]:
                    if block == 1:
                        return (place.n, channel, y, x)
                    return (place.n, channel // block, y, x, channel % block + j)

                return store(self.out, self.epilogue.apply(element(j), index(*true), self.extras), *index(*at))

            return over_lanes(piece, one)

        return registers.write(piece, put)
