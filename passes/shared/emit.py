"""Emitting operators whose lists of numbers are attributes in old opsets and operands in new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter

CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


def again(r: Rewriter, node: Node, *inputs: Value | None, **changed: Any) -> Any:
    """The operator of ``node`` with its attributes, some of them changed, on other operands."""
    name = f"{node.domain}::{node.op}" if node.domain else node.op
    return r.op(name, *inputs, **{**cast("dict[str, Any]", node.attrs), **changed})


def squeeze(r: Rewriter, x: Value, axes: Sequence[int]) -> Any:
    """Takes out axes of extent 1."""
    if r.opset() >= 13:
        return r.Squeeze(x, np.array(axes, np.int64))
    return r.Squeeze(x, axes=_from_front(axes, x.rank))


def unsqueeze(r: Rewriter, x: Value, axes: Sequence[int]) -> Any:
    """Puts in axes of extent 1."""
    if r.opset() >= 13:
        return r.Unsqueeze(x, np.array(axes, np.int64))
    return r.Unsqueeze(x, axes=_from_front(axes, None if x.rank is None else x.rank + len(axes)))


def _from_front(axes: Sequence[int], rank: int | None) -> tuple[int, ...]:
    """Axes as opsets before 11 take them, where the rank is known."""
    return tuple(a + rank if a < 0 and rank is not None else a for a in axes)


def split(r: Rewriter, x: Value, sizes: Sequence[int], axis: int) -> list[Any]:
    """Consecutive parts along ``axis``."""
    if r.opset() >= 13:
        return r.op("Split", x, np.array(sizes, np.int64), axis=axis, _outputs=len(sizes))
    return r.op("Split", x, axis=axis, split=tuple(sizes), _outputs=len(sizes))


def reduce_to_one(r: Rewriter, op: str, x: Value, axes: Sequence[int]) -> Any:
    """A reduction that keeps the reduced axes with extent 1."""
    if r.opset() >= (13 if op == "ReduceSum" else 18):
        return r.op(op, x, np.array(axes, np.int64), keepdims=1)
    return r.op(op, x, axes=tuple(axes), keepdims=1)


def allows_contrib(r: Rewriter) -> bool:
    """Whether the target's runtime takes ``com.microsoft`` operators; without a target only standard ones exist."""
    return r.ctx.target is not None and r.ctx.target.contrib
