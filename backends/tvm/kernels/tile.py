"""The register tile: rows (pixels, or rows of a matrix) times vectors of columns, accumulated without leaving
registers, and written back through an epilogue."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .columns import packed_columns, split_columns
from .emit import VECTORIZED, Buffer, Expr, Stmt, alloc, bind, const, lanes, local, loop, parameter, seq, store
from .machine import Machine

Apply = Callable[[Expr, tuple[Expr, ...], Sequence[Buffer]], Expr]
Combine = Callable[[Expr, Expr, Expr], Expr]


def multiply_add(total: Expr, a: Expr, b: Expr) -> Expr:
    return total + a * b


def _identity(value: Expr, index: tuple[Expr, ...], extras: Sequence[Buffer]) -> Expr:
    return value


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum before it is stored: bias, activation, residual, requantization."""

    apply: Apply = _identity
    """``apply(sum, index, extras)``: the stored value at ``index``, the output's own indices as it is stored
    (``n, channel // block, y, x, channel % block`` in a blocked layout). It is traced once for every register and
    must work on one element; extras are indexed as buffers."""
    extras: tuple[tuple[tuple[Expr, ...], str], ...] = ()
    """Shape and dtype of every further operand."""
    dtype: str = "float32"
    """What is stored."""
    key: str = ""
    """Tells epilogues apart where kernels are shared or their times kept."""

    def parameters(self) -> list[Buffer]:
        return [parameter(f"extra{i}", shape, dtype) for i, (shape, dtype) in enumerate(self.extras)]


PLAIN = Epilogue()


@dataclass(frozen=True, order=True)
class Tile:
    """How a product is cut: what the search over schedules chooses."""

    rows: int
    vectors: int
    lanes: int
    unroll: int = 1
    """Steps of the reduction written out in its innermost loop."""
    depth: int = 1
    """Reduction indices of a step."""

    def __str__(self) -> str:
        return f"{self.rows}x{self.vectors}x{self.lanes}u{self.unroll}d{self.depth}"


class Registers:
    """Accumulators of one tile."""

    def __init__(self, rows: int, vectors: int, width: int, dtype: str = "float32") -> None:
        self.rows, self.vectors, self.lanes, self.dtype = rows, vectors, width, dtype
        self.buffers = [[local(f"sum{r}_{v}", width, dtype) for v in range(vectors)] for r in range(rows)]

    def start(self) -> Stmt:
        """Allocates them and sets them to zero."""
        every = [b for row in self.buffers for b in row]
        zero = const(0, self.dtype, self.lanes)
        return seq([alloc(b) for b in every], [store(b, zero, lanes(0, self.lanes)) for b in every])

    def bursts(self, count: Expr, products: int, body: Callable[[Expr], Stmt]) -> Stmt:
        """``body`` for every index of a loop of the reduction, each of which adds ``products`` to a sum."""
        return loop(count, body, name="k")

    def step(
        self,
        value: Callable[[int], Expr],
        weights: Callable[[int], Expr],
        rows: Sequence[int] | None = None,
        combine: Combine = multiply_add,
    ) -> Stmt:
        """One reduction index: adds ``value(row) * weights(vector)`` everywhere, or in some of the rows only.
        Both are as long as a register."""
        at = lanes(0, self.lanes)
        parts: list[Stmt] = []
        loaded: list[Expr] = []
        for v in range(self.vectors):
            name, statement = bind(f"w{v}", weights(v))
            loaded.append(name)
            parts.append(statement)
        for r in range(self.rows) if rows is None else rows:
            name, statement = bind(f"a{r}", value(r))
            parts.append(statement)
            for buffer, weight in zip(self.buffers[r], loaded, strict=True):
                parts.append(store(buffer, combine(buffer[at], name, weight), at))
        return seq(parts)

    def products(self, value: Callable[[int, int], Expr], weights: Callable[[int], Expr], rows: Sequence[int]) -> Stmt:
        """Adds ``value(row, vector) * weights(vector)`` in some rows."""
        at = lanes(0, self.lanes)
        parts: list[Stmt] = []
        for v in range(self.vectors):
            weight, statement = bind(f"w{v}", weights(v))
            parts.append(statement)
            parts += [store(b, b[at] + value(r, v) * weight, at) for r in rows for b in [self.buffers[r][v]]]
        return seq(parts)

    def write(self, piece: int, put: Callable[[int, int, Callable[[Expr], Expr]], Stmt | None]) -> Stmt:
        """Stores everything. ``put(row, column, element)`` stores ``piece`` columns from ``column`` on, of which
        ``element(j)`` is the j-th sum."""
        parts: list[Stmt] = []
        for r in range(self.rows):
            for v in range(self.vectors):
                for begin in range(0, self.lanes, piece):
                    buffer = self.buffers[r][v]
                    done = put(r, v * self.lanes + begin, lambda j, b=buffer, s=begin: b[s + j])
                    parts.extend([] if done is None else [done])
        return seq(parts)


