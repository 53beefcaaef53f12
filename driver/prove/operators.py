"""What operators compute, on exact numbers: the table that the evaluation of cut-out rewrites looks into.

An operator on numbers takes the node and its operands (numbers, arrays of integers and booleans, ``None``) and
returns its results. Source: the operators' specifications in onnx.defs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node
from ...passes.shared.kernels import axis_attr
from . import number as N
from .number import Array, Number, Undecided
from .windows import conv, conv_transpose, pool

Item: TypeAlias = Number | Array | None
Operator: TypeAlias = Callable[[Node, list[Item]], list[Item]]
OPERATORS: dict[str, Operator] = {}


def operator(*ops: str) -> Callable[[Operator], Operator]:
    """Registers what standard operators compute."""

    def register(function: Operator) -> Operator:
        for op in ops:
            OPERATORS[op] = function
        return function

    return register


def num(items: list[Item], i: int) -> Number:
    """Operand ``i`` as numbers."""
    found = items[i] if i < len(items) else None
    if not isinstance(found, Number):
        raise Undecided(f"operand {i} is not of a floating-point type")
    return found


def maybe(items: list[Item], i: int) -> Number | None:
    """Operand ``i`` as numbers where it is given."""
    return num(items, i) if i < len(items) and items[i] is not None else None


def int_items(items: list[Item], i: int) -> list[int] | None:
    """Operand ``i`` as integers where it is given."""
    found = items[i] if i < len(items) else None
    if isinstance(found, Number):
        raise Undecided(f"operand {i} is not of an integer type")
    return None if found is None else [int(v) for v in found.reshape(-1).tolist()]


def own(node: Node, x: float) -> Number:
    """A number from an attribute, in the type of the node's result."""
    return N.number(x, node.output.dtype)


# -- elementwise


_ARITHMETIC = {"Add": N.add, "Sub": N.subtract, "Mul": N.multiply, "Div": N.divide}


@operator(*_ARITHMETIC)
def _binary(node: Node, items: list[Item]) -> list[Item]:
    return [_ARITHMETIC[node.op](num(items, 0), num(items, 1))]


@operator("Max", "Min", "Sum", "Mean")
def _variadic(node: Node, items: list[Item]) -> list[Item]:
    function = {"Max": N.largest, "Min": N.smallest}.get(node.op, N.add)
    found = num(items, 0)
    for i in range(1, len(items)):
        found = function(found, num(items, i))
    return [N.divide(found, N.number(len(items))) if node.op == "Mean" else found]


_COMPARISONS: dict[str, Callable[[Array], Array]] = {
    "Less": lambda o: o < 0,
    "LessOrEqual": lambda o: o <= 0,
    "Greater": lambda o: o > 0,
    "GreaterOrEqual": lambda o: o >= 0,
}


@operator(*_COMPARISONS)
def _compare(node: Node, items: list[Item]) -> list[Item]:
    return [_COMPARISONS[node.op](N.order(num(items, 0), num(items, 1)))]


@operator("Equal")
def _equal(node: Node, items: list[Item]) -> list[Item]:
    """Numbers that are the same as functions; others coincide for some values only."""
    a, b = num(items, 0), num(items, 1)
    return [N.close(a, b) & (a.field == b.field)]


@operator("Neg")
def _neg(node: Node, items: list[Item]) -> list[Item]:
    return [N.negative(num(items, 0))]


def positive(x: Number) -> Array:
    """Where ``x`` is above 0."""
    return N.order(x, N.number(0.0)) > 0


