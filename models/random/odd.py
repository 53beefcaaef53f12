"""Operators that passes rarely look at, or must not look into: they have to come through as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.dtypes import DType
from ...ir.graph import Value
from .draft import Draft
from .elementwise import unary
from .versions import ints

F32, I64, U8, I8, BOOL = DType.F32, DType.I64, DType.U8, DType.I8, DType.BOOL


def quantize_pair(d: Draft) -> bool:
    """QuantizeLinear and DequantizeLinear, whose rounding is the point."""
    x = d.take(F32, (2, 3, 4), exact=True)
    if x is None or d.opset < 10:
        return False
    scale = np.asarray(d.choose(0.05, 0.1), np.float32)
    zero = d.choose(np.asarray(128, np.uint8), np.asarray(0, np.int8))
    y = d.op("QuantizeLinear", x, scale, zero, bound=128.0)
    d.maybe(y, 0.1)
    z = d.op("DequantizeLinear", y, scale, zero, bound=13.0)
    if d.chance(0.3):
        z = d.op("Relu", z)
    d.shared.exact.add(z)
    d.keep(z)
    return True


def recurrent(d: Draft) -> bool:
    """LSTM or GRU with some results left out."""
    x = d.take(F32, 3, lambda v: v.shape is not None and isinstance(v.shape[-1], int) and d.least(v.shape[0]) >= 1)
    if x is None or x.shape is None or d.least(x.shape[1]) < 1:
        return False
    width, hidden = x.shape[-1], d.choose(2, 3)
    assert isinstance(width, int)
    gates, op = d.choose((4, "LSTM"), (3, "GRU"))
    w = d.weight((1, gates * hidden, width), 0.4)
    r = d.weight((1, gates * hidden, hidden), 0.4)
    b = d.weight((1, 2 * gates * hidden), 0.2) if d.chance(0.6) else None
    count = d.choose(1, 2)
    made = d.op(op, x, w, r, b, hidden_size=hidden, bound=1.0, _outputs=count)
    outputs: list[Value] = [made] if count == 1 else made
    for out in outputs[-1:]:
        d.keep(out)
    return True


def einsum(d: Draft) -> bool:
    x = d.take(F32, 2, lambda v: v.shape is not None and isinstance(v.shape[1], int))
    if x is None or x.shape is None or d.opset < 12:
        return False
    width = x.shape[1]
    assert isinstance(width, int)
    d.keep(d.op("Einsum", x, d.weight((width, 3), 0.5), equation=d.choose("ij,jk->ik", "ij,jk->ki"), bound=8.0))
    return True


def sequences(d: Draft) -> bool:
    """A sequence made and taken apart again."""
    x = d.take(F32, (2, 3))
    if x is None or d.opset < 11:
        return False
    made = d.op("SequenceConstruct", x, d.op("Relu", x))
    d.keep(d.op("SequenceAt", made, np.asarray(d.choose(0, 1), np.int64), bound=d.bound(x)))
    if d.chance(0.3):
        d.keep(d.op("SequenceLength", made, bound=2.0))
    return True


def contrib(d: Draft) -> bool:
    """ONNX Runtime's own operators."""
    x = d.take(F32, (2, 3), lambda v: v.shape is not None and isinstance(v.shape[-1], int))
    if x is None or x.shape is None:
        return False
    width = x.shape[-1]
    assert isinstance(width, int)
    d.graph.root.opsets.setdefault("com.microsoft", 1)

    def emit(op: str, *inputs: Any, bound: float, **attrs: Any) -> Value:
        return d.op(op, *inputs, bound=bound, _domain="com.microsoft", **attrs)

    roll = d.rng.randrange(6)
    if roll == 0:
        y = emit("Gelu", x, bound=d.bound(x))
    elif roll == 1:
        y = emit("FastGelu", x, *([d.weight([width])] if d.chance(0.5) else []), bound=d.bound(x) + 3)
    elif roll == 2:
        y = emit("QuickGelu", x, alpha=d.choose(1.702, 1.0), bound=d.bound(x))
    elif roll == 3:
        y = emit("BiasGelu", x, d.weight([width]), bound=d.bound(x) + 3)
    elif roll == 4:
        attrs = {"alpha": d.choose(1.0, 0.5)}
        y = emit("FusedMatMul", x, d.weight([3, width], 0.5), transB=1, bound=10.0, **attrs)
    else:
        y = d.op("LayerNormalization", x, d.weight([width]), bound=20.0, axis=-1) if d.opset >= 17 else unary(d, x)
    d.keep(y)
    return True


def unknown_rank(d: Draft) -> bool:
    """An input of which only the element type is declared, through operators that take any rank."""
    if d.depth:
        return False
    x = d.input_of_unknown_rank(F32, d.choose((2, 3, 4), (6, 4), (4,)))
    y = d.op(d.choose("Relu", "Tanh", "Neg"), x, bound=3.0)
    if d.chance(0.5):
        y = d.op(d.choose("Mul", "Add"), y, d.choose(1.0, 0.0, 2.0), bound=6.0)
    if d.chance(0.3):
        y = d.op("Transpose", y)
    if d.chance(0.3):
        y = d.op("Add", y, d.op("Identity", x))
    if d.chance(0.3):
        y = d.op("Softmax", y, axis=-1 if d.opset >= 11 else 0, bound=1.0)
    if d.chance(0.3):
        y = d.op("Reshape", y, d.op("Shape", y), bound=6.0)
    d.shared.loose.append(y)
    d.keep(d.op("Reshape", y, ints(d.choose([-1, 4], [-1], [1, -1, 2])), bound=6.0))
    return True


def constant_fill(d: Draft) -> bool:
    """ConstantOfShape and EyeLike, alone and with a neighbour that makes them neutral."""
    x = d.take(F32, 2)
    if x is None or x.shape is None or d.sizes(x.shape) is None or d.opset < 9:
        return False
    value = ArrayConstant(np.asarray([d.choose(0.0, 1.0, 0.5)], np.float32))
    filled = d.op("ConstantOfShape", d.op("Shape", x, bound=10.0), value=value, bound=1.0)
    d.keep(d.op(d.choose("Add", "Mul", "Sub", "Div") if value.numpy()[0] else "Add", x, filled, bound=3 * d.bound(x)))
    return True


MOTIFS = (
    (2, quantize_pair), (1, recurrent), (1, einsum), (1, sequences), (2, contrib), (3, unknown_rank),
    (2, constant_fill),
)  # fmt: skip
