"""Depthwise convolution of bytes by dot products: four neighbouring columns of the kernel in one instruction.

In blocks of channels, four pixels are neighbours in memory, channels first: ``[pixel, channel]``. One permutation turns
them into ``[channel, pixel]``, as ``vpdpbusd`` wants them, and the weights lie so from the start, columns beyond the
kernel 0. Rows above and below the image give the same sum for all pixels of a row, which is computed once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from . import depthwise
from .arithmetic import arithmetic_of
from .columns import Array
from .emit import Buffer, Expr, Stmt, alloc, const, function, lanes, local, loop, parameter, seq, store, tir
from .machine import Machine
from .math import with_math
from .tile import Epilogue, Registers, Tile
from .window import Conv, inside, kernel_rows, row_tiles

QUAD = 4


def fits(conv: Conv, machine: Machine) -> bool:
    """Whether there are instructions for it: unsigned bytes on VNNI, with extents that are known."""
    known = isinstance(conv.width, int) and isinstance(conv.height, int)
    dense = depthwise.fits(conv) and conv.dilations == (1, 1) and conv.kernel[1] > 1
    return known and dense and conv.dtype == "uint8" and machine.has("vnni")


def tiles(conv: Conv, machine: Machine) -> list[Tile]:
    """Schedules to choose from, best guess first."""
    return [replace(t, depth=QUAD) for t in depthwise.tiles(conv, machine) if t.vectors == 1]


def pack(weights: Array, conv: Conv) -> Array:
    """Weights ``[C, 1, kH, kW]`` as ``[C / b, kH, quads, b, 4]``, flat."""
    blocks = -(-conv.channels // conv.in_block)
    quads = _quads(conv)
    full = np.zeros((blocks * conv.in_block, conv.kernel[0], quads * QUAD), weights.dtype)
    full[: conv.channels, :, : conv.kernel[1]] = weights[:, 0]
    split = full.reshape(blocks, conv.in_block, conv.kernel[0], quads, QUAD)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 1, 4)).reshape(-1)


def build(conv: Conv, machine: Machine, tile: Tile, epilogue: Epilogue, name: str) -> Any:
    """The kernel ``(x, weights as packed, extras..., output)``."""
    writer = _Writer(conv, machine, tile, epilogue)
    return with_math(function([writer.x, writer.weights, *writer.extras, writer.out], writer.body(), name), machine)


def _quads(conv: Conv) -> int:
    return -(-conv.kernel[1] // QUAD)


class _Writer(depthwise.Writer):
    def __init__(self, conv: Conv, machine: Machine, tile: Tile, epilogue: Epilogue) -> None:
        super().__init__(conv, tile, epilogue)
        self.arithmetic = arithmetic_of(conv.dtype, machine)
        self.quads, self.lanes = _quads(conv), conv.in_block
        size = self.blocks * conv.in_block * conv.kernel[0] * self.quads * QUAD
        self.weights: Buffer = parameter("weights", (size,), "int8")
        at = [t * self.lanes + j for j in range(self.lanes) for t in range(QUAD)]
        self.turned = [tir.IntImm("int32", i) for i in at]

    def row(self, n: Expr, block: Expr, y: Expr) -> Stmt:
        """Tiles in which a quad reaches over the row's end stand alone, so that it shows which."""
        parts: list[Stmt] = []
        for begin, count, rows in row_tiles(self.conv, self.tile.rows):
            last = begin + (count - 1) * rows
            if count > 1 and not self._reaches(last, rows):
                parts.append(self.span(n, block, y, begin, count, rows))
            else:
                parts.append(self.span(n, block, y, begin, count - 1, rows))
                parts.append(self.tile_at(n, block, y, last, rows, inside(self.conv, last, rows)))
        return seq(parts)

    def _reaches(self, x: int, rows: int) -> bool:
        """Whether a quad of a tile ends beyond the image."""
        return self._column(x + rows - 1, self.quads - 1) + QUAD > self.conv.width

    def _column(self, x: Expr, quad: int) -> Expr:
        """The input's column that a pixel's quad begins at."""
        return x * self.conv.strides[1] - self.conv.pads[1] + quad * QUAD

    def tile_at(self, n: Expr, block: Expr, y: Expr, x: Expr, rows: int, whole: bool, *, checked: bool = False) -> Stmt:
        conv, width = self.conv, self.lanes
        registers = Registers(rows, 1, width, "int32")
        at = lanes(0, width)
        edge = local("edge", width, "int32")

        def add(into: Buffer, value: Expr, ky: Expr, quad: int) -> Stmt:
            start = ((block * conv.kernel[0] + ky) * self.quads + quad) * width * QUAD
            weight = self.weights[lanes(start, width * QUAD)]
            return store(into, self.arithmetic.add(into[at], value, weight, width), at)

        def line(ky: Expr) -> Stmt:
            row = y * conv.strides[0] - conv.pads[0] + ky
            every = [(r, q) for q in range(self.quads) for r in range(rows)]
            return seq([add(registers.buffers[r][0], self._quad(n, block, row, x + r, q), ky, q) for r, q in every])

        def outside(ky: Expr) -> Stmt:
            value = const(conv.zero_point, "uint8", width * QUAD)
            return seq([add(edge, value, ky, q) for q in range(self.quads)])

        first, end = kernel_rows(conv, y)
        parts = [registers.start(), loop(end - first, line, name="ky", begin=first)]
        if conv.zero_point and (conv.pads[0] or conv.pads[2]):
            parts += [alloc(edge), store(edge, const(0, "int32", width), at), loop(first, outside, name="ky")]
            parts.append(loop(conv.kernel[0] - end, outside, name="ky", begin=end))
            parts += [store(b, b[at] + edge[at], at) for (b,) in registers.buffers]
        return seq(parts, self.write(registers, n, block, y, x))

    def _quad(self, n: Expr, block: Expr, row: Expr, x: Expr, quad: int) -> Expr:
        """Four pixels of every channel of a block, from one load where all lie in the image."""
        first, width = self._column(x, quad), self.lanes
        if not isinstance(first, int) or (first >= 0 and first + QUAD <= self.conv.width):
            return tir.Shuffle([self.x[n, block, row, first, lanes(0, width * QUAD)]], self.turned)
        outside = const(self.conv.zero_point, "uint8", width)
        pixels = [
            self.x[n, block, row, i, lanes(0, width)] if 0 <= i < self.conv.width else outside
            for i in range(first, first + QUAD)
        ]
        return tir.Shuffle(pixels, self.turned)
