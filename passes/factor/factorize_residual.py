"""factorize-residual: ``W`` becomes codes of few bits and a product of low rank that makes up for their rounding.

    x W + b  ~  x Q + (x A) B + b

**Why**    between two widths: codes of 4 bits with a rank of 16 lose a fifth to a half less than codes alone, for a
           tenth to a third more bytes; ``quantize-weights`` behind it stores ``A`` and ``B`` in few bits as well.
**Needs**  constant matrices of MatMul and Gemm, at least ``min-parameters`` large, used once, in a form that
           ``quantize-weights`` has for the target. Samples, from which second moments of the inputs are taken; without
           them the weights alone count. Each rank is a unit of the error budget, the smallest first; the first that is
           taken wins.
**Leaves** convolutions, Gemm with a residual, weights with other users, ranks that take more bytes than they spare.
**Numbers** approximates: what codes and product together leave of the layer's outputs, relative to these.
**Source** ``shared/factor/residual.py``, ``shared/quant/weight_forms.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.errors import PipelineError
from ...ir.graph import Model
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.factor.forms import emit_beside
from ..shared.factor.inputs import DAMPING
from ..shared.factor.observed import Observations, observe_inputs
from ..shared.factor.places import Place, places
from ..shared.factor.residual import Residual, with_residual
from ..shared.quant.weight_forms import FORMS, Emitter, Plan, Wishes, plan_for, stored_bytes
from ..shared.weight_uses import uses_of

Array = np.ndarray[Any, Any]


@dataclass
class FactorizeResidual(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    bits: int = 4
    """2, 4 or 8: of the codes."""
    ranks: tuple[int, ...] = (8, 32)
    """What is offered for each weight."""
    block: int = 32
    """Inputs that share a scale; forms with one scale for each output ignore it."""
    symmetric: bool = False
    """No zero points."""
    form: str = "auto"
    """As ``quantize-weights`` has them."""
    accuracy: int | None = None
    """``accuracy_level`` of MatMulNBits."""
    min_parameters: int = 1 << 14
    """Smaller weights stay."""
    damping: float = DAMPING
    """Of the mean variance of the inputs, added to each."""

    def run(self, model: Model, r: Rewriter) -> None:
        if self.bits not in (2, 4, 8) or self.form not in FORMS or any(rank < 1 for rank in self.ranks):
            raise PipelineError(
                f"bits={self.bits}, ranks={list(self.ranks)}, form={self.form} is not valid",
                where="factorize-residual",
                help=f"bits: 2, 4 or 8; ranks: 1 and above; form: one of {', '.join(FORMS)}",
            )
        found = [place for place in places(model, r, self.min_parameters) if _fits(place, r)]
        seen = observe_inputs(model, [p.first.node for p in found], r.ctx)
        for i, place in enumerate(found):
            if r.ctx.progress is not None:
                r.ctx.progress("codes and low rank", i, len(found))
            try:
                self._factorize(place, seen, r)
            except NoMatch as declined:
                r.ctx.note(f"%{place.weight.name} {declined.reason}")

    def _factorize(self, place: Place, seen: Observations, r: Rewriter) -> None:
        """Takes the first rank that is allowed, if any. Raises ``NoMatch`` before any change."""
        product, data = place.first, place.weight.data
        assert data is not None
        wishes = Wishes(self.form, self.block, self.symmetric, self.accuracy)
        opsets = product.node.graph.opsets if product.node.graph is not None else {}
        plan = plan_for(place.weight, uses_of(place.weight), self.bits, wishes, r.ctx.target, opsets.get("", 0))
        ranks = [rank for rank in sorted(self.ranks) if self._saved(place, plan, rank) > 0]
        if not ranks:
            raise NoMatch("stays whole: codes and product take more bytes than it")
        key = ("factorize-residual", data.digest(), product.transposed, self.damping, plan, seen.key([product.node]))
        for rank in ranks:
            made = r.ctx.memo.get(
                (*key, rank), lambda rank=rank: self._made(place, plan, rank, seen), lambda found: found.nbytes
            )
            if self._take(place, plan, rank, made, r):
                if r.allow(product.node):
                    _emit(place, plan, made, r)
                return

    def _made(self, place: Place, plan: Plan, rank: int, seen: Observations) -> Residual:
        inputs = seen.of([place.first.node])
        if inputs is not None and len(inputs.moments) != place.first.k:
            raise NoMatch(f"its inputs have {len(inputs.moments)} numbers, expected {place.first.k}")
        second = None if inputs is None else inputs.second(self.damping)
        return with_residual(place.first.matrix(), second, rank, plan.scheme)

    def _saved(self, place: Place, plan: Plan, rank: int) -> int:
        product, data = place.first, place.weight.data
        assert data is not None
        beside = rank * (product.k + product.n) * data.nbytes // data.count
        return data.nbytes - stored_bytes(plan, product.n, product.k) - beside

    def _take(self, place: Place, plan: Plan, rank: int, made: Residual, r: Rewriter) -> bool:
        label, saved = f"factorize-residual/r{rank}", self._saved(place, plan, rank)
        return r.take(label, place.subject, error=made.error, saved_bytes=saved, others=())


def _fits(place: Place, r: Rewriter) -> bool:
    product = place.first
    reason = ""
    if product.kind == "Conv":
        reason = "is a convolution's"
    elif len(place.products) > 1 or product.residual is not None:
        reason = "is read by several products, or beside a residual"
    if reason and r.ctx.trace:
        r.ctx.note(f"%{place.weight.name} {reason}: codes and a product are written for one MatMul or Gemm")
    return not reason


def _emit(place: Place, plan: Plan, made: Residual, r: Rewriter) -> None:
    product = place.first
    node = emit_beside(r, product, made.codes.real().T, made.a, made.b)
    weight = node.inputs[1]
    assert weight is not None
    Emitter(r, weight, node, plan, made.codes, None).store(uses_of(weight))


__all__ = ["FactorizeResidual"]
