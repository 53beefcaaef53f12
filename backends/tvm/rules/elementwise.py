"""Operators that compute each element from the same place of their operands."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..api import tirx
from ..lower.forms import Element, Expr, Index
from .core import Context, Kind, Unsupported, before_cast, named, number, rule

Unary = Callable[[Expr, str, Context], Expr]
Binary = Callable[[Expr, Expr, str], Expr]
_LARGEST = {"float16": 65504.0, "float32": float(np.finfo(np.float32).max), "float64": float(np.finfo(np.float64).max)}


def libm(name: str, dtype: str, *operands: Expr) -> Expr:
    """A function of the C library, element by element: TVM knows no vector form of it."""
    if dtype == "float16":
        wide = [x.astype("float32") for x in operands]
        return libm(name, "float32", *wide).astype(dtype)
    return tirx.call_pure_extern(dtype, name + ("f" if dtype == "float32" else ""), *operands)


def is_float(dtype: str) -> bool:
    return dtype.startswith("float")


def is_number(x: Expr, dtype: str) -> Expr:
    """Whether it is not NaN: TVM has no vectors of ``isnan``, and would run the whole loop one by one. For choices
    only: negated, TVM turns the comparison round, which NaN does not survive."""
    return x <= tirx.infinity(dtype)


def at_least(x: Expr, low: Expr) -> Expr:
    """The larger one; NaN stays NaN, which ``tirx.max`` would drop. ``low`` is a number and not NaN."""
    return tirx.Select(x < low, low, x)


def at_most(x: Expr, high: Expr) -> Expr:
    """The smaller one; NaN stays NaN."""
    return tirx.Select(x > high, high, x)


def clipped(x: Expr, low: float, high: float, dtype: str) -> Expr:
    """Between two numbers; NaN stays NaN."""
    below = number(low, dtype)
    return named(x, lambda v: named(at_least(v, below), lambda above: at_most(above, number(high, dtype))))


def _extreme(a: Expr, b: Expr, dtype: str, *, larger: bool) -> Expr:
    """Of two values; NaN where one is."""
    if not is_float(dtype):
        return tirx.max(a, b) if larger else tirx.min(a, b)

    def chosen(x: Expr, y: Expr) -> Expr:
        return tirx.Select(x > y if larger else x < y, x, tirx.Select(is_number(x, dtype), y, x))

    return named(a, lambda x: named(b, lambda y: chosen(x, y)))


def sigmoid(x: Expr, dtype: str) -> Expr:
    return number(1, dtype) / (number(1, dtype) + tirx.exp(-x))


def softplus(x: Expr, dtype: str) -> Expr:
    """log(1 + e^x), without overflow: max(x, 0) + log1p(e^-|x|)."""
    return at_least(x, number(0, dtype)) + libm("log1p", dtype, tirx.exp(-tirx.abs(x)))


def _gelu(x: Expr, d: str, c: Context) -> Expr:
    if c.node.attr("approximate", b"none") in (b"tanh", "tanh"):
        inner = x + number(0.044715, d) * x * x * x
        return number(0.5, d) * x * (number(1, d) + tirx.tanh(number(math.sqrt(2 / math.pi), d) * inner))
    return number(0.5, d) * x * (number(1, d) + tirx.erf(x * number(math.sqrt(0.5), d)))


def _hard_sigmoid(x: Expr, d: str, alpha: float, beta: float) -> Expr:
    return clipped(x * number(alpha, d) + number(beta, d), 0, 1, d)


def _float(context: Context, name: str, default: float) -> float:
    found = context.node.attr(name, default)
    return float(default if found is None else found)


def _elu(x: Expr, d: str, alpha: float, scale: float = 1.0) -> Expr:
    below = number(alpha, d) * (tirx.exp(at_most(x, number(0, d))) - number(1, d))
    return number(scale, d) * tirx.Select(x > 0, x, below)


def _sign(x: Expr, d: str, c: Context) -> Expr:
    zero = number(0, d)
    rest = x if is_float(d) else zero  # zeros keep their sign, NaN stays NaN
    return tirx.Select(
        x > zero, number(1, d), rest if d.startswith("uint") else tirx.Select(x < zero, -number(1, d), rest)
    )


def _is_inf(x: Expr, d: str, c: Context) -> Expr:
    positive, negative = bool(c.node.attr("detect_positive", 1)), bool(c.node.attr("detect_negative", 1))
    large = number(_LARGEST[d], d)
    above = tirx.all(x > large, tirx.const(positive, "bool"))
    return tirx.any(above, tirx.all(x < -large, tirx.const(negative, "bool")))


def _abs(x: Expr, d: str, c: Context) -> Expr:
    return x if d.startswith("uint") else tirx.abs(x)


def _celu(x: Expr, d: str, alpha: float) -> Expr:
    tail = number(alpha, d) * (tirx.exp(at_most(x, number(0, d)) / number(alpha, d)) - number(1, d))
    return at_least(x, number(0, d)) + tail


UNARY: dict[str, Unary] = {
    "Abs": _abs,
    "Neg": lambda x, d, c: number(0, d) - x if d.startswith("int") else -x,
    "Relu": lambda x, d, c: at_least(x, number(0, d)),
    "Sigmoid": lambda x, d, c: sigmoid(x, d),
    "Tanh": lambda x, d, c: tirx.tanh(x),
    "Erf": lambda x, d, c: tirx.erf(x),
    "Exp": lambda x, d, c: tirx.exp(x),
    "Log": lambda x, d, c: tirx.log(x),
    "Sqrt": lambda x, d, c: tirx.sqrt(x),
    "Reciprocal": lambda x, d, c: number(1, d) / x,
    "Floor": lambda x, d, c: tirx.floor(x),
    "Ceil": lambda x, d, c: tirx.ceil(x),
    "Round": lambda x, d, c: tirx.nearbyint(x),
    "Sin": lambda x, d, c: tirx.sin(x),
    "Cos": lambda x, d, c: tirx.cos(x),
    "Tan": lambda x, d, c: libm("tan", d, x),
    "Asin": lambda x, d, c: libm("asin", d, x),
    "Acos": lambda x, d, c: libm("acos", d, x),
    "Atan": lambda x, d, c: libm("atan", d, x),
    "Sinh": lambda x, d, c: libm("sinh", d, x),
    "Cosh": lambda x, d, c: libm("cosh", d, x),
    "Asinh": lambda x, d, c: libm("asinh", d, x),
    "Acosh": lambda x, d, c: libm("acosh", d, x),
    "Atanh": lambda x, d, c: libm("atanh", d, x),
    "Sign": _sign,
    "IsNaN": lambda x, d, c: tirx.isnan(x),
    "IsInf": _is_inf,
    "Not": lambda x, d, c: tirx.Not(x),
    "BitwiseNot": lambda x, d, c: ~x,
    "Softplus": lambda x, d, c: softplus(x, d),
    "Softsign": lambda x, d, c: x / (number(1, d) + tirx.abs(x)),
    "Gelu": _gelu,
    "HardSigmoid": lambda x, d, c: _hard_sigmoid(x, d, _float(c, "alpha", 0.2), _float(c, "beta", 0.5)),
    "HardSwish": lambda x, d, c: x * _hard_sigmoid(x, d, 1 / 6, 0.5),
    "Swish": lambda x, d, c: x * sigmoid(number(_float(c, "alpha", 1), d) * x, d),
    "Mish": lambda x, d, c: x * tirx.tanh(softplus(x, d)),
    "Elu": lambda x, d, c: _elu(x, d, _float(c, "alpha", 1)),
    "Selu": lambda x, d, c: _elu(x, d, _float(c, "alpha", 1.6732632423543772), _float(c, "gamma", 1.0507009873554805)),
    "Celu": lambda x, d, c: _celu(x, d, _float(c, "alpha", 1)),
    "LeakyRelu": lambda x, d, c: tirx.Select(x >= 0, x, x * number(_float(c, "alpha", 0.01), d)),
    "ThresholdedRelu": lambda x, d, c: tirx.Select(x > number(_float(c, "alpha", 1), d), x, number(0, d)),
    "Shrink": lambda x, d, c: _shrink(x, d, _float(c, "lambd", 0.5), _float(c, "bias", 0)),
}


SINGLE = frozenset(
    "Neg Sigmoid Tanh Erf Exp Log Sqrt Reciprocal Floor Ceil Round Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh "
    "Atanh IsNaN Not BitwiseNot HardSigmoid".split()
)
"""Those that read their operand once."""


def _shrink(x: Expr, d: str, threshold: float, bias: float) -> Expr:
    low = tirx.Select(x < number(-threshold, d), x + number(bias, d), number(0, d))
    return tirx.Select(x > number(threshold, d), x - number(bias, d), low)


def _divide(a: Expr, b: Expr, d: str) -> Expr:
    return a / b if is_float(d) else tirx.truncdiv(a, b)


def _differ(a: Expr, b: Expr) -> Expr:
    """Of booleans, whose vectors TVM cannot compare."""
    return tirx.any(tirx.all(a, tirx.Not(b)), tirx.all(tirx.Not(a), b))


# TVM simplifies floats as if they were real: (x + y) - y is x to it, though the sum has been rounded (which models use
# to round); x - x and x * 0 are 0 for infinities and NaN too, and x == x holds for NaN. What follows says the same in
# forms that it leaves alone; the compiler behind it makes one subtraction of the first.


def _minus(a: Expr, b: Expr, d: str) -> Expr:
    return a + b * number(-1, d) if is_float(d) else a - b


def _times(a: Expr, b: Expr, d: str) -> Expr:
    for zero, other in ((a, b), (b, a)):
        if isinstance(zero, tirx.FloatImm) and zero.value == 0:
            return _minus(other, other, d)
    return a * b


def _equal(a: Expr, b: Expr, d: str) -> Expr:
    if d == "bool":
        return tirx.Not(_differ(a, b))
    return tirx.all(a <= b, b <= a) if is_float(d) else tirx.EQ(a, b)


BINARY: dict[str, Binary] = {
    "Add": lambda a, b, d: a + b,
    "Sub": _minus,
    "Mul": _times,
    "Div": _divide,
    "Max": lambda a, b, d: _extreme(a, b, d, larger=True),
    "Min": lambda a, b, d: _extreme(a, b, d, larger=False),
    "Sum": lambda a, b, d: a + b,
    "Equal": _equal,
    "Greater": lambda a, b, d: a > b,
    "GreaterOrEqual": lambda a, b, d: a >= b,
    "Less": lambda a, b, d: a < b,
    "LessOrEqual": lambda a, b, d: a <= b,
    "And": lambda a, b, d: tirx.all(a, b),
    "Or": lambda a, b, d: tirx.any(a, b),
    "Xor": lambda a, b, d: _differ(a, b),
    "BitwiseAnd": lambda a, b, d: a & b,
    "BitwiseOr": lambda a, b, d: a | b,
    "BitwiseXor": lambda a, b, d: a ^ b,
    "PRelu": lambda a, b, d: named(a, lambda x: tirx.Select(x >= number(0, d), x, x * b)),
}


@rule(Kind.ELEMENTWISE, *UNARY)
def unary(c: Context) -> Element:
    compute, x, dtype = UNARY[c.node.op], c.spread(0), c.dtype()
    if c.node.op in SINGLE:
        return lambda index: compute(x(index), dtype, c)
    return lambda index: named(x(index), lambda value: compute(value, dtype, c))


@rule(Kind.ELEMENTWISE, *BINARY)
def binary(c: Context) -> Element:
    """All operands from the left; Max, Min and Sum take any number of them."""
    compute, dtype = BINARY[c.node.op], c.dtype()
    operands = [c.spread(i) for i in range(len(c.node.inputs))]

    def element(index: Index) -> Expr:
        found = operands[0](index)
        for operand in operands[1:]:
            found = compute(found, operand(index), dtype)
        return found

    return element


@rule(Kind.ELEMENTWISE, "Mean")
def mean(c: Context) -> Element:
    operands, dtype = [c.spread(i) for i in range(len(c.node.inputs))], c.dtype()

    def element(index: Index) -> Expr:
        total: Any = operands[0](index)
        for operand in operands[1:]:
            total = total + operand(index)
        return total / number(len(operands), dtype)

    return element


@rule(Kind.ELEMENTWISE, "Where")
def where(c: Context) -> Element:
    chosen, a, b = (c.spread(i) for i in range(3))
    return lambda index: tirx.Select(chosen(index), a(index), b(index))


@rule(Kind.ELEMENTWISE, "Pow")
def power(c: Context) -> Element:
    """Small whole exponents as products; the result has the base's type."""
    x, dtype = c.spread(0), c.dtype()
    exponent = c.node.input(1)
    assert exponent is not None
    if exponent.data is not None and exponent.data.count == 1:
        n = float(exponent.data.numpy().reshape(()))
        if n in (1, 2, 3, 4):
            return lambda index: named(x(index), lambda value: _product(value, int(n)))
        if n == 0.5 and is_float(dtype):
            return lambda index: named(x(index), lambda value: _root(value, dtype))
    y = c.spread(1)
    if not is_float(dtype):  # as ONNX Runtime has it
        return lambda index: libm("pow", "float64", x(index).astype("float64"), y(index).astype("float64")).astype(
            dtype
        )
    return lambda index: tirx.power(x(index), y(index).astype(dtype))


