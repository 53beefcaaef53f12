"""Reductions: sums over axes, softmax, normalizations, pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from ..api import te, tirx
from ..lower.extents import Extent, Extents, count, expr, exprs
from ..lower.forms import Element, Expr, Index, flat
from .core import Context, Kind, Made, Unsupported, named, number, numbers, reduce_axis, rule
from .elementwise import is_float
from .movement import axes_of

Combine = Callable[..., Any]


def lowest(dtype: str) -> float:
    """What no number of the type is below: a row of -inf alone has -inf for its largest element."""
    if dtype == "bool":
        return 0
    return -math.inf if is_float(dtype) else int(np.iinfo(dtype).min)


def highest(dtype: str) -> float:
    if dtype == "bool":
        return 1
    return math.inf if is_float(dtype) else int(np.iinfo(dtype).max)


def _maximum(a: Expr, b: Expr) -> Expr:
    return tirx.max(a, b)


def _minimum(a: Expr, b: Expr) -> Expr:
    return tirx.min(a, b)


def _lowest(dtype: Any) -> Expr:
    return number(lowest(str(dtype)), str(dtype))


def _highest(dtype: Any) -> Expr:
    return number(highest(str(dtype)), str(dtype))


# TVM's own begin with the smallest and the largest finite number; it cannot divide others among the threads of a GPU.
# NaN: the schedule begins with the first element, which stays where it is NaN, and passes over NaN behind it; in
# ONNX Runtime it depends on the place what NaN does.
largest: Combine = te.comm_reducer(_maximum, _lowest, name="max")
smallest: Combine = te.comm_reducer(_minimum, _highest, name="min")


def reduced(
    c: Context, x: Element, shape: Extents, axes: Sequence[int], combine: Combine, dtype: str, name: str = ""
) -> Element:
    """The reduction over axes, which stay with extent 1; read it at any index of ``shape``."""
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))

    def fill(index: Index) -> Expr:
        loops = {a: reduce_axis(shape[a], f"r{a}") for a in axes}
        return combine(x(tuple(loops.get(i, at) for i, at in enumerate(index))), axis=list(loops.values()))

    found = c.compute(kept, dtype, fill, name=name) if axes else x
    return lambda index: found(tuple(0 if i in axes else at for i, at in enumerate(index)))


SUMS: dict[str, tuple[Callable[[Expr, str], Expr] | None, str, Callable[[Expr, str, Extent], Expr] | None]] = {
    "ReduceSum": (None, "sum", None),
    "ReduceMean": (None, "sum", lambda s, d, n: s / number(n, d) if is_float(d) else tirx.truncdiv(s, number(n, d))),
    "ReduceMax": (None, "max", None),
    "ReduceMin": (None, "min", None),
    "ReduceProd": (None, "prod", None),
    "ReduceSumSquare": (lambda x, d: x * x, "sum", None),
    "ReduceL1": (lambda x, d: tirx.abs(x), "sum", None),
    "ReduceL2": (lambda x, d: x * x, "sum", lambda s, d, n: tirx.sqrt(s)),
    "ReduceLogSum": (None, "sum", lambda s, d, n: tirx.log(s)),
}
"""What is done before, how it is combined, and what is done behind (with the number of elements)."""


def _times(a: Expr, b: Expr) -> Expr:
    return a * b


def _one(dtype: Any) -> Expr:
    return tirx.const(1, dtype)


def combiner(name: str, dtype: str) -> Combine:
    if name == "prod":
        return te.comm_reducer(_times, _one, name="prod")
    return {"sum": te.sum, "max": largest, "min": smallest}[name]


@rule(Kind.CHANNELWISE, *SUMS)
def reduce_(c: Context) -> Element:
    before, how, behind = SUMS[c.node.op]
    shape, dtype = c.extents(0), c.dtype()
    axes = axes_of(c)
    if not axes:
        if c.node.attr("noop_with_empty_axes", 0):
            x = c.x(0)
            return (lambda index: before(x(index), dtype)) if before else x
        axes = list(range(len(shape)))
    given, boolean = c.x(0), dtype == "bool"
    dtype = "uint8" if boolean else dtype
    x: Element = (lambda index: given(index).astype(dtype)) if boolean else given
    terms: Element = (lambda index: before(x(index), dtype)) if before else x
    found = reduced(c, terms, shape, axes, combiner(how, dtype), dtype)
    every = count(shape[a] for a in axes)
    if boolean:
        return _in_place(c, lambda i: found(i) > number(0, dtype), axes, bool(c.node.attr("keepdims", 1)))
    return _in_place(
        c,
        (lambda index: behind(found(index), dtype, every)) if behind else found,
        axes,
        bool(c.node.attr("keepdims", 1)),
    )


def _in_place(c: Context, found: Element, axes: Sequence[int], keepdims: bool) -> Element:
    """An element of a reduction whose axes were kept, by the result's index."""
    if keepdims:
        return found
    rank = c.rank()

    def element(index: Index) -> Expr:
        rest = iter(index)
        return found(tuple(0 if i in axes else next(rest) for i in range(rank)))

    return element


