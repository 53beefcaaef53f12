"""factorize-matmul: ``W`` becomes a product of two matrices of low rank, chosen by what outputs lose on samples.

    x W + b  ~  (x A) B + b',    b' = b + E[x] (W - A B)

or, with r (K + N - r) instead of r (K + N) numbers for the same product, ``z = x a``, ``[z, z t]``: some of the
outputs span all others (``shared/factor/compact.py``). Where a Gemm adds a residual, or the inputs are fewer than the
outputs, some of the inputs take up the others instead: ``z = x1 + x2 t``, ``z a``.

**Why**    fewer parameters and multiplications, for weights whose outputs are correlated.
**Needs**  constant matrices of MatMul, Gemm and 1x1 Conv, at least ``min-parameters`` large. Samples, from which second
           moments and means of the inputs are taken, and by gradients what errors behind the layer do to the model's
           outputs; without them the truncation is by the weights alone. Each rank in each form is a unit of the error
           budget, the smallest first; the first that is taken wins.
**Leaves** weights that something else uses too, stacks of matrices, weights on the left, grouped convolutions, products
           that follow each other with nothing between them (a factorization already: ``merge-factors``).
**Numbers** approximates: the root of the sum of the left-out eigenvalues of the outputs' covariance in the metric of
           the model's outputs, relative to these; relative to the layer's outputs where no gradient is known.
**Source** ``shared/factor/svd.py``, ``shared/factor/outputs.py``, ``shared/factor/compact.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from ...ir.cost import flops
from ...ir.graph import Model
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.factor.compact import Compact, allowed_growth, compact
from ..shared.factor.forms import Store, emit_compact, emit_pair, side_of
from ..shared.factor.inputs import Inputs
from ..shared.factor.observed import Observations, observe_inputs
from ..shared.factor.options import COMPACT, MatrixOptions, Option, options_for
from ..shared.factor.outputs import OutputMetric, OutputMetrics, observe_outputs
from ..shared.factor.places import Place, places
from ..shared.factor.products import Product
from ..shared.factor.refit import fitted
from ..shared.factor.svd import Decomposition, decompose, mean_shift

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Factors:
    """What is written for one weight."""

    shift: Array
    """What the bias makes up for."""
    pair: tuple[Array, Array] | None
    forms: dict[str, Compact]
    """The compact form by its side, where there is no pair."""

    @property
    def nbytes(self) -> int:
        pair = sum(a.nbytes for a in self.pair or ())
        return self.shift.nbytes + pair + sum(f.a.nbytes + f.t.nbytes for f in self.forms.values())


@dataclass
class FactorizeMatmul(MatrixOptions):
    """See the module."""

    growth: float = 0.0
    """Rounding errors may grow so much in compact forms before channels are permuted to avoid it; 0: as the type
    allows. Ask for 4 where factors are to become integers."""

    def run(self, model: Model, r: Rewriter) -> None:
        self.require_options()
        found = list(places(model, r, self.min_parameters))
        if r.ctx.choices.idle:
            return
        nodes = [node for place in found for node in place.nodes]
        seen = observe_inputs(model, nodes, r.ctx)
        metrics = observe_outputs(model, nodes, r.ctx) if self.by_model else OutputMetrics()
        for i, place in enumerate(found):
            if r.ctx.progress is not None:
                r.ctx.progress("factorizing weights", i, len(found))
            try:
                self._factorize(model, place, seen, metrics, r)
            except NoMatch as declined:
                r.ctx.note(f"%{place.weight.name} {declined.reason}")

    def _factorize(self, model: Model, place: Place, seen: Observations, metrics: OutputMetrics, r: Rewriter) -> None:
        """Takes the first option that is allowed, if any is: who allows says why not.

        Raises ``NoMatch`` before any change.
        """
        data = place.weight.data
        assert data is not None
        inputs = cache(lambda: _inputs(place, seen))  # a later run of the pipeline has no need of it
        layer = (data.digest(), place.first.kind, place.first.transposed, place.takes_bias, self.damping)
        key = ("factorize-matmul", *layer, seen.key(place.nodes), metrics.key(place.nodes))
        found, errors = r.ctx.memo.get(
            key,
            lambda: self._decomposed(place, inputs(), metrics.of(place.nodes)),
            lambda pair: pair[0].nbytes,
        )
        options = options_for(place.first.k, place.first.n, errors, self.forms, self.kept, self.ranks)
        if not options:
            raise NoMatch("stays whole: no rank has fewer parameters")
        option = next((option for option in options if self._take(place, option, r)), None)
        if option is None:
            return
        if r.ctx.before is not None and r.ctx.before.observe is not None:
            try:
                _emit(place, self._refitted(model, place, option, metrics.of(place.nodes), r), r)
                return
            except NoMatch as declined:
                r.ctx.note(f"%{place.weight.name} is not fitted again: {declined.reason}")
        factors = r.ctx.memo.get(
            (*key, option.label, self.growth, *_sides(place.products)),
            lambda: self._factors(place, option, found, place.first.matrix(), inputs()),
            lambda made: made.nbytes,
        )
        _emit(place, factors, r)

    def _refitted(
        self, model: Model, place: Place, option: Option, metric: OutputMetric | None, r: Rewriter
    ) -> _Factors:
        """For what layers in front give by now. Raises ``NoMatch``."""
        weight, weights = place.first.matrix(), None if metric is None else metric.weights
        fit = fitted(model, place.nodes, weight[None], r.ctx, keeps_mean=place.takes_bias)
        found = decompose(fit.matrix[0], self.second(fit.inputs, keeps_mean=place.takes_bias), weights)
        made = self._factors(place, option, found, fit.matrix[0], fit.inputs)
        made = replace(made, shift=made.shift + fit.shift)
        place.first.require_range(made.shift)
        return made

    def _decomposed(
        self, place: Place, inputs: Inputs | None, metric: OutputMetric | None
    ) -> tuple[Decomposition, Array]:
        """All ranks, and the error of each."""
        weights = None if metric is None else metric.weights
        found = decompose(place.first.matrix(), self.second(inputs, keeps_mean=place.takes_bias), weights)
        return found, found.errors if metric is None else metric.errors(found)

    def _take(self, place: Place, option: Option, r: Rewriter) -> bool:
        data = place.weight.data
        assert data is not None
        saved = data.count - option.parameters
        work = sum(f for p in place.products if isinstance(f := flops(p.node), int))
        return r.take(
            f"factorize-matmul/{option.label}",
            place.subject,
            error=option.error,
            saved_bytes=data.nbytes * saved // data.count,
            saved_flops=max(work * saved // data.count, 1),  # unknown, not none
        )

    def _factors(
        self, place: Place, option: Option, found: Decomposition, matrix: Array, inputs: Inputs | None
    ) -> _Factors:
        """Of ``matrix``, which ``found`` decomposes. Raises ``NoMatch`` where they leave the range of the type."""
        pair = found.factors(option.rank)
        shift = np.zeros(place.first.n)
        if inputs is not None and place.takes_bias:
            shift = mean_shift(matrix, pair, inputs.mean)
        place.first.require_range(shift)
        if option.form != COMPACT:
            place.first.require_range(*pair)
            return _Factors(shift, pair, {})
        forms = {side: self._compact(place, pair, side, inputs) for side in _sides(place.products)}
        for form in forms.values():
            place.first.require_range(form.a, form.t)
        return _Factors(shift, None, forms)

    def _compact(self, place: Place, factors: tuple[Array, Array], side: str, inputs: Inputs | None) -> Compact:
        second = None if inputs is None else inputs.second(self.damping)
        return compact(*factors, side, second, self.growth or allowed_growth(place.weight.dtype))


def _inputs(place: Place, seen: Observations) -> Inputs | None:
    """What is known of all rows that the products read. Raises ``NoMatch``."""
    inputs = seen.of(place.nodes)
    if inputs is not None and len(inputs.moments) != place.first.k:
        raise NoMatch(f"its inputs have {len(inputs.moments)} numbers, expected {place.first.k}")
    return inputs


def _sides(products: Sequence[Product]) -> list[str]:
    return list(dict.fromkeys(side_of(p) for p in products))


def _emit(place: Place, factors: _Factors, r: Rewriter) -> None:
    stores: dict[str, Store] = {}
    for product in place.products:
        if not r.allow(product.node):
            return
        if factors.pair is not None:
            emit_pair(r, product, *factors.pair, factors.shift, stores.setdefault("", Store()))
        else:
            side = side_of(product)
            emit_compact(r, product, factors.forms[side], factors.shift, stores.setdefault(side, Store()))
