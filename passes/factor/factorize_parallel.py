"""factorize-parallel: products of one value share the first factor: queries, keys and values, gate and up.

    x W1, x W2, x W3  ~  z B1, z B2, z B3    with z = x A

The concatenated matrix is truncated as ``factorize-matmul`` truncates one, its outputs weighted so that all products
count alike; in the compact form some of all outputs span the others.

**Why**    outputs of one input are correlated: at large cuts a tenth less error for as many parameters (MiniLM, 60 % of
           the parameters gone: .27 instead of .31), one read of the input.
**Needs**  two or more constant matrices of the same height in nodes of the same form, each used once; samples as
           ``factorize-matmul``. Each rank in each form is a unit, named after the first product.
**Leaves** residuals, weights with other users, what ``factorize-matmul`` leaves. Small cuts are better served by that
           pass, since ranks differ from product to product there: so this one is in no default pipeline.
**Numbers** approximates: as ``factorize-matmul``, over all outputs together.
**Source** ``shared/factor/svd.py``; Wang et al. 2025, "Basis Sharing: Cross-Layer Parameter Sharing for Large Language
           Model Compression" (shared bases; there over layers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from ...ir.cost import flops
from ...ir.graph import Model
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.factor.compact import allowed_growth, compact
from ..shared.factor.forms import emit_parallel_compact, emit_parallel_pairs
from ..shared.factor.inputs import Inputs
from ..shared.factor.observed import Observations, observe_inputs
from ..shared.factor.options import COMPACT, MatrixOptions, Option, options_for
from ..shared.factor.outputs import OutputMetric, OutputMetrics, observe_outputs
from ..shared.factor.places import places
from ..shared.factor.products import Product
from ..shared.factor.svd import Decomposition, decompose, mean_shift

Array = np.ndarray[Any, Any]
linalg: Any = scipy.linalg  # whose stubs leave types unknown


@dataclass
class FactorizeParallel(MatrixOptions):
    """See the module."""

    def run(self, model: Model, r: Rewriter) -> None:
        self.require_options()
        groups = _groups(model, r, self.min_parameters)
        if not groups:
            r.ctx.note("no value is read by several products that could share a factor")
            return
        nodes = [p.node for group in groups for p in group]
        seen = observe_inputs(model, nodes, r.ctx)
        metrics = observe_outputs(model, nodes, r.ctx) if self.by_model else OutputMetrics()
        for i, group in enumerate(groups):
            if r.ctx.progress is not None:
                r.ctx.progress("factorizing parallel products", i, len(groups))
            try:
                self._factorize(group, seen, metrics, r)
            except NoMatch as declined:
                r.ctx.note(f"%{group[0].weight.name} and its neighbours {declined.reason}")

    def _factorize(self, group: list[Product], seen: Observations, metrics: OutputMetrics, r: Rewriter) -> None:
        """Takes the first option that is allowed, if any; who allows says why not. Raises ``NoMatch`` before."""
        inputs = seen.of([group[0].node])
        if inputs is not None and len(inputs.moments) != group[0].k:
            raise NoMatch(f"have inputs of {len(inputs.moments)} numbers, expected {group[0].k}")
        nodes, k, n = [p.node for p in group], group[0].k, sum(p.n for p in group)
        digests = tuple(p.weight.data.digest() for p in group if p.weight.data is not None)
        key = (digests, group[0].kind, group[0].transposed, self.damping, seen.key(nodes), metrics.key(nodes))
        found, errors = r.ctx.memo.get(
            ("factorize-parallel", *key),
            lambda: self._decomposed(group, inputs, metrics),
            lambda pair: pair[0].nbytes,
        )
        options = options_for(k, n, errors, self.forms, self.kept, self.ranks)
        if not options:
            raise NoMatch("stay whole: no rank has fewer parameters")
        for option in options:
            if self._take(group, option, k * n, r):
                if all(r.allow(node) for node in nodes):
                    self._emit(group, option, found, inputs, r)
                return

    def _decomposed(
        self, group: list[Product], inputs: Inputs | None, metrics: OutputMetrics
    ) -> tuple[Decomposition, Array]:
        """All ranks, and their errors."""
        matrix, second = (
            np.concatenate([p.matrix() for p in group], axis=1),
            self.second(inputs, keeps_mean=all(p.takes_bias for p in group)),
        )
        metric = _joined([metrics.of([p.node]) for p in group])
        if metric is not None:
            found = decompose(matrix, second, metric.weights)
            return found, metric.errors(found)
        found = decompose(matrix, second, np.concatenate([_importance(p, second) for p in group]))
        return found, found.errors

    def _take(self, group: list[Product], option: Option, count: int, r: Rewriter) -> bool:
        saved, weight = count - option.parameters, group[0].weight.data
        assert weight is not None
        work = sum(f for p in group if isinstance(f := flops(p.node), int))
        return r.take(
            f"factorize-parallel/{option.label}",
            group[0].node if group[0].node.name else group[0].weight,
            error=option.error,
            saved_bytes=weight.nbytes * saved // weight.count,
            saved_flops=max(work * saved // count, 1),  # unknown, not none
        )

    def _emit(
        self, group: list[Product], option: Option, found: Decomposition, inputs: Inputs | None, r: Rewriter
    ) -> None:
        factors = found.factors(option.rank)
        matrix = np.concatenate([p.matrix() for p in group], axis=1)
        shift = np.zeros(matrix.shape[1])
        if inputs is not None and all(p.takes_bias for p in group):
            shift = mean_shift(matrix, factors, inputs.mean)
        group[0].require_range(*factors, shift)
        if option.form != COMPACT:
            emit_parallel_pairs(r, group, *factors, shift)
            return
        second = None if inputs is None else inputs.second(self.damping)
        form = compact(*factors, "output", second, allowed_growth(group[0].weight.dtype))
        group[0].require_range(form.a, form.t)
        emit_parallel_compact(r, group, form, shift)


def _groups(model: Model, r: Rewriter, min_parameters: int) -> list[list[Product]]:
    """Two or more products of one value in one graph that can share a factor, in order."""
    found: dict[tuple[object, ...], list[Product]] = {}
    for place in places(model, r, min_parameters, told=False):
        product = place.first
        if len(place.products) > 1 or product.residual is not None:
            continue
        attrs = tuple(sorted((k, str(v)) for k, v in product.node.attrs.items())) if product.kind == "Conv" else ()
        key = (product.x, product.node.graph, product.kind, product.weight.dtype, product.k, attrs)
        found.setdefault(key, []).append(product)
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
