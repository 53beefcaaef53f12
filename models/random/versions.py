"""Operators whose spelling depends on the opset: axes as attribute or operand, bounds of Clip, parts of Split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.graph import Value
from .draft import Draft

INT64_MAX = (1 << 63) - 1


def ints(values: Sequence[int]) -> np.ndarray[Any, Any]:
    return np.asarray(values, np.int64)


def squeeze(d: Draft, x: Value, axes: Sequence[int]) -> Value:
    return d.op("Squeeze", x, axes=tuple(axes)) if d.opset < 13 else d.op("Squeeze", x, ints(axes), bound=d.bound(x))


def unsqueeze(d: Draft, x: Value, axes: Sequence[int]) -> Value:
    if d.opset < 13:
        return d.op("Unsqueeze", x, axes=tuple(axes))
    return d.op("Unsqueeze", x, ints(axes), bound=d.bound(x))


def reduce(d: Draft, op: str, x: Value, axes: Sequence[int] | None, keepdims: int = 1, **kw: Any) -> Value:
    """A reduction; the axes are an operand from opset 18 on (ReduceSum: 13)."""
    attrs = {} if keepdims == 1 and d.chance(0.5) else {"keepdims": keepdims}
    kw.setdefault("bound", d.bound(x))
    if axes is None:
        return d.op(op, x, **attrs, **kw)
    if d.opset < (13 if op == "ReduceSum" else 18):
        return d.op(op, x, axes=tuple(axes), **attrs, **kw)
    return d.op(op, x, ints(axes), **attrs, **kw)


def split(d: Draft, x: Value, axis: int, parts: Sequence[int]) -> list[Value]:
    """The parts; always several."""
    count = len(parts)
    if d.opset < 13:
        return d.op("Split", x, axis=axis, split=tuple(parts), _outputs=count)
    if len(set(parts)) == 1 and d.opset >= 18 and d.chance(0.5):
        return d.op("Split", x, axis=axis, num_outputs=count, _outputs=count)
    return d.op("Split", x, ints(parts), axis=axis, _outputs=count, bound=d.bound(x))


def clip(d: Draft, x: Value, low: float | None, high: float | None) -> Value:
    """Clip with bounds as scalars of x's type; one of them may be missing."""
    assert x.dtype is not None
    limit = max(abs(low), abs(high)) if low is not None and high is not None else d.bound(x) + abs(low or high or 0)
    bounds = [None if v is None else np.asarray(v, x.dtype.numpy) for v in (low, high)]
    if d.opset < 11:
        given = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
        return d.op("Clip", x, bound=limit, **given)
    while bounds and bounds[-1] is None:
        bounds.pop()
    return d.op("Clip", x, *bounds, bound=limit)


def pad(d: Draft, x: Value, pads: Sequence[int], mode: str = "constant", fill: float | None = None) -> Value:
    assert x.dtype is not None
    attrs: dict[str, Any] = {} if mode == "constant" and d.chance(0.5) else {"mode": mode}
    if d.opset < 11:
        return d.op("Pad", x, pads=tuple(pads), value=fill or 0.0, bound=max(d.bound(x), abs(fill or 0)), **attrs)
    operands: list[Any] = [ints(pads)]
    if fill is not None:
        operands.append(np.asarray(fill, x.dtype.numpy))
    return d.op("Pad", x, *operands, bound=max(d.bound(x), abs(fill or 0)), **attrs)


def cut(
    d: Draft,
    x: Value,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Value:
    """Slice with constant bounds."""
    if d.opset < 10:
        axes = range(len(starts)) if axes is None else axes
        assert x.rank is not None
        named = tuple(a % x.rank for a in axes)
        if any(s != 1 for s in steps or ()):
            return d.op("Identity", x)
        return d.op("Slice", x, starts=tuple(starts), ends=tuple(ends), axes=named)
    operands: list[Any] = [ints(starts), ints(ends)]
    if axes is not None or steps is not None:
        operands.append(None if axes is None else ints(axes))
    if steps is not None:
        operands.append(ints(steps))
    return d.op("Slice", x, *operands, bound=d.bound(x))


def softmax_axis(d: Draft, x: Value) -> int:
    assert x.rank is not None
    return d.choose(-1, -1, x.rank - 1, d.rng.randrange(x.rank))
