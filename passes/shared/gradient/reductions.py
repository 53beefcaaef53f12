"""Derivatives of reductions, of pooling over everything, and of softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from ..emit import reduce_to_one, unsqueeze
from .rule import Parts, Rule, given, numbers, operand, shape_of


def _reduction(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    x = operand(node, 0)
    axes = _axes(node, x)
    kept = node.op.startswith("Global") or bool(node.attr("keepdims", 1))
    y, g = node.output, given(parts)
    if not kept:
        y, g = unsqueeze(r, y, axes), unsqueeze(r, g, axes)
    return [_spread(r, node.op, x, y, g), *[None] * (len(node.inputs) - 1)]


def _spread(r: Rewriter, op: str, x: Value, y: Value, g: Value) -> Any:
    """From a reduced axis to all of its places."""
    wide = r.Expand(g, shape_of(r, x))
    if op == "ReduceSum":
        return wide
    if op == "ReduceL2":
        return r.Mul(r.Div(g, y), x)
    if op == "ReduceSumSquare":
        return r.Mul(wide, r.Mul(x, 2.0))
    assert x.dtype is not None
    if op in ("ReduceMean", "GlobalAveragePool"):
        share = r.Div(r.Cast(r.Size(y), to=x.dtype.code), r.Cast(r.Size(x), to=x.dtype.code))
        return r.Mul(wide, share)
    return r.Where(r.Equal(x, y), wide, r.const(np.zeros((), x.dtype.numpy)))  # the largest, the smallest


def _axes(node: Node, x: Value) -> list[int]:
    """Reduced axes from the front. Raises :class:`NoMatch`."""
    if x.rank is None:
        raise NoMatch("has an operand of unknown rank")
    if node.op.startswith("Global"):
        return list(range(2, x.rank))
    given_axes = numbers(node.input(1), "axes") if node.input(1) is not None else node.attr("axes")
    if given_axes is None or not len(given_axes):
        if node.attr("noop_with_empty_axes", 0):
            raise NoMatch("reduces nothing")
        return list(range(x.rank))
    return sorted(int(a) % x.rank for a in given_axes)


def _softmax(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    g, y = given(parts), node.output
    axis = _softmax_axis(node)
    if node.op == "LogSoftmax":
        return [r.Sub(g, r.Mul(r.Exp(y), reduce_to_one(r, "ReduceSum", g, [axis])))]
    product = r.Mul(g, y)
    return [r.Sub(product, r.Mul(y, reduce_to_one(r, "ReduceSum", product, [axis])))]


def _softmax_axis(node: Node) -> int:
    rank = node.output.rank
    if rank is None:
        raise NoMatch("has an operand of unknown rank")
    old = node.version < 13
    axis = int(node.attr("axis", 1 if old else -1)) % rank
    if old and axis != rank - 1:
        raise NoMatch("is over several axes")
    return axis


_OPS = "ReduceSum ReduceMean ReduceL2 ReduceSumSquare ReduceMax ReduceMin GlobalAveragePool GlobalMaxPool"
REDUCTIONS: dict[str, Rule] = {
    **dict.fromkeys(_OPS.split(), _reduction),
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
}
