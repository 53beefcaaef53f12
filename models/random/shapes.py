"""Shape arithmetic at run time, as exporters write it: Shape, Gather, Mul, Concat, and what consumes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Value
from .draft import Draft
from .movement import something
from .versions import cut, ints, squeeze, unsqueeze

F32, I64 = DType.F32, DType.I64


def extent(d: Draft, shape: Value, axis: int) -> Value:
    """One extent as a vector of one element."""
    roll = d.rng.randrange(4)
    if roll == 0:
        return d.op("Gather", shape, ints([axis]), bound=10.0)
    if roll == 1:
        return unsqueeze(d, d.op("Gather", shape, np.asarray(axis, np.int64), bound=10.0), [0])
    if roll == 2:
        return cut(d, shape, [axis], [axis + 1], [0])
    one = unsqueeze(d, squeeze(d, cut(d, shape, [axis], [axis + 1], [0], [1]), [0]), [0])
    return one


def shape_of(d: Draft, x: Value) -> Value:
    if d.opset >= 15 and d.chance(0.1) and x.rank:
        return d.op("Concat", d.op("Shape", x, end=1, bound=10.0), d.op("Shape", x, start=1, bound=10.0), axis=0)
    shape = d.op("Shape", x, bound=10.0)
    if d.chance(0.1):
        shape = d.op("Cast", d.op("Cast", shape, to=DType.I32.code, bound=10.0), to=I64.code, bound=10.0)
    return shape


def dynamic_reshape(d: Draft) -> bool:
    """Reshape to a target computed from the operand's own shape."""
    x = something(d, (2, 3, 4))
    if x is None or x.shape is None or x.rank is None:
        return False
    shape = shape_of(d, x)
    d.maybe(shape, 0.1)
    rank = x.rank
    roll = d.rng.randrange(6)
    parts: list[Any] = [extent(d, shape, i) for i in range(rank)]
    if roll == 0:  # the same shape
        pass
    elif roll == 1:  # the last two merged, by arithmetic
        parts = [*parts[:-2], d.op("Mul", parts[-2], parts[-1], bound=100.0)]
    elif roll == 2:
        parts = [*parts[:-2], ints([-1])]
    elif roll == 3:
        parts = [parts[0], ints([-1])]
    elif roll == 4 and isinstance(x.shape[-1], int) and x.shape[-1] % 2 == 0:
        half = d.op("Div", parts[-1], ints([2]), bound=10.0)
        parts = [*parts[:-1], *d.choose((ints([2]), half), (half, ints([2])), (ints([2]), ints([-1])))]
    else:
        at = d.rng.randrange(rank)
        parts = [*parts[:at], ints([1]), *parts[at:]]
    target = d.op("Concat", *parts, axis=0, bound=100.0) if len(parts) > 1 else parts[0]
    if d.chance(0.1):
        target = d.op("Identity", target)
    y = d.op("Reshape", x, target, bound=d.bound(x))
    d.keep(y)
    if d.chance(0.2) and y.shape is not None:
        d.keep(d.op("Reshape", y, shape, bound=d.bound(x)))
    return True


def dynamic_expand(d: Draft) -> bool:
    """A row expanded to another value's shape; ConstantOfShape, Range, masks."""
    x = something(d, (2, 3))
    if x is None or x.shape is None or x.rank is None:
        return False
    shape = shape_of(d, x)
    roll = d.rng.randrange(6)
    if roll == 0:
        c = d.op("ConstantOfShape", shape, value=_scalar(d), bound=2.0)
        d.keep(d.op("Add", c, x) if x.dtype is F32 and c.dtype is F32 else c)
    elif roll == 1:
        last = x.shape[-1]
        row = d.weight([last] if isinstance(last, int) else [1])
        d.keep(d.op("Expand", row, shape, bound=3.0))
    elif roll == 2 and d.opset >= 11:
        count = squeeze(d, extent(d, shape, d.rng.randrange(x.rank)), [0])
        d.keep(d.op("Range", np.asarray(0, np.int64), count, np.asarray(1, np.int64), bound=10.0))
    elif roll == 3:
        size = d.op("Size", x, bound=100.0)
        d.keep(d.op("Add", size, 1))
    elif roll == 4:
        # The usual guard against -1: Where(target == -1, ones, target).
        ones = d.op("ConstantOfShape", ints([x.rank]), value=_one(), bound=1.0)
        target = np.asarray([-1 if d.chance(0.3) else 1 for _ in range(x.rank)], np.int64)
        equal = d.op("Equal", d.const(target), d.op("Mul", ones, np.asarray(-1, np.int64)), bound=1.0)
        d.keep(d.op("Expand", x, d.op("Where", equal, ones, d.const(target), bound=1.0), bound=d.bound(x)))
    else:
        product = d.op("ReduceProd", shape, keepdims=d.choose(0, 1), bound=100.0)
        d.keep(product)
    return True


