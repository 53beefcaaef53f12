"""Depthwise convolution in blocks of channels: a tile is some neighbouring pixels of a row, a block of channels each.

Nothing is broadcast: input and weights are vectors of channels, one multiply-add for each pixel and position. The
kernel's columns are written out, so that an input vector that several pixels read is loaded once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .arithmetic import in_float, is_integer
from .columns import Array
from .emit import Buffer, Expr, Stmt, ceildiv, const, function, lanes, loop, parallel, parameter, seq, store, tir, when
from .machine import Machine
from .math import with_math
from .tile import Epilogue, Registers, Tile, over_lanes, spans
from .window import Conv, column_runs, inside, inside_when_run, kernel_rows, open_first, open_tiles, row_tiles, source


def fits(conv: Conv) -> bool:
    """Whether it is depthwise, one output a channel, in blocks that are kept."""
    return conv.groups == conv.channels == conv.outputs and conv.in_block == conv.out_block > 1


def tiles(conv: Conv, machine: Machine) -> list[Tile]:
    """Schedules to choose from, best guess first."""
    width = min(machine.lanes(), conv.in_block)
    vectors = conv.in_block // width
    most = max(1, (machine.registers - 4) // (2 * vectors))
    wanted = [rows for rows in (most, most // 2, 2 * most - 2) if rows]
    sizes = dict.fromkeys(max(n for _, _, n in spans(conv.usual_row, rows)) for rows in wanted)
    return [Tile(rows, vectors, width) for rows in sizes]


def pack(weights: Array, conv: Conv) -> Array:
    """Weights ``[C, 1, kH, kW]`` as ``[C / b, kH, kW, b]``, flat; channels beyond the last are 0."""
    blocks = -(-conv.channels // conv.in_block)
    full = np.zeros((blocks * conv.in_block, *conv.kernel), weights.dtype)
    full[: conv.channels] = weights[:, 0]
    return np.ascontiguousarray(full.reshape(blocks, conv.in_block, *conv.kernel).transpose(0, 2, 3, 1)).reshape(-1)


def build(conv: Conv, machine: Machine, tile: Tile, epilogue: Epilogue, name: str) -> Any:
    """The kernel ``(x, weights as packed, extras..., output)``."""
    writer = Writer(conv, tile, epilogue)
    return with_math(function([writer.x, writer.weights, *writer.extras, writer.out], writer.body(), name), machine)


class Writer:
    """Writes the loop nest of one depthwise convolution."""

    def __init__(self, conv: Conv, tile: Tile, epilogue: Epilogue) -> None:
        self.conv, self.tile, self.epilogue = conv, tile, epilogue
        self.arithmetic = arithmetic = in_float(conv.dtype, conv.depth)
        self.blocks = -(-conv.channels // conv.in_block)
        self.x: Buffer = parameter("x", conv.in_shape, conv.dtype)
        size = self.blocks * conv.in_block * conv.kernel[0] * conv.kernel[1]
        self.weights: Buffer = parameter("weights", (size,), arithmetic.weights)
        self.extras = epilogue.parameters()
        self.out: Buffer = parameter("out", conv.out_shape, epilogue.dtype)

    def body(self) -> Stmt:
        conv = self.conv

        return parallel((conv.batch, self.blocks, conv.out_height), self.row, worth=conv.worth)

    def row(self, n: Expr, block: Expr, y: Expr) -> Stmt:
        """One row of the result, of a block of channels."""
        conv = self.conv
        if not isinstance(conv.row, int):
            return open_tiles(conv.row, self.tile.rows, partial(self._open_row, n, block, y))
        return seq([self.span(n, block, y, *s) for s in row_tiles(conv, self.tile.rows)])

    def _open_row(self, n: Expr, block: Expr, y: Expr, size: int) -> Stmt:
        """Tiles of a row whose end is symbolic."""

        def tile(t: Expr) -> Stmt:
            first, named = open_first(self.conv.row, t, size)
            condition = inside_when_run(self.conv, first, size)
            if condition is None:
                return seq(named, self.tile_at(n, block, y, first, size, True))
            checked = self.tile_at(n, block, y, first, size, True, checked=True)
            if size < self.tile.rows:  # of narrow images alone: not worth the code of both
                return seq(named, checked)
            return seq(named, when(condition, self.tile_at(n, block, y, first, size, True), checked))

        return loop(ceildiv(self.conv.row, size), tile, name="xt")

    def span(self, n: Expr, block: Expr, y: Expr, begin: int, count: int, rows: int) -> Stmt:
        """``count`` tiles one after the other."""
        whole = inside(self.conv, begin, rows)
        return loop(count, lambda t: self.tile_at(n, block, y, begin + t * rows, rows, whole), name="xt")

    def tile_at(self, n: Expr, block: Expr, y: Expr, x: Expr, rows: int, whole: bool, *, checked: bool = False) -> Stmt:
        """One tile. ``checked``: whether a pixel is read left or right of the image shows when it runs."""
        conv, size = self.conv, self.conv.in_block
        registers = Registers(rows, self.tile.vectors, self.tile.lanes, self.arithmetic.sums)
        columns = range(conv.kernel[1])
        width, n_ = self.tile.lanes, n
        runs = [(tuple(range(rows)), kx) for kx in columns]
        if not whole:
            found = column_runs(conv, x, rows, border=conv.zero_point != 0)
            runs = [(pixels, kx + i) for pixels, kx, count in found for i in range(count)]

        def line(ky: Expr) -> Stmt:
            return seq([position(ky, kx, pixels) for pixels, kx in runs])

        def position(ky: Expr, kx: int, pixels: tuple[int, ...]) -> Stmt:
            def weight(vector: int) -> Expr:
                at = ((block * conv.kernel[0] + ky) * conv.kernel[1] + kx) * size + vector * width
                return self.arithmetic.column(lambda start, n: self.weights[lanes(start, n)], at, width)

            def value(pixel: int, vector: int) -> Expr:
                if pixel not in pixels:
                    return self.arithmetic.constant(conv.zero_point, width)
                y_, x_ = source(conv, y, x + pixel, ky, kx)

                def read(start: Expr, count: int) -> Expr:
                    found = self.x[n_, block, y_, x_, lanes(start, count)]
                    if not checked:
                        return found
                    outside = const(conv.zero_point, conv.dtype, count)
                    return tir.if_then_else(tir.all(x_ >= 0, x_ < conv.width), found, outside)

                return self.arithmetic.column(read, vector * width, width)

            return registers.products(value, weight, range(rows) if conv.zero_point else pixels)

        first, end = kernel_rows(conv, y)
        parts = [loop(end - first, line, name="ky", begin=first)]
        if conv.zero_point:

            def outside(ky: Expr) -> Stmt:
                return seq([position(ky, kx, ()) for kx in columns])

            parts += [loop(first, outside, name="ky"), loop(conv.kernel[0] - end, outside, name="ky", begin=end)]
        return seq(registers.start(), parts, self.write(registers, n, block, y, x))

    def write(self, registers: Registers, n: Expr, block: Expr, y: Expr, x: Expr) -> Stmt:
        """Stores the sums of a tile."""
        conv = self.conv

        def put(row: int, column: int, element: Callable[[Expr], Expr]) -> Stmt:
            def one(j: Expr) -> Stmt:
                index = (n, block, y, x + row, column + j)
                total = tir.Cast("int32", element(j)) if is_integer(conv.dtype) else element(j)
                return store(self.out, self.epilogue.apply(total, index, self.extras), *index)

            return over_lanes(registers.lanes, one)

        return registers.write(registers.lanes, put)