def _root(x: Expr, dtype: str) -> Expr:
    """x to the power of a half: unlike the square root it takes minus infinity to infinity (C99, pow)."""
    return tirx.Select(x < number(-_LARGEST[dtype], dtype), tirx.infinity(dtype), tirx.sqrt(x))


def _product(x: Expr, n: int) -> Expr:
    found = x
    for _ in range(n - 1):
        found = found * x
    return found


@rule(Kind.ELEMENTWISE, "Mod")
def modulo(c: Context) -> Element:
    a, b, dtype, by_c = c.spread(0), c.spread(1), c.dtype(), bool(c.node.attr("fmod", 0))
    if is_float(dtype):
        if by_c:
            return lambda index: libm("fmod", dtype, a(index), b(index))
        return lambda index: named(b(index), lambda y: named(libm("fmod", dtype, a(index), y), _floored(y, dtype)))
    return lambda index: (tirx.truncmod if by_c else tirx.floormod)(a(index), b(index))


def _floored(y: Expr, dtype: str) -> Callable[[Expr], Expr]:
    """Of a remainder by ``y`` of the dividend's sign, the one of the divisor's."""
    zero = number(0, dtype)
    return lambda rest: tirx.Select(
        tirx.all(tirx.NE(rest, zero), tirx.NE((rest < zero).astype("int32"), (y < zero).astype("int32"))),
        rest + y,
        rest,
    )


