"""Fuse a residual sum with a gate: the one is added to the gate, which is small, instead of the tensor to its product.

    x + x g = x (1 + g)                                             g of shape [N, C, 1, 1]
    1 + HardSigmoid(a z + b) = Clip(a z + (b + 1); 1, 2)            the affine part goes into the product that gives z

**Why** one pass over the tensor less: squeeze-and-excite blocks with a residual (PP-OCR's RSE layers) multiply and add.
**Needs** a gate that is broadcast along an axis, not as large as x; neither the product nor, for the second form, the
HardSigmoid used by anything else.
**Leaves** gates of the size of x (nothing is gained), integers.
**Numbers** reassociates.
**Source** J. Hu et al., Squeeze-and-Excitation Networks, 2018.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.graph import Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rule import Match
from ..shared.affine import Affine
from ..shared.linear import absorb_after, linear_at


@dataclass
class FuseGatedResidual(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield GatedResidual()


class GatedResidual(Rule):
    """``x + x g``."""

    def pattern(self, op, x, g):  # pyright: ignore
        return op.Add(x, op.Mul(x, g))  # pyright: ignore[reportUnknownVariableType]

    def guard(self, m: Match) -> None:
        x, g = m.x, m.g
        if x.dtype is None or not x.dtype.is_float or x.shape is None or g.shape is None:
            raise NoMatch("types are unknown or not real numbers")
        if x.data is not None or len(g.shape) > len(x.shape):
            raise NoMatch("x is a constant, or of a lower rank than the gate")
        aligned = x.shape[len(x.shape) - len(g.shape) :]
        if not all(b == 1 or (a is not None and a == b) for a, b in zip(aligned, g.shape, strict=True)):
            raise NoMatch(f"the gate {g.type} may enlarge x {x.type}")
        if not any(a != 1 and b == 1 for a, b in zip(aligned, g.shape, strict=True)) and len(g.shape) == len(x.shape):
            raise NoMatch("the gate is as large as x")

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        return r.Mul(m.x, _plus_one(r, m.g))


def _plus_one(r: Rewriter, gate: Value) -> Value:
    node = gate.producer
    if node is not None and node.op == "HardSigmoid" and not node.domain and len(gate.uses) == 1 and r.opset() >= 11:
        z = node.inputs[0]
        alpha, beta = (np.float64(node.attr(name)) for name in ("alpha", "beta"))
        try:
            assert z is not None
            shifted = absorb_after(r, linear_at(z), Affine(np.asarray(alpha), np.asarray(beta + 1)))
        except NoMatch:
            pass
        else:
            return r.Clip(shifted, 1.0, 2.0)
    return r.Add(gate, 1.0)