def _scalar(d: Draft) -> Any:
    from ...ir.constants import ArrayConstant

    return ArrayConstant(np.asarray([d.choose(0.0, 1.0, 2.0)], np.float32))


def _one() -> Any:
    from ...ir.constants import ArrayConstant

    return ArrayConstant(np.asarray([1], np.int64))


def dynamic_slice(d: Draft) -> bool:
    """Bounds computed from extents: the first half, all but one, everything."""
    x = something(d, (2, 3, 4))
    if x is None or x.shape is None or x.rank is None:
        return False
    axis = d.rng.randrange(x.rank)
    if d.least(x.shape[axis]) < 2:
        return False
    size = extent(d, shape_of(d, x), axis)
    roll = d.rng.randrange(4)
    start: Any = ints([0])
    end: Any = size
    if roll == 0:
        end = d.op("Div", size, ints([2]), bound=10.0)
    elif roll == 1:
        end = d.op("Sub", size, ints([1]), bound=10.0)
    elif roll == 2:
        start = d.op("Div", size, ints([2]), bound=10.0)
    d.keep(d.op("Slice", x, start, end, ints([axis]), bound=d.bound(x)))
    return True


def static_arithmetic(d: Draft) -> bool:
    """Arithmetic on constants alone: what folding must get right, type by type."""
    dtype = d.choose(DType.F32, DType.F32, DType.I64, DType.I32, DType.F64, DType.F16, DType.BOOL, DType.U8)
    shape = d.choose((), (1,), (3,), (2, 3), (1, 1), (0,))
    draw: Any = d.drawn()
    numbers: np.ndarray[Any, Any] = np.asarray(
        draw.standard_normal(shape) if dtype.is_float else draw.random(shape) * 5
    )
    x = d.const(numbers.astype(dtype.numpy))
    for _ in range(d.choose(1, 2, 3)):
        x = _step(d, x)
    if x.dtype is F32 and x.rank is not None and d.chance(0.5):
        other = d.take(F32, where=lambda v: v.shape is not None and len(v.shape) >= (x.rank or 0))
        if other is not None and x.shape == ():
            x = d.op("Mul", other, x, bound=d.bound(other) * d.bound(x))
    d.keep(x)
    return True


def _step(d: Draft, x: Value) -> Value:
    assert x.dtype is not None
    roll = d.rng.randrange(9)
    arithmetic = x.dtype in (F32, I64, DType.I32, DType.F64)
    if roll < 2 and arithmetic:
        return d.op(d.choose("Add", "Mul", "Sub"), x, d.choose(2, 1, 0), bound=2 * d.bound(x) + 2)
    if roll == 2 and x.dtype is F32:
        return d.op(d.choose("Exp", "Sigmoid", "Tanh", "Relu", "Neg", "Abs", "Sqrt", "Erf", "Cos"),
                    d.op("Abs", x), bound=50.0)  # fmt: skip
    if roll == 3 and x.dtype.is_integer and x.dtype is not DType.U8:
        return d.op("Div", x, np.asarray(d.choose(2, 3), x.dtype.numpy))
    if roll == 4:
        to = d.choose(F32, I64, DType.I32, DType.BOOL, DType.F64)
        return d.op("Cast", x, to=to.code, bound=max(1.0, d.bound(x)))
    if roll == 5:
        return d.op("Concat", unsqueeze(d, x, [0]), unsqueeze(d, x, [0]), axis=0)
    if roll == 6:
        return d.op("Expand", x, ints([2, *(e if isinstance(e, int) else 1 for e in x.shape or ())]), bound=d.bound(x))
    if roll == 7 and x.rank:
        return d.op("Transpose", x)
    return d.op("Reshape", x, ints([-1]), bound=d.bound(x))


MOTIFS = ((6, dynamic_reshape), (4, dynamic_expand), (3, dynamic_slice), (4, static_arithmetic))
