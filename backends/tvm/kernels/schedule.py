"""The schedule of everything that has no kernel of its own: elementwise chains, data movement, reductions, softmax,
normalizations, pooling, made from tensor expressions.

Stages share their leading axes as far as they agree; these become tasks for the thread pool, and what one task needs
of a tensor between stages is a small buffer. In a stage the axis that is contiguous in memory is the vector: an axis
of the result (several elements side by side) or of the reduction (several partial sums, added up in a fixed order).
Axes at the end that all operands share, or that an operand does not have, are one axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

from tvm import sym

from .emit import (
    Buffer,
    Expr,
    Stmt,
    alloc,
    const,
    function,
    lanes,
    loop,
    parallel,
    parameter,
    seq,
    store,
    tir,
)
from .machine import Machine
from .math import with_math
from .stages import EXTREMES, Axis, Load, Program, Stage, loads, plain, program_of, rewritten, variables
from .tile import over_lanes

TASKS = 64
"""Parallel tasks that are enough for any number of threads."""
WORTH = 1 << 15
"""Elements from which on it pays to use several threads."""
USUAL = 64
"""What a symbolic extent is taken for where it matters little."""


def schedule(made: Any, machine: Machine) -> Any:
    """The scheduled form of a result of ``te.create_prim_func``."""
    program = program_of(made)
    return with_math(_Scheduler(program, machine).written(), machine)


@dataclass(frozen=True)
class _Scope:
    """Where the statements of one task are: the leading axes' indices, and buffers instead of tensors."""

    indices: tuple[Expr, ...]
    buffers: dict[Any, Buffer]
    locals: dict[Any, Buffer]

    def access(self, node: Any) -> Any:
        """A read or write at its buffer."""
        buffer = node.source if isinstance(node, Load) else node.buffer
        own = self.locals.get(buffer)
        at = list(node.indices)
        if own is not None:
            at = [_flattened(at[len(self.indices) :], list(buffer.shape)[len(self.indices) :])]
        else:
            own = self.buffers[buffer]
        return tir.BufferLoad(own, at) if isinstance(node, Load) else tir.BufferStore(own, node.value, at)


