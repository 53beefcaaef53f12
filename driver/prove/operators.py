"""What operators compute, on exact numbers: the table that the evaluation of cut-out rewrites looks into.

An operator on numbers takes the node and its operands (numbers, arrays of integers and booleans, ``None``) and
returns its results. Source: the operators' specifications in onnx.defs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, cast

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node
from . import number as N
from .number import Array, Number, Undecided
from .ring import ring, same

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
    a, b = num(items, 0), num(items, 1)
    return [_ARITHMETIC[node.op](a, _aligned(node, a, b))]


def _aligned(node: Node, a: Number, b: Number) -> Number:
    """Before opset 7 the second operand stood where ``axis`` said."""
    if node.version >= 7 or not node.attr("broadcast", 0):
        return b
    axis = int(node.attr("axis", len(a.shape) - len(b.shape)))
    axis += len(a.shape) if axis < 0 else 0
    return b.map(lambda v: v.reshape(*v.shape, *[1] * (len(a.shape) - axis - len(b.shape))))


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
    return [N.close(a, b) & same(a.field, b.field)]


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
        return x if x.fits(to) or N.holds(to, x.dtype) else _rounded(x, to)
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
    if node.op in ("Sqrt", "Log"):
        return [{"Sqrt": sqrt, "Log": log}[node.op](num(items, 0))]
    real, slope = _FUNCTIONS[node.op]
    return [N.function(node.op, num(items, 0), real, slope)]


@operator("Cos", *_ODD)
def _symmetric(node: Node, items: list[Item]) -> list[Item]:
    """Odd and even functions: ``x f(x x)`` and ``f(x x)`` in the field."""
    x = num(items, 0)
    real, slope = _ODD.get(node.op, (np.cos, np.sin))
    square = N.multiply(x, x).field
    image = ring().mixed(square, N.salt(node.op))
    found = N.function(node.op, x, real, slope)
    return [Number(ring().multiply(x.field, image) if node.op in _ODD else image, found.near, found.unit)]


def exp(x: Number) -> Number:
    """``exp(0) = 1``, ``exp(-inf) = 0``, and what ``ring.py`` knows."""
    zero, gone = x.field == 0, np.isneginf(x.near)
    with np.errstate(all="ignore"):
        near = np.where(zero, 1.0, np.exp(x.near))
        unit = np.where(gone, 0.0, near * x.unit + near)
    image = np.where(zero, ring().from_ints(np.ones((), np.int64)), ring().exponential(x.field))
    return Number(np.where(gone, np.uint64(0), image), near, unit)


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
    return [log(N.add(N.number(1.0), exp(num(items, 0))))]


@operator("Softsign")
def _softsign(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    size = N.choose(positive(x), x, N.negative(x))
    return [N.divide(x, N.add(size, N.number(1.0)))]


def log(x: Number) -> Number:
    """What ``ring.py`` knows of it."""
    return N.function("Log", x, *_FUNCTIONS["Log"], ring().logarithm)


def sqrt(x: Number) -> Number:
    """Known squares have their roots, as in scales that are taken as two factors."""
    found = N.function("Sqrt", x, *_FUNCTIONS["Sqrt"])
    image = ring().from_floats(np.where(np.isfinite(found.near), found.near, 0.0))
    square = same(ring().multiply(image, image), x.field)
    return Number(np.where(square, image, found.field), found.near, found.unit)


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
