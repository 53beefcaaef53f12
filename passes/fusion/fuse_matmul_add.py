"""Fuse a matrix product and the addition of a bias into Gemm.

    MatMul(x, w) + b = Gemm(x, w, b)

**Why** one node for two, for runtimes and tools that look for Gemm. ONNX Runtime does it by itself, so the pass is in
no default pipeline.
**Needs** both factors of known rank 2; a bias that broadcasts to the product without raising its rank or repeating it;
opset 7 (11 for integers); no other user of the product.
**Leaves** batches of matrices, unknown ranks.
**Numbers** reassociates.
**Source** Gemm-7, -9, -11, -13.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.dims import same_dim
from ...ir.graph import Value
from ..core import Numbers, RewritePass
from ..rewrite import NoMatch, Rewriter, Rule
from ..rewrite.rule import Match


@dataclass
class FuseMatmulAdd(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[Rule]:
        yield IntoGemm()


class IntoGemm(Rule):
    """x @ w + b."""

    def pattern(self, op: Any, x: Value, w: Value, b: Value) -> Any:
        return op.Add(op.MatMul(x, w, bind="product"), b)

    def guard(self, m: Match) -> None:
        if m.x.rank != 2 or m.w.rank != 2:
            raise NoMatch(f"the factors have rank {m.x.rank} and {m.w.rank}, expected 2 and 2")
        if m.root.version < 7:
            raise NoMatch(f"Gemm broadcasts as Add does from opset 7 on, the model imports {m.root.version}")
        if m.x.dtype is None or not m.x.dtype.is_float:
            raise NoMatch(f"Gemm of {m.x.dtype!r}")
        shape, target = m.b.shape, m.product.output.shape
        if shape is None or len(shape) > 2:
            raise NoMatch(f"the bias has rank {m.b.rank}, expected at most 2")
        for have, want in zip(reversed(shape), reversed(target), strict=False):
            if have != 1 and not same_dim(have, want):
                raise NoMatch(f"the bias {m.b.type} does not broadcast to {m.product.output.type}")

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        return r.Gemm(m.x, m.w, m.b)
