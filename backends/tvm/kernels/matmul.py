"""Matrix products: by weights packed beforehand, and of two activations (attention), of any rank.

A tile is some rows times some vectors of columns; each reduction index broadcasts one value a row. Weights are
packed ``[panel, K, width]``; a second activation is read where it lies if its columns are neighbours in memory,
otherwise one matrix at a time is copied into that order first. Stored axes may be in any order, so that transposes
around attention's products cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .arithmetic import Arithmetic, arithmetic_of, widened
from .columns import Array, Panels, pack_columns, packed_columns, split_columns, split_exactly
from .emit import (
    NOTHING,
    PARALLEL,
    SERIAL,
    Buffer,
    Expr,
    Stmt,
    alloc,
    ceildiv,
    const,
    function,
    lanes,
    local,
    loop,
    minimum,
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
from .tile import PLAIN, Epilogue, Registers, Tile, by_lane, over_lanes, rank_tiles, spans

WORTH = 200_000
"""Multiply-adds from which on it pays to use several threads."""
WAYS = 8
"""Rows of a tile at most: rows whose length is a power of two fall into one set of the first cache."""
USUAL_ROWS = 64
"""Rows that tiles are chosen for where their number is symbolic."""


@dataclass(frozen=True)
class MatMul:
    """``out[batch, m, n] = sum_k a[batch, m, k] * b[k, n]`` (``packed``) or ``b[batch, k, n]``. Row-major unless an
    order of axes says otherwise."""

    batch: tuple[Expr, ...]
    rows: Expr
    depth: Expr
    """K. An int where ``b`` is packed."""
    columns: Expr
    """N. An int where ``b`` is packed."""
    packed: bool = True
    a_axes: tuple[int, ...] = ()
    """``a_axes[i]`` is the axis of ``[*batch, m, k]`` that is stored as the i-th; empty: in this order."""
    b_axes: tuple[int, ...] = ()
    """The same of ``[*batch, k, n]``, where ``b`` is not packed."""
    out_axes: tuple[int, ...] = ()
    """The same of ``[*batch, m, n]``."""
    b_batch: tuple[int, ...] = ()
    """Extents of ``b``'s batch axes where some are 1 (one matrix for all); empty: as ``batch``."""
    dtype: str = "float32"
    """Of ``a``; ``uint8`` and ``int8`` have ``int8`` weights where ``b`` is packed, and exact sums of 32 bits."""
    b_dtype: str = ""
    """Of ``b`` where it is an activation of 8 bits."""
    narrow: bool = False
    """Whether weights of 8 bits are within -64 to 63."""

    @property
    def a_shape(self) -> tuple[Expr, ...]:
        return _stored((*self.batch, self.rows, self.depth), self.a_axes)

    @property
    def b_shape(self) -> tuple[Expr, ...]:
        return _stored((*(self.b_batch or self.batch), self.depth, self.columns), self.b_axes)

    @property
    def out_shape(self) -> tuple[Expr, ...]:
        return _stored((*self.batch, self.rows, self.columns), self.out_axes)

    @property
    def merged(self) -> bool:
        """Whether batch axes count as rows: one matrix for all of them, everything row-major."""
        return self.packed and not self.a_axes and not self.out_axes

    @property
    def all_rows(self) -> Expr:
        """Rows of one product as it is computed."""
        every: Expr = math.prod((*self.batch, self.rows))
        return every if self.merged else self.rows

    @property
    def in_place(self) -> bool:
        """Whether ``b`` is an activation of known width whose columns are neighbours in memory."""
        neighbours = not self.b_axes or self.b_axes[-1] == len(self.batch) + 1
        return not self.packed and neighbours and isinstance(self.columns, int)


def tiles(product: MatMul, machine: Machine) -> list[Tile]:
    """Schedules to choose from, best guess first; at most 4."""
    rows = product.all_rows if isinstance(product.all_rows, int) else USUAL_ROWS
    columns = product.columns if isinstance(product.columns, int) else USUAL_ROWS
    way = _arithmetic(product, machine)
    depth = way.depth
    every = rank_tiles(min(rows, 1024), columns, machine, depth, way.bits)
    ranked = [t for t in every if t.rows <= WAYS]
    steps = 4 if by_lane(machine) and depth < 8 else 2
    unroll = steps if isinstance(product.depth, int) and product.depth >= steps * depth else 1
    return [replace(t, unroll=unroll, depth=depth) for t in ranked[:4]]


