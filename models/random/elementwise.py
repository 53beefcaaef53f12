"""Elementwise operators: single ones, broadcasting pairs, chains of constants, activations spelled out, logic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Value
from .draft import Draft
from .versions import clip, reduce

F32, F64, F16, I64, I32, U8, BOOL = DType.F32, DType.F64, DType.F16, DType.I64, DType.I32, DType.U8, DType.BOOL
ROUND_NUMBERS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, 6.0, -0.5, 0.25, 1.0000001, 1.5)


def floats(d: Draft) -> Value | None:
    """Mostly single precision."""
    if d.chance(0.12):
        other = d.pick(d.choose(F16, F64))
        if other is not None:
            return other
    return d.take(F32)


def unary(d: Draft, x: Value) -> Value:
    """One operator of one operand that is defined for all numbers."""
    roll = d.rng.randrange(16)
    if roll < 3:
        return d.op("Relu", x)
    if roll < 5:
        return d.op(d.choose("Sigmoid", "Tanh"), x, bound=1.0)
    if roll < 7:
        return d.op(d.choose("Abs", "Neg", "Identity", "Neg"), x)
    if roll < 9:
        low, high = d.choose((0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 2.0), (-3.0, 3.0), (0.0, 1.0), (None, None))
        return clip(d, x, low, high)
    if roll == 9:
        return d.op("Sqrt", d.op("Add", d.op("Abs", x), d.choose(1e-3, 0.5, 1.0)))
    if roll == 10:
        return d.op("Exp", clip(d, x, -4.0, 4.0), bound=55.0)
    if roll == 11:
        return d.op("Log", d.op("Add", d.op("Abs", x), d.choose(0.1, 1.0)), bound=8.0)
    if roll == 12 and x.dtype is F32:
        return _rare(d, x)
    if roll == 13:
        return d.op("Reciprocal", d.op("Add", d.op("Mul", x, x), 1.0), bound=1.0)
    if roll == 14 and x in d.shared.exact:
        return d.op(d.choose("Floor", "Ceil", "Round", "Sign"), x)
    return d.op("Mul", x, x, bound=d.bound(x) ** 2)


def _rare(d: Draft, x: Value) -> Value:
    options: list[tuple[str, dict[str, Any], float]] = [
        ("LeakyRelu", {"alpha": d.choose(0.01, 0.2, 0.0, 1.0)}, d.bound(x)),
        ("Elu", {"alpha": d.choose(1.0, 0.5)}, d.bound(x)),
        ("HardSigmoid", d.choose({}, {"alpha": 1 / 6}, {"alpha": 1 / 6, "beta": 0.5}), 1.0),
        ("Softplus", {}, d.bound(x) + 1),
        ("Softsign", {}, 1.0),
        ("Erf", {}, 1.0),
        ("Selu", {}, 2 * d.bound(x)),
        ("Celu", {"alpha": d.choose(1.0, 0.5)}, d.bound(x)),
        ("ThresholdedRelu", {"alpha": d.choose(0.5, 1.0)}, d.bound(x)) if x in d.shared.exact else ("Sin", {}, 1.0),
        (d.choose("Sin", "Cos", "Atan"), {}, 1.6),
    ]
    if d.opset >= 14:
        options.append(("HardSwish", {}, d.bound(x)))
    if d.opset >= 18:
        options.append(("Mish", {}, d.bound(x)))
    if d.opset >= 20:
        options.append(("Gelu", {"approximate": d.choose("none", "tanh")}, d.bound(x)))
    if d.opset >= 24:
        options.append(("Swish", {"alpha": d.choose(1.0, 1.702)}, d.bound(x)))
    op, attrs, bound = d.choose(*options)
    return d.op(op, x, bound=bound, **attrs)


def some_unary(d: Draft) -> bool:
    x = floats(d)
    if x is None:
        return False
    for _ in range(d.choose(1, 1, 1, 2, 3)):
        x = d.damped(unary(d, x))
        d.maybe(x)
    d.keep(x)
    return True


# -- two operands


def constant_like(d: Draft, x: Value) -> np.ndarray[Any, Any]:
    """A constant that broadcasts to ``x``: one number, one per channel, one per column, all of it, and near misses."""
    sizes = d.sizes(x.shape)
    assert sizes is not None
    assert x.dtype is not None
    rank = len(sizes[0])
    static = [s if all(t[i] == s for t in sizes) else 1 for i, s in enumerate(sizes[0])]
    shape: list[int] = d.choose([], [], [1], [1] * rank)
    roll = d.rng.randrange(8)
    if roll < 3 and rank >= 2:
        shape = [1] * rank
        shape[1] = static[1]
        shape = shape[1:] if d.chance(0.6) else shape
    elif roll == 3 and rank >= 1:
        shape = [static[-1]]
    elif roll == 4 and rank >= 1:
        shape = static if d.chance(0.5) else static[d.rng.randrange(rank) :]
    elif roll == 5 and rank >= 1:
        axis = d.rng.randrange(rank)
        shape = [s if i == axis else 1 for i, s in enumerate(static)]
    if d.chance(0.45):
        return np.full(shape, d.choose(*ROUND_NUMBERS)).astype(x.dtype.numpy)
    array = d.drawn().standard_normal(shape)
    return np.where(np.abs(array) < 0.1, 0.5, array).astype(x.dtype.numpy)


def affine_step(d: Draft, x: Value) -> Value:
    """``x`` and a constant, in either order; division by what may be zero is left out."""
    if d.chance(0.1):
        return d.op("Neg", x)
    c = constant_like(d, x)
    size = float(np.abs(c).max(initial=0))
    op = d.choose("Add", "Mul", "Add", "Mul", "Sub", "Div")
    if op == "Div":
        c = np.where(np.abs(c.astype(np.float64)) < 0.2, 2, c).astype(c.dtype)
        return d.op("Div", x, c, bound=5 * d.bound(x))
    bound = d.bound(x) * size if op == "Mul" else d.bound(x) + size
    return d.op(op, *((c, x) if d.chance(0.35) else (x, c)), bound=bound)


def affine_chain(d: Draft) -> bool:
    x = floats(d)
    if x is None or d.sizes(x.shape) is None:
        return False
    for _ in range(d.choose(1, 2, 2, 3)):
        x = d.damped(affine_step(d, x))
        d.maybe(x)
    d.keep(x)
    return True


def partner(d: Draft, x: Value) -> Value | None:
    """Another value that broadcasts with ``x`` in every sample."""

    def fits(v: Value) -> bool:
        if v.shape is None or x.shape is None:
            return False
        pairs = list(zip(reversed(v.shape), reversed(x.shape), strict=False))
        # Two symbols that are equal by chance in all samples do not count as equal.
        return all(a == b or a == 1 or b == 1 for a, b in pairs) and all(a is not None for a, _ in pairs)

    return d.pick(x.dtype, where=fits)


def binary(d: Draft) -> bool:
    x = floats(d)
    y = partner(d, x) if x is not None else None
    if x is None or y is None or x.dtype is None:
        return False
    op = d.choose("Add", "Mul", "Sub", "Add", "Div", "Max", "Min", "Pow", "Sum", "Mean")
    if op == "Div":
        y = d.op("Add", d.op("Abs", y), d.choose(0.5, 1.0))
        d.keep(d.op("Div", x, y, bound=2 * d.bound(x)))
    elif op == "Pow":
        if x.dtype is F16:
            return False
        exponent = d.choose(2.0, 3.0, 1.0, 0.0, 2, 0.5, -1.0)
        base = d.op("Add", d.op("Abs", x), 0.5) if exponent in (0.5, -1.0) else x
        c = np.asarray(exponent, np.int64 if isinstance(exponent, int) else x.dtype.numpy)
        if d.opset < 12:
            c = c.astype(x.dtype.numpy)
        d.keep(d.op("Pow", base, c, bound=max(d.bound(x) + 0.5, 2) ** max(1.0, abs(exponent))))
    elif op in ("Sum", "Mean", "Max", "Min"):
        operands = [x, y, *([d.choose(x, y)] if d.chance(0.2) else [])]
        d.keep(d.op(op, *operands[: d.choose(1, 2, 2, 3)]))
    else:
        bound = d.bound(x) * d.bound(y) if op == "Mul" else None
        d.keep(d.op(op, x, y, bound=bound))
    return True


# -- activations spelled out, with near misses


def spelled_activation(d: Draft) -> bool:
    x = d.take(F32 if d.chance(0.9) else d.choose(F64, F16))
    if x is None:
        return False
    if d.bound(x) > 30:
        x = d.op("Tanh", x, bound=1.0)
    d.keep(d.choose(*_SPELLINGS)(d, x))
    return True


def _off(d: Draft, c: float) -> float:
    """The number, or now and then one near it."""
    return c * 1.01 if d.chance(0.08) else c


def _other(d: Draft, x: Value) -> Value:
    """``x``, or now and then something of its shape."""
    return d.op("Abs", x) if d.chance(0.06) else x


def _gelu(d: Draft, x: Value) -> Value:
    inner = (
        d.op("Div", x, _off(d, 1.4142135)) if d.chance(0.5) else d.op("Mul", x, _off(d, 0.70710677), bound=d.bound(x))
    )
    if x.dtype is not F32:
        gate = d.op("Tanh", inner, bound=1.0)
    else:
        gate = d.op("Erf", d.maybe(inner, 0.05), bound=1.0)
    one = d.op("Add", *((gate, 1.0) if d.chance(0.7) else (1.0, gate)), bound=2.0)
    half = _off(d, 0.5)
    way = d.rng.randrange(3)
    if way == 0:
        return d.op("Mul", d.op("Mul", _other(d, x), one, bound=2 * d.bound(x)), half)
    if way == 1:
        return d.op("Mul", d.op("Mul", x, half), d.maybe(one, 0.05), bound=d.bound(x))
    return d.op("Mul", x, d.op("Mul", one, half), bound=d.bound(x))


def _tanh_gelu(d: Draft, x: Value) -> Value:
    cube = (
        d.op("Pow", x, 3.0, bound=d.bound(x) ** 3)
        if d.chance(0.5) and x.dtype is not F16
        else d.op("Mul", d.op("Mul", x, x, bound=d.bound(x) ** 2), x, bound=d.bound(x) ** 3)
    )
    poly = d.op("Add", x, d.op("Mul", cube, _off(d, 0.044715)))
    gate = d.op("Tanh", d.op("Mul", poly, _off(d, 0.7978846)), bound=1.0)
    one = d.op("Add", gate, 1.0, bound=2.0)
    return d.op("Mul", d.op("Mul", x, 0.5), one, bound=d.bound(x))


def _swish(d: Draft, x: Value) -> Value:
    inner = x if d.chance(0.6) else d.op("Mul", x, d.choose(1.702, 1.0, 2.0), bound=2 * d.bound(x))
    return d.op("Mul", *_either(d, _other(d, x), d.op("Sigmoid", inner, bound=1.0)), bound=d.bound(x))


def _either(d: Draft, a: Any, b: Any) -> tuple[Any, Any]:
    return (a, b) if d.chance(0.5) else (b, a)


def _hard_sigmoid(d: Draft, x: Value) -> Value:
    way = d.rng.randrange(4)
    if way == 0 and x.dtype is F32:
        return d.op("HardSigmoid", x, alpha=_off(d, 1 / 6), bound=1.0)
    if way == 1:
        return d.op("Div", clip(d, d.op("Add", x, _off(d, 3.0)), 0.0, _off(d, 6.0)), 6.0, bound=1.0)
    if way == 2:
        return clip(d, d.op("Add", d.op("Mul", x, 0.2), 0.5), 0.0, 1.0)
    low = d.op("Max", d.op("Add", x, 3.0), 0.0)
    return d.op("Mul", d.op("Min", low, 6.0, bound=6.0), 1 / 6, bound=1.0)


def _hard_swish(d: Draft, x: Value) -> Value:
    return d.op("Mul", *_either(d, _other(d, x), d.maybe(_hard_sigmoid(d, x), 0.05)), bound=d.bound(x))


def _softplus(d: Draft, x: Value) -> Value:
    if d.bound(x) > 20 or x.dtype is F16:
        x = clip(d, x, -6.0, 6.0)
    return d.op("Log", d.op("Add", *_either(d, d.op("Exp", x, bound=400.0), _off(d, 1.0))), bound=20.0)


def _mish(d: Draft, x: Value) -> Value:
    soft = d.op("Softplus", x) if d.chance(0.5) and x.dtype is F32 else _softplus(d, x)
    return d.op("Mul", x, d.op("Tanh", soft, bound=1.0), bound=d.bound(x))


def _clamps(d: Draft, x: Value) -> Value:
    """Chains of Clip, Relu, Max and Min."""
    for _ in range(d.choose(2, 3, 4)):
        roll = d.rng.randrange(6)
        if roll == 0:
            x = d.op("Relu", x)
        elif roll < 3:
            low, high = d.choose((0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 2.0), (1.0, -1.0), (2.0, 3.0))
            x = clip(d, x, low, high)
        else:
            assert x.rank is not None
            shape = d.choose((), (), (1,), (1,) * x.rank, (1,) * (x.rank + 1) if d.chance(0.2) else ())
            limit = np.full(shape, d.choose(0.0, -0.0, 1.0, 6.0, -2.0))
            limit = limit.astype(x.dtype.numpy if x.dtype else np.float32)
            x = d.op(d.choose("Max", "Min"), *_either(d, x, limit))
        d.maybe(x, 0.08)
    return x


def _leaky(d: Draft, x: Value) -> Value:
    """A leaky Relu as a choice; a jump only in its derivative."""
    alpha = d.op("Mul", x, d.choose(0.1, 0.01))
    return d.op("Where", d.op("Greater", x, 0.0), x, alpha) if x in d.shared.exact else d.op("Max", x, alpha)


def _square_root(d: Draft, x: Value) -> Value:
    square = d.op("Pow", x, 2.0, bound=d.bound(x) ** 2) if x.dtype is not F16 else d.op("Mul", x, x)
    return d.op("Sqrt", d.op("Add", square, 1e-3), bound=d.bound(x) + 1)


_SPELLINGS: tuple[Callable[[Draft, Value], Value], ...] = (
    _gelu, _gelu, _tanh_gelu, _swish, _hard_sigmoid, _hard_swish, _softplus, _mish, _clamps, _clamps, _leaky,
    _square_root,
)  # fmt: skip


# -- norms spelled out


def spelled_norm(d: Draft) -> bool:
    """Layer and RMS normalization in their parts, with near misses in axes, epsilon and scale."""
    x = (d.pick(F64, (2, 3, 4)) if d.chance(0.15) else None) or d.take(F32, (2, 3, 4))
    if x is None or x.rank is None or x.shape is None or x.dtype is None or not isinstance(x.shape[-1], int):
        return False
    width, dtype = x.shape[-1], x.dtype
    axes = [-1] if d.chance(0.75) else d.choose([x.rank - 1], [-2, -1], [1])
    if d.chance(0.06):
        axes = [0]
    keep = 1
    centred = x
    if d.chance(0.7):
        centred = d.op("Sub", x, reduce(d, "ReduceMean", x, axes, keep))
        d.maybe(centred, 0.06)
    twice = centred if d.chance(0.95) else x
    square = (
        d.op("Pow", twice, d.choose(2.0, 2.0, np.asarray(2, np.int64) if d.opset >= 12 else 2.0))
        if d.chance(0.5)
        else d.op("Mul", twice, twice)
    )
    d.shared.bound[square] = d.bound(x) ** 2
    variance = reduce(d, "ReduceMean", square, axes, keep)
    eps = d.choose(1e-5, 1e-3, 1e-2)
    deviation = d.op("Sqrt", d.op("Add", *_either(d, variance, eps)), bound=d.bound(x))
    if d.chance(0.7):
        y = d.op("Div", centred, deviation, bound=10.0)
    else:
        y = d.op("Mul", centred, d.op("Reciprocal", deviation, bound=30.0), bound=10.0)
    if d.chance(0.7):
        shape = d.choose([width], [width], [1, width], [1], [])
        scale = d.weight(shape, dtype=dtype) if d.chance(0.8) else np.ones(shape, dtype.numpy)
        y = d.op("Mul", *_either(d, y, scale), bound=30.0)
        if d.chance(0.7):
            y = d.op("Add", *_either(d, y, d.weight(d.choose([width], [width], [1]), dtype=dtype)))
    d.keep(y)
    return True


def norm(d: Draft) -> bool:
    """Normalization operators of their own."""
    x = d.take(F32, (3, 4))
    if x is None or x.rank is None or x.shape is None:
        return False
    channels, width = x.shape[1], x.shape[-1]
    roll = d.rng.randrange(4)
    if roll == 0 and d.opset >= 17 and isinstance(width, int):
        bias = d.weight([width]) if d.chance(0.6) else None
        count = d.choose(1, 1, 1, 3)
        made = d.op(
            "LayerNormalization", x, d.weight([width]), bias, axis=d.choose(-1, x.rank - 1),
            epsilon=d.choose(1e-5, 1e-3), bound=20.0, _outputs=count,
        )  # fmt: skip
        d.keep(made if count == 1 else made[0])
        if count == 3 and d.chance(0.5):
            d.keep(made[1])
        return True
    if roll == 1 and d.opset >= 23 and isinstance(width, int):
        d.keep(d.op("RMSNormalization", x, d.weight([width]), bound=20.0))
        return True
    if roll == 2 and isinstance(channels, int):
        d.keep(d.op("InstanceNormalization", x, d.weight([channels]), d.weight([channels]), bound=20.0, epsilon=1e-2))
        return True
    if isinstance(channels, int):
        d.keep(batch_norm(d, x, channels))
        return True
    return False


def batch_norm(d: Draft, x: Value, channels: int) -> Value:
    variance = d.drawn().uniform(0.3, 2, channels).astype(np.float32)
    parameters = [d.weight([channels]), d.weight([channels]), d.weight([channels])]
    attrs: dict[str, Any] = d.choose({}, {"epsilon": 1e-3}, {"momentum": 0.5})
    return d.op("BatchNormalization", x, *parameters, d.const(variance), bound=3 * d.bound(x) + 3, **attrs)


# -- types and logic


def cast_chain(d: Draft) -> bool:
    """Casts there and back, through wider and narrower types."""
    x = d.pick((F32, F16, F64, I64, I32, U8, BOOL)) or d.take(F32)
    if x is None:
        return False
    first = x.dtype
    for i in range(d.choose(1, 2, 2, 3)):
        assert x.dtype is not None
        if i and d.chance(0.4) and first is not None:
            to = first if first in (F32, F64, F16) or not x.dtype.is_float or x in d.shared.exact else F32
        elif x.dtype.is_float:
            to = d.choose(F32, F16, F64, F32, F64)
            if x in d.shared.exact and d.chance(0.35):
                to = d.choose(I64, I32, BOOL)
        else:
            to = d.choose(I64, I32, F32, BOOL, F64, F32)
        x = d.op("Cast", x, to=to.code, bound=1.0 if to is BOOL else d.bound(x))
        d.maybe(x, 0.2)
    d.keep(x)
    return True


def compare(d: Draft) -> bool:
    x = d.pick((F32, I64, I32, F32), exact=True) or d.take(F32, exact=True)
    if x is None or x.dtype is None:
        return False
    y: Any = d.pick(x.dtype, where=lambda v: v.shape == x.shape, exact=True) if d.chance(0.4) else None
    y = np.asarray(d.choose(0, 1, 2, -1), x.dtype.numpy) if y is None else y
    equal = ("Equal",) if d.opset >= 11 or not x.dtype.is_float else ()
    op = d.choose("Greater", "Less", *equal, *(("GreaterOrEqual", "LessOrEqual") if d.opset >= 12 else ()))
    d.keep(d.op(op, *_either(d, x, y), bound=1.0))
    return True


def logic(d: Draft) -> bool:
    x = d.pick(BOOL)
    if x is None:
        return compare(d)
    roll = d.rng.randrange(4)
    if roll == 0:
        y = d.op("Not", x, bound=1.0)
        d.keep(d.op("Not", y, bound=1.0) if d.chance(0.3) else y)
    elif roll == 1:
        y = d.pick(BOOL, where=lambda v: v.shape == x.shape)
        d.keep(d.op(d.choose("And", "Or", "Xor"), x, y, bound=1.0))
    elif roll == 2:
        d.keep(d.op(d.choose("And", "Or", "Xor"), *_either(d, x, np.asarray(d.chance(0.5))), bound=1.0))
    else:
        d.keep(d.op("Cast", x, to=d.choose(F32, I64, I32).code, bound=1.0))
    return True


def where(d: Draft) -> bool:
    x = d.pick((F32, I64), where=lambda v: d.sizes(v.shape) is not None) or d.take(F32)
    if x is None or x.dtype is None:
        return False
    condition: Any = d.pick(BOOL, where=lambda v: v.shape == x.shape or v.shape == () or v.shape == (1,))
    if condition is None or d.chance(0.2):
        condition = np.asarray(d.choose([True], [False], True, False))
    y = d.pick(x.dtype, where=lambda v: v.shape == x.shape)
    other: Any = y if y is not None and d.chance(0.7) else np.asarray(d.choose(0, 1, -5), x.dtype.numpy)
    d.keep(d.op("Where", condition, *_either(d, x, other), bound=d.bound(x) + 5))
    return True


def integers(d: Draft) -> bool:
    """Integer arithmetic, with the neutral elements and the divisors that rules look for."""
    x = d.take(I64 if d.chance(0.7) else I32)
    if x is None or x.dtype is None:
        return False
    kind = x.dtype.numpy
    for _ in range(d.choose(1, 2, 3)):
        roll = d.rng.randrange(9)
        c = np.asarray(d.choose(0, 1, 2, -1, 3, 4), kind)
        if d.chance(0.3):
            c = c.reshape(1)
        other = partner(d, x) if d.chance(0.3) else None
        if roll < 4:
            op = d.choose("Add", "Sub", "Mul")
            y: Any = other if other is not None else c
            size = d.bound(other) if other is not None else 4.0
            x = d.op(op, *_either(d, x, y), bound=d.bound(x) * size if op == "Mul" else d.bound(x) + size)
        elif roll == 4:
            x = d.op("Div", x, np.asarray(d.choose(1, 2, 3, -1), kind), bound=d.bound(x))
        elif roll == 5:
            fmod = {"fmod": 1} if d.chance(0.2) else {}
            x = d.op("Mod", x, np.asarray(d.choose(1, 2, 3, 5, -3), kind), bound=5.0, **fmod)
        elif roll == 6:
            x = d.op(d.choose("Neg", "Abs", "Sign", "Identity"), x)
        elif roll == 7 and d.opset >= 12:
            x = d.op(d.choose("Max", "Min"), *_either(d, x, c), bound=d.bound(x) + 4)
        elif d.opset >= 12:
            low, high = sorted((d.choose(-2, 0, 1), d.choose(3, 5)))
            x = clip(d, x, d.choose(low, None), d.choose(high, None))
        x = d.damped(x)
        d.maybe(x)
    d.keep(x)
    return True


def repeated(d: Draft) -> bool:
    """The same node twice, or nearly the same: what merging equal nodes must tell apart."""
    old = [
        v for v in d.values if v.producer is not None and v.producer.graph is d.graph and len(v.producer.outputs) == 1
    ]
    old = [v for v in old if v.producer is not None and not v.producer.subgraphs and not v.producer.domain]
    if not old:
        return False
    node = d.rng.choice(old[-8:]).producer
    assert node is not None
    attrs = dict(node.attrs)
    if attrs and d.chance(0.3) and node.op not in KEEP_ATTRIBUTES:
        attrs.pop(next(iter(attrs)))
    inputs = list(node.inputs)
    if node.op in ("Add", "Mul", "And", "Or", "Max", "Min") and d.chance(0.5):
        inputs.reverse()
    made = d.op(node.op, *inputs, bound=d.bound(node.output), **attrs)
    if made.shape is None:
        return False
    if made.shape == node.output.shape and made.dtype in (F32, I64) and d.chance(0.6):
        made = d.op(d.choose("Add", "Sub", "Mul"), made, node.output, bound=d.bound(made) * max(2, d.bound(made)))
    d.keep(made)
    return True


KEEP_ATTRIBUTES = frozenset(
    "Cast Transpose Concat Split Reshape Slice OneHot Conv ConvTranspose Pad Einsum MaxPool AveragePool Attention "
    "DepthToSpace SpaceToDepth Gemm".split()
)
"""Operators that have no default for an attribute, or another result type with it."""
MOTIFS = (
    (6, some_unary), (8, affine_chain), (8, binary), (9, spelled_activation), (4, spelled_norm), (3, norm),
    (4, cast_chain), (3, compare), (2, logic), (3, where), (4, integers), (4, repeated),
)  # fmt: skip
