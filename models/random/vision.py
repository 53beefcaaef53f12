"""What exporters write for vision and sound: gates, poolings, odd numbers of channels, parts of channels, bins."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Value
from .draft import Draft
from .elementwise import batch_norm
from .movement import inverse, permutation
from .versions import ints, split, unsqueeze

F32 = DType.F32


def image(d: Draft, least: int = 2) -> Value | None:
    """A value [batch, channels, height, width] with known channels and no empty extent in any sample."""

    def fits(v: Value) -> bool:
        sizes = d.sizes(v.shape)
        if sizes is None or v.shape is None or not isinstance(v.shape[1], int):
            return False
        return all(min(s) >= 1 and min(s[2:]) >= least for s in sizes)

    return d.take(F32, 4, fits)


def conv(d: Draft, x: Value, out: int, kernel: int = 1, *, bias: bool = False) -> Value:
    """A convolution that keeps the pixels."""
    assert x.shape is not None
    channels = x.shape[1]
    assert isinstance(channels, int)
    w = d.weight((out, channels, kernel, kernel), 1 / np.sqrt(channels * kernel * kernel))
    attrs: dict[str, Any] = {"pads": (kernel // 2,) * 4} if kernel > 1 else {}
    return d.op("Conv", x, w, *([d.weight((out,))] if bias else []), bound=3 * d.bound(x) + 2, **attrs)


def wide_gate(d: Draft) -> bool:
    """A 1x1 convolution to many channels, times a gate made of its averages."""
    x = image(d)
    if x is None or x.shape is None or (x.shape[1] or 9) not in (1, 2, 3, 4):
        return False
    out = 4 * (x.shape[1] if isinstance(x.shape[1], int) else 1)
    y = conv(d, x, out, bias=d.chance(0.15))
    d.maybe(y, 0.1)
    gate = conv(d, d.op("GlobalAveragePool", y), out, bias=d.chance(0.3))
    gate = d.op(d.choose("Sigmoid", "HardSigmoid"), gate, bound=1.0)
    d.keep(d.op("Mul", *((y, gate) if d.chance(0.5) else (gate, y)), bound=d.bound(y)))
    return True


def pooled_convolution(d: Draft) -> bool:
    """A 1x1 convolution, then averages of its result."""
    x = image(d)
    if x is None or x.shape is None:
        return False
    channels = x.shape[1]
    assert isinstance(channels, int)
    y = conv(d, x, d.choose(8, 8, channels + 1), d.choose(1, 1, 1, 3), bias=d.chance(0.5))
    d.maybe(y, 0.1)
    if d.chance(0.4):
        y = d.op("GlobalAveragePool", y)
    else:
        attrs: dict[str, Any] = d.choose({}, {}, {"count_include_pad": 1, "pads": (1, 1, 1, 1)}, {"strides": (1, 1)})
        attrs = {"kernel_shape": (2, 2), "strides": (2, 2), **attrs}
        y = d.op("AveragePool", y, **attrs)
    d.keep(y)
    return True


def odd_channels(d: Draft) -> bool:
    """Two convolutions, between which there is a number of channels that no vector holds."""
    x = image(d)
    if x is None:
        return False
    middle = d.choose(9, 9, 13, 8)
    y = conv(d, x, middle, d.choose(1, 3), bias=d.chance(0.5))
    for _ in range(d.choose(0, 1, 2)):
        if d.chance(0.3):
            y = batch_norm(d, y, middle)
        else:
            y = d.op(d.choose("Relu", "Sigmoid", "Exp" if d.chance(0.1) else "Tanh"), y, bound=d.bound(y))
    y = d.damped(y)
    d.maybe(y, 0.1)
    d.keep(conv(d, y, d.choose(4, 8, 9), d.choose(1, 3), bias=d.chance(0.5)))
    return True


def behind_activation(d: Draft) -> bool:
    """What may move in front of an activation, or depends on what is there: maxima, squares."""
    x = image(d)
    if x is None:
        return False
    y = conv(d, x, 3) if d.chance(0.7) else x
    if d.chance(0.5):
        channels = y.shape[1] if y.shape is not None else 1
        y = d.op("Add", y, d.weight((1, channels if isinstance(channels, int) else 1, 1, 1)))
    y = d.op(d.choose("Relu", "Sigmoid", "Tanh", "HardSigmoid"), y)
    d.maybe(y, 0.1)
    roll = d.rng.randrange(3)
    if roll == 0:
        y = d.op("Pow", y, np.asarray(2 if d.chance(0.8) else 3, np.float32), bound=d.bound(y) ** 3)
    elif roll == 1:
        y = d.op("MaxPool", y, kernel_shape=(2, 2), strides=d.choose((2, 2), (1, 1)))
    else:
        y = d.op("GlobalMaxPool", y)
    d.keep(y)
    return True


def joined_channels(d: Draft) -> bool:
    """A convolution of few channels put beside many."""
    x = image(d)
    if x is None:
        return False
    a, b = conv(d, x, d.choose(1, 1, 2)), conv(d, x, d.choose(8, 8, 4))
    y = d.op("Concat", *((a, b) if d.chance(0.7) else (b, a)), axis=1)
    d.maybe(y, 0.1)
    d.keep(conv(d, y, 4, 3, bias=d.chance(0.5)))
    return True


def parts_of_channels(d: Draft) -> bool:
    """A convolution whose result is only seen in parts."""
    x = image(d)
    if x is None:
        return False
    y = conv(d, x, 8, bias=d.chance(0.5))
    if d.chance(0.5):
        y = d.op("Mul", y, d.op("Sigmoid", y, bound=1.0), bound=d.bound(y))
    d.maybe(y, 0.1)
    for part in split(d, y, 1, d.choose([4, 4], [4, 4], [2, 6])):
        d.keep(d.op("Relu", part) if d.chance(0.3) else part)
    return True


def long_filter(d: Draft) -> bool:
    """One channel of sound through a filter of many taps."""
    if d.depth:
        return False
    x = d.input(F32, [1, 1, 1, 4100])
    d.values.remove(x)
    w = (d.drawn().standard_normal((1, 1, 1, 256)) / 16).astype(np.float32)
    d.keep(d.op("Conv", x, d.const(w), strides=(1, d.choose(2, 2, 4)), bound=3.0))
    return True


def bins(d: Draft) -> bool:
    """An expectation over the bins of a distribution: Softmax over channels, then a convolution to one."""
    if d.opset < 13:
        return False
    x = d.take(F32, 3, lambda v: v.shape is not None and v.shape[1] in (4, 8) and d.sizes(v.shape) is not None)
    if x is None and not d.depth:
        x = d.input(F32, [d.choose(1, 2), 8, d.choose(3, 5)])
    if x is None or x.shape is None or min(map(min, d.sizes(x.shape) or [(0,)])) < 1:
        return False
    y = d.op("Reshape", x, ints([0, d.choose(2, 1), 4, -1]) if x.shape[1] == 8 else ints([0, 1, 4, -1]))
    y = d.op("Transpose", y, perm=(0, 2, 1, 3))
    y = d.op("Softmax", y, axis=d.choose(1, 1, 1, 2), bound=1.0)
    d.maybe(y, 0.1)
    w = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)
    d.keep(d.op("Conv", y, w, bound=4.0))
    return True


def transposed_parts(d: Draft) -> bool:
    """Transposed values put together; a view and a function in front of a Transpose."""
    x = d.take(F32, (3, 4), lambda v: d.sizes(v.shape) is not None)
    if x is None or x.rank is None:
        return False
    perm = permutation(d, x.rank)
    if d.chance(0.5):
        y = d.op(
            "Concat", *(d.op("Transpose", v, perm=tuple(perm)) for v in (x, d.op("Relu", x))), axis=d.choose(0, -1)
        )
        d.keep(d.op("Transpose", y, perm=tuple(inverse(perm))) if d.chance(0.5) else y)
        return True
    y = unsqueeze(d, x, [1]) if x.rank == 3 and d.chance(0.7) else d.op("Reshape", x, ints([0, 0, -1]))
    y = d.op(d.choose("Relu", "Sigmoid", "Neg"), y)
    d.maybe(y, 0.1)
    d.keep(d.op("Transpose", y, perm=tuple(permutation(d, y.rank or 0))))
    return True


def merged_axes(d: Draft) -> bool:
    """Batch and heads in one axis around a Transpose, with targets computed from extents."""
    x = image(d, 1)
    if x is None or x.shape is None or d.opset < 15 or not isinstance(x.shape[3], int):
        return False
    front, rows = d.op("Shape", x, end=1, bound=10.0), d.op("Shape", x, start=2, end=3, bound=10.0)
    columns = ints([x.shape[3]])
    y = d.op("Reshape", x, d.op("Concat", ints([-1]), rows, columns, axis=0, bound=10.0))
    d.maybe(y, 0.1)
    y = d.op("Transpose", y, perm=(0, 2, 1))
    target = d.op("Concat", front, ints([x.shape[1] if isinstance(x.shape[1], int) else -1]), columns, rows, axis=0)
    d.keep(d.op("Reshape", y, target, bound=d.bound(x)))
    return True


MOTIFS = (
    (2, wide_gate), (2, pooled_convolution), (2, odd_channels), (3, behind_activation), (2, joined_channels),
    (2, parts_of_channels), (1, long_filter), (2, bins), (2, transposed_parts), (2, merged_axes),
)  # fmt: skip
