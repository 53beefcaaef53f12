"""find-low-rank: weights whose rank is low up to the rounding of their type are written as what they are.

    x W = [z, z t],    z = x W[:, kept]

Some of the columns, as they are, and the others as combinations of them. Such weights come from adapters that were
merged into nothing, layers that were pruned or padded with zeros, factors that were multiplied out on export.

**Why**    fewer parameters and multiplications for the same numbers.
**Needs**  constant matrices of MatMul, Gemm and 1x1 Conv of which at least ``saving`` of the parameters go.
**Leaves** weights of which a column would change by more than 8 units of rounding, or that something else uses too;
           products that follow each other with nothing between them; a Gemm that adds a residual.
**Numbers** reassociates: every column is reproduced within 8 units of its type's rounding, relative to its length.
**Source** ``shared/factor/exact.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Model
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.factor.compact import Compact
from ..shared.factor.exact import UNITS, exact_compact
from ..shared.factor.forms import Store, emit_compact
from ..shared.factor.places import Place, places
from ..shared.factor.svd import compact_rank

_UNIT = {DType.F64: 2.0**-53, DType.F32: 2.0**-24, DType.F16: 2.0**-11, DType.BF16: 2.0**-8}
_GROWTH = 8.0
"""Rounding errors may grow so much: a few sums in another order do that too."""


@dataclass
class FindLowRank(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    saving: float = 0.25
    """Of the parameters: less is not worth the further nodes."""
    min_parameters: int = 1 << 10
    """Smaller weights stay."""

    def run(self, model: Model, r: Rewriter) -> None:
        for place in list(places(model, r, self.min_parameters, told=False)):
            try:
                self._factorize(place, r)
            except NoMatch as declined:
                if r.ctx.trace:
                    r.ctx.note(f"%{place.weight.name} stays whole: {declined.reason}")

    def _factorize(self, place: Place, r: Rewriter) -> None:
        """Raises ``NoMatch`` before any change."""
        if any(p.residual is not None for p in place.products):
            raise NoMatch("its product adds a residual, which the parts of its result cannot")
        data = place.weight.data
        assert data is not None
        largest = compact_rank(place.first.k, place.first.n, (1 - self.saving) * data.count)
        form = r.ctx.memo.get(
            ("find-low-rank", data.digest(), place.first.transposed, self.saving),
            lambda: self._form(place, largest),
            lambda found: 0 if found is None else found.a.nbytes + found.t.nbytes,
        )
        if form is None:
            raise NoMatch(f"its rank is above {largest}")
        store = Store()
        for product in place.products:
            if not r.allow(product.node):
                return
            emit_compact(r, product, form, np.zeros(product.n), store)

    def _form(self, place: Place, largest: int) -> Compact | None:
        """``None`` too where numbers rounded to the type do not reproduce the weight."""
        dtype = place.weight.dtype
        unit = _UNIT.get(dtype, 0.0) if dtype is not None else 0.0
        matrix = place.first.matrix()
        form = exact_compact(matrix, unit, largest, _GROWTH) if largest > 0 else None
        if form is None or dtype is None:
            return None
        rounded = form.a @ form.t.astype(dtype.numpy).astype(np.float64)
        missed = np.linalg.norm(rounded - matrix[:, form.rest], axis=0)
        fits = (missed <= UNITS * unit * np.linalg.norm(matrix[:, form.rest], axis=0)).all()
        return form if fits else None
