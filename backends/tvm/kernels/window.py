"""Convolutions as data, and which positions of the kernel fall into the image.

Layouts: ``NCHW`` (block 1: first layers, few channels) or ``NCHW[b]c``: shape ``[N, ceil(C / b), H, W, b]``. Lanes
beyond the channels are never read and hold anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .emit import Expr, Stmt, bind, ceildiv, maximum, minimum, tir, when
from .tile import spans

WORTH = 200_000
"""Multiply-adds from which on it pays to use several threads."""
USUAL_ROW = 64
"""Pixels of a row that tiles are chosen for where their number is symbolic."""


@dataclass(frozen=True)
class Conv:
    """A convolution. Extents in elements; ``batch``, ``height`` and ``width`` may be symbolic."""

    batch: Expr
    channels: int
    height: Expr
    width: Expr
    outputs: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, left, bottom, right."""
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    in_block: int = 1
    out_block: int = 1
    dtype: str = "float32"
    """Of the input; ``uint8`` and ``int8`` have ``int8`` weights and exact sums of 32 bits, which the epilogue gets."""
    zero_point: int = 0
    """The input's, which stands at its borders. Sums do not subtract it: the epilogue has to
    subtract ``conv.seen_zero_point`` times the sum of an output's weights, the same for all pixels."""
    narrow: bool = False
    """Whether weights of 8 bits are within -64 to 63."""

    @property
    def out_height(self) -> Expr:
        return self._out(self.height + self.pads[0] + self.pads[2], 0)

    @property
    def out_width(self) -> Expr:
        return self._out(self.width + self.pads[1] + self.pads[3], 1)

    def _out(self, padded: Expr, axis: int) -> Expr:
        last = padded - ((self.kernel[axis] - 1) * self.dilations[axis] + 1)
        return (last if self.strides[axis] == 1 else last // self.strides[axis]) + 1

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
    def products(self) -> Expr:
        """Multiply-adds of one sample."""
        return self.depth * self.outputs * self.out_height * self.out_width

    @property
    def worth(self) -> bool:
        """Whether it pays to use several threads; symbolic images are taken to be large."""
        return not isinstance(self.products, int) or self.products > WORTH

    @property
    def flat(self) -> bool:
        """Whether pixels map to pixels one to one, so that the image may be seen as one row."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @property
    def row(self) -> Expr:
        """Pixels of what tiles are cut from."""
        return self.out_height * self.out_width if self.flat else self.out_width

    @property
    def usual_row(self) -> int:
        """Pixels of what tiles are chosen for."""
        return self.row if isinstance(self.row, int) else USUAL_ROW


@dataclass(frozen=True)
class Landing:
    """Where results of a convolution lie in an output of which it computes every ``steps``-th place, or a patch of
    ``.. x across`` places for each of its pixels: one ``outputs`` channels after the other."""

    steps: tuple[int, int]
    origin: tuple[int, int]
    across: int
    outputs: int
    """Channels of the output."""
    extents: tuple[Expr, Expr]
    """Height and width of the output."""

    def at(self, channel: Expr, y: Expr, x: Expr) -> tuple[Expr, Expr, Expr]:
        """The place of a result by its own channel, row and column."""
        patch, channel = channel // self.outputs, channel % self.outputs
        y = y * self.steps[0] + (self.origin[0] + patch // self.across)
        return channel, y, x * self.steps[1] + (self.origin[1] + patch % self.across)


def blocked(shape: tuple[Expr, ...], block: int) -> tuple[Expr, ...]:
    """``[N, C, ...]`` stored in blocks of channels."""
    if block == 1:
        return shape
    return (shape[0], -(-shape[1] // block), *shape[2:], block)


def row_tiles(conv: Conv, rows: int) -> Iterator[tuple[int, int, int]]:
    """Tiles of a row, (first pixel, tiles, pixels of each): those that touch a border one by one."""
    for begin, count, size in spans(conv.row, rows):
        inner = [t for t in range(count) if inside(conv, begin + t * size, size)]
        if not inner:
            yield from ((begin + t * size, 1, size) for t in range(count))
            continue
        yield from ((begin + t * size, 1, size) for t in range(inner[0]))
        yield begin + inner[0] * size, inner[-1] - inner[0] + 1, size
        yield from ((begin + t * size, 1, size) for t in range(inner[-1] + 1, count))


def open_tiles(row: Expr, rows: int, every: Callable[[int], Stmt]) -> Stmt:
    """Tiles of a row of a symbolic number of pixels: ``every(size)`` covers it with those of one size. Rows shorter
    than a tile have smaller ones."""
    found = every(1)
    for size in (4, rows) if rows > 4 else (rows,) if rows > 1 else ():
        found = when(row >= size, every(size), found)
    return found


def open_first(row: Expr, tile: Expr, size: int) -> tuple[Expr, Stmt]:
    """The first pixel of a tile by number, and the statement that names it: the last ends with the row."""
    return bind("first", minimum(tile * size, row - size))


def inside_when_run(conv: Conv, first: Expr, rows: int) -> Expr | None:
    """The condition that no pixel of a tile reads left or right of an image of symbolic width; ``None``: none does."""
    if not conv.pads[1] and not conv.pads[3]:
        return None
    begin = first * conv.strides[1] - conv.pads[1]
    end = begin + ((rows - 1) * conv.strides[1] + (conv.kernel[1] - 1) * conv.dilations[1])
    return tir.all(begin >= 0, end < conv.width)


def inside(conv: Conv, begin: int, rows: int) -> bool:
    """Whether no pixel of a tile reads left or right of the image."""
    return all(valid(conv, begin + r, kx) for r in (0, rows - 1) for kx in (0, conv.kernel[1] - 1))


def valid(conv: Conv, x: int, kx: int) -> bool:
    """Whether a pixel of a row reads within the image at a column of the kernel."""
    return 0 <= x * conv.strides[1] - conv.pads[1] + kx * conv.dilations[1] < conv.width or conv.flat


def column_runs(conv: Conv, begin: int, rows: int, *, border: bool = False) -> list[tuple[tuple[int, ...], int, int]]:
    """Columns of the kernel in runs that the same pixels of a tile read: (pixels, first column, columns). ``border``:
    columns that no pixel reads, too."""
    found: list[tuple[tuple[int, ...], int, int]] = []
    for kx in range(conv.kernel[1]):
        pixels = tuple(r for r in range(rows) if valid(conv, begin + r, kx))
        if found and found[-1][0] == pixels:
            found[-1] = (pixels, found[-1][1], found[-1][2] + 1)
        else:
            found.append((pixels, kx, 1))
    return [run for run in found if run[0] or border]


def kernel_rows(conv: Conv, y: Expr) -> tuple[Expr, Expr]:
    """First and one past the last row of the kernel that lies inside the image for an output row."""
    size, stride, dilation, pad = conv.kernel[0], conv.strides[0], conv.dilations[0], conv.pads[0]
    if isinstance(conv.height, int):
        leaves = (conv.out_height - 1) * stride - pad + (size - 1) * dilation >= conv.height
    else:
        leaves = conv.pads[2] > 0
    begin = maximum(0, ceildiv(pad - y * stride, dilation)) if pad else 0
    end = minimum(size, ceildiv(conv.height + pad - y * stride, dilation)) if leaves else size
    return begin, end


def source(conv: Conv, y: Expr, x: Expr, ky: Expr, kx: Expr) -> tuple[Expr, Expr]:
    """The input's row and column that an output pixel reads at a position of the kernel."""
    return (
        y * conv.strides[0] - conv.pads[0] + ky * conv.dilations[0],
        x * conv.strides[1] - conv.pads[1] + kx * conv.dilations[1],
    )