def seen_zero_point(product: MatMul, machine: Machine, zero_point: int) -> int:
    """The zero point of ``a`` as it is in the kernel's sums: some instructions take bytes of the other sign."""
    return _arithmetic(product, machine).zero_point(zero_point)


def _arithmetic(product: MatMul, machine: Machine) -> Arithmetic:
    """Steps of several indices need weights packed for them and neighbours in ``a``."""
    rows = product.all_rows if isinstance(product.all_rows, int) else USUAL_ROWS
    fast = arithmetic_of(product.dtype, machine, narrow=product.narrow, rows=rows)
    if product.dtype == "float32" or (product.packed and not product.a_axes):
        return fast
    return replace(widened(product.dtype), weights=product.b_dtype or "int8")


def tile_of(product: MatMul, machine: Machine) -> Tile:
    """The schedule to take: what the machine knows, or the best guess."""
    return machine.choose(product) if machine.choose is not None else tiles(product, machine)[0]


def pack(weights: Array, product: MatMul, tile: Tile) -> Array:
    """Weights ``[K, N]`` in the order in which ``build``'s kernel reads them; flat."""
    return pack_columns(weights, _panels(product, tile), tile.depth)


def build(product: MatMul, machine: Machine, tile: Tile, epilogue: Epilogue = PLAIN, *, name: str = "matmul") -> Any:
    """The kernel ``(a, b or packed weights, extras..., output)``."""
    writer = ProductWriter(product, machine, tile, epilogue)
    return with_math(function([writer.a, writer.b, *writer.extras, writer.out], writer.body(), name), machine)


def _stored(shape: tuple[Expr, ...], axes: tuple[int, ...]) -> tuple[Expr, ...]:
    return tuple(shape[i] for i in axes) if axes else shape


def _panels(product: MatMul, tile: Tile) -> tuple[Panels, ...]:
    if product.in_place:
        return split_exactly(product.columns, tile.vectors, tile.lanes)
    if isinstance(product.columns, int):
        return split_columns(product.columns, tile.vectors, tile.lanes)
    # How full the last panel is shows when it runs.
    return (Panels(0, ceildiv(product.columns, tile.vectors * tile.lanes), tile.vectors, tile.lanes, 0),)


def row_spans(rows: Expr, most: int) -> list[tuple[Expr, Expr, int]]:
    """Tiles of rows: (first row, tiles, rows of each); for a symbolic number full tiles, then halves of them."""
    if isinstance(rows, int):
        return [*spans(rows, most)]
    found: list[tuple[Expr, Expr, int]] = []
    begin, size = 0, most
    while size:
        count = (rows - begin) // size
        found.append((begin, count, size))
        begin = begin + count * size
        size = size // 2 if size > 4 else int(size > 1)  # 8, 4, 1
    return found