@operator("Abs")
def _abs(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    return [N.choose(positive(x), x, N.negative(x))]


@operator("Sign")
def _sign(node: Node, items: list[Item]) -> list[Item]:
    return [N.from_ints(N.order(num(items, 0), N.number(0.0)))]


@operator("Relu")
def _relu(node: Node, items: list[Item]) -> list[Item]:
    return [N.largest(num(items, 0), N.number(0.0, DType.F16))]


@operator("LeakyRelu", "PRelu", "Elu", "Selu", "ThresholdedRelu")
def _leaky(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    if node.op == "PRelu":
        return [N.choose(positive(x), x, N.multiply(x, num(items, 1)))]
    alpha = own(node, float(node.attr("alpha")))
    if node.op == "ThresholdedRelu":
        return [N.choose(N.order(x, alpha) > 0, x, N.number(0.0))]
    if node.op == "LeakyRelu":
        return [N.choose(positive(x), x, N.multiply(x, alpha))]
    below = N.multiply(alpha, N.subtract(exp(x), N.number(1.0)))
    found = N.choose(positive(x), x, below)
    return [N.multiply(found, own(node, float(node.attr("gamma")))) if node.op == "Selu" else found]


@operator("HardSigmoid")
def _hard_sigmoid(node: Node, items: list[Item]) -> list[Item]:
    alpha, beta = own(node, float(node.attr("alpha"))), own(node, float(node.attr("beta")))
    line = N.add(N.multiply(num(items, 0), alpha), beta)
    return [N.largest(N.smallest(line, N.number(1.0)), N.number(0.0))]


@operator("Clip")
def _clip(node: Node, items: list[Item]) -> list[Item]:
    x, low, high = num(items, 0), maybe(items, 1), maybe(items, 2)
    if node.version < 11:
        low = own(node, node.attrs["min"]) if "min" in node.attrs else None  # type: ignore[arg-type]
        high = own(node, node.attrs["max"]) if "max" in node.attrs else None  # type: ignore[arg-type]
    x = N.largest(x, low) if low is not None else x
    return [N.smallest(x, high) if high is not None else x]


@operator("Where")
def _where(node: Node, items: list[Item]) -> list[Item]:
    mask = items[0]
    if mask is None or isinstance(mask, Number):
        raise Undecided("the condition is not boolean")
    return [N.choose(mask, num(items, 1), num(items, 2))]


@operator("IsNaN", "IsInf")
def _is_nan(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0).near
    if node.op == "IsNaN":
        return [np.zeros(x.shape, bool)]
    up, down = bool(node.attr("detect_positive", 1)), bool(node.attr("detect_negative", 1))
    return [(np.isposinf(x) & up) | (np.isneginf(x) & down)]


@operator("Dropout")
def _dropout(node: Node, items: list[Item]) -> list[Item]:
    training = items[2] if len(items) > 2 else None
    if (training is not None and np.any(cast("Array", training))) or (node.version < 7 and not node.attr("is_test", 0)):
        raise Undecided("Dropout in training mode")
    x = num(items, 0)
    found: list[Item] = [x, np.ones(x.shape, bool)]
    return found[: len(node.outputs)]


@operator("Cast", "CastLike")
def _cast(node: Node, items: list[Item]) -> list[Item]:
    x, to = items[0], node.output.dtype
    if to is None or x is None:
        raise Undecided("the type of a cast is not known")
    if isinstance(x, Number):
        return [_from_number(x, to)]
    if not to.is_float:
        raise Undecided(f"no cast to {to.text} here")
    found = N.from_ints(x)
    if found.fits(to) or (np.abs(found.near) <= (1 << 11)).all():
        return [found]
    return [_rounded(found, to)]


def _from_number(x: Number, to: DType) -> Item:
    if to.is_float:
        return x if x.fits(to) else _rounded(x, to)
    if to is DType.BOOL:
        return N.order(x, N.number(0.0)) != 0
    whole = np.trunc(N.concrete(x))
    if not to.is_integer or not (np.abs(whole) < 1 << (to.bits - 1)).all():
        raise Undecided(f"no cast to {to.text} here")
    return whole.astype(to.numpy)


def _rounded(x: Number, to: DType) -> Number:
    """Rounding to a type: some function of the number, whose results a second rounding leaves alone."""
    if to is DType.F64:
        return x
    with np.errstate(all="ignore"):
        found = N.function(f"round to {to.text}", x, lambda v: v.astype(to.numpy).astype(np.float64), np.ones_like)
    found.grid = to if to in (DType.F16, DType.BF16, DType.F32) else None
    return found


# -- functions


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x) if x.size else x


_FUNCTIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array] | None]] = {
    "Log": (np.log, lambda x: 1 / x),
    "Sqrt": (np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "Tan": (np.tan, lambda x: 1 + np.tan(x) ** 2),
    "Acos": (np.arccos, None),
    "Acosh": (np.arccosh, None),
    "Cosh": (np.cosh, np.sinh),
    "Ceil": (np.ceil, None),
    "Floor": (np.floor, None),
    "Round": (np.rint, None),
}
_ODD: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "Erf": (_erf, lambda x: 1.1283791670955126 * np.exp(-x * x)),
    "Sin": (np.sin, np.cos),
    "Sinh": (np.sinh, np.cosh),
    "Asin": (np.arcsin, lambda x: 1 / np.sqrt(1 - x * x)),
    "Atan": (np.arctan, lambda x: 1 / (1 + x * x)),
    "Asinh": (np.arcsinh, lambda x: 1 / np.sqrt(1 + x * x)),
    "Atanh": (np.arctanh, lambda x: 1 / (1 - x * x)),
}


