"""Registers of matrix instructions: sums of two rows times two columns in each.

``smmla`` adds to a register ``[2, 2]`` the products of two rows and two columns of eight bytes (Arm Architecture
Reference Manual, FEAT_I8MM): twice as many as ``sdot``, and each load of weights serves two rows. A tile takes as many
registers for its sums as any other; before they are stored, two ``zip`` bring them into rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .arithmetic import Arithmetic
from .bursts import BurstRegisters
from .emit import Expr, Stmt, alloc, bind, const, lanes, local, seq, store, tir
from .tile import Combine, Registers, multiply_add

LANES = 4


def registers_of(arithmetic: Arithmetic, rows: int, vectors: int, width: int) -> Registers:
    """The accumulators of a tile."""
    if arithmetic.bursts:
        return BurstRegisters(rows, vectors, width)
    if arithmetic.rows == 1:
        return Registers(rows, vectors, width, arithmetic.sums)
    return PairedRegisters(rows, vectors, width, arithmetic.sums)


class PairedRegisters(Registers):
    """Sums of pairs of rows and pairs of columns; of an odd number of rows the last one is computed twice."""

    def __init__(self, rows: int, vectors: int, width: int, dtype: str) -> None:
        assert width == LANES
        super().__init__(rows, vectors, width, dtype)
        every = range(0, rows, 2)
        self.pairs = [[local(f"pair{r}_{c}", LANES, dtype) for c in range(2 * vectors)] for r in every]

    def start(self) -> Stmt:
        """Allocates them and sets them to zero."""
        every = [b for pair in self.pairs for b in pair]
        zero = const(0, self.dtype, LANES)
        return seq([alloc(b) for b in every], [store(b, zero, lanes(0, LANES)) for b in every])

    def step(
        self,
        value: Callable[[int], Expr],
        weights: Callable[[int], Expr],
        rows: Sequence[int] | None = None,
        combine: Combine = multiply_add,
    ) -> Stmt:
        """Eight reduction indices: ``value(row)`` are a row's, one word; ``weights(vector)`` those of four columns."""
        at = lanes(0, LANES)
        parts: list[Stmt] = []
        columns: list[Expr] = []
        for v in range(self.vectors):
            name, statement = bind(f"w{v}", weights(v))
            parts.append(statement)
            columns += [tir.Shuffle([name], [*range(half, half + 16)]) for half in (0, 16)]
        for r, pair in zip(range(0, self.rows, 2), self.pairs, strict=True):
            if rows is not None and r not in rows and r + 1 not in rows:
                continue
            both = tir.Shuffle([value(r), value(min(r + 1, self.rows - 1))], [0, 1])
            name, statement = bind(f"a{r}", tir.reinterpret("int8x16", both))
            parts.append(statement)
            parts += [store(b, combine(b[at], name, w), at) for b, w in zip(pair, columns, strict=True)]
        return seq(parts)

    def write(self, piece: int, put: Callable[[int, int, Callable[[Expr], Expr]], Stmt | None]) -> Stmt:
        at = lanes(0, LANES)
        parts: list[Stmt] = []
        for r, row in enumerate(self.buffers):
            pair, low = self.pairs[r // 2], 2 * (r % 2)
            for v, buffer in enumerate(row):
                both = [pair[2 * v][at], pair[2 * v + 1][at]]
                parts += [alloc(buffer), store(buffer, tir.Shuffle(both, [low, low + 1, 4 + low, 5 + low]), at)]
        return seq(parts, super().write(piece, put))
