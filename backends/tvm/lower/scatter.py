"""Operators with loops of their own: scattering, the largest elements, cumulative sums.

Tensor expressions say what each result reads; these say what is written where, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir.graph import Node, Value
from ..kernels import emit
from ..kernels.emit import Expr, Stmt, tir
from ..kernels.machine import Machine
from ..rules.core import Unsupported, dtype_of, numbers, register_own, shape_of
from .extents import Extent, Extents, atoms, count, expr, exprs
from .forms import Form
from .kernels import Kernel, Operand

LANES = 16
"""Elements that are copied side by side."""
_COMBINES: dict[str, Callable[[Expr, Expr], Expr]] = {
    "none": lambda a, b: b,
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "max": tir.max,
    "min": tir.min,
}


def scattering(node: Node) -> bool:
    """Whether this file computes the operator."""
    return node.domain == "" and node.op in _MAKERS


def scatter_kernels(node: Node, machine: Machine | None = None) -> list[Kernel]:
    """The kernel of a node. Raises ``Unsupported``."""
    return [_MAKERS[node.op](node)]


def _flat_form(value: Value) -> Form:
    """All of a value as one axis."""
    return Form((count(shape_of(value)),), dtype_of(value))


def _buffer(name: str, value: Value) -> Any:
    return emit.parameter(name, exprs((count(shape_of(value)),)), dtype_of(value))


def _operand(node: Node, i: int) -> Value:
    value = node.input(i)
    if value is None:
        raise Unsupported(f"operand {i} of {node.op} is omitted")
    return value


def _kernel(
    node: Node, operands: Sequence[Value], results: Sequence[Value], make: Callable[[], Any], key: str
) -> Kernel:
    shapes = [shape_of(v) for v in (*operands, *results)]
    types = [dtype_of(v) for v in (*operands, *results)]
    return Kernel(
        node.op.lower(),
        f"{node.op} {key} {shapes} {types}",
        make,
        [Operand(v, _flat_form(v)) for v in operands],
        [(v, _flat_form(v)) for v in results],
        atoms=list(atoms(extent for shape in shapes for extent in shape)),
    )


def _combine(node: Node) -> tuple[str, Callable[[Expr, Expr], Expr]]:
    how = node.attr("reduction", "none")
    how = how.decode() if isinstance(how, bytes) else str(how)
    if how not in _COMBINES or (dtype_of(node.output) == "bool" and how != "none"):
        raise Unsupported(f"{node.op} by {how}")
    return how, _COMBINES[how]


def _copied(source: Any, target: Any, extent: Expr) -> Stmt:
    """All elements, in vectors and one by one."""

    def vector(i: Expr) -> Stmt:
        return emit.store(target, source[emit.lanes(i * LANES, LANES)], emit.lanes(i * LANES, LANES))

    def one(i: Expr) -> Stmt:
        return emit.store(target, source[i], i)

    full = extent // LANES
    begin = full * LANES
    rest = emit.loop(extent - begin, lambda i: one(begin + i), name="rest")
    return emit.seq(emit.parallel((full,), vector, worth=not isinstance(extent, int) or extent > 100_000), rest)


def _wrapped(index: Expr, extent: Extent) -> Expr:
    """An index that may count from the end."""
    at = tir.Cast("int32", index)
    return tir.Select(at < 0, at + expr(extent), at)


def _strides(shape: Extents) -> list[Extent]:
    return [count(shape[i + 1 :]) for i in range(len(shape))]


def _scatter_nd(node: Node) -> Kernel:
    """Each tuple of ``indices`` [..., k] names a slice of the data that its update replaces, or is combined with."""
    data, indices, updates = (_operand(node, i) for i in range(3))
    shape, (depth,) = shape_of(data), numbers(shape_of(indices)[-1:])
    how, combine = _combine(node)
    tuples, inner = count(shape_of(indices)[:-1]), count(shape[depth:])

    def make() -> Any:
        source, at, new = _buffer("data", data), _buffer("indices", indices), _buffer("updates", updates)
        out = _buffer("out", node.output)

        def one(t: Expr) -> Stmt:
            begin: Expr = 0
            for k, stride in enumerate(_strides(shape)[:depth]):
                begin = begin + _wrapped(at[t * depth + k], shape[k]) * expr(stride)
            name, bound = emit.bind("begin", begin + 0 if depth else tir.const(0, "int32"))

            def element(j: Expr) -> Stmt:
                return emit.store(out, combine(out[name + j], new[t * expr(inner) + j]), name + j)

            return emit.seq(bound, emit.loop(expr(inner), element, name="j"))

        body = emit.seq(_copied(source, out, expr(count(shape))), emit.loop(expr(tuples), one, name="t"))
        return emit.function([source, at, new, out], body, node.op.lower())

    return _kernel(node, [data, indices, updates], [node.output], make, how)


def _scatter_elements(node: Node) -> Kernel:
    """Each update goes where its own place is, with the index in place of that on ``axis``."""
    data, indices, updates = (_operand(node, i) for i in range(3))
    shape, given = shape_of(data), shape_of(indices)
    axis = int(node.attr("axis", 0)) % len(shape)
    how, combine = _combine(node)
    strides, own = _strides(shape), _strides(given)

    def make() -> Any:
        source, at, new = _buffer("data", data), _buffer("indices", indices), _buffer("updates", updates)
        out = _buffer("out", node.output)

        def place(done: tuple[Expr, ...]) -> Stmt:
            if len(done) < len(given):
                return emit.loop(expr(given[len(done)]), lambda i: place((*done, i)), name="i")
            flat = sum((i * expr(s) for i, s in zip(done, own, strict=True)), start=tir.const(0, "int32"))
            target: Expr = _wrapped(at[flat], shape[axis]) * expr(strides[axis])
            for k, i in enumerate(done):
                target = target + (i * expr(strides[k]) if k != axis else 0)
            name, bound = emit.bind("target", target)
            return emit.seq(bound, emit.store(out, combine(out[name], new[flat]), name))

        body = emit.seq(_copied(source, out, expr(count(shape))), place(()))
        return emit.function([source, at, new, out], body, node.op.lower())

    return _kernel(node, [data, indices, updates], [node.output], make, f"{how} {axis}")


def _top_k(node: Node) -> Kernel:
    """The k largest (or smallest) of each row in order, of equal ones the first: by insertion."""
    x, wanted = _operand(node, 0), node.input(1)
    shape = shape_of(x)
    if node.version < 10:
        k = int(node.attr("k"))
    elif wanted is not None and wanted.data is not None:
        k = int(wanted.data.numpy().reshape(-1)[0])
    else:
        raise Unsupported("a number of elements that is computed")
    axis = int(node.attr("axis", -1)) % len(shape)
    least = not node.attr("largest", 1)
    if k == 0:
        raise Unsupported("none of the elements")

    def make() -> Any:
        return _TopK(x, axis, k, least).function()

    # Both results, whoever reads them: TVM loses a buffer where it finds that nobody reads another.
    return _kernel(node, [x], node.outputs, make, f"{axis} {k} {least}")


class _TopK:
    """Writes the loops: what was found so far lies in order in buffers of k elements."""

    def __init__(self, x: Value, axis: int, k: int, least: bool) -> None:
        shape, dtype = shape_of(x), dtype_of(x)
        self.outer, self.inner = expr(count(shape[:axis])), expr(count(shape[axis + 1 :]))
        self.extent, self.k, self.least = expr(shape[axis]), k, least
        total = self.outer * k * self.inner
        self.x = _buffer("x", x)
        self.results = [emit.parameter(n, (total,), t) for n, t in (("values", dtype), ("places", "int64"))]
        self.values, self.places = emit.local("best", k, dtype), emit.local("place", k, "int32")
        self.at = emit.local("at", 1, "int32")

    def function(self) -> Any:
        return emit.function([self.x, *self.results], emit.parallel((self.outer, self.inner), self._row), "topk")

    def _row(self, o: Expr, i: Expr) -> Stmt:
        def element(t: Expr) -> Stmt:
            value, bound = emit.bind("value", self.x[(o * self.extent + t) * self.inner + i])
            better = self._better(value, self.values[self.k - 1])
            return emit.seq(bound, emit.when(tir.any(t < self.k, better), self._inserted(value, t)))

        def written(j: Expr) -> Stmt:
            to = (o * self.k + j) * self.inner + i
            values, places = self.results
            return emit.seq(
                emit.store(values, self.values[j], to), emit.store(places, tir.Cast("int64", self.places[j]), to)
            )

        return emit.seq(
            [emit.alloc(b) for b in (self.values, self.places, self.at)],
            emit.loop(self.extent, element, name="t"),
            emit.loop(self.k, written, name="j"),
        )

    def _inserted(self, value: Expr, t: Expr) -> Stmt:
        """Moves what the value goes in front of by one; the last falls out."""
        at = self.at[0]
        moved = emit.seq(
            emit.store(self.values, self.values[at - 1], at),
            emit.store(self.places, self.places[at - 1], at),
            emit.store(self.at, at - 1, 0),
        )
        # Not one condition: both sides of "and" would be read, in front of the buffer.
        before = tir.if_then_else(
            at > 0, self._better(value, self.values[tir.max(at - 1, 0)]), tir.const(False, "bool")
        )
        return emit.seq(
            emit.store(self.at, tir.min(t, self.k - 1), 0),
            emit.tir_stmt.While(before, moved),
            emit.store(self.values, value, at),
            emit.store(self.places, t, at),
        )

    def _better(self, a: Expr, b: Expr) -> Expr:
        return a < b if self.least else a > b


def _cumulative(node: Node) -> Kernel:
    """Sums or products of all elements up to each along an axis."""
    x, axis_of = _operand(node, 0), node.input(1)
    if axis_of is None or axis_of.data is None:
        raise Unsupported("an axis that is computed")
    shape, dtype = shape_of(x), dtype_of(x)
    axis = int(axis_of.data.numpy().reshape(-1)[0]) % len(shape)
    reverse, exclusive = bool(node.attr("reverse", 0)), bool(node.attr("exclusive", 0))
    combine = _COMBINES["mul" if node.op == "CumProd" else "add"]
    start = int(node.op == "CumProd")

    def make() -> Any:
        source, out, extent = _buffer("x", x), _buffer("out", node.output), expr(shape[axis])
        outer, inner = expr(count(shape[:axis])), expr(count(shape[axis + 1 :]))
        total = emit.local("total", 1, dtype)

        def row(o: Expr, i: Expr) -> Stmt:
            def element(t: Expr) -> Stmt:
                at = (o * extent + (extent - 1 - t if reverse else t)) * inner + i
                add = emit.store(total, combine(total[0], source[at]), 0)
                write = emit.store(out, total[0], at)
                return emit.seq(write, add) if exclusive else emit.seq(add, write)

            begin = emit.store(total, emit.const(start, dtype), 0)
            return emit.seq(emit.alloc(total), begin, emit.loop(extent, element, name="t"))

        return emit.function([source, out], emit.parallel((outer, inner), row), node.op.lower())

    return _kernel(node, [x], [node.output], make, f"{axis} {reverse} {exclusive}")


_MAKERS: dict[str, Callable[[Node], Kernel]] = {
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "Scatter": _scatter_elements,
    "TopK": _top_k,
    "CumSum": _cumulative,
    "CumProd": _cumulative,
}
register_own(*_MAKERS)

__all__ = ["scatter_kernels", "scattering"]
