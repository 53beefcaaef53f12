"""What exporters write for language models: norms and softmaxes spelled out, heads, rotations, masks, embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Value
from .draft import Draft
from .elementwise import unary
from .versions import cut, ints, reduce, split, squeeze, unsqueeze

F32, I64, BOOL = DType.F32, DType.I64, DType.BOOL


def tokens(d: Draft, widths: tuple[int, ...] = (4, 6, 8), *, empty: bool = False) -> Value | None:
    """A value [batch, tokens, width] of one of the widths, with extents that are known in every sample."""
    least = 0 if empty else 1

    def fits(v: Value) -> bool:
        sizes = d.sizes(v.shape)
        return sizes is not None and v.shape is not None and v.shape[2] in widths and min(map(min, sizes)) >= least

    return d.take(F32, 3, fits)


def _width(x: Value) -> int:
    assert x.shape is not None
    width = x.shape[-1]
    assert isinstance(width, int)
    return width


def _ids(d: Draft, most: int) -> Value | None:
    """Small whole numbers [batch, tokens], an input of their own: elsewhere they could be out of range."""
    if d.depth:
        return None
    made = d.input(I64, d.shape(3)[:2], 0, most)
    d.values.remove(made)
    return made


# -- norms and softmaxes


def skip_norm(d: Draft) -> bool:
    """A LayerNormalization of a sum, which has other users now and then."""
    x = tokens(d)
    if x is None or d.opset < 17:
        return False
    width = _width(x)
    other = d.choose(unary(d, x), d.weight([width]), d.op("MatMul", x, d.weight((width, width), 0.4), bound=10.0))
    total = d.op("Add", *((x, other) if d.chance(0.5) else (other, x)))
    d.maybe(total, 0.3)
    bias = [d.weight([width])] if d.chance(0.5) else []
    d.keep(d.op("LayerNormalization", total, d.weight([width]), *bias, bound=20.0, axis=d.choose(-1, -1, 2)))
    return True


def softmax_quotient(d: Draft) -> bool:
    """Exponentials over their sum, with the maximum taken away or not, along one axis or nearly."""
    x = d.take(F32, (2, 3, 4), lambda v: d.sizes(v.shape) is not None)
    if x is None or x.rank is None or min(map(min, d.sizes(x.shape) or [()])) < 1:
        return False
    axis = d.choose(-1, -1, d.rng.randrange(x.rank))
    if d.chance(0.7):
        x = d.op("Sub", x, reduce(d, "ReduceMax", x, [axis]), bound=2 * d.bound(x))
    else:
        x = d.op("Tanh", x, bound=1.0)
    e = d.maybe(d.op("Exp", x, bound=3.0), 0.1)
    total = reduce(d, "ReduceSum", e, [axis if d.chance(0.9) else 0], bound=10.0)
    if d.chance(0.1):
        total = d.op("Add", total, 1e-3)
    d.keep(d.op("Div", e, total, bound=1.0))
    return True


def moment_norm(d: Draft) -> bool:
    """A normalization by first and second moments, along any axis."""
    x = tokens(d, (3, 4, 6, 8))
    if x is None or x.shape is None:
        return False
    axis = d.choose(1, 2) if isinstance(x.shape[1], int) else 2
    size = x.shape[axis]
    assert isinstance(size, int)
    kept = [size if i == axis else 1 for i in range(3)]
    apart = ints([1 if i == axis else 0 for i in range(3)])

    def mean(v: Value) -> Value:
        total = reduce(d, "ReduceSum", v, [axis], 0, bound=size * d.bound(v))
        return d.op("Mul", total, 1 / size, bound=d.bound(v)) if d.chance(0.8) else d.op("Div", total, float(size))

    def spread(v: Value) -> Value:
        return d.op("Reshape", v, apart) if axis == 2 and d.chance(0.3) else unsqueeze(d, v, [axis])

    square = d.op("Mul", x, x, bound=d.bound(x) ** 2)
    first, second = mean(x), mean(square)
    variance = d.op("Sub", second, d.op("Mul", first, first, bound=d.bound(square)), bound=d.bound(square))
    zero = np.asarray(0, np.float32)
    variance = d.op("Max", *((zero, variance) if d.chance(0.5) else (variance, zero)), bound=d.bound(square))
    deviation = d.op("Sqrt", d.op("Add", spread(variance), d.choose(1e-3, 1e-2)), bound=d.bound(x))
    factor = d.op("Mul", d.op("Reciprocal", deviation, bound=10.0), d.weight(kept), bound=10.0)
    y = d.op("Mul", d.op("Sub", x, spread(first), bound=2 * d.bound(x)), factor, bound=20.0)
    d.keep(d.op("Add", y, d.weight(kept), bound=23.0))
    return True


def self_gated(d: Draft) -> bool:
    """A value times a function of itself: Swish, HardSwish, Mish, in the fewest operators."""
    x = d.take(F32)
    if x is None:
        return False
    roll = d.rng.randrange(3)
    if roll == 0:
        gate = d.op("Sigmoid", x, bound=1.0)
    elif roll == 1:
        gate = d.op("HardSigmoid", x, alpha=1 / 6 if d.chance(0.9) else 0.2, beta=0.5, bound=1.0)
    else:
        x = d.damped(x)
        gate = d.op("Tanh", d.op("Softplus", x), bound=1.0)
    d.maybe(gate, 0.1)
    d.keep(d.op("Mul", *((gate, x) if d.chance(0.5) else (x, gate)), bound=d.bound(x)))
    return True


def layers(d: Draft) -> bool:
    """Linear layers with biases, activations, residual sums and norms, on tokens or on rows."""
    x = tokens(d) if d.chance(0.5) else d.take(F32, 2, lambda v: _rows(d, v))
    if x is None or d.opset < 17:
        return False
    width, rows = _width(x), x.rank == 2 and d.chance(0.8)

    def linear(v: Value, wide: int, out: int) -> Value:
        w, b = d.weight((wide, out), 1 / np.sqrt(wide)), d.weight([out])
        if rows:
            return d.op("Gemm", v, w, b, bound=3 * d.bound(v) + 3)
        return d.op("Add", d.op("MatMul", v, w, bound=3 * d.bound(v)), b)

    for _ in range(d.choose(1, 2, 3)):
        inner = d.op(d.choose("Relu", "Tanh"), d.damped(linear(x, width, 2 * width)))
        y = linear(d.maybe(inner, 0.05), 2 * width, width)
        total = d.op("Add", *((x, y) if d.chance(0.5) else (y, x)))
        x = d.op("LayerNormalization", total, d.weight([width]), d.weight([width]), bound=20.0)
    d.keep(x)
    return True


def _rows(d: Draft, v: Value) -> bool:
    sizes = d.sizes(v.shape)
    return sizes is not None and v.shape is not None and v.shape[1] in (4, 6, 8) and min(map(min, sizes)) >= 1


# -- heads


def heads_with_bias(d: Draft) -> bool:
    """A bias added behind the split into heads."""
    x = tokens(d, empty=True)
    if x is None:
        return False
    width = _width(x)
    y = d.op("Reshape", x, ints([0, 0, *d.choose([2, width // 2], [width // 2, 2])]), bound=d.bound(x))
    d.maybe(y, 0.1)
    shape = tuple(e for e in (y.shape or ())[-2:] if isinstance(e, int))
    bias = d.weight(d.choose(shape, shape, (1, *shape), shape[-1:]))
    y = d.op("Add", *((y, bias) if d.chance(0.7) else (bias, y)))
    d.keep(d.op("Transpose", y, perm=(0, 2, 1, 3)) if d.chance(0.5) else y)
    return True


def packed_heads(d: Draft) -> bool:
    """Queries, keys and values out of one product, chosen by Gather or Slice."""
    x = tokens(d)
    if x is None:
        return False
    count = d.choose(3, 3, 2)
    packed = d.op("MatMul", x, d.weight((_width(x), 4 * count), 0.5), bound=3 * d.bound(x))
    y = d.op("Reshape", packed, ints([0, 0, *d.choose([count, 2, 2], [count, 2, 2], [2, count, 2])]))
    axis = 2
    if d.chance(0.4):
        y, axis = d.op("Transpose", y, perm=(2, 0, 3, 1, 4)), 0
    d.maybe(y, 0.1)
    if (y.shape or ())[axis] != count:
        axis = 3
    if (y.shape or ())[axis : axis + 1] != (count,):
        return False
    for i in range(count):
        if d.chance(0.7):
            part = d.op("Gather", y, np.asarray(d.choose(i, i, i - count), np.int64), axis=axis, bound=d.bound(y))
        else:
            part = squeeze(d, cut(d, y, [i], [i + 1], [axis]), [axis])
        d.keep(part)
    return True


def attention_operator(d: Draft) -> bool:
    """Attention-23 on three products of one value, as fusion leaves it, with and without a mask."""
    x = tokens(d)
    if x is None or x.shape is None or d.opset < 23:
        return False
    width = _width(x)

    def part() -> Value:
        y = d.op("MatMul", x, d.weight((width, 8), 0.5), bound=3 * d.bound(x))
        return d.op("Add", y, d.weight([8])) if d.chance(0.6) else y

    operands: list[Any] = [part(), part(), part()]
    if d.chance(0.3) and not d.depth and not isinstance(x.shape[1], int):
        mask = d.input(F32, [1, 1, str(x.shape[1]), str(x.shape[1])]) if str(x.shape[1]) in d.shared.symbols else None
        operands += [mask] if mask is not None else []
    attrs = d.choose({}, {"scale": 0.25}, {"is_causal": 1}) if len(operands) < 4 else {"scale": 0.25}
    y = d.op("Attention", *operands, q_num_heads=2, kv_num_heads=2, bound=d.bound(operands[2]), **attrs)
    d.keep(y)
    return True


def cached_attention(d: Draft) -> bool:
    """Attention-23 behind a cache of keys and values, with a mask of numbers."""
    if d.depth or d.opset < 23:
        return False
    batch, length, past, groups = d.choose(1, 2), d.choose(1, 3), d.choose(2, 4), d.choose(1, 2)
    x = d.input(F32, [batch, length, 6])
    cache = [d.input(F32, [batch, groups, past, 8]) for _ in range(2)]
    mask = d.input(BOOL, [batch, 1, length, past + length], 0, 1)
    parts = [d.op("MatMul", x, d.weight((6, 8 * n), 0.5), bound=8.0) for n in (2, groups, groups)]
    low = np.asarray(d.choose(-1e4, -1e4, -np.inf), np.float32)
    numbers = d.op("Where", mask, np.asarray(0, np.float32), low, bound=1.0)
    attrs: dict[str, Any] = {"q_num_heads": 2, "kv_num_heads": groups, "scale": d.choose(0.25, 0.3535)}
    y, *present = d.op("Attention", *parts, numbers, *cache, _outputs=3, bound=8.0, **attrs)
    d.keep(y)
    for value in present:
        d.keep(value)
    return True


def rotation(d: Draft) -> bool:
    """Rotary embedding of halves or pairs, of whole heads or of their first elements."""
    x = tokens(d, (8,), empty=True)
    if x is None or x.shape is None or d.opset < d.choose(11, 23):
        return False
    angle = _angles(d, x)
    if angle is None:
        return False
    q = d.op("Transpose", d.op("Reshape", x, ints([0, 0, d.choose(1, 2), -1])), perm=(0, 2, 1, 3))
    size = _width(q)
    rest: Value | None = None
    if size == 8:
        q, rest = split(d, q, -1, [4, 4])
    if d.chance(0.5):
        doubled = unsqueeze(d, d.op("Concat", angle, angle, axis=-1, bound=d.bound(angle)), [1])
        cos, sin = d.op("Cos", doubled, bound=1.0), d.op("Sin", doubled, bound=1.0)
        low, high = split(d, q, -1, [2, 2])
        turned = d.op("Concat", d.op("Neg", high), low, axis=-1, bound=d.bound(q))
        y = d.op("Add", d.op("Mul", q, cos, bound=d.bound(q)), d.op("Mul", turned, sin, bound=d.bound(q)))
    else:
        half = unsqueeze(d, angle, [1])
        cos, sin = d.op("Cos", half, bound=1.0), d.op("Sin", half, bound=1.0)
        a, b = split(d, q, -1, [2, 2])
        first = d.op("Sub", d.op("Mul", a, cos, bound=d.bound(q)), d.op("Mul", b, sin, bound=d.bound(q)))
        second = d.op("Add", d.op("Mul", a, sin, bound=d.bound(q)), d.op("Mul", b, cos, bound=d.bound(q)))
        d.maybe(second, 0.1)
        y = d.op("Concat", first, second, axis=-1)
    d.keep(d.op("Concat", y, rest, axis=-1, bound=d.bound(y)) if rest is not None else y)
    return True


def _angles(d: Draft, x: Value) -> Value | None:
    """Position times frequency, [batch, tokens, 2], the positions an input or counted."""
    if d.chance(0.5) and not d.depth and x.shape is not None:
        shape = [e if isinstance(e, int) else str(e) for e in x.shape[:2]]
        if any(isinstance(e, str) and e not in d.shared.symbols for e in shape):
            return None
        positions = d.input(I64, shape, 0, 9)
        d.values.remove(positions)
        numbers = d.op("Cast", unsqueeze(d, positions, [2]), to=F32.code, bound=9.0)
    else:
        count = squeeze(d, d.op("Gather", d.op("Shape", x, bound=10.0), ints([1]), bound=10.0), [0])
        positions = d.op("Range", np.asarray(0, np.int64), count, np.asarray(1, np.int64), bound=10.0)
        numbers = d.op("Cast", unsqueeze(d, positions, [0, 2]), to=F32.code, bound=9.0)
    return d.op("Mul", numbers, np.asarray([1.0, 0.1], np.float32), bound=9.0)


# -- masks and embeddings


def index_grid(d: Draft) -> bool:
    """A mask [batch, tokens] gathered at all its places, as PyTorch's second exporter spreads one."""
    if d.opset < 15 or d.depth:
        return False
    mask = d.input(BOOL, d.shape(3)[:2], 0, 1)
    zero, one = np.asarray(0, np.int64), np.asarray(1, np.int64)

    def places(axis: int, axes: list[int]) -> Value:
        start = {"start": 1} if axis else {}
        size = squeeze(d, d.op("Shape", mask, end=axis + 1, bound=10.0, **start), [0])
        return unsqueeze(d, d.op("Range", zero, size, one, bound=10.0), axes)

    i, j = places(0, [1, 2, 3]), places(1, d.choose([0, 1, 2], [0, 1, 2], [0, 1, 3]))
    shape = d.op("Shape", d.op("Max", i, j), bound=10.0)
    pair = [unsqueeze(d, d.op("Expand", v, shape, bound=10.0), [4]) for v in (i, j)]
    d.keep(d.op("GatherND", mask, d.op("Concat", *pair, axis=-1, bound=10.0), bound=1.0))
    return True