@rule(Kind.ELEMENTWISE, "BitShift")
def shift(c: Context) -> Element:
    a, b = c.spread(0), c.spread(1)
    left, dtype = c.node.attr("direction") in ("LEFT", b"LEFT"), c.dtype()
    bits = number(np.iinfo(dtype).bits, dtype)
    signed = not dtype.startswith("uint") and not left
    last = number(np.iinfo(dtype).bits - 1, dtype)

    def element(index: Index) -> Expr:
        def shifted(n: Expr) -> Expr:
            inside = n < bits if dtype.startswith("uint") else tirx.all(n >= number(0, dtype), n < bits)
            if signed:  # nothing but the sign is left
                return a(index) >> tirx.Select(inside, n, last)
            return tirx.Select(inside, a(index) << n if left else a(index) >> n, number(0, dtype))

        return named(b(index), shifted)

    return element


@rule(Kind.ELEMENTWISE, "Clip")
def clip(c: Context) -> Element:
    """Bounds are attributes up to opset 6, then operands of one element. One that is missing is the largest finite
    number, which infinities become."""
    x, dtype = c.spread(0), c.dtype()
    bounds: list[Element | None] = [None, None]
    for i, name in enumerate(("min", "max")):
        if dtype.startswith("float"):
            bounds[i] = _constant(number(getattr(np.finfo(dtype), name), dtype))
        written = c.node.attrs.get(name)
        if written is not None:
            bounds[i] = _constant(number(written, dtype))
        elif c.has(i + 1):
            bounds[i] = c.spread(i + 1)
    low, high = bounds

    def element(index: Index) -> Expr:
        found = x(index) if low is None else _bounded(x(index), low(index), at_least)
        return found if high is None else _bounded(found, high(index), at_most)

    return element