class _Scheduler:
    def __init__(self, program: Program, machine: Machine) -> None:
        self.program, self.lanes = program, machine.lanes()
        self.buffers = {p: parameter(p.name, tuple(p.shape), p.dtype) for p in program.parameters}
        self.leading = self._leading()

    def written(self) -> Any:
        program = self.program
        axes = program.stages[0].spatial[: self.leading]
        tasks = _tasks([a.extent for a in axes])
        work = max(math.prod(_usual(a.extent) for a in s.axes) for s in program.stages)

        def task(*outer: Expr) -> Stmt:
            own = {b: _local(b, self.leading) for b in program.intermediates}

            def inner(*rest: Expr) -> Stmt:
                scope = _Scope((*outer, *rest), self.buffers, own)
                return seq([self._stage(s, scope) for s in program.stages])

            nest = _nest([a.extent for a in axes[tasks:]], inner)
            return seq([alloc(b) for b in own.values()], nest)

        body = parallel([a.extent for a in axes[:tasks]], task, worth=work > WORTH) if tasks else task()
        return function(list(self.buffers.values()), body, program.name)

    def _leading(self) -> int:
        """How many leading axes all stages share."""
        stages = self.program.stages
        shared = min(len(s.spatial) for s in stages)
        for stage in stages:
            for i, (a, b) in enumerate(zip(stage.spatial[:shared], stages[0].spatial[:shared], strict=True)):
                if not _same(a.extent, b.extent) or any(x.reduces for x in stage.axes[: i + 1]):
                    shared = i
                    break
            shared = min(shared, self._kept(stage, shared))
        return shared

    def _kept(self, stage: Stage, shared: int) -> int:
        """How many leading axes may become tasks as far as this stage is concerned."""
        for load in loads(stage.body):
            if any(load.source.same_as(b) for b in self.program.intermediates):
                agree = [i.same_as(a.var) for i, a in zip(load.indices, stage.spatial[:shared], strict=False)]
                shared = agree.index(False) if False in agree else min(shared, len(agree))
        if not stage.stores_once:
            return shared
        if stage.combined is None or self._vector(stage, stage.spatial) is not None:
            if stage.combined is None and not stage.reduced and _interleaves(stage, stage.spatial):
                return min(shared, len(stage.spatial) - 2)
            # The last axis and all that can be merged with it stay for vectors; where tensors lie between stages,
            # only as many as fill one, so that little lies there.
            merged = max(1, self._merged(stage, stage.spatial))
            return min(shared, len(stage.spatial) - (self._filling(stage, merged) if self._between else merged))
        return shared

    @property
    def _between(self) -> bool:
        return len(self.program.stages) > 1

    def _filling(self, stage: Stage, most: int) -> int:
        """Trailing axes that fill a vector."""
        extents = [a.extent for a in reversed(stage.spatial[-most:])]
        filled = (n for n in range(1, most) if math.prod(_usual(e) for e in extents[:n]) >= self.lanes)
        return next(filled, most)

    def _vector(self, stage: Stage, spatial: Sequence[Axis]) -> Axis | None:
        """The axis of the result that a reduction computes side by side, if there is one: contiguous in what is read,
        unless the reduction's own last axis is and is long."""
        combined = stage.combined
        if combined is None or not spatial:
            return None
        reads = loads(combined[1])
        last, inner = spatial[-1], stage.reduced[-1]
        if not any(_contiguous(load, last.var) for load in reads) or _usual(last.extent) < 4:
            return None
        if any(_contiguous(load, inner.var) for load in reads) and _usual(inner.extent) >= 4 * _usual(last.extent):
            return None
        return last

    def _merged(self, stage: Stage, axes: Sequence[Axis]) -> int:
        """How many trailing ``axes`` can be run over as one: every operand has all of them last, or none."""
        value = stage.body.value if stage.stores_once else None
        if value is None:
            return 1
        combined = stage.combined
        reads = loads(combined[1] if combined else value)
        bare = _without_loads(combined[1] if combined else value)
        count = 1
        while count < len(axes) and all(_trails(r, axes[-count - 1 :]) for r in reads):
            if any(v.same_as(a.var) for a in axes[-count - 1 :] for v in bare):
                break
            count += 1
        return count

    def _stage(self, stage: Stage, scope: _Scope) -> Stmt:
        spatial = stage.spatial[self.leading :]
        values = _at(stage.spatial[: self.leading], scope.indices)
        if not stage.stores_once or (stage.reduced and stage.combined is None):
            return self._plain(stage, spatial, scope, values)
        if not stage.reduced:
            return self._elements(stage, spatial, scope, values)
        if spatial and self._vector(stage, spatial) is not None:
            return self._side_by_side(stage, spatial, scope, values)
        return self._partial_sums(stage, spatial, scope, values)

    def _plain(self, stage: Stage, spatial: Sequence[Axis], scope: _Scope, values: dict[Any, Expr]) -> Stmt:
        """Loops as they were written."""

        def outer(*at: Expr) -> Stmt:
            here = values | _at(spatial, at)
            first = [] if stage.init is None else [rewritten(stage.init, here, scope.access)]
            reduced = stage.reduced
            nest = _nest(
                [a.extent for a in reduced],
                lambda *r: rewritten(stage.body, here | _at(reduced, r), scope.access),
            )
            return seq(first, nest)

        return _nest([a.extent for a in spatial], outer)

    def _elements(self, stage: Stage, spatial: Sequence[Axis], scope: _Scope, values: dict[Any, Expr]) -> Stmt:
        if not spatial:
            return rewritten(stage.body, values, scope.access)
        if _interleaves(stage, spatial):
            return self._words(stage, spatial, scope, values)
        merged = self._merged(stage, spatial)
        outer, inner = spatial[:-merged], spatial[-merged:]

        def line(*at: Expr) -> Stmt:
            here = values | _at(outer, at)

            def run(start: Expr, count: int) -> Stmt:
                return over_lanes(count, lambda j: rewritten(stage.body, here | _flat(inner, start + j), scope.access))

            return self._runs(math.prod(a.extent for a in inner), run, self.lanes)

        return _nest([a.extent for a in outer], line)

    def _words(self, stage: Stage, spatial: Sequence[Axis], scope: _Scope, values: dict[Any, Expr]) -> Stmt:
        """Bytes of a few planes side by side: those of one place are one word, words of neighbours a vector."""
        *outer, row, planes = spatial
        count = int(planes.extent)

        def line(*at: Expr) -> Stmt:
            here = values | _at(outer, at)

            def run(start: Expr, width: int) -> Stmt:
                words = tir.decl_buffer((width,), "int32", "words", scope="global")

                def plane(j: Expr, c: int) -> Expr:
                    value = rewritten(stage.body.value, here | _at((row, planes), (start + j, c)), scope.access)
                    byte = tir.bitwise_and(tir.Cast("int32", value), tir.const(255, "int32"))
                    return tir.shift_left(byte, tir.const(8 * c, "int32"))

                def word(j: Expr) -> Stmt:
                    return store(words, reduce(tir.bitwise_or, [plane(j, c) for c in range(count)]), j)

                target = rewritten(
                    tir.BufferStore(stage.body.buffer, const(0, stage.body.buffer.dtype), stage.body.indices),
                    here | _at((row, planes), (start, 0)),
                    scope.access,
                )
                # Beyond the last axis: the next place's bytes are the next ones in memory.
                at = [*target.indices[:-1], lanes(0, count * width)]
                whole = tir.reinterpret(f"{stage.body.buffer.dtype}x{count * width}", words[lanes(0, width)])
                return seq(alloc(words), over_lanes(width, word), tir.BufferStore(target.buffer, whole, at))

            return self._runs(row.extent, run, self.lanes)

        return _nest([a.extent for a in outer], line)

    def _side_by_side(self, stage: Stage, spatial: Sequence[Axis], scope: _Scope, values: dict[Any, Expr]) -> Stmt:
        """A reduction with neighbours of the result in one vector."""
        merged = self._merged(stage, spatial)
        outer, inner = spatial[:-merged], spatial[-merged:]
        extent: Expr = math.prod(a.extent for a in inner)
        width = 4 * self.lanes if isinstance(extent, int) and extent % (4 * self.lanes) == 0 else self.lanes

        def line(*at: Expr) -> Stmt:
            here = values | _at(outer, at)
            return self._runs(extent, lambda s, n: self._column(stage, scope, here, inner, s, n), width)

        return _nest([a.extent for a in outer], line)

    def _column(
        self, stage: Stage, scope: _Scope, values: dict[Any, Expr], inner: Sequence[Axis], start: Expr, count: int
    ) -> Stmt:
        combine, element = _combined(stage)
        reduced = stage.reduced
        ways = _ways(reduced[-1].extent) if count <= self.lanes else 1
        totals = [_scratch(stage, count) for _ in range(ways)]

        def add(*at: Expr) -> Stmt:
            def one(way: int, j: Expr) -> Stmt:
                last = at[-1] * ways + way
                here = values | _flat(inner, start + j) | _at(reduced, (*at[:-1], last))
                total = totals[way]
                return store(total, combine(total[j], rewritten(element, here, scope.access)), j)

            return seq([over_lanes(count, partial(one, way)) for way in range(ways)])

        def first(total: Buffer, j: Expr) -> Stmt:
            return store(total, _first(stage, values | _flat(inner, start + j), scope), j)

        def finish(j: Expr) -> Stmt:
            found = totals[0][j]
            for total in totals[1:]:
                found = combine(found, total[j])
            return _stored(stage, scope, values | _flat(inner, start + j), found)

        return seq(
            [alloc(total) for total in totals],
            [over_lanes(count, partial(first, total)) for total in totals],
            _nest([*(a.extent for a in reduced[:-1]), reduced[-1].extent // ways], add),
            over_lanes(count, finish),
        )

    def _partial_sums(self, stage: Stage, spatial: Sequence[Axis], scope: _Scope, values: dict[Any, Expr]) -> Stmt:
        """A reduction over neighbours: sums of every 4 * lanes-th element, then of these."""
        combine, element = _combined(stage)
        reduced = stage.reduced
        merged = self._merged(stage, reduced)
        outer, inner = reduced[:-merged], reduced[-merged:]
        extent: Expr = math.prod(a.extent for a in inner)
        contiguous = any(_contiguous(load, inner[-1].var) for load in loads(element))
        most = 4 * self.lanes if contiguous else 4
        width = most if not isinstance(extent, int) else min(most, 1 << (max(1, extent).bit_length() - 1))

        def row(*at: Expr) -> Stmt:
            here = values | _at(spatial, at)
            total = _scratch(stage, width)

            def line(*outside: Expr) -> Stmt:
                inside = here | _at(outer, outside)

                def run(start: Expr, count: int) -> Stmt:
                    def one(j: Expr) -> Stmt:
                        value = rewritten(element, inside | _flat(inner, start + j), scope.access)
                        return store(total, combine(total[j], value), j)

                    return over_lanes(count, one)

                return self._runs(extent, run, width)

            def fold(half: int) -> Stmt:
                return over_lanes(half, lambda j: store(total, combine(total[j], total[j + half]), j))

            return seq(
                alloc(total),
                over_lanes(width, lambda j: store(total, _first(stage, here, scope), j)),
                _nest([a.extent for a in outer], line),
                [fold(1 << i) for i in reversed(range(width.bit_length() - 1))],
                _stored(stage, scope, here, total[0]),
            )

        return _nest([a.extent for a in spatial], row)

    def _runs(self, extent: Expr, run: Callable[[Expr, int], Stmt], width: int) -> Stmt:
        """``run(start, count)`` over ``extent`` neighbours, ``width`` at a time; the rest in ever shorter vectors."""
        if not isinstance(extent, int):
            full = extent // width
            rest = loop(extent - full * width, lambda i: run(full * width + i, 1), name="rest")
            return seq(loop(full, lambda i: run(i * width, width), name="x"), rest)
        parts: list[Stmt] = []
        start = 0
        while width:
            if count := (extent - start) // width:
                parts.append(loop(count, lambda i, s=start, w=width: run(s + i * w, w), name="x"))
                start += count * width
            width //= 2
        return seq(parts)


def _interleaves(stage: Stage, spatial: Sequence[Axis]) -> bool:
    """Whether four planes of bytes become neighbours."""
    if len(spatial) < 2 or spatial[-1].extent != 4 or str(stage.body.buffer.dtype) not in ("int8", "uint8"):
        return False
    row, planes = spatial[-2:]
    reads = loads(stage.body.value)
    return any(_contiguous(r, row.var) for r in reads) and not any(_contiguous(r, planes.var) for r in reads)


def _ways(extent: Expr) -> int:
    """Sums at once of a reduction, so that none waits for the one before: as many as divide its last axis."""
    return next((n for n in (4, 3, 2) if isinstance(extent, int) and extent % n == 0 and extent > n), 1)


def _combined(stage: Stage) -> tuple[Callable[[Expr, Expr], Expr], Expr]:
    found = stage.combined
    assert found is not None
    return found


def _first(stage: Stage, values: dict[Any, Expr], scope: _Scope) -> Expr:
    """What a reduction begins with: the first element for the largest and smallest, so that rows of NaN stay NaN."""
    assert stage.init is not None
    combine, element = _combined(stage)
    if combine in EXTREMES and all(isinstance(a.extent, int) and a.extent > 0 for a in stage.reduced):
        return rewritten(element, values | _at(stage.reduced, [0] * len(stage.reduced)), scope.access)
    return stage.init.value


def _scratch(stage: Stage, count: int) -> Buffer:
    return tir.decl_buffer((count,), stage.body.buffer.dtype, "total", scope="global")


def _stored(stage: Stage, scope: _Scope, values: dict[Any, Expr], value: Expr) -> Stmt:
    target = rewritten(
        tir.BufferStore(stage.body.buffer, const(0, stage.body.buffer.dtype), stage.body.indices), values
    )
    placed = scope.access(target)
    return tir.BufferStore(placed.buffer, value, placed.indices)


def _local(buffer: Buffer, leading: int) -> Buffer:
    """What a task needs of a tensor between stages, of one axis: TVM cuts local buffers down to the indices that it
    sees on each axis, but we run over several axes as one."""
    count: Expr = math.prod(plain(e) for e in list(buffer.shape)[leading:])
    return tir.decl_buffer((count,), buffer.dtype, buffer.name, scope="global")


def _flattened(indices: Sequence[Expr], shape: Sequence[Expr]) -> Expr:
    at: Expr = 0
    for index, extent in zip(indices, shape, strict=True):
        at = at * extent + index
    return at


def _nest(extents: Sequence[Expr], body: Callable[..., Stmt]) -> Stmt:
    """``body`` in loops, the first outermost."""

    def inside(done: tuple[Expr, ...], left: Sequence[Expr]) -> Stmt:
        return body(*done) if not left else loop(left[0], lambda i: inside((*done, i), left[1:]))

    return inside((), extents)


def _at(axes: Sequence[Axis], indices: Sequence[Expr]) -> dict[Any, Expr]:
    return {a.var: _expr(i) for a, i in zip(axes, indices, strict=True)}


def _flat(axes: Sequence[Axis], index: Expr) -> dict[Any, Expr]:
    """All of the axes as one: the last has the whole index, the address is the same."""
    return {a.var: _expr(0) for a in axes[:-1]} | {axes[-1].var: _expr(index)}


def _expr(index: Expr) -> Expr:
    return tir.const(index, "int32") if isinstance(index, int) else index


def _tasks(extents: Sequence[Expr]) -> int:
    """How many leading axes are enough to keep all threads busy."""
    total = 1
    for i, extent in enumerate(extents):
        if total >= TASKS:
            return i
        total *= _usual(extent)
    return len(extents)


def _usual(extent: Expr) -> int:
    return extent if isinstance(extent, int) else USUAL


def _same(a: Expr, b: Expr) -> bool:
    return a == b if isinstance(a, int) and isinstance(b, int) else not isinstance(a, int) and a.same_as(b)


def _contiguous(load: Any, var: Any) -> bool:
    """Whether the next value of ``var`` is the next element in memory."""
    at = list(load.indices)
    if not at or not any(v.same_as(var) for v in variables(at[-1])):
        return False
    if any(v.same_as(var) for i in at[:-1] for v in variables(i)):
        return False

    step = rewritten(at[-1], {var: var + 1}) - at[-1]
    analyzer: Any = sym
    known = analyzer.Analyzer().simplify(step)
    return isinstance(known, tir.IntImm) and int(known) == 1


def _trails(load: Any, axes: Sequence[Axis]) -> bool:
    """Whether a read has exactly these axes as its last ones, or none of them."""
    at, shape = list(load.indices), list(load.source.shape)
    used = [v for i in at for v in variables(i)]
    if not any(v.same_as(a.var) for v in used for a in axes):
        return True
    n = len(axes)
    if len(at) < n or not all(i.same_as(a.var) for i, a in zip(at[-n:], axes, strict=True)):
        return False
    if any(v.same_as(a.var) for i in at[:-n] for v in variables(i) for a in axes):
        return False
    return all(_same(plain(s), a.extent) for s, a in zip(shape[-n:], axes, strict=True))


def _without_loads(value: Expr) -> list[Any]:
    """Variables of an expression outside its reads."""
    inside = [v for load in loads(value) for i in load.indices for v in variables(i)]
    left = list(variables(value))
    for v in inside:
        for k, other in enumerate(left):
            if other.same_as(v):
                del left[k]
                break
    return left