@operator(*_FUNCTIONS)
def _function(node: Node, items: list[Item]) -> list[Item]:
    real, slope = _FUNCTIONS[node.op]
    return [N.function(node.op, num(items, 0), real, slope)]


@operator("Cos", *_ODD)
def _symmetric(node: Node, items: list[Item]) -> list[Item]:
    """Odd and even functions: ``x f(x x)`` and ``f(x x)`` in the field."""
    x = num(items, 0)
    real, slope = _ODD.get(node.op, (np.cos, np.sin))
    square = N.multiply(x, x).field
    image = N.F.mixed(square, N.salt(node.op))
    found = N.function(node.op, x, real, slope)
    return [Number(N.F.multiply(x.field, image) if node.op in _ODD else image, found.near, found.unit)]


def exp(x: Number) -> Number:
    found = N.function("Exp", x, np.exp, np.exp)
    zero, gone = x.field == 0, np.isneginf(x.near)
    field = np.where(zero, np.uint64(1), np.where(gone, np.uint64(0), found.field))
    unit = np.where(gone, 0.0, found.unit)
    return Number(field, np.where(zero, 1.0, found.near), unit)


def sigmoid(x: Number) -> Number:
    """``1 / (1 + exp(-x))``."""
    one = N.number(1.0)
    return N.reciprocal(N.add(one, exp(N.negative(x))))


@operator("Exp")
def _exp(node: Node, items: list[Item]) -> list[Item]:
    return [exp(num(items, 0))]


@operator("Sigmoid")
def _sigmoid(node: Node, items: list[Item]) -> list[Item]:
    return [sigmoid(num(items, 0))]


@operator("Tanh")
def _tanh(node: Node, items: list[Item]) -> list[Item]:
    """``2 sigmoid(2 x) - 1``."""
    two = N.number(2.0)
    return [N.subtract(N.multiply(two, sigmoid(N.multiply(two, num(items, 0)))), N.number(1.0))]


@operator("Softplus")
def _softplus(node: Node, items: list[Item]) -> list[Item]:
    """``log(1 + exp(x))``."""
    return [_log(N.add(N.number(1.0), exp(num(items, 0))))]


