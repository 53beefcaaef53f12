"""Products and their surroundings: convolutions, Gemm, MatMul, scales and shifts around them, pooling, attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Value
from .draft import Draft
from .elementwise import affine_step, batch_norm, unary
from .versions import clip, cut, ints, pad, reduce, softmax_axis, split

F32 = DType.F32


def positive(d: Draft, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """Numbers that divide well."""
    return np.asarray(d.drawn().uniform(0.3, 1.5, shape)).astype(np.float32)


# -- convolution


def conv_chain(d: Draft) -> bool:
    """Something in front, a convolution, and what can be folded into it behind."""
    x = d.take(F32, d.choose((4,), (4,), (3, 4)), lambda v: v.shape is not None and isinstance(v.shape[1], int))
    if x is None or x.shape is None or d.sizes(x.shape) is None:
        return False
    if any(s < 2 for size in d.sizes(x.shape) or [] for s in size[2:]):
        return False
    channels = x.shape[1]
    assert isinstance(channels, int)
    x = _in_front(d, x, channels)
    y = _convolution(d, x, channels)
    if y is None:
        return False
    d.maybe(y, 0.1)
    _behind(d, y)
    return True


def _in_front(d: Draft, x: Value, channels: int) -> Value:
    roll = d.rng.randrange(10)
    rank = len(x.shape or ())
    if roll == 0:
        return batch_norm(d, x, channels)
    if roll == 1:
        shape = d.choose([channels, *[1] * (rank - 2)], [1, channels, *[1] * (rank - 2)], [], [1])
        c = positive(d, shape)
        return d.op(d.choose("Mul", "Add", "Sub", "Div"), x, c, bound=4 * d.bound(x))
    if roll == 2 and d.opset >= 11:
        amounts = [
            0,
            0,
            *(d.choose(0, 1, 2) for _ in range(rank - 2)),
            0,
            0,
            *(d.choose(0, 1) for _ in range(rank - 2)),
        ]
        if d.chance(0.1):
            amounts[1] = 0 if d.chance(0.5) else amounts[1]
        return d.maybe(pad(d, x, amounts, d.choose("constant", "constant", "edge"), d.choose(None, 0.0, 0.0, 1.0)))
    if roll == 3:
        return affine_step(d, x)
    return x


def _window(d: Draft, x: Value, spatial: int) -> tuple[list[int], dict[str, Any]] | None:
    """Kernel and attributes that leave something in every sample."""
    assert x.shape is not None
    least = [d.least(e) for e in x.shape[2:]]
    kernel = [min(d.choose(1, 2, 3, 3), e) for e in least]
    attrs: dict[str, Any] = {}
    if d.chance(0.3):
        attrs["strides"] = tuple(d.choose(1, 2) for _ in range(spatial))
    if d.chance(0.15):
        attrs["dilations"] = tuple(d.choose(1, 2) if (k - 1) * 2 < e else 1 for k, e in zip(kernel, least, strict=True))
    roll = d.rng.randrange(6)
    if roll == 3 and any(s > k for s, k in zip(attrs.get("strides", ()), kernel, strict=False)):
        roll = 0  # some runtimes refuse automatic padding where the stride is larger than the window
    if roll < 3:
        attrs["pads"] = tuple(d.choose(0, min(1, k - 1)) for k in (*kernel, *kernel))
    elif roll == 3:
        attrs["auto_pad"] = d.choose("SAME_UPPER", "VALID", "SAME_LOWER", "NOTSET")
        if attrs["auto_pad"].startswith("SAME"):
            attrs.pop("dilations", None)
    if min(least) < 1:
        return None
    return kernel, attrs


def _convolution(d: Draft, x: Value, channels: int) -> Value | None:
    assert x.shape is not None
    spatial = len(x.shape) - 2
    found = _window(d, x, spatial)
    if found is None:
        return None
    kernel, attrs = found
    groups = d.choose(1, 1, 1, channels, *(g for g in (2,) if channels % 2 == 0))
    out = groups * d.choose(1, 1, 2) if groups > 1 else d.choose(1, 2, 3, 4, 6)
    if d.chance(0.5):
        attrs["kernel_shape"] = tuple(kernel)
    if groups > 1:
        attrs["group"] = groups
    if d.chance(0.15) and not any(k in attrs for k in ("auto_pad", "dilations")):
        w = d.weight((channels, out // groups, *kernel), 1 / np.sqrt(channels * np.prod(kernel)))
        operands = [x, w, *([d.weight((out,))] if d.chance(0.5) else [])]
        return d.op("ConvTranspose", *operands, bound=4 * d.bound(x) + 2, **attrs)
    w = d.weight((out, channels // groups, *kernel), 1 / np.sqrt(channels // groups * np.prod(kernel)))
    operands = [x, w, *([d.weight((out,))] if d.chance(0.6) else [])]
    return d.op("Conv", *operands, bound=3 * d.bound(x) + 2, **attrs)


def _behind(d: Draft, y: Value) -> None:
    for _ in range(d.choose(0, 1, 1, 2, 3)):
        channels = (y.shape or (0, 0))[1]
        roll = d.rng.randrange(8)
        if roll == 0 and isinstance(channels, int):
            y = batch_norm(d, y, channels)
        elif roll < 5 and isinstance(channels, int):
            y = _per_channel(d, y, channels)
        elif roll == 5:
            y = unary(d, y)
        elif d.sizes(y.shape) is not None:
            y = affine_step(d, y)
        y = d.damped(y)
        d.maybe(y, 0.1)
    if d.chance(0.12) and isinstance((y.shape or (0, 0))[1], int) and (y.shape or (0, 0))[1] % 2 == 0:  # type: ignore[operator]
        half = (y.shape or (0, 0))[1] // 2  # type: ignore[operator]
        for part in split(d, y, 1, [half, half]):  # type: ignore[list-item]
            d.keep(part)
        return
    d.keep(y)


def _per_channel(d: Draft, y: Value, channels: int) -> Value:
    rank = len(y.shape or ())
    shape = d.choose([channels, *[1] * (rank - 2)], [1, channels, *[1] * (rank - 2)], [], [1])
    c = positive(d, shape) * d.choose(1, 1, -1)
    op = d.choose("Mul", "Add", "Mul", "Add", "Sub", "Div")
    if op != "Div" and d.chance(0.3):
        return d.op(op, c, y, bound=2 * d.bound(y) + 2)
    return d.op(op, y, c, bound=4 * d.bound(y) + 2)


def residual(d: Draft) -> bool:
    """A convolution that keeps the shape, and the sum with its operand: multi-use, gates."""
    x = d.take(F32, 4, lambda v: v.shape is not None and isinstance(v.shape[1], int))
    if x is None or x.shape is None or d.sizes(x.shape) is None:
        return False
    channels = x.shape[1]
    assert isinstance(channels, int)
    if any(s < 1 for size in d.sizes(x.shape) or [] for s in size):
        return False
    if d.chance(0.5):
        w = d.weight((channels, channels, 3, 3), 0.3 / np.sqrt(channels))
        y = d.op("Conv", x, w, d.weight((channels,)), pads=(1, 1, 1, 1), bound=d.bound(x) * 2 + 2)
        if d.chance(0.5):
            y = batch_norm(d, y, channels)
        d.keep(d.op("Add", y, x) if d.chance(0.7) else d.op("Relu", d.op("Add", x, y)))
        return True
    gate = d.op("GlobalAveragePool", x)
    w = d.weight((channels, channels, 1, 1), 1 / np.sqrt(channels))
    gate = d.op("Conv", gate, w, bound=3 * d.bound(x))
    gate = d.op("Sigmoid", gate, bound=1.0) if d.chance(0.5) else d.op("HardSigmoid", gate, alpha=0.2, bound=1.0)
    y = d.op("Mul", *((x, gate) if d.chance(0.5) else (gate, x)), bound=d.bound(x))
    if d.chance(0.5):
        y = d.op("Add", x, y)
    d.keep(y)
    return True


# -- products of matrices


def gemm(d: Draft) -> bool:
    x = d.take(F32, 2, lambda v: v.shape is not None and isinstance(v.shape[1], int) and v.shape[1] > 0)
    if x is None or x.shape is None or d.sizes(x.shape) is None:
        return False
    width = x.shape[1]
    assert isinstance(width, int)
    if d.chance(0.3):
        x = affine_step(d, x)
        if x.shape is None or len(x.shape) != 2:
            return False
    out = d.choose(3, 4, 5)
    attrs: dict[str, Any] = {}
    transposed = d.chance(0.5)
    if transposed:
        attrs["transB"] = 1
    if d.chance(0.25):
        attrs["alpha"] = d.choose(0.5, 2.0, -1.0)
    if d.chance(0.25):
        attrs["beta"] = d.choose(0.5, 2.0, 0.0)
    if d.chance(0.15):
        x = d.op("Transpose", x, perm=(1, 0))
        attrs["transA"] = 1
    w = d.weight((out, width) if transposed else (width, out), 1 / np.sqrt(width))
    bias = [d.weight(d.choose((out,), (1, out), (), (1,)))] if d.opset < 11 or d.chance(0.7) else []
    y = d.op("Gemm", x, w, *bias, bound=6 * d.bound(x) + 4, **attrs)
    _affine_behind(d, y)
    return True


def matmul(d: Draft) -> bool:
    x = d.take(F32, (2, 3, 3, 4), lambda v: v.shape is not None and isinstance(v.shape[-1], int) and v.shape[-1] > 0)
    if x is None or x.shape is None or d.sizes(x.shape) is None:
        return False
    width = x.shape[-1]
    assert isinstance(width, int)
    out = d.choose(3, 4, width)
    if d.chance(0.25):
        x = affine_step(d, x)
        if x.shape is None:
            return False
    roll = d.rng.randrange(6)
    shape: tuple[int, ...] = (width, out)
    if roll == 0:
        shape = (width,)
    elif roll == 1:
        shape = (1, width, out)
    elif roll == 2 and len(x.shape) > 1:
        rows = list(x.shape)[-2]
        if isinstance(rows, int) and rows > 0:
            y = d.op("MatMul", d.weight((out, rows), 1 / np.sqrt(rows)), x, bound=3 * d.bound(x))
            _affine_behind(d, y)
            return True
    y = d.op("MatMul", x, d.weight(shape, 1 / np.sqrt(width)), bound=3 * d.bound(x))
    _affine_behind(d, y)
    return True


def _affine_behind(d: Draft, y: Value) -> None:
    for _ in range(d.choose(0, 1, 1, 2, 3)):
        if d.sizes(y.shape) is None or y.shape is None:
            break
        width = y.shape[-1] if y.shape else 1
        if d.chance(0.5) and isinstance(width, int):
            shape = d.choose((width,), (1, width), (), (1,))
            c = positive(d, shape)
            y = d.op(d.choose("Add", "Mul", "Sub", "Div", "Add"), y, c, bound=4 * d.bound(y) + 2)
        else:
            y = affine_step(d, y) if d.chance(0.7) else unary(d, y)
        y = d.damped(y)
        d.maybe(y, 0.1)
    d.keep(y)


def attention(d: Draft) -> bool:
    """Scaled products of queries and keys from one tensor, in the exporters' spellings."""
    x = d.take(F32, 3, lambda v: v.shape is not None and v.shape[-1] in (4, 6, 8))
    if x is None or x.shape is None or d.sizes(x.shape) is None or d.opset < 11:
        return False
    width = x.shape[-1]
    assert isinstance(width, int)
    if any(s < 1 for size in d.sizes(x.shape) or [] for s in size):
        return False

    def heads() -> Value:
        y = d.op("MatMul", x, d.weight((width, width), 1 / np.sqrt(width)), bound=3 * d.bound(x))
        if d.chance(0.7):
            y = d.op("Add", *((y, d.weight((width,))) if d.chance(0.6) else (d.weight((width,)), y)))
        y = d.op("Reshape", y, ints([0, 0, 2, width // 2]), bound=d.bound(y))
        return d.op("Transpose", y, perm=(0, 2, 1, 3))

    q, k, v = heads(), heads(), heads()
    k = d.op("Transpose", k, perm=(0, 1, 3, 2))
    scale = d.choose(0.5, 0.7071, 2.0)
    way = d.rng.randrange(4)
    if way == 0:
        q = d.op("Mul", q, scale, bound=d.bound(q))
    elif way == 1:
        q, k = d.op("Mul", q, scale, bound=d.bound(q)), d.op("Mul", k, scale, bound=d.bound(k))
    scores = d.op("MatMul", q, k, bound=30.0)
    if way == 2:
        scores = d.op("Div", scores, d.choose(1.4142, 2.0), bound=30.0)
    elif way == 3:
        scores = d.op("Mul", scores, scale, bound=30.0)
    d.maybe(scores, 0.05)
    weights = d.op("Softmax", scores, axis=d.choose(-1, -1, 3), bound=1.0)
    y = d.op("MatMul", weights, v, bound=d.bound(v))
    y = d.op("Transpose", y, perm=(0, 2, 1, 3))
    d.keep(d.op("Reshape", y, ints([0, 0, width]), bound=d.bound(v)))
    return True


# -- pooling and reductions


def pooling(d: Draft) -> bool:
    x = d.take(F32, (3, 4, 4))
    if x is None or x.shape is None or d.sizes(x.shape) is None:
        return False
    if any(s < 2 for size in d.sizes(x.shape) or [] for s in size[2:]):
        return False
    rank = len(x.shape)
    if d.chance(0.3):
        x = unary(d, x)
    elif d.chance(0.3) and d.opset >= 11:
        amounts = [0, 0, *[d.choose(0, 1) for _ in range(rank - 2)], 0, 0, *[d.choose(0, 1) for _ in range(rank - 2)]]
        x = pad(d, x, amounts, "constant", d.choose(None, 0.0, -np.inf if d.chance(0.3) else 0.0))
        d.shared.bound[x] = 10.0
    roll = d.rng.randrange(5)
    if roll == 0:
        d.keep(d.op(d.choose("GlobalAveragePool", "GlobalMaxPool"), x))
        return True
    found = _window(d, x, rank - 2)
    if found is None:
        return False
    kernel, attrs = found
    attrs["kernel_shape"] = tuple(kernel)
    if attrs.get("auto_pad", "NOTSET") == "NOTSET" and d.chance(0.15):
        attrs["ceil_mode"] = 1
    if roll < 3:
        attrs.pop("dilations", None)
        if d.chance(0.4):
            attrs["count_include_pad"] = 1
        y = d.op("AveragePool", x, **attrs)
    elif d.chance(0.15) and x in d.shared.exact:
        y, index = d.op("MaxPool", x, _outputs=2, **attrs)
        d.shared.bound[index] = 1e4
        if d.chance(0.5):
            d.values.append(index)
    else:
        y = d.op("MaxPool", x, **attrs)
    if d.bound(y) == float("inf"):
        y = clip(d, y, -10.0, 10.0)
    d.keep(unary(d, y) if d.chance(0.3) else y)
    return True


def reductions(d: Draft) -> bool:
    x = d.take(F32, (1, 2, 3, 4))
    if x is None or x.rank is None or d.sizes(x.shape) is None:
        return False
    if any(s < 1 for size in d.sizes(x.shape) or [] for s in size):
        return False
    roll = d.rng.randrange(8)
    axis = d.rng.randrange(x.rank)
    named = axis - x.rank if d.chance(0.4) else axis
    if roll < 4:
        op = d.choose("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")
        axes = None if d.chance(0.1) else [named]
        if axes is not None and x.rank > 1 and d.chance(0.3):
            axes = sorted({axis, (axis + 1) % x.rank})
        size = max(int(np.prod(s)) for s in d.sizes(x.shape) or [(1,)])
        bound = {"ReduceSum": 4 * np.sqrt(size), "ReduceL2": 2 * np.sqrt(size), "ReduceSumSquare": size * d.bound(x)}
        y = reduce(d, op, x, axes, d.choose(0, 1), bound=d.bound(x) * bound.get(op, 1.0))
        d.keep(unary(d, y) if d.chance(0.2) else y)
    elif roll < 6:
        if d.opset < 13 and d.chance(0.5):
            named = x.rank - 1
        y = d.op(d.choose("Softmax", "Softmax", "LogSoftmax"), x, axis=named, bound=10.0)
        if d.chance(0.3):
            y = d.op("Where", d.op("IsNaN", y, bound=1.0), np.asarray(0, np.float32), y, bound=1.0)
        d.keep(y)
    elif x in d.shared.exact:
        if roll == 6:
            y = d.op(d.choose("ArgMax", "ArgMin"), x, axis=named, keepdims=d.choose(0, 1), bound=10.0)
            d.keep(y)
        elif d.opset >= 11:
            count = np.asarray([min(2, d.least((x.shape or (1,))[axis]))], np.int64)
            values, index = d.op("TopK", x, count, axis=named, _outputs=2, bound=d.bound(x))
            d.shared.bound[index] = 10.0
            d.keep(values)
            d.maybe(index, 0.5)
    else:
        return False
    return True


def padded_slice(d: Draft) -> bool:
    """A convolution or pooling of which the first outputs are cut off."""
    x = d.take(F32, 4, lambda v: v.shape is not None and isinstance(v.shape[1], int) and d.least(v.shape[2]) >= 4)
    if x is None or x.shape is None or d.least(x.shape[3]) < 4:
        return False
    channels = x.shape[1]
    assert isinstance(channels, int)
    w = d.weight((d.choose(2, 3), channels, 3, 3), 1 / np.sqrt(9 * channels))
    y = d.op("Conv", x, w, pads=d.choose((1, 1, 1, 1), (2, 1, 0, 1), (0, 0, 0, 0)), bound=3 * d.bound(x))
    axis = d.choose(2, 3)
    d.keep(cut(d, y, [1], [d.choose((1 << 63) - 1, (1 << 31) - 1, -1)], [axis]))
    return True


def dropout(d: Draft) -> bool:
    x = d.take(F32)
    if x is None:
        return False
    count = d.choose(1, 1, 2)
    ratio = [np.asarray(0.3, np.float32)] if d.opset >= 12 and d.chance(0.5) else []
    if d.opset >= 12 and ratio and d.chance(0.3):
        ratio.append(np.asarray(False))
    made = d.op("Dropout", x, *ratio, _outputs=count, bound=d.bound(x))
    d.keep(made if count == 1 else made[0])
    if count == 2 and d.chance(0.5):
        d.shared.bound[made[1]] = 1.0
        d.values.append(made[1])
    return True


def resize(d: Draft) -> bool:
    x = d.take(F32, 4)
    if x is None or x.shape is None or d.opset < 13 or not all(d.least(e) >= 1 for e in x.shape):
        return False
    scale = d.choose(2.0, 2.0, 1.0)
    scales = np.asarray([1, 1, scale, scale], np.float32)
    mode = d.choose("nearest", "linear")
    attrs = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
    d.keep(d.op("Resize", x, None, scales, mode=mode, bound=d.bound(x), **attrs))
    return True


def softmaxes(d: Draft) -> bool:
    x = d.take(F32, (2, 3, 4))
    if x is None:
        return False
    d.keep(d.op("Softmax", x, axis=softmax_axis(d, x), bound=1.0))
    return True


MOTIFS = (
    (10, conv_chain), (4, residual), (6, gemm), (7, matmul), (3, attention), (6, pooling), (5, reductions),
    (2, padded_slice), (2, dropout), (2, resize), (2, softmaxes),
)  # fmt: skip
