"""Kernels that compute: arithmetic, comparisons, casts, reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ...ir.dtypes import DType, from_numpy
from ...ir.graph import Node
from .kernels import Array, NoKernel, Operands, axis_attr, ints, kernel, optional, present
from .operands import has_list, int_list

_PLAIN = frozenset(
    (
        *(DType.F32, DType.F64, DType.F16, DType.BF16, DType.BOOL),
        *(DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64),
    )
)
_EXACT_INTEGER = 1 << 53
SLOW_ELEMENTS = 1 << 20
"""Largest operand of what numpy has no function for (0.1 us an element)."""


def _is_float(x: Array) -> bool:
    return from_numpy(x.dtype).is_float


def _in_float64(function: Callable[..., Any], *operands: Array) -> Array:
    """``function`` of floats in float64, rounded once to their type."""
    x = operands[0]
    if not _is_float(x) or from_numpy(x.dtype) not in _PLAIN:
        raise NoKernel(f"no arithmetic on {x.dtype}")
    with np.errstate(all="ignore"):
        return np.asarray(function(*(v.astype(np.float64) for v in operands))).astype(x.dtype)


# -- two operands


def _binary(node: Node, operands: Operands, function: Any) -> list[Array]:
    a, b = present(operands, 0), present(operands, 1)
    if node.version < 7 and a.shape != b.shape and b.size != 1:
        raise NoKernel("broadcasting before opset 7")
    if from_numpy(a.dtype) not in _PLAIN:
        raise NoKernel(f"no arithmetic on {a.dtype}")
    with np.errstate(all="ignore"):
        return [np.asarray(function(a, b))]


def _register_binary(op: str, function: Any) -> None:
    kernel(op)(lambda node, operands: _binary(node, operands, function))


for _op, _function in {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}.items():
    _register_binary(_op, _function)


@kernel("Div")
def div(node: Node, operands: Operands) -> list[Array]:
    """Integers truncate toward zero; by zero they are undefined, and so is the lowest one by -1."""

    def divide(a: Array, b: Array) -> Array:
        if _is_float(a):
            return a / b
        if (b == 0).any():
            raise NoKernel("integer division by zero")
        if a.dtype.kind == "i" and ((b == -1).any() and (a == np.iinfo(a.dtype).min).any()):
            raise NoKernel("integer division overflows")
        quotient = np.floor_divide(a, b)
        return quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype)

    return _binary(node, operands, divide)


@kernel("Mod")
def mod(node: Node, operands: Operands) -> list[Array]:
    fmod = bool(node.attr("fmod", 0))

    def modulo(a: Array, b: Array) -> Array:
        if _is_float(a):
            if not fmod:
                raise NoKernel("Mod of floats needs fmod=1")
            return np.fmod(a, b)
        if (b == 0).any():
            raise NoKernel("integer division by zero")
        return np.fmod(a, b) if fmod else np.mod(a, b)

    return _binary(node, operands, modulo)


@kernel("Pow")
def pow_(node: Node, operands: Operands) -> list[Array]:
    a, b = present(operands, 0), present(operands, 1)
    if node.version < 7 and a.shape != b.shape and b.size != 1:
        raise NoKernel("broadcasting before opset 7")
    if _is_float(a):
        if from_numpy(b.dtype) not in _PLAIN:
            raise NoKernel(f"no arithmetic on {b.dtype}")
        return [_in_float64(np.power, a, b)]
    with np.errstate(all="ignore"):
        wide = np.power(a.astype(np.float64), b.astype(np.float64))
    if (
        not np.isfinite(wide).all()
        or (np.abs(wide) > min(_EXACT_INTEGER, np.iinfo(a.dtype).max)).any()
        or (wide % 1).any()
    ):
        raise NoKernel("the power of integers is not an exact integer")
    return [wide.astype(a.dtype)]


def _ordered(x: Array) -> Array:
    """``x`` where the greater of two elements is beyond doubt: of 0.0 and -0.0, runtimes return whichever they like."""
    if from_numpy(x.dtype) not in _PLAIN:
        raise NoKernel(f"no arithmetic on {x.dtype}")
    if _is_float(x) and (np.isnan(x).any() or ((x == 0) & np.signbit(x)).any()):
        raise NoKernel("an operand has NaN or -0.0")
    return x


@kernel("Max", "Min")
def max_min(node: Node, operands: Operands) -> list[Array]:
    function = np.maximum if node.op == "Max" else np.minimum
    out = present(operands, 0)
    for i in range(len(operands)):
        out = function(out, _ordered(present(operands, i)))
    return [np.asarray(out)]


@kernel("Sum", "Mean")
def sum_mean(node: Node, operands: Operands) -> list[Array]:
    def total(*parts: Array) -> Array:
        out = parts[0]
        for part in parts[1:]:
            out = out + part
        return out / len(parts) if node.op == "Mean" else out

    return [_in_float64(total, *(present(operands, i) for i in range(len(operands))))]


# -- one operand


def _register_unary(op: str, function: Any) -> None:
    def run(node: Node, operands: Operands) -> list[Array]:
        return [_in_float64(function, present(operands, 0))]

    kernel(op)(run)


def _erf(x: Array) -> Array:
    if x.size > SLOW_ELEMENTS:
        raise NoKernel(f"Erf of {x.size} elements takes too long here, the limit is {SLOW_ELEMENTS}")
    return np.vectorize(math.erf, otypes=[np.float64])(x) if x.size else x


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


_UNARY: dict[str, Any] = {
    "Exp": np.exp,
    "Log": np.log,
    "Sin": np.sin,
    "Cos": np.cos,
    "Tan": np.tan,
    "Tanh": np.tanh,
    "Sinh": np.sinh,
    "Cosh": np.cosh,
    "Asin": np.arcsin,
    "Acos": np.arccos,
    "Atan": np.arctan,
    "Erf": _erf,
    "Sigmoid": _sigmoid,
    "Sqrt": np.sqrt,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
}
for _op in _UNARY:
    _register_unary(_op, _UNARY[_op])


@kernel("Reciprocal")
def reciprocal(node: Node, operands: Operands) -> list[Array]:
    """One division in the operand's own type."""
    x = present(operands, 0)
    if not _is_float(x) or from_numpy(x.dtype) not in _PLAIN:
        raise NoKernel(f"no arithmetic on {x.dtype}")
    with np.errstate(all="ignore"):
        return [np.asarray(1).astype(x.dtype) / x]