def guarded_softmax(d: Draft) -> bool:
    """Scores of embedded tokens, whose softmax is guarded against NaN that cannot be."""
    ids = _ids(d, 4)
    if ids is None or d.opset < 13:
        return False
    x = d.op("Gather", d.weight((5, 4)), ids, bound=3.0)
    if d.opset >= 17 and d.chance(0.5):
        x = d.op("LayerNormalization", x, d.weight([4]), bound=6.0)
    y = d.op("MatMul", x, d.op("Transpose", x, perm=(0, 2, 1)), bound=30.0)
    if d.chance(0.3):
        y = d.op("Add", y, np.asarray(d.choose(-1e4, -np.inf, 0.5), np.float32), bound=30.0)
    y = d.op("Softmax", y, axis=-1, bound=1.0)
    y = d.op("Where", d.op("IsNaN", y, bound=1.0), np.asarray(0, np.float32), y, bound=1.0)
    d.keep(d.op("MatMul", y, x, bound=3.0))
    return True


def tied_head(d: Draft) -> bool:
    """A table that is looked up and multiplied with, transposed."""
    ids = _ids(d, 4)
    if ids is None:
        return False
    table = d.weight((5, 4), 0.5)
    x = unary(d, d.op("Gather", table, ids, bound=2.0))
    x = d.damped(x)
    if d.chance(0.4):
        x = d.op("Reshape", x, ints([-1, 4]))
        bias = [d.weight([5])] if d.opset < 11 or d.chance(0.5) else []
        d.keep(d.op("Gemm", x, table, *bias, transB=1, bound=10.0))
    else:
        d.keep(d.op("MatMul", x, d.op("Transpose", table, perm=(1, 0)), bound=10.0))
    return True


MOTIFS = (
    (2, skip_norm), (2, softmax_quotient), (2, moment_norm), (2, self_gated), (3, layers), (2, heads_with_bias),
    (2, packed_heads), (3, attention_operator), (2, cached_attention), (3, rotation), (2, index_grid),
    (2, guarded_softmax), (2, tied_head),
)  # fmt: skip
