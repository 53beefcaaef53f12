"""Fuse the Mish activation, spelled out.

    x tanh(softplus(x)) = x tanh(log(1 + exp(x))) = Mish(x)

Run it behind ``fuse-softplus``, which recognizes the logarithm.

**Why** one node for three, for runtimes with a kernel of their own; ONNX Runtime expands Mish into these nodes again,
so the pass is in no default pipeline.
**Needs** opset 18; no other user in between.
**Leaves** products of two different values.
**Numbers** reassociates.
**Source** D. Misra, Mish: A Self Regularized Non-Monotonic Activation Function, 2019; Mish-18.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.graph import Value
from ..core import Numbers, RewritePass
from ..rewrite import NoMatch, Rewriter, Rule
from ..rewrite.rule import Match

OPSET = 18


@dataclass
class FuseMish(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[Rule]:
        yield SpelledOut()


class SpelledOut(Rule):
    """x * tanh(softplus(x))."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Mul(x, op.Tanh(op.Softplus(x)))

    def guard(self, m: Match) -> None:
        if m.root.version < OPSET:
            raise NoMatch(f"Mish needs opset {OPSET}, the model imports {m.root.version}")

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        return r.Mish(m.x)
