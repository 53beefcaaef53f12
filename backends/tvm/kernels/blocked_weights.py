"""Products by weights of 4 or 8 bits in blocks along K, each with a scale and a zero point (ONNX's blocked
DequantizeLinear, MatMulNBits): the weights are dequantized in registers, once for all rows of a tile, and never lie in
memory as floats.

A weight is ``(q - zero) * scale`` in single precision, as the operators define it, so that only the order of the sums
differs from a product by dequantized weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .columns import Array, Panels, pack_columns, packed_columns, split_columns
from .emit import Buffer, Expr, Stmt, bind, const, function, lanes, loop, parameter, seq, spread, tir
from .machine import Machine
from .math import with_math
from .matmul import MatMul, ProductWriter
from .tile import PLAIN, Epilogue, Registers, Tile


@dataclass(frozen=True)
class BlockedWeights:
    """How the weights ``[K, N]`` of a product are stored."""

    bits: int
    """4 or 8, unsigned."""
    block: int
    """Neighbours along K that share a scale: an even number."""

    def groups(self, depth: int) -> int:
        """Blocks along K; the last may be shorter."""
        return -(-depth // self.block)


def pack(
    quantized: Array, scales: Array, zeros: Array, product: MatMul, tile: Tile, stored: BlockedWeights
) -> tuple[Array, Array, Array]:
    """Weights ``[K, N]`` (uint8, below 16 for 4 bits), scales and zero points ``[K / block, N]`` (float32) in the order
    in which ``build``'s kernel reads them; flat. Signed weights: add 8 or 128 to them and to their zero points."""
    panels = split_columns(product.columns, tile.vectors, tile.lanes)
    if stored.bits == 4:
        even = np.pad(quantized, ((0, quantized.shape[0] % 2), (0, 0)))
        quantized = even[0::2] | even[1::2] << 4
    return pack_columns(quantized.astype(np.uint8), panels), pack_columns(scales, panels), pack_columns(zeros, panels)


def build(
    product: MatMul,
    stored: BlockedWeights,
    machine: Machine,
    tile: Tile,
    epilogue: Epilogue = PLAIN,
    *,
    name: str = "matmul",
) -> Any:
    """The kernel ``(a, weights, scales, zeros, extras..., output)``; ``product`` is packed, in floats, with K and N
    known."""
    writer = _Writer(product, stored, machine, tile, epilogue)
    operands = [writer.a, writer.b, writer.scales, writer.zeros, *writer.extras, writer.out]
    return with_math(function(operands, writer.body(), name), machine)


class _Writer(ProductWriter):
    def __init__(
        self, product: MatMul, stored: BlockedWeights, machine: Machine, tile: Tile, epilogue: Epilogue
    ) -> None:
        super().__init__(product, machine, tile, epilogue)
        self.stored = stored
        self.groups = stored.groups(product.depth)
        self.per_line = 8 // stored.bits
        """Reduction indices in a byte."""
        self.lines = -(-product.depth // self.per_line)
        columns = packed_columns(self.split)
        self.b: Buffer = parameter("b", (columns * self.lines,), "uint8")
        self.scales: Buffer = parameter("scales", (columns * self.groups,), "float32")
        self.zeros: Buffer = parameter("zeros", (columns * self.groups,), "float32")

    def sums(self, registers: Registers, batch: tuple[Expr, ...], panels: Panels, p: Expr, m: Expr) -> Stmt:
        """Block after block of K."""
        block, per_line = self.stored.block, self.per_line
        vectors, width = range(panels.vectors), panels.lanes

        def read(buffer: Buffer, lines: int, line: Expr, vector: int) -> Expr:
            at = panels.offset * lines + (p * lines + line) * panels.width + vector * width
            return buffer[lanes(at, width)]

        def group(g: Expr, length: int) -> Stmt:
            scales = [bind(f"scale{v}", read(self.scales, self.groups, g, v)) for v in vectors]
            zeros = [bind(f"zero{v}", read(self.zeros, self.groups, g, v)) for v in vectors]

            def line(i: Expr, indices: int = per_line) -> Stmt:
                here = g * (block // per_line) + i
                found = [
                    bind(f"bytes{v}", tir.Cast(f"int32x{width}", read(self.b, self.lines, here, v))) for v in vectors
                ]

                def weight(v: int, u: int) -> Expr:
                    whole = found[v][0]
                    if self.stored.bits == 4:
                        shifted = tir.shift_right(whole, const(4, "int32", width)) if u else whole
                        whole = tir.bitwise_and(shifted, const(15, "int32", width))
                    return (tir.Cast(f"float32x{width}", whole) - zeros[v][0]) * scales[v][0]

                def step(u: int) -> Stmt:
                    k = here * per_line + u
                    return registers.step(lambda r: spread(self.first(batch, m + r, k), width), lambda v: weight(v, u))

                return seq([statement for _, statement in found], [step(u) for u in range(indices)])

            bound = [statement for _, statement in (*scales, *zeros)]
            last = [line(length // per_line, length % per_line)] if length % per_line else []
            return seq(bound, loop(length // per_line, line, name="line"), last)

        full, rest = divmod(self.product.depth, block)
        return seq(loop(full, lambda g: group(g, block), name="group"), [group(full, rest)] if rest else [])
