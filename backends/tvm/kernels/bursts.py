"""Registers for sums of half precision: kept in it for a burst of products, then added up in single precision.

Half precision has 11 bits, and each product that is added to a sum is rounded to them: the error grows with the number
of products. After ``BURST`` of them a sum goes into its total, at twice the speed of single precision all the same.
"""

from __future__ import annotations

from collections.abc import Callable

from .emit import Expr, Stmt, alloc, const, lanes, local, loop, seq, store, tir
from .tile import Registers

BURST = 64
"""Products: the eight instructions that add up a register's sums are then an eighth of all."""


class BurstRegisters(Registers):
    """Accumulators of a tile, and for each the single-precision sums of the bursts before."""

    def __init__(self, rows: int, vectors: int, width: int) -> None:
        super().__init__(rows, vectors, width, "float16")
        self.totals = [[local(f"total{r}_{v}", width, "float32") for v in range(vectors)] for r in range(rows)]

    def start(self) -> Stmt:
        """Allocates all and sets the totals to zero."""
        totals = [b for row in self.totals for b in row]
        every = [*totals, *(b for row in self.buffers for b in row)]
        zero = const(0, "float32", self.lanes)
        return seq([alloc(b) for b in every], [store(b, zero, lanes(0, self.lanes)) for b in totals])

    def bursts(self, count: int, products: int, body: Callable[[Expr], Stmt]) -> Stmt:
        """``body`` for every index of a loop, each of which adds ``products`` to a sum, in bursts."""
        several = max(1, BURST // products)
        rounds, rest = divmod(count, several)

        def burst(begin: Expr, length: int) -> Stmt:
            return seq(self._clear(), loop(length, lambda i: body(begin + i), name="burst"), self._add())

        main = loop(rounds, lambda r: burst(r * several, several), name="round")
        return seq(main, burst(rounds * several, rest) if rest else [])

    def write(self, piece: int, put: Callable[[int, int, Callable[[Expr], Expr]], Stmt | None]) -> Stmt:
        found = Registers(self.rows, self.vectors, self.lanes)
        found.buffers = self.totals
        return found.write(piece, put)

    def _clear(self) -> list[Stmt]:
        zero, at = const(0, "float16", self.lanes), lanes(0, self.lanes)
        return [store(b, zero, at) for row in self.buffers for b in row]

    def _add(self) -> list[Stmt]:
        at, wide = lanes(0, self.lanes), f"float32x{self.lanes}"
        pairs = [(t, b) for rows in zip(self.totals, self.buffers, strict=True) for t, b in zip(*rows, strict=True)]
        return [store(total, total[at] + tir.Cast(wide, sums[at]), at) for total, sums in pairs]
