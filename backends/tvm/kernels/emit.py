"""Loop nests as statements: a few functions over TVM's constructors.

A kernel is written as functions that return statements; a Python loop writes code out, ``loop`` makes a loop of the
kernel. Local buffers of up to 1,023 bytes live on the stack, where LLVM keeps them in registers when all indices
are constants; beyond that TVM takes them from the heap. So accumulators are many small buffers, one per register.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import tvm
from tvm import tirx
from tvm.tirx import stmt

Expr: TypeAlias = Any
"""A ``PrimExpr``, or an int where one is known."""
Stmt: TypeAlias = Any
Buffer: TypeAlias = Any

tir: Any = tirx
tir_stmt: Any = stmt
SERIAL, PARALLEL, VECTORIZED, UNROLLED = (
    tir_stmt.ForKind.SERIAL,
    tir_stmt.ForKind.PARALLEL,
    tir_stmt.ForKind.VECTORIZED,
    tir_stmt.ForKind.UNROLLED,
)


def parameter(name: str, shape: Sequence[Expr], dtype: str) -> Buffer:
    """A buffer of the caller's, at any offset from its allocation."""
    return tir.decl_buffer(tuple(shape), dtype, name, offset_factor=1)


def local(name: str, count: int, dtype: str) -> Buffer:
    """A buffer of the kernel's own; ``alloc`` has to stand in front of its use."""
    return tir.decl_buffer((count,), dtype, name, scope="global")


def alloc(buffer: Buffer) -> Stmt:
    return tir_stmt.AllocBuffer(buffer)


def store(buffer: Buffer, value: Expr, *indices: Expr) -> Stmt:
    return tir_stmt.BufferStore(buffer, value, list(indices))


def bind(name: str, value: Expr) -> tuple[Expr, Stmt]:
    """A name for a value that is read several times: the variable and the statement that sets it."""
    variable = tir.Var(name, value.ty)
    return variable, tir_stmt.Bind(variable, value)


def seq(*parts: Any) -> Stmt:
    """Statements one after another; lists among them are taken apart, ``NOTHING`` disappears."""
    flat: list[Stmt] = []
    for part in parts:
        flat.extend(cast("list[Stmt]", part) if isinstance(part, list) else [part])
    flat = [s for s in flat if s is not NOTHING]
    if not flat:
        return NOTHING
    return flat[0] if len(flat) == 1 else tir_stmt.SeqStmt(flat)


NOTHING: Stmt = tir_stmt.Evaluate(tir.const(0, "int32"))


def loop(extent: Expr, body: Callable[[Expr], Stmt], *, kind: Any = SERIAL, name: str = "i", begin: Expr = 0) -> Stmt:
    """``body`` for every index from ``begin``, ``extent`` times. An extent of 1 makes no loop, of 0 nothing."""
    if isinstance(extent, int) and extent <= 1:
        return body(begin) if extent == 1 else NOTHING
    variable = tir.Var(name, "int32")
    inner = body(variable)
    return NOTHING if inner is NOTHING else tir_stmt.For(variable, begin, extent, kind, inner)


def parallel(extents: Sequence[Expr], body: Callable[..., Stmt], *, worth: bool = True) -> Stmt:
    """``body(i, j, ...)`` over all indices, the first slowest, in one loop that TVM's thread pool splits.
    ``worth=False``: the work is too little to wake a thread for."""
    if not extents:
        return body()
    total = math.prod(extents)

    def split(flat: Expr) -> Stmt:
        indices: list[Expr] = []
        rest = flat
        for extent in reversed(extents[1:]):
            indices.append(0 if extent == 1 else rest % extent)
            rest = rest if extent == 1 else rest // extent
        return body(rest, *reversed(indices))

    return loop(total, split, kind=PARALLEL if worth else SERIAL, name="task")


def when(condition: Expr, then: Stmt, otherwise: Stmt | None = None) -> Stmt:
    return tir_stmt.IfThenElse(condition, then, otherwise)


def lanes(start: Expr, count: int) -> Expr:
    """Indices ``start, start + 1, ...`` of a vector; the index itself where ``count`` is 1."""
    return start if count == 1 else tir.Ramp(start, 1, count)


def spread(value: Expr, count: int) -> Expr:
    """A vector of one value."""
    return value if count == 1 else tir.Broadcast(value, count)


def const(value: float, dtype: str, count: int = 1) -> Expr:
    return spread(tir.const(value, dtype), count)


def function(parameters: Sequence[Buffer], body: Stmt, name: str) -> Any:
    """The kernel. Operands may lie anywhere, also in one another's place where its maker allows that."""
    attributes: Any = tvm.ir.make_node("ir.DictAttrs", s_tir=True, global_symbol=name)
    return tir.PrimFunc(list(parameters), body, attrs=attributes)


def maximum(a: Expr, b: Expr) -> Expr:
    """Greatest of two indices, computed now where both are known."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else tir.max(a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else tir.min(a, b)


def ceildiv(a: Expr, b: int) -> Expr:
    return (a + b - 1) // b
