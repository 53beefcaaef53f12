"""factorize-residual: ``W`` becomes codes of few bits and a product of low rank that makes up for their rounding.

    x W + b  ~  x Q + (x A) B + b

**Why**    between two widths: codes of 4 bits with a rank of 16 lose a fifth to a half less than codes alone, for a
           tenth to a third more bytes. ``A`` and ``B`` are of 8 bits; what they lose by that, codes and ``B`` make up.
**Needs**  constant matrices of MatMul and Gemm, at least ``min-parameters`` large, used once, in a form that
           ``quantize-weights`` has for the target. Samples, from which second moments of the inputs are taken; without
           them the weights alone count. Each rank is a unit of the error budget, the smallest first; the first that is
           taken wins.
**Leaves** convolutions, weights with other users, ranks that take more bytes than they spare.
**Numbers** approximates: what codes and product together leave of the layer's outputs, relative to these.
**Source** ``shared/factor/residual.py``, ``shared/quant/weight_forms.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from ..shared.quant.blocks import BlockScheme
from ..shared.quant.weight_forms import FORMS, Emitter, Plan, Wishes, plan_for, stored_bytes
from ..shared.weight_uses import uses_of

Array = np.ndarray[Any, Any]
_BLOCKS = (16, 32)


@dataclass(frozen=True)
class _Plans:
    """How all parts are stored; factors in floats where nothing is said."""

    whole: Plan
    a: Plan | None
    b: Plan | None

    @property
    def schemes(self) -> tuple[BlockScheme, BlockScheme] | None:
        return None if self.a is None or self.b is None else (self.a.scheme, self.b.scheme)


@dataclass
class FactorizeResidual(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    bits: int = 4
    """2, 4 or 8: of the codes."""
    ranks: tuple[int, ...] = (16, 32)
    """What is offered for each weight."""
    factor_bits: int = 8
    """4 or 8: of both factors; 0: they stay in floats."""
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
        wrong = self.bits not in (2, 4, 8) or self.factor_bits not in (0, 4, 8)
        if wrong or self.form not in FORMS or any(rank < 1 for rank in self.ranks):
            raise PipelineError(
                f"bits={self.bits}, factor-bits={self.factor_bits}, ranks={list(self.ranks)}, form={self.form} is not "
                "valid",
                where="factorize-residual",
                help=f"bits: 2, 4 or 8; factor-bits: 0, 4 or 8; ranks: 1 and above; form: one of {', '.join(FORMS)}",
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
        plan = self._plan(place, self.bits, r)
        narrow = self._plan(place, self.factor_bits, r) if self.factor_bits else None
        plans = {rank: _Plans(plan, narrow, _for_rows(narrow, rank)) for rank in sorted(self.ranks)}
        ranks = [rank for rank in plans if _saved(place, plans[rank], rank) > 0]
        if not ranks:
            raise NoMatch("stays whole: codes and product take more bytes than it")
        key = (
            "factorize-residual",
            data.digest(),
            product.transposed,
            self.damping,
            plan,
            narrow,
            seen.key([product.node]),
        )
        for rank in ranks:
            made = r.ctx.memo.get(
                (*key, rank), lambda rank=rank: self._made(place, plans[rank], rank, seen), lambda found: found.nbytes
            )
            label, saved = f"factorize-residual/r{rank}", _saved(place, plans[rank], rank)
            if r.take(label, place.subject, error=made.error, saved_bytes=saved, others=()):
                if r.allow(product.node):
                    _emit(place, plans[rank], made, r)
                return

    def _plan(self, place: Place, bits: int, r: Rewriter) -> Plan:
        """Raises ``NoMatch`` where no form can."""
        wishes, graph = Wishes(self.form, self.block, self.symmetric, self.accuracy), place.first.node.graph
        opset = 0 if graph is None else graph.opsets.get("", 0)
        return plan_for(place.weight, uses_of(place.weight), bits, wishes, r.ctx.target, opset)

    def _made(self, place: Place, plans: _Plans, rank: int, seen: Observations) -> Residual:
        inputs = seen.of([place.first.node])
        if inputs is not None and len(inputs.moments) != place.first.k:
            raise NoMatch(f"its inputs have {len(inputs.moments)} numbers, expected {place.first.k}")
        second = None if inputs is None else inputs.second(self.damping)
        return with_residual(place.first.matrix(), second, rank, plans.whole.scheme, factors=plans.schemes)


def _for_rows(plan: Plan | None, k: int) -> Plan | None:
    """For rows of ``k`` numbers: blocks are no longer than they must be, kernels pad the last one."""
    if plan is None or not plan.scheme.block:
        return plan
    block = next(b for b in (*_BLOCKS, plan.scheme.block) if b >= min(k, plan.scheme.block))
    return replace(plan, scheme=replace(plan.scheme, block=block))


def _saved(place: Place, plans: _Plans, rank: int) -> int:
    product, data = place.first, place.weight.data
    assert data is not None
    left = stored_bytes(plans.whole, product.n, product.k)
    if plans.a is None or plans.b is None:
        return data.nbytes - left - rank * (product.k + product.n) * data.nbytes // data.count
    return data.nbytes - left - stored_bytes(plans.a, rank, product.k) - stored_bytes(plans.b, product.n, rank)


def _fits(place: Place, r: Rewriter) -> bool:
    product = place.first
    reason = ""
    if product.kind == "Conv":
        reason = "is a convolution's"
    elif len(place.products) > 1:
        reason = "is read by several products"
    if reason and r.ctx.trace:
        r.ctx.note(f"%{place.weight.name} {reason}: codes and a product are written for one MatMul or Gemm")
    return not reason


def _emit(place: Place, plans: _Plans, made: Residual, r: Rewriter) -> None:
    nodes = emit_beside(r, place.first, made.codes.real().T, made.a, made.b)
    coded = [made.codes, *(made.coded or ())]
    for node, plan, codes in zip(nodes, (plans.whole, plans.a, plans.b), coded, strict=False):
        weight = node.inputs[1]
        assert weight is not None
        assert plan is not None
        Emitter(r, weight, node, plan, codes, None).store(uses_of(weight))


__all__ = ["FactorizeResidual"]