@rule(Kind.STAGE, "ReduceLogSumExp")
def log_sum_exp(c: Context) -> Element:
    """m + log(sum(e^(x - m))), m the largest, or 0 where that is infinite."""
    shape, dtype, x = c.extents(0), c.dtype(), c.x(0)
    axes = axes_of(c) or list(range(len(shape)))
    extreme = reduced(c, x, shape, axes, te.max, dtype)

    def top(index: Index) -> Expr:
        found = extreme(index)
        return tirx.Select(tirx.abs(found) < _highest(dtype), found, number(0, dtype))

    total = reduced(c, lambda index: tirx.exp(x(index) - top(index)), shape, axes, te.sum, dtype)
    return _in_place(c, lambda index: top(index) + tirx.log(total(index)), axes, bool(c.node.attr("keepdims", 1)))


@rule(Kind.CHANNELWISE, "GlobalAveragePool", "GlobalMaxPool")
def global_pool(c: Context) -> Element:
    shape, dtype = c.extents(0), c.dtype()
    axes = list(range(2, len(shape)))
    if c.node.op == "GlobalMaxPool":
        return reduced(c, c.x(0), shape, axes, largest, dtype)
    total = reduced(c, c.x(0), shape, axes, te.sum, dtype)
    return lambda index: total(index) / number(count(shape[2:]), dtype)


@rule(Kind.STAGE, "Softmax", "LogSoftmax")
def softmax(c: Context) -> Element:
    """e^(x - m) / sum(e^(x - m)); up to opset 12 over all axes behind the given one."""
    shape, dtype, x = c.extents(0), c.dtype(), c.x(0)
    old = c.node.version < 13
    axis = int(c.node.attr("axis", 1 if old else -1)) % len(shape)
    axes = list(range(axis, len(shape))) if old else [axis]
    top = reduced(c, x, shape, axes, te.max, dtype, "softmax_max")
    if c.node.op == "LogSoftmax":
        total = reduced(c, lambda index: tirx.exp(x(index) - top(index)), shape, axes, te.sum, dtype)
        return lambda index: x(index) - top(index) - tirx.log(total(index))
    powers = c.compute(shape, dtype, lambda index: tirx.exp(x(index) - top(index)), name="softmax_exp")
    total = reduced(c, powers, shape, axes, te.sum, dtype, "softmax_sum")
    return lambda index: powers(index) * (number(1, dtype) / total(index))  # the quotient once a row


@rule(Kind.STAGE, "Hardmax", "ArgMax", "ArgMin")
def arg_max(c: Context) -> Element:
    """The first place of the extreme, or the last; a reduction of pairs of place and element."""
    shape, dtype, x = c.extents(0), c.dtype(), c.x(0)
    hard = c.node.op == "Hardmax"
    axis = int(c.node.attr("axis", (1 if c.node.version < 13 else -1) if hard else 0)) % len(shape)
    if hard and c.node.version < 13:
        raise Unsupported("Hardmax over several axes")
    least, last = c.node.op == "ArgMin", bool(c.node.attr("select_last_index", 0)) and not hard
    reducer = te.comm_reducer(_better(least, last), _worst(least, last), name="arg_extreme")
    kept = exprs(1 if i == axis else n for i, n in enumerate(shape))

    def pairs(*index: Expr) -> Any:
        r = reduce_axis(shape[axis], "r")
        return reducer((r.var.astype("int32"), x((*index[:axis], r, *index[axis + 1 :]))), axis=[r])

    places, _ = te.compute(kept, pairs, name="arg")
    found: Element = lambda index: places(*(0 if i == axis else flat(at) for i, at in enumerate(index)))  # noqa: E731
    if hard:
        return lambda index: tirx.Select(tirx.EQ(found(index), flat(index[axis])), number(1, dtype), number(0, dtype))
    return _in_place(c, lambda index: found(index).astype("int64"), [axis], bool(c.node.attr("keepdims", 1)))


def _better(least: bool, last: bool) -> Callable[[Any, Any], Any]:
    def choose(a: Any, b: Any) -> Any:
        wins = a[1] < b[1] if least else a[1] > b[1]
        first = a[0] > b[0] if last else a[0] < b[0]
        chosen = tirx.any(wins, tirx.all(tirx.EQ(a[1], b[1]), first))
        return tirx.Select(chosen, a[0], b[0]), tirx.Select(chosen, a[1], b[1])

    return choose


def _worst(least: bool, last: bool) -> Callable[[Any, Any], Any]:
    """What loses to every element, to one of the same number by its place."""

    def start(place: Any, dtype: Any) -> Any:
        nowhere = tirx.const(-1 if last else np.iinfo(np.int32).max, "int32")
        return nowhere, _highest(dtype) if least else _lowest(dtype)

    return start