def _constant(value: Expr) -> Element:
    return lambda index: value


def _bounded(x: Expr, bound: Expr, how: Callable[[Expr, Expr], Expr]) -> Expr:
    return named(x, lambda value: named(bound, lambda limit: how(value, limit)))


@rule(Kind.ELEMENTWISE, "Cast", "CastLike")
def cast(c: Context) -> Element:
    x, source, wanted = c.spread(0) if c.node.op == "Cast" else c.x(0), c.dtype(), c.out_dtype()
    if wanted == "bool" and source != "bool":
        zero = number(0, source)
        if not is_float(source):
            return lambda index: tirx.NE(x(index), zero)
        return lambda index: named(x(index), lambda v: tirx.any(v < zero, v > zero, tirx.isnan(v)))
    return lambda index: x(index).astype(wanted)


@rule(Kind.ELEMENTWISE, "BitCast")
def bit_cast(c: Context) -> Element:
    x, source, wanted = c.spread(0), c.dtype(), c.out_dtype()
    if wanted == "bool" and source != wanted:
        raise Unsupported(f"the bits of {source} as {wanted}")
    if source == "bool":  # a byte of 0 or 1
        return lambda index: x(index).astype(wanted)
    return lambda index: tirx.reinterpret(wanted, x(index))


@rule(Kind.ELEMENTWISE, "Identity", "Dropout")
def identity(c: Context) -> Element:
    if c.node.op == "Dropout" and any(out.uses for out in c.node.outputs[1:]):
        raise Unsupported("the mask of a Dropout")
    if c.has(2) and bool(c.const(2)):
        raise Unsupported("a Dropout in training mode")
    return c.x(0)


