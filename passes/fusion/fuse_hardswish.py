"""Fuse a value times its HardSigmoid into HardSwish.

    x HardSigmoid(x; 1/6, 1/2) = x max(0, min(1, x/6 + 1/2)) = HardSwish(x)

Run it behind ``fuse-hardsigmoid``, which recognizes the spellings of the second factor.

**Why** one node for two, for runtimes with a kernel of their own; ONNX Runtime has none for HardSwish alone and expands
it into these two nodes again, so the pass is in no default pipeline.
**Needs** opset 14; no other user of the HardSigmoid.
**Leaves** other slopes and shifts, products of two different values.
**Numbers** reassociates.
**Source** A. Howard et al., Searching for MobileNetV3, 2019; HardSwish-14.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.graph import Value
from ..core import Numbers, RewritePass
from ..rewrite import ANY, NoMatch, Rewriter, Rule
from ..rewrite.matcher import close
from ..rewrite.rule import Match
from ..shared.attributes import require_own_attributes

OPSET = 14


@dataclass
class FuseHardswish(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[Rule]:
        yield GatedByItself()


class GatedByItself(Rule):
    """x * HardSigmoid(x)."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Mul(x, op.HardSigmoid(x, alpha=ANY, beta=ANY, bind="gate"))

    def guard(self, m: Match) -> None:
        require_own_attributes(m.gate)
        alpha, beta = m.gate.attr("alpha"), m.gate.attr("beta")
        if not (close(alpha, 1 / 6, 4, m.x.dtype) and close(beta, 0.5, 4, m.x.dtype)):
            raise NoMatch(f"HardSigmoid has alpha {alpha} and beta {beta}, expected 1/6 and 1/2")
        if m.root.version < OPSET:
            raise NoMatch(f"HardSwish needs opset {OPSET}, the model imports {m.root.version}")

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        return r.HardSwish(m.x)
