"""Derivatives of operators that move numbers: the gradient moves back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from ..emit import unsqueeze
from .rule import Parts, Rule, given, like_operand, numbers, operand, shape_of


def _reshape(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    x = operand(node, 0)
    return [r.Reshape(given(parts), shape_of(r, x)), *[None] * (len(node.inputs) - 1)]


def _transpose(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    rank = operand(node, 0).rank
    perm = node.attr("perm") or (tuple(range(rank))[::-1] if rank is not None else None)
    if perm is None:
        raise NoMatch("has an operand of unknown rank")
    return [r.Transpose(given(parts), perm=tuple(int(p) for p in np.argsort(perm)))]


def _expand(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    return [like_operand(r, given(parts), node.output, operand(node, 0)), None]


def _axis(node: Node, rank: int | None, default: int) -> int:
    """The attribute, counted from the front. Raises :class:`NoMatch`."""
    if rank is None:
        raise NoMatch("has an operand of unknown rank")
    return int(node.attr("axis", default)) % rank


def _concat(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    g = given(parts)
    axis = _axis(node, node.output.rank, 0)
    found: Parts = []
    start: Any = r.const(np.zeros(1, np.int64))
    for i, mark in enumerate(wanted):
        extent = _extent(r, operand(node, i), axis)
        end = r.Add(start, extent)
        found.append(r.Slice(g, start, end, np.array([axis], np.int64)) if mark else None)
        start = end
    return found


def _extent(r: Rewriter, x: Value, axis: int) -> Any:
    """Of one axis, a vector of one number."""
    known = x.shape[axis] if x.shape is not None else None
    if isinstance(known, int):
        return r.const(np.array([known], np.int64))
    return r.Gather(r.Shape(x), np.array([axis], np.int64), axis=0)


def _split(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    axis = _axis(node, operand(node, 0).rank, 0)
    pieces = [part if part is not None else r.Sub(out, out) for part, out in zip(parts, node.outputs, strict=True)]
    return [r.Concat(*pieces, axis=axis), *[None] * (len(node.inputs) - 1)]


def _slice(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    """Zeros where nothing was taken."""
    x = operand(node, 0)
    if x.rank is None or len(node.inputs) < 3:
        raise NoMatch("has an operand of unknown rank, or attributes of old opsets")
    starts = numbers(node.input(1), "starts")
    axes = numbers(node.input(3), "axes") if node.input(3) is not None else list(range(len(starts)))
    if node.input(4) is not None and any(step != 1 for step in numbers(node.input(4), "steps")):
        raise NoMatch("takes steps")
    begin = [0] * x.rank
    for axis, start in zip(axes, starts, strict=True):
        begin[axis % x.rank] = _from_front(x, axis % x.rank, start)
    return [_padded(r, given(parts), x, node.output, begin), *[None] * (len(node.inputs) - 1)]


def _from_front(x: Value, axis: int, start: int) -> int:
    extent = x.shape[axis] if x.shape is not None else None
    if isinstance(extent, int):
        return min(max(start + extent if start < 0 else start, 0), extent)
    if start < 0:
        raise NoMatch("counts from the end of an axis of unknown extent")
    return start


def _padded(r: Rewriter, g: Value, x: Value, y: Value, begin: Sequence[int]) -> Any:
    """``g`` of the shape of ``y`` at ``begin`` in zeros of the shape of ``x``."""
    first = r.const(np.array(begin, np.int64))
    last = r.Sub(r.Sub(shape_of(r, x), shape_of(r, y)), first)
    return r.Pad(g, r.Concat(first, last, axis=0))


def _pad(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    x = operand(node, 0)
    if node.attr("mode", "constant") != "constant" or x.rank is None or any(wanted[1:]) or node.input(3) is not None:
        raise NoMatch("pads with what depends on it")
    pads = numbers(node.input(1), "pads")
    if min(pads, default=0) < 0:
        raise NoMatch("cuts off")
    begin = r.const(np.array(pads[: x.rank], np.int64))
    taken = r.Slice(given(parts), begin, r.Add(begin, shape_of(r, x)), np.arange(x.rank, dtype=np.int64))
    return [taken, *[None] * (len(node.inputs) - 1)]


def _gather(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    """With constant indices along an axis of known extent: a product with a matrix of ones."""
    x, indices = operand(node, 0), operand(node, 1)
    axis = _axis(node, x.rank, 0)
    extent = x.shape[axis] if x.shape is not None else None
    if wanted[1] or indices.data is None or not isinstance(extent, int):
        raise NoMatch("has indices or an extent that are not known")
    chosen = np.asarray(indices.data.numpy(), np.int64)
    if chosen.ndim > 1:
        raise NoMatch("has indices of several axes")
    g = given(parts)
    if chosen.ndim == 0:
        g = unsqueeze(r, g, [axis])
    assert x.rank is not None
    assert x.dtype is not None
    ones = np.eye(extent, dtype=x.dtype.numpy)[np.atleast_1d(chosen) % extent]
    last = (*(i for i in range(x.rank) if i != axis), axis)
    moved = r.MatMul(r.Transpose(g, perm=last), r.const(ones))
    return [r.Transpose(moved, perm=tuple(int(p) for p in np.argsort(last))), None]


MOVEMENT: dict[str, Rule] = {
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Expand": _expand,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Gather": _gather,
}
