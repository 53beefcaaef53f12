"""Movement of elements: transposes, views, cuts, joins, and chains of them that nearly cancel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.dtypes import DType
from ...ir.graph import Value
from .draft import Draft
from .elementwise import affine_step, unary
from .versions import cut, ints, pad, reduce, softmax_axis, split, squeeze, unsqueeze

F32, F64, F16, I64, I32, U8, BOOL = DType.F32, DType.F64, DType.F16, DType.I64, DType.I32, DType.U8, DType.BOOL
ANY = (F32, F32, I64, F16, I32, BOOL, U8, F64)


def something(d: Draft, ranks: tuple[int, ...]) -> Value | None:
    """Mostly floats; movement takes every type."""
    found = d.pick(ANY, ranks) if d.chance(0.3) else None
    found = found or d.take(F32, ranks)
    return found if found is not None and d.sizes(found.shape) is not None else None


def permutation(d: Draft, rank: int) -> list[int]:
    if rank == 4 and d.chance(0.6):
        return list(d.choose((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1, 3), (0, 1, 3, 2)))
    if rank == 3 and d.chance(0.5):
        return [0, 2, 1]
    perm = list(range(rank))
    d.rng.shuffle(perm)
    return perm


def inverse(perm: list[int]) -> list[int]:
    return [perm.index(i) for i in range(len(perm))]


def _between(d: Draft, x: Value) -> Value:
    """An operator that a Transpose may move through."""
    assert x.rank is not None
    if x.dtype is not F32:
        return x
    roll = d.rng.randrange(6)
    if roll == 0:
        return unary(d, x)
    if roll == 1:
        return affine_step(d, x)
    if roll == 2:
        return d.op("Softmax", x, axis=softmax_axis(d, x), bound=1.0)
    if roll == 3:
        return reduce(d, d.choose("ReduceMean", "ReduceSum", "ReduceMax"), x, [d.rng.randrange(x.rank)], 1)
    if roll == 4:
        return d.op("Concat", x, d.op("Relu", x), axis=d.rng.randrange(x.rank))
    return d.op("Relu", x)


def transposes(d: Draft) -> bool:
    x = something(d, (2, 3, 4))
    if x is None or x.rank is None:
        return False
    perm = permutation(d, x.rank)
    y = d.op("Transpose", x, perm=tuple(perm)) if d.chance(0.9) else d.op("Transpose", x)
    if d.chance(0.7):
        d.maybe(y, 0.15)
        if d.chance(0.5):
            y = d.damped(_between(d, y))
        back = inverse(perm) if d.chance(0.7) else permutation(d, x.rank)
        if y.rank == len(back):
            y = d.op("Transpose", y, perm=tuple(back))
    d.keep(y)
    return True


# -- views


def view(d: Draft, x: Value) -> Value:
    """One Reshape, Flatten, Squeeze or Unsqueeze."""
    assert x.shape is not None
    roll = d.rng.randrange(7)
    ones = [i for i, e in enumerate(x.shape) if e == 1]
    rank = len(x.shape)
    if roll == 0 and ones:
        axes = [i for i in ones if d.chance(0.7)] or ones[:1]
        return squeeze(d, x, [a - rank if d.chance(0.3) else a for a in axes])
    if roll == 1 and rank < 5:
        count = d.choose(1, 1, 2)
        axes = sorted(d.rng.sample(range(rank + count), count))
        if d.chance(0.3):
            axes = [a - rank - count for a in axes]
        return unsqueeze(d, x, axes)
    if roll == 2 and rank:
        return d.op("Flatten", x, axis=d.rng.randrange(-rank if d.opset >= 11 else 0, rank + 1))
    return d.op("Reshape", x, ints(_target(d, list(x.shape))), bound=d.bound(x))


def _target(d: Draft, shape: list[Dim]) -> list[int]:
    """A target that fits every sample: 0 and -1 where extents are not known, merged and split axes elsewhere."""
    known = [e if isinstance(e, int) else None for e in shape]
    roll = d.rng.randrange(5)
    if roll == 0:
        return [-1]
    if roll == 1 and all(e is not None for e in known):
        total = int(np.prod([e for e in known if e is not None]))
        factor = next((f for f in (4, 3, 2, 5) if total % f == 0 and d.chance(0.7)), 1)
        return d.choose([factor, -1], [factor, total // factor], [-1, factor, 1])
    if roll == 2 and len(shape) >= 2:
        at = d.rng.randrange(len(shape) - 1)
        rest = [0 if d.chance(0.6) or e is None else e for e in known[:at]]
        tail = known[at + 2 :]
        if all(e is not None for e in tail):
            return [*rest, -1, *(e for e in tail if e is not None)]
    if roll == 3 and shape and isinstance(shape[-1], int) and shape[-1] % 2 == 0:
        missing = [i for i, e in enumerate(known[:-1]) if e is None]
        head = [0 if e is None or d.chance(0.4) else e for e in known[:-1]]
        if len(missing) == 1 and d.chance(0.4):
            head = [-1 if e is None else e for e in known[:-1]]
        return [*head, 2, shape[-1] // 2]
    if sum(e is None for e in known) <= 1 and d.chance(0.5):
        return [-1 if e is None else e for e in known] if known else [1]
    return [0 if e is None or d.chance(0.3) else e for e in known] or [1]


def views(d: Draft) -> bool:
    x = something(d, (0, 1, 2, 3, 4))
    if x is None:
        return False
    first = list(x.shape or ())
    for i in range(d.choose(1, 2, 2, 3)):
        if x.shape is None or d.sizes(x.shape) is None:
            break
        x = view(d, x)
        d.maybe(x, 0.1)
        if i == 0 and d.chance(0.25) and x.dtype is F32 and x.shape is not None:
            x = d.damped(unary(d, x))
    if d.chance(0.2) and x.shape is not None and all(isinstance(e, int) for e in first):
        x = d.op("Reshape", x, ints([e for e in first if isinstance(e, int)]), bound=d.bound(x))
    d.keep(x)
    return True


def shuffle(d: Draft) -> bool:
    """Reshape, Transpose, Reshape: heads of attention, channel shuffle, pixel shuffle."""
    x = something(d, (3, 4))
    if x is None or x.shape is None or not isinstance(x.shape[-1], int):
        return False
    if len(x.shape) == 4 and isinstance(x.shape[1], int) and d.chance(0.4):
        channels = x.shape[1]
        if channels % 4 == 0 and x.dtype is F32 and d.chance(0.5):
            mode = {"mode": d.choose("DCR", "CRD")} if d.opset >= 11 and d.chance(0.6) else {}
            d.keep(d.op("DepthToSpace", x, blocksize=2, **mode))
            return True
        if channels % 2:
            return False
        a, b = d.choose((2, channels // 2), (channels // 2, 2))
        y = d.op("Reshape", x, ints([0, a, b, *(e if isinstance(e, int) else -1 for e in x.shape[2:])]))
        if sum(not isinstance(e, int) for e in x.shape[2:]) > 1:
            return True
        y = d.op("Transpose", y, perm=(0, 2, 1, 3, 4))
        back = ints([0, channels, *(e if isinstance(e, int) else -1 for e in x.shape[2:])])
        d.keep(d.op("Reshape", y, back))
        return True
    width = x.shape[-1]
    if len(x.shape) != 3 or width % 2:
        return False
    y = d.op("Reshape", x, ints([0, 0, 2, width // 2]), bound=d.bound(x))
    y = d.op("Transpose", y, perm=d.choose((0, 2, 1, 3), (0, 2, 1, 3), (0, 2, 3, 1)))
    d.maybe(y, 0.3)
    if d.chance(0.6):
        y = d.op("Transpose", y, perm=(0, 2, 1, 3))
        y = d.op("Reshape", y, ints(d.choose([0, 0, -1], [0, -1, width])), bound=d.bound(x))
    d.keep(y)
    return True


def grouped_transpose(d: Draft) -> bool:
    """Batch and heads merged around a Transpose of two axes."""
    x = something(d, (4,))
    if x is None or x.shape is None or not all(isinstance(e, int) for e in x.shape[1:]):
        return False
    _, h, a, b = (e if isinstance(e, int) else -1 for e in x.shape)
    y = d.op("Reshape", x, ints([-1, a, b]), bound=d.bound(x))
    d.maybe(y, 0.1)
    y = d.op("Transpose", y, perm=d.choose((0, 2, 1), (0, 2, 1), (1, 0, 2)))
    d.keep(d.op("Reshape", y, ints(d.choose([-1, h, b, a], [-1, h, a, b], [-1, h * a * b])), bound=d.bound(x)))
    return True


# -- cuts and joins


def _bounds(d: Draft, x: Value, axis: int) -> tuple[int, int, int] | None:
    """Start, end and step that leave at least one element in every sample."""
    assert x.shape is not None
    least = d.least(x.shape[axis])
    if least < 2:
        return (0, d.choose(1, 5, (1 << 63) - 1), 1)
    roll = d.rng.randrange(6)
    if roll == 0:
        return (0, (1 << 63) - 1, d.choose(1, 2))
    if roll == 1:
        return (-1, -(1 << 31), -1) if d.chance(0.5) else (least - 1, -(1 << 62), d.choose(-1, -2))
    if roll == 2:
        return (1, d.choose(least, (1 << 31) - 1, 1 << 40), 1)
    if roll == 3:
        return (0, -1, 1)
    if roll == 4:
        return (-d.rng.randrange(1, least + 1), (1 << 63) - 1, 1)
    start = d.rng.randrange(least)
    return (start, d.rng.randrange(start + 1, least + 2), 1)


def one_slice(d: Draft, x: Value) -> Value:
    assert x.rank is not None
    count = min(x.rank, d.choose(1, 1, 2))
    axes = d.rng.sample(range(x.rank), count)
    bounds = [b for b in (_bounds(d, x, axis) for axis in axes) if b is not None]
    starts, ends, steps = zip(*bounds, strict=True)
    named = [a - x.rank if d.chance(0.3) else a for a in axes]
    if all(s == 1 for s in steps) and d.chance(0.6):
        if axes == list(range(count)) and d.chance(0.3):
            return cut(d, x, starts, ends)
        return cut(d, x, starts, ends, named)
    return cut(d, x, starts, ends, named, steps)


def slices(d: Draft) -> bool:
    x = something(d, (1, 2, 3, 4))
    if x is None:
        return False
    for _ in range(d.choose(1, 2, 2, 3)):
        if d.sizes(x.shape) is None or not x.rank:
            break
        x = one_slice(d, x)
        d.maybe(x, 0.1)
    d.keep(x)
    return True


def splits(d: Draft) -> bool:
    """Split, something on the parts, and Concat in order or not."""
    x = something(d, (2, 3, 4))
    if x is None or x.shape is None:
        return False
    axes = [i for i, e in enumerate(x.shape) if isinstance(e, int) and e >= 2]
    if not axes:
        return False
    axis = d.rng.choice(axes)
    extent = x.shape[axis]
    assert isinstance(extent, int)
    if extent % 2 == 0 and d.chance(0.5):
        parts = [extent // 2] * 2
    elif d.chance(0.1):
        parts = [extent - 1, 1, 0][:3]
    else:
        first = d.rng.randrange(1, extent)
        parts = [first, extent - first]
    if d.chance(0.2) and 0 not in parts and parts[0] > 1:
        parts = [1, parts[0] - 1, *parts[1:]]
    if d.chance(0.25):  # slices that cover the same
        edges = np.cumsum([0, *parts])
        made = [cut(d, x, [int(edges[i])], [int(edges[i + 1])], [axis]) for i in range(len(parts))]
    else:
        made = split(d, x, axis - len(x.shape) if d.chance(0.2) else axis, parts)
    for part in made:
        d.maybe(part, 0.25)
    if d.chance(0.3) and x.dtype is F32:
        made = [d.op("Relu", p) for p in made]
    if d.chance(0.3):
        d.rng.shuffle(made)
    if d.chance(0.2):
        made = made[:-1]
    d.keep(d.op("Concat", *made, axis=axis if d.chance(0.8) else axis - len(x.shape)))
    return True


def concats(d: Draft) -> bool:
    """Concats of Concats, with constants and empty operands among them."""
    x = something(d, (1, 2, 3, 4))
    if x is None or x.shape is None or x.dtype is None:
        return False
    rank = len(x.shape)
    axis = d.rng.randrange(rank)
    dtype = x.dtype
    for _ in range(d.choose(1, 2, 2)):
        operands: list[Any] = [x]
        for _ in range(d.choose(1, 1, 2)):
            roll = d.rng.randrange(4)
            if roll == 0 and all(isinstance(e, int) for i, e in enumerate(x.shape or ()) if i != axis):
                extent = d.choose(1, 1, 2, 0)
                shape = [extent if i == axis else e for i, e in enumerate(x.shape or ())]
                numbers = d.drawn().integers(0, 2, [e for e in shape if isinstance(e, int)])
                operands.append(numbers.astype(dtype.numpy))
            elif roll == 1:
                operands.append(x)
            else:
                y = d.pick(dtype, where=lambda v, shape=x.shape: v.shape == shape)
                operands.append(x if y is None else y)
        d.rng.shuffle(operands)
        if len(operands) > 1 and d.chance(0.05):
            operands = operands[:1]
        x = d.op("Concat", *operands, axis=axis if d.chance(0.75) else axis - rank)
        d.maybe(x, 0.15)
        if d.chance(0.15):
            axis = d.rng.randrange(rank)
        if d.elements(x) > 6000:
            break
    d.keep(x)
    return True


def pads(d: Draft) -> bool:
    x = something(d, (1, 2, 3, 4))
    if x is None or x.rank is None or x.dtype in (BOOL, U8, F16) or d.opset < 11:
        return False
    rank = x.rank
    for _ in range(d.choose(1, 2, 2)):
        sizes = d.sizes(x.shape)
        if sizes is None:
            break
        mode = d.choose("constant", "constant", "constant", "constant", "reflect", "edge")
        amounts = [0] * (2 * rank)
        for _ in range(d.choose(0, 1, 2)):
            amounts[d.rng.randrange(2 * rank)] = d.choose(0, 1, 1, 2, -1 if mode == "constant" else 1)
        for i in range(2 * rank):
            smallest = min(s[i % rank] for s in sizes)
            if mode == "reflect":
                amounts[i] = min(amounts[i], smallest - 1)
            elif amounts[i] < 0 and smallest < 3:
                amounts[i] = 0
        if any(s == 0 for size in sizes for s in size):
            break
        fill = d.choose(None, None, 0.0, 1.0, -0.0) if mode == "constant" else None
        if x.dtype in (I64, I32) and fill is not None:
            fill = abs(fill)
        x = pad(d, x, amounts, mode, fill)
        d.maybe(x, 0.1)
    d.keep(x)
    return True


def expands(d: Draft) -> bool:
    x = something(d, (0, 1, 2, 3))
    if x is None or x.shape is None:
        return False
    shape = [e if isinstance(e, int) else 1 for e in x.shape]
    roll = d.rng.randrange(4)
    if roll == 0 and x.rank and x.dtype not in (F16,):
        repeats = [d.choose(1, 1, 2) for _ in shape]
        d.keep(d.op("Tile", x, ints(repeats), bound=d.bound(x)))
    elif roll == 1:
        d.keep(d.op("Expand", x, ints([d.choose(1, 2), *shape]), bound=d.bound(x)))
    elif roll == 2:
        target = [d.choose(2, 1) if e == 1 and x.shape[i] == 1 else e for i, e in enumerate(shape)]
        d.keep(d.op("Expand", x, ints(target), bound=d.bound(x)))
    else:
        d.keep(d.op("Expand", x, ints([1] * (len(shape) + d.choose(0, 1))), bound=d.bound(x)))
    return True


def gathers(d: Draft) -> bool:
    """Rows of a table or of a value by constant or computed indices."""
    roll = d.rng.randrange(4)
    if roll == 0:
        index = d.pick((I64, I32), (1, 2), lambda v: 0 <= d.bound(v) <= 7 and v in d.shared.feeds)
        index = index or (None if d.depth else d.input(I64, d.shape(2), 0, 7))
        if index is None:
            return False
        rows = d.choose(8, 9)
        table = d.weight((rows, d.choose(3, 4)))
        y = d.op("Gather", table, index, bound=3.0)
        if d.chance(0.6):
            y = affine_step(d, y) if d.chance(0.5) else unary(d, y)
        if d.chance(0.3) and y.shape is not None:
            y = d.op("MatMul", y, d.weight((table.shape[1] if table.shape else 4, 3)), bound=10.0)  # type: ignore[arg-type]
        if d.chance(0.2):
            other = d.op("Gather", d.weight((rows, 3)), index, bound=3.0)
            d.keep(other)
        d.keep(y)
        return True
    x = something(d, (1, 2, 3, 4))
    if x is None or x.shape is None or not x.rank:
        return False
    axis = d.rng.randrange(x.rank)
    least = d.least(x.shape[axis])
    if least < 1:
        return False
    index = np.asarray(d.choose(0, -1, [0], [least - 1, 0], list(range(least)), [[0], [0]], least - 1))
    index = index.astype(d.choose(np.int64, np.int64, np.int32))
    d.keep(d.op("Gather", x, index, axis=axis - x.rank if d.chance(0.2) else axis, bound=d.bound(x)))
    return True


def one_hot(d: Draft) -> bool:
    index = d.pick((I64, I32), (1, 2), lambda v: v in d.shared.feeds) or (
        None if d.depth else d.input(I64, d.shape(2), 0, 7)
    )
    if index is None:
        return False
    depth = d.choose(8, 8, 6)
    if d.chance(0.5):
        values = np.asarray(d.choose([0, 1], [0, 1], [0.5, 2.0], [1, 0]), np.float32)
        y = d.op("OneHot", index, np.asarray(depth, np.int64), values, bound=1.0)
    else:
        start = d.choose(0, 0, 1, -1)
        assert index.dtype is not None
        classes = np.asarray(range(start, start + depth), index.dtype.numpy)
        hit = d.op("Equal", unsqueeze(d, index, [-1]), classes, bound=1.0)
        y = d.op("Cast", hit, to=F32.code, bound=1.0)
    d.maybe(y, 0.1)
    if d.chance(0.8):
        y = d.op("MatMul", y, d.weight((depth, d.choose(3, 4))), bound=5.0)
    d.keep(y)
    return True


def odd_moves(d: Draft) -> bool:
    """Movement that few passes look at: it must stay as it is."""
    x = d.take(F32, (2, 3))
    if x is None or x.shape is None or d.sizes(x.shape) is None:
        return False
    least = d.least(x.shape[-1])
    roll = d.rng.randrange(6)
    if roll == 0 and d.opset >= 14:
        d.keep(d.op("Trilu", x, upper=d.choose(0, 1)))
    elif roll == 1 and d.opset >= 11 and least >= 1:
        d.keep(
            d.op("CumSum", x, np.asarray(d.choose(0, -1), np.int64), bound=10 * d.bound(x), exclusive=d.choose(0, 1))
        )
    elif roll == 2 and least >= 2:
        rank = len(x.shape)
        index = np.zeros((1,) * rank, np.int64)
        d.keep(d.op("GatherElements", x, index, axis=d.choose(0, rank - 1)))
    elif roll == 3 and least >= 1:
        d.keep(d.op("GatherND", x, np.zeros((1, 1), np.int64), bound=d.bound(x)))
    elif roll == 4 and d.opset >= 11 and least >= 1:
        updates = d.weight((1, *[e if isinstance(e, int) else 1 for e in x.shape[1:]]))
        if all(isinstance(e, int) for e in x.shape[1:]):
            d.keep(d.op("ScatterND", x, np.zeros((1, 1), np.int64), updates))
    elif len(x.shape) == 3 and roll == 5:
        d.keep(d.op("Transpose", d.op("Identity", x), perm=(2, 1, 0)))
    else:
        return False
    return True


MOTIFS = (
    (8, transposes), (8, views), (4, shuffle), (3, grouped_transpose), (6, slices), (5, splits), (5, concats),
    (4, pads), (4, expands), (4, gathers), (2, one_hot), (2, odd_moves),
)  # fmt: skip
