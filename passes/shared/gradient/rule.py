"""What a rule of differentiation is, and what many of them need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ....ir.dims import same_dim
from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from ..emit import reduce_to_one

Parts: TypeAlias = "list[Value | None]"
Rule = Callable[[Rewriter, Node, Sequence[Value | None], Sequence[bool]], Parts]
"""From the gradients of a node's results (``None``: zero) to those of its operands, one for each; operands whose mark
is false are not looked at. Raises :class:`NoMatch` where the gradient is not known."""


def operand(node: Node, i: int) -> Value:
    """Operand ``i``. Raises :class:`NoMatch` where it is absent."""
    value = node.input(i)
    if value is None:
        raise NoMatch(f"lacks operand {i}")
    return value


def given(parts: Sequence[Value | None]) -> Value:
    """The gradient of the first result. Raises :class:`NoMatch` where another one is used."""
    if parts[0] is None or any(p is not None for p in parts[1:]):
        raise NoMatch("is used by another result than the first")
    return parts[0]


def numbers(value: Value | None, what: str) -> list[int]:
    """A constant list of integers. Raises :class:`NoMatch`."""
    if value is None or value.data is None:
        raise NoMatch(f"has {what} that are no constant")
    return [int(n) for n in np.atleast_1d(value.data.numpy())]


def shape_of(r: Rewriter, x: Value) -> Any:
    """The extents of ``x``: a constant where they are known."""
    shape = x.shape
    if shape is not None and all(isinstance(d, int) for d in shape):
        return r.const(np.array(shape, np.int64))
    return r.Shape(x)


def like_operand(r: Rewriter, gradient: Value, result: Value, x: Value) -> Value:
    """Sums ``gradient``, which has the shape of ``result``, over the axes along which ``x`` was broadcast to it."""
    wide, narrow = result.shape, x.shape
    if wide is None or narrow is None:
        raise NoMatch("has operands of unknown rank")
    lead = len(wide) - len(narrow)
    axes = list(range(lead))
    for i, (a, b) in enumerate(zip(wide[lead:], narrow, strict=True), lead):
        if b == 1 and a != 1:
            axes.append(i)
        elif not same_dim(a, b) and not (isinstance(a, int) and a == 1):
            raise NoMatch("may broadcast an operand whose extents are unknown")
    if axes:
        gradient = reduce_to_one(r, "ReduceSum", gradient, axes)
    return r.Reshape(gradient, shape_of(r, x)) if lead else gradient