@rule(Kind.ELEMENTWISE, "BatchNormalization")
def batchnorm(c: Context) -> Element:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, per channel."""
    if c.node.attr("training_mode", 0) or any(out.uses for out in c.node.outputs[1:]):
        raise Unsupported("batch normalization in training mode")
    dtype, epsilon = c.dtype(), float(c.node.attr("epsilon", 1e-5))
    x, scale, bias, mean_, var = (c.x(i) for i in range(5))

    def element(index: Index) -> Expr:
        at = (index[1],)
        gain = scale(at) / tirx.sqrt(var(at) + number(epsilon, dtype))
        return (x(index) - mean_(at)) * gain + bias(at)

    return element


@rule(Kind.ELEMENTWISE, "DequantizeLinear")
def dequantize(c: Context) -> Element:
    scale, zero = _parameters(c)
    x, dtype, unsigned = c.x(0), c.out_dtype(), c.dtype().startswith("uint")

    def element(index: Index) -> Expr:
        found = x(index)
        rounded = before_cast(found) if dtype == "float32" else None
        if rounded is not None and (unsigned or (zero is not None and _is_not_zero(zero(index)))):  # else -0 would stay
            return (rounded if zero is None else rounded - zero(index).astype(dtype)) * scale(index)
        number_ = found.astype("int32")
        whole = number_ if zero is None else number_ - zero(index).astype("int32")
        return whole.astype(dtype) * scale(index).astype(dtype)

    return element


@rule(Kind.ELEMENTWISE, "QuantizeLinear")
def quantize(c: Context) -> Element:
    """Round half to even, add the zero point, saturate; NaN becomes the lowest number, as in ONNX Runtime."""
    scale, zero = _parameters(c)
    x, dtype, source = c.x(0), c.out_dtype(), c.dtype()
    if dtype not in ("int8", "uint8", "int16", "uint16"):
        raise Unsupported(f"quantization to {dtype}")
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)

    def element(index: Index) -> Expr:
        rounded = tirx.nearbyint(x(index) / scale(index))
        shifted = rounded if zero is None else rounded + zero(index).astype(source)
        kept = tirx.min(tirx.max(shifted, number(low, source)), number(high, source))
        return kept.astype("int32").astype(dtype)

    return element


def _is_not_zero(zero: Expr) -> bool:
    return isinstance(zero, tirx.IntImm) and zero.value != 0


def _parameters(c: Context) -> tuple[Element, Element | None]:
    """Scale and zero point at an index of the tensor: one for all, per channel, or per block of a channel axis."""
    shape, own, block = c.extents(0), c.shape(1), int(c.node.attr("block_size", 0) or 0)
    scale = c.x(1)
    zero = c.x(2) if c.has(2) else None
    if math.prod(own) == 1 and len(own) <= 1:
        at: Callable[[Index], Index] = lambda index: (0,) * len(own)  # noqa: E731
    else:
        axis = int(c.node.attr("axis", 1)) % len(shape)
        if block:
            from ..lower.forms import flat

            at = lambda index: (*index[:axis], flat(index[axis]) // block, *index[axis + 1 :])  # noqa: E731
        else:
            at = lambda index: (index[axis],)  # noqa: E731
    return (lambda index: scale(at(index))), None if zero is None else (lambda index: zero(at(index)))