@operator("Softsign")
def _softsign(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    size = N.choose(positive(x), x, N.negative(x))
    return [N.divide(x, N.add(size, N.number(1.0)))]


def _log(x: Number) -> Number:
    return N.function("Log", x, *_FUNCTIONS["Log"])


def sqrt(x: Number) -> Number:
    return N.function("Sqrt", x, *_FUNCTIONS["Sqrt"])


@operator("Reciprocal")
def _reciprocal(node: Node, items: list[Item]) -> list[Item]:
    return [N.reciprocal(num(items, 0))]


@operator("Pow")
def _pow(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    second = items[1]
    exponent = N.concrete(second) if isinstance(second, Number) else cast("Array", second).astype(np.float64)
    values = set(exponent.reshape(-1).tolist())
    if len(values) != 1 or np.broadcast_shapes(x.shape, exponent.shape) != x.shape:
        raise Undecided("exponents differ from element to element")
    e = values.pop()
    root = e * 2 % 2 == 1
    if not (root or float(e).is_integer()) or abs(e) > 64:
        raise Undecided(f"exponent {e}")
    found = _power(x, int(abs(e)))
    if root:
        found = sqrt(x) if abs(e) < 1 else N.multiply(found, sqrt(x))
    return [N.reciprocal(found) if e < 0 else found]


def _power(x: Number, exponent: int) -> Number:
    found: Number | None = None
    while exponent:
        if exponent & 1:
            found = x if found is None else N.multiply(found, x)
        exponent >>= 1
        x = N.multiply(x, x) if exponent else x
    return found if found is not None else N.constant(np.ones(x.shape))


# -- along axes


@operator("Softmax", "LogSoftmax")
def _softmax(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    rank = len(x.shape)
    axis = axis_attr(node, rank, 1 if node.version < 13 else -1)
    if node.version < 13 and axis != rank - 1:
        raise Undecided("Softmax before opset 13 flattens its operand")
    parts = exp(x)
    found = N.divide(parts, N.total(parts, axis).map(lambda a: np.expand_dims(a, axis)))
    return [_log(found) if node.op == "LogSoftmax" else found]


_REDUCTIONS = tuple(f"Reduce{n}" for n in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"))


@operator(*_REDUCTIONS, "ReduceLogSum")
def _reduce(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    axes = _reduced_axes(node, items, len(x.shape))
    if node.op == "ReduceLogSumExp":
        x = exp(x)
    elif node.op in ("ReduceL2", "ReduceSumSquare"):
        x = N.multiply(x, x)
    elif node.op == "ReduceL1":
        x = N.choose(positive(x), x, N.negative(x))
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    count = math.prod(n for i, n in enumerate(x.shape) if i in axes)
    for axis in sorted(axes, reverse=True):
        x = _reduce_one(node.op, x, axis)
    if node.op == "ReduceMean" and axes:
        x = N.divide(x, N.number(count))
    elif node.op == "ReduceL2":
        x = sqrt(x)
    elif node.op in ("ReduceLogSum", "ReduceLogSumExp"):
        x = _log(x)
    return [x.map(lambda a: a.reshape(kept)) if node.attr("keepdims", 1) else x]


def _reduce_one(op: str, x: Number, axis: int) -> Number:
    pairwise = {"ReduceMax": N.largest, "ReduceMin": N.smallest, "ReduceProd": N.multiply}.get(op)
    if pairwise is None:
        return N.total(x, axis)
    if not x.shape[axis]:
        raise Undecided("nothing to reduce")
    found = x.map(lambda a: a.take(0, axis))
    for i in range(1, x.shape[axis]):
        found = pairwise(found, x.map(lambda a, i=i: a.take(i, axis)))
    return found


def _reduced_axes(node: Node, items: list[Item], rank: int) -> set[int]:
    given: Any = node.attrs.get("axes")
    axes = list(given) if given is not None else int_items(items, 1) or []
    if not axes:
        return set() if node.attr("noop_with_empty_axes", 0) else set(range(rank))
    return {a % rank for a in axes} if rank else set()


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    flat = x.map(lambda a: a.reshape(*a.shape[:2], -1))
    found = _reduce_one("ReduceMax" if node.op == "GlobalMaxPool" else "ReduceSum", flat, 2)
    if node.op == "GlobalAveragePool":
        found = N.divide(found, N.number(flat.shape[2]))
    return [found.map(lambda a: a.reshape(*a.shape, *[1] * (len(x.shape) - 2)))]


# -- products


def _stacked(a: Number, b: Number) -> Number:
    """MatMul with vectors taken as matrices for the while."""
    if not a.shape or not b.shape:
        raise Undecided("MatMul of scalars")
    left = a.map(lambda v: v[None, :]) if len(a.shape) == 1 else a
    right = b.map(lambda v: v[:, None]) if len(b.shape) == 1 else b
    found = N.matmul(left, right)
    if len(b.shape) == 1:
        found = found.map(lambda v: v[..., 0])
    return found.map(lambda v: v[..., 0, :] if len(b.shape) > 1 else v[..., 0]) if len(a.shape) == 1 else found


@operator("MatMul")
def _matmul(node: Node, items: list[Item]) -> list[Item]:
    return [_stacked(num(items, 0), num(items, 1))]


@operator("Gemm")
def _gemm(node: Node, items: list[Item]) -> list[Item]:
    a, b, c = num(items, 0), num(items, 1), maybe(items, 2)
    a = a.map(np.transpose) if node.attr("transA", 0) else a
    b = b.map(np.transpose) if node.attr("transB", 0) else b
    found = _scaled(node, N.matmul(a, b), "alpha")
    return [found if c is None else N.add(found, _scaled(node, c, "beta"))]


def _scaled(node: Node, x: Number, name: str) -> Number:
    factor = float(node.attr(name, 1.0))
    return x if factor == 1 else N.multiply(x, own(node, factor))


@operator("Einsum")
def _einsum(node: Node, items: list[Item]) -> list[Item]:
    """Products of all operands along all labels, then sums over those that the result does not have."""
    terms, out = _labels(
        str(node.attr("equation")).replace(" ", ""), [len(num(items, i).shape) for i in range(len(items))]
    )
    labels = sorted({s for term in terms for s in term})
    extents = dict.fromkeys(labels, 1)
    for i, term in enumerate(terms):
        extents.update((s, n) for s, n in zip(term, num(items, i).shape, strict=True) if n != 1)
    if math.prod(extents.values()) > 1 << 20:
        raise Undecided("an Einsum of many products")
    order = [*out, *(s for s in labels if s not in out)]
    found: Number | None = None
    for i, term in enumerate(terms):
        part = num(items, i).map(lambda a, t=term: _along(a, t, order))
        found = part if found is None else N.multiply(found, part)
    assert found is not None
    found = found.map(lambda a: np.broadcast_to(a, [extents[s] for s in order]))
    for _ in order[len(out) :]:
        found = N.total(found, -1)
    return [found]


def _labels(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The labels of each operand and of the result; digits stand for the axes of an ellipsis, the last one is 0."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    rests = [rank - len(t) + 3 if "..." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    terms = [t.replace("...", _DIGITS[10 - rest :]) for t, rest in zip(terms, rests, strict=True)]
    letters = "".join(terms)
    if min(rests) < 0 or not letters.isalnum() or any(len(set(t)) < len(t) for t in terms):
        raise Undecided(f"equation {equation}")
    shared = _DIGITS[10 - max(rests) :]
    once = "".join(s for s in sorted(set(letters)) if letters.count(s) == 1 and s.isalpha())
    return terms, right.replace("...", shared) if arrow else shared + once


_DIGITS = "9876543210"


def _along(a: Array, term: str, order: list[str]) -> Array:
    """The operand with its axes in this order, and axes of extent 1 for labels that it lacks."""
    a = a.transpose([term.index(s) for s in order if s in term])
    return a.reshape([a.shape[[s for s in order if s in term].index(o)] if o in term else 1 for o in order])


@operator("Conv")
def _conv(node: Node, items: list[Item]) -> list[Item]:
    return [conv(node, num(items, 0), num(items, 1), maybe(items, 2))]


@operator("ConvTranspose")
def _conv_transpose(node: Node, items: list[Item]) -> list[Item]:
    return [conv_transpose(node, num(items, 0), num(items, 1), maybe(items, 2))]


@operator("MaxPool", "AveragePool")
def _pool(node: Node, items: list[Item]) -> list[Item]:
    if any(out.uses for out in node.outputs[1:]):
        raise Undecided("the positions of maxima are used")
    return [pool(node, num(items, 0))]


# -- norms


def _column(x: Number, rank: int) -> Number:
    return x.map(lambda a: a.reshape(-1, *[1] * (rank - 2)))


@operator("BatchNormalization")
def _batchnorm(node: Node, items: list[Item]) -> list[Item]:
    if node.attr("training_mode", 0) or any(out.uses for out in node.outputs[1:]):
        raise Undecided("BatchNormalization in training mode")
    x = num(items, 0)
    scale, shift, mean, var = (_column(num(items, i), len(x.shape)) for i in range(1, 5))
    root = sqrt(N.add(var, own_float(node.attr("epsilon"))))
    return [N.add(N.multiply(N.divide(N.subtract(x, mean), root), scale), shift)]


def own_float(x: float) -> Number:
    """An attribute, which is a float32 whatever the operands are."""
    return N.number(float(x), DType.F32)


def normalized(x: Number, axes: tuple[int, ...], epsilon: float) -> Number:
    """``(x - mean) / sqrt(var + epsilon)`` over ``axes``."""
    deviation = N.subtract(x, _mean(x, axes))
    variance = _mean(N.multiply(deviation, deviation), axes)
    return N.divide(deviation, sqrt(N.add(variance, own_float(epsilon))))


def _mean(x: Number, axes: tuple[int, ...]) -> Number:
    count = math.prod(x.shape[a] for a in axes)
    for axis in axes:
        x = N.total(x, axis).map(lambda a, axis=axis: np.expand_dims(a, axis))
    return N.divide(x, N.number(count))


@operator("InstanceNormalization")
def _instance_norm(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    y = normalized(x, tuple(range(2, len(x.shape))), float(node.attr("epsilon")))
    scale, bias = (_column(num(items, i), len(x.shape)) for i in (1, 2))
    return [N.add(N.multiply(y, scale), bias)]