@kernel("Neg", "Abs", "Sign", "Not", "BitwiseNot", "Relu")
def exact_unary(node: Node, operands: Operands) -> list[Array]:
    x = present(operands, 0)
    if from_numpy(x.dtype) not in _PLAIN:
        raise NoKernel(f"no arithmetic on {x.dtype}")
    if node.op in ("Sign", "Relu"):
        _ordered(x)
    if node.op == "Relu":
        return [np.maximum(x, np.zeros((), x.dtype))]
    function: Any = {
        "Neg": np.negative,
        "Abs": np.abs,
        "Sign": np.sign,
        "Not": np.logical_not,
        "BitwiseNot": np.invert,
    }[node.op]
    return [np.asarray(function(x))]


@kernel("LeakyRelu")
def leaky_relu(node: Node, operands: Operands) -> list[Array]:
    alpha = float(np.float32(node.attr("alpha", 0.01)))

    def leaky(x: Array) -> Array:
        return np.where(x < 0, alpha * x, x)

    return [_in_float64(leaky, present(operands, 0))]


@kernel("Softplus")
def softplus(node: Node, operands: Operands) -> list[Array]:
    return [_in_float64(partial(np.logaddexp, 0.0), present(operands, 0))]


@kernel("Softmax")
def softmax(node: Node, operands: Operands) -> list[Array]:
    x = present(operands, 0)
    axis = axis_attr(node, x.ndim, -1)
    if node.version < 13 or x.size == 0:
        raise NoKernel("Softmax before opset 13 flattens its operand")

    def normalized(v: Array) -> Array:
        e = np.exp(v - v.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    return [_in_float64(normalized, x)]


@kernel("IsInf")
def is_inf(node: Node, operands: Operands) -> list[Array]:
    x = present(operands, 0)
    if not node.attr("detect_negative", 1) or not node.attr("detect_positive", 1):
        raise NoKernel("detects infinities of one sign")
    return [np.asarray(np.isinf(x))]


@kernel("IsNaN")
def is_nan(node: Node, operands: Operands) -> list[Array]:
    return [np.asarray(np.isnan(present(operands, 0)))]


@kernel("Clip")
def clip(node: Node, operands: Operands) -> list[Array]:
    x = _ordered(present(operands, 0))
    low, high = optional(operands, 1), optional(operands, 2)
    if node.version < 11:
        raise NoKernel("the bounds are attributes")
    if low is not None:
        x = np.maximum(x, _ordered(low))
    return [np.asarray(np.minimum(x, _ordered(high)) if high is not None else x)]


@kernel("Cast", "CastLike")
def cast(node: Node, operands: Operands) -> list[Array]:
    x, to = present(operands, 0), node.output.dtype
    source = from_numpy(x.dtype)
    if to is source:
        return [x]
    if to is None or to not in _PLAIN or source not in _PLAIN:
        raise NoKernel(f"no cast from {source.text} to {to.text if to else '?'}")
    if to is DType.BOOL:
        return [x.astype(np.float32) != 0 if source in (DType.F16, DType.BF16) else x != 0]
    with np.errstate(all="ignore"):
        if source.is_float and to.is_integer:
            wide = np.trunc(x.astype(np.float64))
            info = np.iinfo(to.numpy)
            # As floats the bounds of 64-bit types round up, so the upper one is excluded.
            if not ((wide >= float(info.min)) & (wide < float(info.max) + (info.bits < 64))).all():
                raise NoKernel("a value does not fit the integer type")
            return [wide.astype(to.numpy)]
        if to in (DType.F16, DType.BF16) and source is not DType.BOOL and source is not DType.F32:
            direct, twice = x.astype(np.float64).astype(to.numpy), x.astype(np.float32).astype(to.numpy)
            if direct.tobytes() != twice.tobytes():
                raise NoKernel("rounding depends on the intermediate type")
            return [direct]
        return [x.astype(to.numpy)]


# -- sums and products


def _axes(node: Node, operands: Operands, rank: int) -> tuple[int, ...] | None:
    """The axes of a reduction; ``None`` for one that reduces nothing."""
    given = int_list(node, "axes", 1) if has_list(node, "axes", 1) else []
    if given is None:
        raise NoKernel("the axes are not known")
    if not given:
        return None if node.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(a % rank for a in given) if rank else ()


def _sum_of_squares(x: Array, **how: Any) -> Array:
    return np.sum(x * x, **how)


def _l1(x: Array, **how: Any) -> Array:
    return np.sum(np.abs(x), **how)


def _l2(x: Array, **how: Any) -> Array:
    return np.sqrt(np.sum(x * x, **how))


_REDUCTIONS: dict[str, Any] = {
    **{"ReduceSum": np.sum, "ReduceMean": np.mean, "ReduceProd": np.prod},
    **{"ReduceL1": _l1, "ReduceL2": _l2, "ReduceSumSquare": _sum_of_squares},
}


@kernel(*("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"))
def reduce(node: Node, operands: Operands) -> list[Array]:
    x = present(operands, 0)
    axes = _axes(node, operands, x.ndim)
    if axes is None or x.size == 0:
        raise NoKernel("nothing to reduce")
    keep = bool(node.attr("keepdims", 1))
    if node.op in ("ReduceMax", "ReduceMin"):
        _ordered(x)
        return [np.asarray((np.max if node.op == "ReduceMax" else np.min)(x, axis=axes, keepdims=keep))]
    function: Any = _REDUCTIONS[node.op]
    if _is_float(x):
        return [_in_float64(partial(function, axis=axes, keepdims=keep), x)]
    if node.op not in ("ReduceSum", "ReduceProd") or from_numpy(x.dtype) not in _PLAIN:
        raise NoKernel(f"no {node.op} of {x.dtype}")
    return [np.asarray(function(x, axis=axes, keepdims=keep, dtype=x.dtype))]


@kernel("CumSum")
def cumsum(node: Node, operands: Operands) -> list[Array]:
    x, axis = present(operands, 0), (ints(operands, 1) or [0])[0]
    if node.attr("exclusive", 0) or node.attr("reverse", 0) or not -x.ndim <= axis < x.ndim:
        raise NoKernel("exclusive or reverse")
    if _is_float(x):
        return [_in_float64(partial(np.cumsum, axis=axis), x)]
    return [np.cumsum(x, axis, dtype=x.dtype)]


@kernel("MatMul")
def matmul(node: Node, operands: Operands) -> list[Array]:
    a, b = present(operands, 0), present(operands, 1)
    if _is_float(a):
        return [_in_float64(np.matmul, a, b)]
    return [np.matmul(a, b)]


@kernel("Gemm")
def gemm(node: Node, operands: Operands) -> list[Array]:
    a, b, c = present(operands, 0), present(operands, 1), optional(operands, 2)
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))

    def product(a: Array, b: Array, *rest: Array) -> Array:
        out = alpha * ((a.T if node.attr("transA", 0) else a) @ (b.T if node.attr("transB", 0) else b))
        return out + beta * rest[0] if rest else out

    return [_in_float64(product, a, b, *(() if c is None else (c,)))]


@kernel("ArgMax", "ArgMin")
def arg_max_min(node: Node, operands: Operands) -> list[Array]:
    x = present(operands, 0)
    axis = axis_attr(node, x.ndim, 0)
    if node.attr("select_last_index", 0) or x.size == 0 or (_is_float(x) and np.isnan(x).any()):
        raise NoKernel("select_last_index, nothing to reduce, or NaN")
    out = (np.argmax if node.op == "ArgMax" else np.argmin)(x, axis)
    return [np.asarray(np.expand_dims(out, axis) if node.attr("keepdims", 1) else out, np.int64)]