@rule(Kind.STAGE, "LayerNormalization", "RMSNormalization")
def layer_norm(c: Context) -> list[Made]:
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the axes from ``axis`` on; RMS without the mean."""
    shape, dtype, x = c.extents(0), c.dtype(), c.x(0)
    axis = int(c.node.attr("axis", -1)) % len(shape)
    axes, inner = list(range(axis, len(shape))), numbers(shape[axis:])
    epsilon, size = float(c.node.attr("epsilon", 1e-5)), math.prod(inner)
    centred = mean = x
    if c.node.op == "LayerNormalization":
        total = reduced(c, x, shape, axes, te.sum, dtype, "norm_sum")
        mean = _scaled(total, 1 / size, dtype)
        centred = c.compute(shape, dtype, lambda index: x(index) - mean(index), name="norm_centred")
    squares = reduced(c, lambda index: centred(index) * centred(index), shape, axes, te.sum, dtype, "norm_squares")
    scale = _right(c, 1, inner, axis)
    bias = _right(c, 2, inner, axis) if c.has(2) else None

    def gain(index: Index) -> Expr:
        return number(1, dtype) / tirx.sqrt(squares(index) * number(1 / size, dtype) + number(epsilon, dtype))

    def element(index: Index) -> Expr:
        found = centred(index) * gain(index) * scale(index)
        return found if bias is None else found + bias(index)

    statistics = [mean, gain][0 if c.node.op == "LayerNormalization" else 1 :]
    if any(out.uses and c.out_dtype(i + 1) != dtype for i, out in enumerate(c.node.outputs[1:])):
        raise Unsupported(f"the statistics of a normalization of {dtype}")
    return [c.made(element), *(c.made(each, i + 1) for i, each in enumerate(statistics[: len(c.node.outputs) - 1]))]


def _scaled(x: Element, factor: float, dtype: str) -> Element:
    return lambda index: x(index) * number(factor, dtype)


def _right(c: Context, i: int, inner: tuple[int, ...], axis: int) -> Element:
    """An operand that broadcasts to the last axes."""
    own, x = c.shape(i), c.x(i)

    def element(index: Index) -> Expr:
        tail = index[len(index) - len(own) :]
        return x(tuple(0 if n == 1 else at for at, n in zip(tail, own, strict=True)))

    return element


@rule(Kind.STAGE, "InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization", "LpNormalization")
def other_norms(c: Context) -> Element:
    shape, dtype, x = c.extents(0), c.dtype(), c.x(0)
    op = c.node.op
    if op == "LpNormalization":
        axis, p = int(c.node.attr("axis", -1)) % len(shape), int(c.node.attr("p", 2))
        term: Element = (lambda i: tirx.abs(x(i))) if p == 1 else (lambda i: x(i) * x(i))
        total = reduced(c, term, shape, [axis], te.sum, dtype)
        # Where all are zero the result is zero, as the standard has it.
        return lambda i: tirx.Select(
            tirx.EQ(total(i), number(0, dtype)), number(0, dtype), x(i) / (total(i) if p == 1 else tirx.sqrt(total(i)))
        )
    if op == "GroupNormalization":
        raise Unsupported("group normalization is decomposed first")
    axes = [int(a) for a in cast("Any", c.node.attrs.get("axes")) or (0, 2, 3)]
    axes = list(range(2, len(shape))) if op == "InstanceNormalization" else axes
    size = count(shape[a] for a in axes)
    total = reduced(c, x, shape, axes, te.sum, dtype)
    centred: Element = lambda i: x(i) - total(i) / number(size, dtype)  # noqa: E731
    squares = reduced(c, lambda i: centred(i) * centred(i), shape, axes, te.sum, dtype)
    if op == "MeanVarianceNormalization":
        return lambda i: centred(i) / (tirx.sqrt(squares(i) / number(size, dtype)) + number(1e-9, dtype))
    scale, bias, epsilon = c.x(1), c.x(2), float(c.node.attr("epsilon", 1e-5))

    def element(index: Index) -> Expr:
        spread = tirx.sqrt(squares(index) / number(size, dtype) + number(epsilon, dtype))
        return centred(index) / spread * scale((index[1],)) + bias((index[1],))

    return element


@rule(Kind.STAGE, "LRN")
def local_response_norm(c: Context) -> Element:
    """x / (bias + alpha / size * sum of squares of the size nearest channels)^beta."""
    shape, dtype, x = c.extents(0), c.dtype(), c.x(0)
    size, beta = int(c.node.attr("size")), float(c.node.attr("beta", 0.75))
    alpha, bias = float(c.node.attr("alpha", 1e-4)), float(c.node.attr("bias", 1.0))

    def fill(index: Index) -> Expr:
        r = reduce_axis(size, "r")
        at = flat(index[1]) + r - (size - 1) // 2
        near = named(x((index[0], at, *index[2:])), lambda v: v * v)
        return te.sum(tirx.if_then_else(tirx.all(at >= 0, at < expr(shape[1])), near, number(0, dtype)), axis=[r])

    total = c.compute(shape, dtype, fill, name="lrn_sum")

    def power(base: Expr) -> Expr:
        if beta == 0.75:  # the usual one, without the library's power
            return named(tirx.sqrt(base), lambda root: root * tirx.sqrt(root))
        return tirx.power(base, number(beta, dtype))

    return lambda index: x(index) / power(number(bias, dtype) + number(alpha / size, dtype) * total(index))