def over_lanes(count: int, body: Callable[[Expr], Stmt]) -> Stmt:
    """``body(j)`` for ``count`` neighbours, as one vector."""
    return loop(count, body, kind=VECTORIZED, name="lane")


def spans(total: int, rows: int) -> list[tuple[int, int, int]]:
    """``total`` rows in as few tiles of at most ``rows`` as can be, as even as can be: (first row, tiles, rows of
    each)."""
    tiles = max(1, -(-total // rows))
    small, larger = divmod(total, tiles)
    found = [(0, larger, small + 1)] if larger else []
    if small and tiles > larger:
        found.append((larger * (small + 1), tiles - larger, small))
    return found


def by_lane(machine: Machine) -> bool:
    """Whether values are multiplied by one lane of a register (ARM), rather than spread from memory (x86)."""
    return machine.processor.arch == "aarch64"


def rank_tiles(total: int, columns: int, machine: Machine, depth: int = 1, bits: int = 32) -> list[Tile]:
    """Tiles that fit into registers, best first by a count of cycles per reduction index.

    A processor starts a multiply-add of 256 bits twice a cycle and one of 512 bits at least once (counted as 0.75,
    between one and two), does two loads a cycle, and takes 8 multiply-adds in flight to be busy. On ARM a load brings
    four values of a row, which then sit in a register; steps of several indices need some registers for themselves.
    Steps of eight have two rows in a register. Sums have ``bits`` bits.
    """
    if depth == 8:
        return _rank_pairs(total, columns, machine)
    width = machine.lanes(bits)
    spare = machine.registers - machine.registers // 16 - (machine.registers // 16 + 1 if depth > 1 else 0)
    spare -= by_lane(machine) and depth == 2  # products on their way to sums
    scored: list[tuple[float, Tile]] = []
    for lane_count in sorted({w for w in (width, width // 2, 4) if 4 <= w <= width} or {4}, reverse=True):
        one = 0.75 if lane_count == 16 else 0.5
        for vectors in range(1, 7 if total > 1 else 13):
            if vectors > 1 and (vectors - 1) * lane_count >= columns:
                continue
            panels = packed_columns(split_columns(columns, vectors, lane_count)) / (vectors * lane_count)
            for rows in _even(total):
                in_registers = rows if by_lane(machine) else 0
                if rows * vectors + vectors + in_registers > spare + (4 if in_registers else 0):
                    continue
                loads = rows / 8 + vectors / 4 if in_registers else (rows + vectors) / 2
                cycles = max(rows * vectors * one, loads, 8 * one) + 0.8
                scored.append((cycles * math.ceil(total / rows) * panels, Tile(rows, vectors, lane_count)))
                if rows < 3:
                    break
    scored.sort(key=lambda s: (s[0], s[1].rows))
    return list(dict.fromkeys(tile for _, tile in scored))


def _rank_pairs(total: int, columns: int, machine: Machine) -> list[Tile]:
    """The same for matrix instructions: a load for each row, two for each vector."""
    scored: list[tuple[float, Tile]] = []
    for vectors in range(1, 6):
        if vectors > 1 and (vectors - 1) * 4 >= columns:
            continue
        panels = packed_columns(split_columns(columns, vectors, 4)) / (vectors * 4)
        for rows in _even(total):
            pairs = -(-rows // 2)
            if pairs * 2 * vectors + pairs + 2 * vectors > machine.registers:
                continue
            cycles = max(pairs * vectors, (rows + 2 * vectors) / 2, 4) + 0.8
            scored.append((cycles * math.ceil(total / rows) * panels, Tile(rows, vectors, 4)))
    scored.sort(key=lambda s: (s[0], s[1].rows))
    return list(dict.fromkeys(tile for _, tile in scored))


def _even(total: int) -> list[int]:
    """Rows of tiles that share ``total`` evenly, from many down to one."""
    return list(dict.fromkeys(-(-total // tiles) for tiles in range(1, max(1, total) + 1)))
