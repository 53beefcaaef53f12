"""Expand a square behind a convolution into a product.

    Pow(x, 2) = x x

**Why** ONNX Runtime keeps a product of blocked tensors in the blocked layout of convolutions; Pow takes them out.
**Needs** a constant exponent of 2 of one element and the type of x or any other; x out of a convolution or pooling,
directly or through activations and sums.
**Leaves** squares elsewhere: the runtime's own fusions of normalizations look for Pow.
**Numbers** reassociates (a general power may round differently).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rule import Match
from ..shared.blocked import is_blocked_producer


@dataclass
class ExpandSquare(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield Square()


class Square(Rule):
    """``Pow(x, 2)``."""

    def pattern(self, op, x):  # pyright: ignore
        return op.Pow(x, 2.0)  # pyright: ignore[reportUnknownVariableType]

    def guard(self, m: Match) -> None:
        if m.x.dtype is None or not m.x.dtype.is_float or m.x.dtype is not m.root.output.dtype:
            raise NoMatch("x is not a tensor of real numbers")
        if m.root.version < 7:
            raise NoMatch(f"Pow of opset {m.root.version} broadcasts by attribute")
        if not is_blocked_producer(m.x):
            raise NoMatch("x does not come out of a convolution")

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        return r.Mul(m.x, m.x)
