"""factorize-parallel: products of one value share the first factor: queries, keys and values, gate and up.

    x W1, x W2, x W3  ~  z B1, z B2, z B3    with z = x A

The concatenated matrix is truncated as ``factorize-matmul`` truncates one, its outputs weighted so that all products
count alike; in the compact form some of all outputs span the others.

**Why**    outputs of one input are correlated: at large cuts a tenth less error for as many parameters (MiniLM, 60 % of
           the parameters gone: .27 instead of .31), one read of the input.
**Needs**  two or more constant matrices of the same height in nodes of the same form, each used once; samples as
           ``factorize-matmul``. Each rank in each form is a unit, named after the first product.
**Leaves** residuals, weights with other users, what ``factorize-matmul`` leaves. Small cuts are better served by that
           pass, since ranks differ from product to product there: selections choose between both.
**Numbers** approximates: as ``factorize-matmul``, over all outputs together.
**Source** ``shared/factor/svd.py``; Wang et al. 2025, "Basis Sharing: Cross-Layer Parameter Sharing for Large Language
           Model Compression" (shared bases; there over layers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

from ...ir.cost import flops
from ...ir.graph import Model
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.factor.compact import Compact, allowed_growth, compact
from ..shared.factor.forms import emit_parallel_compact, emit_parallel_pairs
from ..shared.factor.inputs import Inputs
from ..shared.factor.observed import Observations, observe_inputs
from ..shared.factor.options import COMPACT, MatrixOptions, Option, options_for
from ..shared.factor.outputs import OutputMetric, OutputMetrics, observe_outputs
from ..shared.factor.places import Place, places
from ..shared.factor.products import Product
from ..shared.factor.refit import fitted
from ..shared.factor.svd import Decomposition, decompose, mean_shift

Array = np.ndarray[Any, Any]
linalg: Any = scipy.linalg  # whose stubs leave types unknown


@dataclass(frozen=True)
class _Factors:
    """What is written for a group."""

    shift: Array
    """What biases make up for."""
    pair: tuple[Array, Array] | None
    form: Compact | None
    """Where there is no pair."""


@dataclass
class FactorizeParallel(MatrixOptions):
    """See the module."""

    def run(self, model: Model, r: Rewriter) -> None:
        self.require_options()
        groups = _groups(model, r, self.min_parameters)
        if not groups and r.ctx.trace:
            r.ctx.note("no value is read by several products that could share a factor")
        if not groups or r.ctx.choices.idle:
            return
        nodes = [place.first.node for group in groups for place in group]
        seen = observe_inputs(model, nodes, r.ctx)
        metrics = observe_outputs(model, nodes, r.ctx) if self.by_model else OutputMetrics()
        for i, group in enumerate(groups):
            if r.ctx.progress is not None:
                r.ctx.progress("factorizing parallel products", i, len(groups))
            try:
                self._factorize(model, group, seen, metrics, r)
            except NoMatch as declined:
                r.ctx.note(f"%{group[0].weight.name} and its neighbours {declined.reason}")

    def _factorize(
        self, model: Model, group: list[Place], seen: Observations, metrics: OutputMetrics, r: Rewriter
    ) -> None:
        """Takes the first option that is allowed, if any; who allows says why not. Raises ``NoMatch`` before."""
        products = [place.first for place in group]
        first, nodes = products[0], [p.node for p in products]
        inputs = seen.of(nodes[:1])
        if inputs is not None and len(inputs.moments) != first.k:
            raise NoMatch(f"have inputs of {len(inputs.moments)} numbers, expected {first.k}")
        digests = tuple(p.weight.data.digest() for p in products if p.weight.data is not None)
        key = (digests, first.kind, first.transposed, self.damping, seen.key(nodes), metrics.key(nodes))
        metric = _joined([metrics.of([node]) for node in nodes])
        found, errors = r.ctx.memo.get(
            ("factorize-parallel", *key),
            lambda: self._decomposed(products, inputs, metric),
            lambda pair: pair[0].nbytes,
        )
        options = options_for(first.k, sum(p.n for p in products), errors, self.forms, self.kept, self.ranks)
        if not options:
            raise NoMatch("stay whole: no rank has fewer parameters")
        option = next((option for option in options if self._take(group, option, r)), None)
        if option is None or not all(r.allow(node) for node in nodes):
            return
        if r.ctx.before is not None and r.ctx.before.observe is not None:
            try:
                self._refit(model, products, option, metric, r)
                return
            except NoMatch as declined:
                r.ctx.note(f"%{first.weight.name} and its neighbours are not fitted again: {declined.reason}")
        _emit(products, self._made(products, option, found, _matrix(products), inputs), r)

    def _decomposed(
        self, products: list[Product], inputs: Inputs | None, metric: OutputMetric | None
    ) -> tuple[Decomposition, Array]:
        """All ranks, and their errors."""
        second = self.second(inputs, keeps_mean=_takes_bias(products))
        if metric is not None:
            found = decompose(_matrix(products), second, metric.weights)
            return found, metric.errors(found)
        found = decompose(_matrix(products), second, np.concatenate([_importance(p, second) for p in products]))
        return found, found.errors

    def _refit(
        self, model: Model, products: list[Product], option: Option, metric: OutputMetric | None, r: Rewriter
    ) -> None:
        """For what layers in front give by now. Raises ``NoMatch`` before any change."""
        fit = fitted(model, [products[0].node], _matrix(products)[None], r.ctx, keeps_mean=_takes_bias(products))
        matrix = fit.matrix[0]
        second = self.second(fit.inputs, keeps_mean=_takes_bias(products))
        weights = np.concatenate([_importance(p, second) for p in products]) if metric is None else metric.weights
        made = self._made(products, option, decompose(matrix, second, weights), matrix, fit.inputs)
        made = replace(made, shift=made.shift + fit.shift)
        products[0].require_range(made.shift)
        _emit(products, made, r)

    def _take(self, group: list[Place], option: Option, r: Rewriter) -> bool:
        weight, count = group[0].weight.data, sum(place.first.k * place.first.n for place in group)
        assert weight is not None
        saved = count - option.parameters
        work = sum(f for place in group if isinstance(f := flops(place.first.node), int))
        return r.take(
            f"factorize-parallel/{option.label}",
            group[0].subject,
            error=option.error,
            saved_bytes=weight.nbytes * saved // weight.count,
            saved_flops=max(work * saved // count, 1),  # unknown, not none
            others=[place.subject for place in group[1:]],
        )

    def _made(
        self, products: list[Product], option: Option, found: Decomposition, matrix: Array, inputs: Inputs | None
    ) -> _Factors:
        """Of ``matrix``, which ``found`` decomposes. Raises ``NoMatch`` where they leave the range of the type."""
        pair, first = found.factors(option.rank), products[0]
        shift = np.zeros(matrix.shape[1])
        if inputs is not None and _takes_bias(products):
            shift = mean_shift(matrix, pair, inputs.mean)
        first.require_range(shift)
        if option.form != COMPACT:
            first.require_range(*pair)
            return _Factors(shift, pair, None)
        second = None if inputs is None else inputs.second(self.damping)
        form = compact(*pair, "output", second, allowed_growth(first.weight.dtype))
        first.require_range(form.a, form.t)
        return _Factors(shift, None, form)


def _emit(products: list[Product], made: _Factors, r: Rewriter) -> None:
    if made.pair is not None:
        emit_parallel_pairs(r, products, *made.pair, made.shift)
    if made.form is not None:
        emit_parallel_compact(r, products, made.form, made.shift)


def _matrix(products: list[Product]) -> Array:
    """[K, N]: of all products side by side."""
    return np.concatenate([p.matrix() for p in products], axis=1)


def _takes_bias(products: list[Product]) -> bool:
    return all(p.takes_bias for p in products)


def _groups(model: Model, r: Rewriter, min_parameters: int) -> list[list[Place]]:
    """Two or more products of one value in one graph that can share a factor, in order."""
    found: dict[tuple[object, ...], list[Place]] = {}
    for place in places(model, r, min_parameters, told=False):
        product = place.first
        if len(place.products) > 1 or product.residual is not None:
            continue
        attrs = tuple(sorted((k, str(v)) for k, v in product.node.attrs.items())) if product.kind == "Conv" else ()
        key = (product.x, product.node.graph, product.kind, product.weight.dtype, product.k, attrs)
        found.setdefault(key, []).append(place)
    return [group for group in found.values() if len(group) > 1]


def _joined(metrics: Sequence[OutputMetric | None]) -> OutputMetric | None:
    """Of all outputs one after another; ``None`` where one is not known."""
    known = [m for m in metrics if m is not None]
    if len(known) != len(metrics):
        return None
    return OutputMetric(linalg.block_diag(*(m.observed * m.rows for m in known)), 1.0, min(m.seen for m in known))


def _importance(product: Product, second: Array | None) -> Array:
    """[N]: weights under which the outputs of each product have a mean square of 1."""
    w = product.matrix()
    total = float((w * (w if second is None else second @ w)).sum())
    return np.full(product.n, 1.0 / total if total > 0 else 1.0)
