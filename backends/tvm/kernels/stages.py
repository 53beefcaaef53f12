"""Functions made from tensor expressions, taken apart: one stage for each computed tensor, its axes and its body."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm_ffi
from tvm import ir, s_tir

from .emit import Buffer, Expr, Stmt, tir, tir_stmt

_ffi: Any = tvm_ffi
Load: Any = ir.TensorLoad
"""A read: ``source`` at ``indices``."""


@dataclass(frozen=True)
class Axis:
    """A loop of a stage."""

    var: Expr
    extent: Expr
    reduces: bool


@dataclass(frozen=True)
class Stage:
    """What computes one tensor (or several at once, as arg-max does)."""

    axes: tuple[Axis, ...]
    body: Stmt
    init: Stmt | None

    @property
    def spatial(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if not a.reduces)

    @property
    def reduced(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if a.reduces)

    @property
    def stores_once(self) -> bool:
        """Whether the body is one store at the spatial axes, in order."""
        if not isinstance(self.body, tir.BufferStore):
            return False
        at, spatial = list(self.body.indices), self.spatial
        return len(at) == len(spatial) and all(i.same_as(a.var) for i, a in zip(at, spatial, strict=True))

    @property
    def combined(self) -> tuple[Callable[[Expr, Expr], Expr], Expr] | None:
        """How a reduction takes in one more element, and the element; ``None`` for forms that nobody expects."""
        value = self.body.value if self.stores_once and self.reduced else None
        combine = None if value is None else _COMBINES.get(type(value))
        if value is None or combine is None or not isinstance(value.a, Load):
            return None
        total = self.body.buffer
        own = value.a.source.same_as(total)
        return (combine, value.b) if own and not any(load.source.same_as(total) for load in loads(value.b)) else None


def _add(a: Expr, b: Expr) -> Expr:
    return a + b


def _multiply(a: Expr, b: Expr) -> Expr:
    return a * b


def _larger(total: Expr, value: Expr) -> Expr:
    """LLVM's code takes the second where either is NaN: one that comes later must not wipe out what was found."""
    return tir.max(value, total)


def _smaller(total: Expr, value: Expr) -> Expr:
    return tir.min(value, total)


_COMBINES: dict[Any, Callable[[Expr, Expr], Expr]] = {
    tir.Add: _add,
    tir.Mul: _multiply,
    tir.Max: _larger,
    tir.Min: _smaller,
}
EXTREMES = (_larger, _smaller)
"""Reductions that may begin with their first element instead of an identity."""


@dataclass(frozen=True)
class Program:
    """A function as stages in order."""

    parameters: tuple[Buffer, ...]
    intermediates: tuple[Buffer, ...]
    stages: tuple[Stage, ...]
    name: str


def program_of(function: Any) -> Program:
    """Takes a result of ``te.create_prim_func`` apart; injective stages that one other stage reads are put into it."""
    root = _inlined(function).body.block
    body = root.body
    stages = [_stage(part) for part in (body.seq if isinstance(body, tir.SeqStmt) else [body])]
    attributes = function.attrs
    name = str(attributes["global_symbol"]) if attributes and "global_symbol" in attributes else "main"
    return Program(tuple(function.params), tuple(root.alloc_buffers), tuple(stages), name)


def loads(node: Any) -> list[Any]:
    """All reads in an expression or statement."""
    found: list[Any] = []

    def see(load: Any) -> None:
        found.append(load)

    _ffi.structural_walk(node, (Load, see))
    return found


def _lets(node: Any) -> list[Any]:
    found: list[Any] = []

    def see(let: Any) -> None:
        found.append(let)

    _ffi.structural_walk(node, (tir.Let, see))
    return found


def variables(node: Any) -> list[Any]:
    """All variables that occur, buffers left out."""
    found: list[Any] = []

    def see(var: Any) -> None:
        if not tir.is_buffer_var(var):
            found.append(var)

    _ffi.structural_walk(node, (tir.Var, see))
    return found


def rewritten(node: Any, values: Mapping[Any, Expr], access: Callable[[Any], Any] | None = None) -> Any:
    """``node`` with variables replaced, and every read and write then passed through ``access``. Variables that the
    node itself binds become new ones, since the same statement may be written several times."""
    fresh = {let.var: tir.Var(let.var.name, let.var.ty) for let in _lets(node)}

    def var(v: Any) -> Any:
        return v if tir.is_buffer_var(v) else fresh.get(v, values.get(v, v))

    callbacks: list[Any] = [(tir.Var, var)]
    if access is not None:
        callbacks += [(Load, access), (tir.BufferStore, access)]
    return _ffi.structural_map(node, callbacks)


def named_apart(node: Any) -> Any:
    """``node`` with every value that has a name (Let) under a name of its own, where an expression is used twice."""

    def let(found: Any) -> Any:
        fresh = tir.Var(found.var.name, found.var.ty)
        return tir.Let(fresh, found.value, rewritten(found.body, {found.var: fresh}))

    return _ffi.structural_map(node, (tir.Let, let))


def _inlined(function: Any) -> Any:
    schedule = s_tir.Schedule(named_apart(function))
    root: Any = schedule.get_sblock("root")
    for block in schedule.get_child_blocks(root):
        consumers = schedule.get_consumers(block)
        if len(consumers) == 1 and _worth_inlining(schedule.get(block), schedule.get(consumers[0])):
            schedule.compute_inline(block)
    mod: Any = schedule.mod
    return mod[next(iter(mod.get_global_vars()))]


def _worth_inlining(block: Any, consumer: Any) -> bool:
    """Whether every element of an injective block is computed once when its reader does it."""
    if block.init is not None or len(block.writes) != 1:
        return False
    size, read = 1, 1
    for axis in block.iter_vars:
        size = size * axis.dom.extent
    for axis in consumer.iter_vars:
        read = read * axis.dom.extent
    known = [int(n) if isinstance(n, int | tir.IntImm) else None for n in (size, read)]
    buffer = block.writes[0].source
    reads = sum(load.source.same_as(buffer) for load in loads(consumer.body))
    return reads == 1 and None not in known and known[0] == known[1]


def _stage(loops: Stmt) -> Stage:
    while not hasattr(loops, "block"):
        loops = loops.body
    block = loops.block
    axes = tuple(Axis(i.var, plain(i.dom.extent), i.iter_type == tir.IterVar.CommReduce) for i in block.iter_vars)
    return Stage(axes, block.body, block.init)


def plain(extent: Expr) -> Expr:
    """A number as one."""
    return int(extent) if isinstance(extent, int | tir.IntImm) else extent


ON_STACK = 1023
"""Bytes of a local buffer that stay in registers or on the stack; what is larger TVM takes from its own workspace."""


def scratch_bytes(function: Any) -> int:
    """What a kernel takes from the workspace, for each thread; symbolic extents are left out."""
    total = 0

    def add(found: Any) -> None:
        nonlocal total
        shape = [plain(extent) for extent in found.buffer.shape]
        if all(isinstance(extent, int) for extent in shape):
            size = math.prod(shape) * np.dtype(str(found.buffer.dtype)).itemsize
            total += size if size > ON_STACK else 0

    _ffi.structural_walk(function.body, (tir_stmt.AllocBuffer, add))
    return total
