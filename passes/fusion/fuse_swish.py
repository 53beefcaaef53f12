"""Fuse a value times its sigmoid into Swish (also called SiLU).

    x sigmoid(a x) = Swish(x; alpha = a)

**Why** one node for two or three, for runtimes with a kernel of their own. ONNX Runtime runs the standard's Swish by
expanding it into these nodes again and has a contrib operator that it fuses to by itself, so the pass is in no default
pipeline.
**Needs** opset 24 (ONNX Runtime 1.31 has no Swish in models of a later one); a constant scalar a; no other user of the
sigmoid.
**Leaves** products of two different values, float64 where the attribute, a float32, would be another number.
**Numbers** reassociates.
**Source** P. Ramachandran et al., Searching for Activation Functions, 2017; Swish-24.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.graph import Value
from ..core import Numbers, RewritePass
from ..rewrite import NoMatch, Rewriter, Rule, Scalar
from ..rewrite.rule import Match
from ..shared.attributes import require_attribute

OPSET = 24


@dataclass
class FuseSwish(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[Rule]:
        yield WithSlope()
        yield Plain()


class Plain(Rule):
    """x * sigmoid(x)."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Mul(x, op.Sigmoid(x))

    def guard(self, m: Match) -> None:
        if m.root.version < OPSET:
            raise NoMatch(f"Swish needs opset {OPSET}, the model imports {m.root.version}")
        if m.root.version > OPSET:
            raise NoMatch(f"runtimes expand Swish in models of opset {OPSET} only, this one has {m.root.version}")

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        return r.Swish(m.x)


class WithSlope(Plain):
    """x * sigmoid(a * x)."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Mul(x, op.Sigmoid(op.Mul(x, Scalar(name="slope"))))

    def guard(self, m: Match) -> None:
        super().guard(m)
        require_attribute("the slope", float(m.slope), m.x.dtype)

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        return r.Swish(m.x, alpha=float(m.slope))