class ProductWriter:
    """Writes the loop nest of one product."""

    def __init__(self, product: MatMul, machine: Machine, tile: Tile, epilogue: Epilogue) -> None:
        self.product, self.machine, self.tile, self.epilogue = product, machine, tile, epilogue
        self.split = _panels(product, tile)
        self.arithmetic = _arithmetic(product, machine)
        self.depth: Expr = product.depth if tile.depth == 1 else -(-product.depth // tile.depth) * tile.depth
        """K, with the indices that fill up the last step."""
        self.a: Buffer = parameter("a", product.a_shape, self.arithmetic.inputs)
        shape = (packed_columns(self.split) * self.depth,) if product.packed else product.b_shape
        self.b: Buffer = parameter("b", shape, self.arithmetic.weights)
        self.extras = epilogue.parameters()
        self.out: Buffer = parameter("out", product.out_shape, epilogue.dtype)
        self.copy: Buffer | None = None
        self.stage: Expr = 0
        """Where in ``copy`` a tile is laid down of which not all columns are stored."""

    def body(self) -> Stmt:
        product = self.product
        if product.merged:
            return self._blocks((), kind=PARALLEL)
        if not product.packed and not product.in_place:
            size = packed_columns(self.split) * product.depth
            self.stage = size
            self.copy = local("panels", size + self.tile.rows * self.split[0].width, self.arithmetic.sums)

        def one(*batch: Expr) -> Stmt:
            return seq(self._copied(batch), self._blocks(batch, kind=SERIAL))

        return parallel(product.batch, one, worth=self._worth())

    def _worth(self) -> bool:
        product = self.product
        size: Any = math.prod((*product.batch, product.rows, product.depth, product.columns))
        return not isinstance(size, int) or size > WORTH

    def _blocks(self, batch: tuple[Expr, ...], kind: Any) -> Stmt:
        """All rows and columns: in blocks of rows that stay in the second cache, by panel, by tile."""
        parts: list[Stmt] = []
        for begin, count, size in row_spans(self.product.all_rows, self.tile.rows):
            group = self._tiles_in_cache(count, size)
            for panels in self.split:
                one = partial(self._block, batch, panels, (begin, count, size), group)
                worth = kind is PARALLEL and self._worth()
                parts.append(parallel((ceildiv(count, group), panels.count), one, worth=worth))
        return seq(parts)

    def _block(
        self,
        batch: tuple[Expr, ...],
        panels: Panels,
        span: tuple[Expr, Expr, int],
        group: int,
        block: Expr,
        panel: Expr,
    ) -> Stmt:
        begin, count, size = span
        whole = isinstance(count, int) and count % group == 0
        extent = group if whole else minimum(count - block * group, group)
        return loop(
            extent, lambda t: self._tile(batch, panels, panel, begin + (block * group + t) * size, size), name="m"
        )

    def _tiles_in_cache(self, count: Expr, size: int) -> int:
        """Tiles whose rows of ``a`` take half of the second cache."""
        depth = self.product.depth if isinstance(self.product.depth, int) else USUAL_ROWS
        fit = max(1, self.machine.processor.l2_bytes // 2 // (4 * depth * size))
        return min(fit, count) if isinstance(count, int) and count else fit

    def _copied(self, batch: tuple[Expr, ...]) -> Stmt:
        """The second operand's matrix, panel by panel, columns beyond it 0."""
        if self.copy is None:
            return NOTHING
        parts: list[Stmt] = [alloc(self.copy)]
        for panels in self.split:
            parts.append(loop(panels.count, partial(self._copied_panel, batch, panels), name="panel"))
        return seq(parts)

    def _copied_panel(self, batch: tuple[Expr, ...], panels: Panels, panel: Expr) -> Stmt:
        depth, columns, width = self.product.depth, self.product.columns, panels.width
        start = panels.offset * depth + panel * depth * width

        def element(k: Expr, n: Expr) -> Stmt:
            column = panels.begin + panel * width + n
            value = self.arithmetic.widened(self._second(batch, k, column), 1)
            if not isinstance(columns, int) or panels.begin + panels.count * width > columns:
                value = tir.if_then_else(column < columns, value, const(0, self.arithmetic.sums))
            return store(self.copy, value, start + k * width + n)

        return loop(width, lambda n: loop(depth, lambda k: element(k, n), name="k"), name="n")

    def _second(self, batch: tuple[Expr, ...], k: Expr, n: Expr) -> Expr:
        """``b[batch, k, n]`` of an activation."""
        product = self.product
        own = product.b_batch or product.batch
        at = (*(0 if e == 1 else i for i, e in zip(batch[: len(own)], own, strict=True)), k, n)
        return self.b[_stored(at, product.b_axes)]

    def first(self, batch: tuple[Expr, ...], m: Expr, k: Expr) -> Expr:
        """``a[batch, m, k]``."""
        product = self.product
        if product.merged:  # rows beyond the matrix: the address is that of the next batch
            return self.a[(*(0 for _ in product.batch), m, k)]
        return self.a[_stored((*batch, m, k), product.a_axes)]

    def _tile(self, batch: tuple[Expr, ...], panels: Panels, p: Expr, m: Expr, rows: int) -> Stmt:
        registers = registers_of(self.arithmetic, rows, panels.vectors, panels.lanes)
        return seq(
            registers.start(), self.sums(registers, batch, panels, p, m), self._write(registers, batch, panels, p, m)
        )

    def sums(self, registers: Registers, batch: tuple[Expr, ...], panels: Panels, p: Expr, m: Expr) -> Stmt:
        """Adds up all of K: in steps, the last of which may be partly beyond it."""
        whole, depth, width = self.product.depth, self.tile.depth, panels.lanes
        unroll = self.tile.unroll

        def step(k: Expr, left: int = 0) -> Stmt:
            def value(row: int) -> Expr:
                def read(at: Expr, n: int) -> Expr:
                    return self.first(batch, m + row, lanes(at, n))

                return self.arithmetic.part(read, k, left, width) if left else self.arithmetic.value(read, k, width)

            return registers.step(
                value,
                lambda v: self._weight(batch, panels, p, k, v),
                combine=lambda total, a, w: self.arithmetic.add(total, a, w, width),
            )

        if not isinstance(whole, int):
            return registers.bursts(whole, 1, step)
        rounds, rest = divmod(whole // depth, unroll)

        def round_(r: Expr) -> Stmt:
            return seq([step((r * unroll + u) * depth) for u in range(unroll)])

        def last(_: Expr) -> Stmt:
            steps = [step((rounds * unroll + u) * depth) for u in range(rest)]
            return seq(steps, [step(whole // depth * depth, whole % depth)] if whole % depth else [])

        main = registers.bursts(rounds, unroll * depth, round_)
        return seq(main, registers.bursts(1, rest * depth, last) if rest or whole % depth else [])

    def _weight(self, batch: tuple[Expr, ...], panels: Panels, p: Expr, k: Expr, vector: int) -> Expr:
        width, depth = panels.lanes, self.tile.depth
        if self.product.in_place:
            column = panels.begin + p * panels.width + vector * width
            return self.arithmetic.column(lambda at, n: self._second(batch, k, lanes(at, n)), column, width)
        at = panels.offset * self.depth + (p * self.depth + k) * panels.width + vector * width * depth
        if self.copy is not None:
            return self.copy[lanes(at, width)]
        return self.arithmetic.column(lambda at, n: self.b[lanes(at, n)], at, width)

    def _write(self, registers: Registers, batch: tuple[Expr, ...], panels: Panels, p: Expr, m: Expr) -> Stmt:
        columns = self.product.columns
        known = columns if isinstance(columns, int) else None
        first = panels.begin + p * panels.width

        def put(row: int, column: int, element: Callable[[Expr], Expr]) -> Stmt | None:
            left = panels.lanes if known is None else known - panels.begin - column
            count = min(panels.lanes, left) if panels.count == 1 else panels.lanes
            if count <= 0:
                return None
            return over_lanes(count, lambda j: self._put(batch, m + row, first + column + j, element(j)))

        def lay_down(row: int, column: int, element: Callable[[Expr], Expr]) -> Stmt:
            at = self.stage + row * panels.width + column
            return over_lanes(panels.lanes, lambda j: store(self.copy, element(j), at + j))

        def pick_up(row: Expr, n: Expr) -> Stmt:
            value = self.copy[self.stage + row * panels.width + n] if self.copy is not None else None
            return self._put(batch, m + row, first + n, value)

        whole = registers.write(panels.lanes, put)
        if known is not None:
            return whole
        rest = loop(registers.rows, lambda r: loop(columns - first, lambda n: pick_up(r, n), name="n"), name="r")
        return when(first + panels.width <= columns, whole, seq(registers.write(panels.lanes, lay_down), rest))

    def _put(self, batch: tuple[Expr, ...], m: Expr, n: Expr, value: Expr) -> Stmt:
        index = self._index(batch, m, n)
        value = self.epilogue.apply(value, index, self.extras)
        # Merged batches: rows beyond the first matrix have the address of the next ones.
        return store(self.out, value, *((*(0 for _ in self.product.batch), m, n) if self.product.merged else index))

    def _index(self, batch: tuple[Expr, ...], m: Expr, n: Expr) -> tuple[Expr, ...]:
        """Where an output element is stored."""
        product = self.product
        if not product.merged:
            return _stored((*batch, m, n), product.out_axes)
        at: list[Expr] = []
        for extent in reversed((*product.batch[1:], product.rows) if product.batch else ()):
            at.append(m % extent)
            m = m // extent
        return (m, *reversed(at), n)
