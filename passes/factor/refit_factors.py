"""refit-factors: where the first of two factors is rounded to integers, the second makes up for it.

    minimize E|(x A + b) B - (x Q(A) + b) B'|^2,    c' = c + E[(x A + b) B - (x Q(A) + b) B']

``Q(A)`` is what the annotation of A makes of it. The same for the compact form, ``z = x[kept] + x[rest] t``. The
first factor becomes ``Q(A)`` in floats, the second keeps its annotation, scaled to its new range.

**Why**    errors of the first factor are spread by the second; what ``z`` can still tell of them costs nothing to undo.
**Needs**  annotated weights (``assign-quant``) of MatMul, Gemm or 1x1 Conv of which the second reads the first with
           nothing between them, and samples, from which second moments of ``x`` are taken. Run it in front of
           ``correct-bias`` and ``insert-qdq``.
**Leaves** weights with other users, rounding of activations, pairs where the least squares gain nothing.
**Numbers** approximates: less error in all than without it, as a part of what ``assign-quant`` decided.
**Source** Saha et al. 2023, "Matrix Compression via Randomized Low Rank and Low Precision Factorization" (LPLR: the
           second factor solved for the rounded first).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import scipy.linalg

from ...ir.graph import Model, Node, Value
from ...ir.types import Quant
from ..core import Context, Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.factor.inputs import DAMPING, Inputs
from ..shared.factor.observed import observe_inputs
from ..shared.factor.products import OPS, Product, product_of
from ..shared.quant.scheme import rounded

Array = np.ndarray[Any, Any]
linalg: Any = scipy.linalg  # whose stubs leave types unknown
_LEAST_GAIN = 0.01
"""Of the error: a smaller gain is not worth a change."""


@dataclass(frozen=True)
class _Pair:
    """``second`` reads the result of ``first``."""

    first: Product
    second: Product
    kept: tuple[Node, int, int] | None
    """For ``z = x[kept] + x[rest] t``: the Split of ``x``, where the kept ones begin, and where the others do."""

    def read(self, weight: Array) -> Array:
        """[K, r]: what ``z`` is of ``x``, for a first weight."""
        if self.kept is None:
            return weight
        _, kept, rest = self.kept
        r = weight.shape[1]
        made = np.zeros((r + len(weight), r))
        made[kept : kept + r] = np.eye(r)
        made[rest : rest + len(weight)] = weight
        return made


@dataclass
class RefitFactors(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    damping: float = DAMPING
    """Of the mean variance of the inputs, added to each."""

    def run(self, model: Model, r: Rewriter) -> None:
        pairs = list(_pairs(model, r))
        if not pairs:
            if r.ctx.trace:
                r.ctx.note("no two products with nothing between them have annotated weights; assign-quant makes them")
            return
        if r.ctx.observe is None:
            r.ctx.note("no factor is fitted again: second moments come from samples; give some with --samples")
            return
        inputs = _observed(model, pairs, r.ctx)
        for pair in pairs:
            try:
                self._refit(pair, inputs.get(pair.first.node), r)
            except NoMatch as declined:
                if r.ctx.trace:
                    r.ctx.note(f"{pair.second.node.op} {pair.second.node.output.name!r}: {declined.reason}")

    def _refit(self, pair: _Pair, inputs: Inputs | None, r: Rewriter) -> None:
        """Raises ``NoMatch`` before any change."""
        first, second = pair.first, pair.second
        if inputs is None:
            raise NoMatch("second moments of its input were not observed")
        if not second.takes_bias and first.bias is not None:
            raise NoMatch("the second product has no bias to take up what the first one's does")
        before, b = first.matrix(), second.matrix()
        after = _rounded(first)
        exact, found = pair.read(before), pair.read(after)
        if len(exact) != len(inputs.mean):
            raise NoMatch(f"its input has {len(inputs.mean)} numbers, expected {len(exact)}")
        covariance = inputs.covariance(self.damping) if second.takes_bias else inputs.second(self.damping)
        arrays = exact, found, covariance, b
        key = (
            "refitted",
            *(hashlib.blake2b(a.tobytes(), digest_size=16).digest() + str(a.shape).encode() for a in arrays),
        )
        fitted = r.ctx.memo.get(key, lambda: _fitted(*arrays), lambda made: made.nbytes)
        if not fitted.size:
            raise NoMatch("the second factor cannot make up for the rounding of the first")
        own = first.bias_vector()
        shift = (inputs.mean @ exact + own) @ b - (inputs.mean @ found + own) @ fitted
        quant = _fitting(second, fitted)
        if r.allow(second.node):
            _write(r, pair, (after, fitted), quant, shift if second.takes_bias else np.zeros(second.n))


def _pairs(model: Model, r: Rewriter) -> Iterator[_Pair]:
    for root in model.roots():
        for node in root.all_nodes():
            if node.op not in OPS or node.domain or _quant(node) is None:
                continue
            try:
                yield _pair(node)
            except NoMatch as declined:
                if r.ctx.trace:
                    r.ctx.note(f"{node.op} {node.output.name!r}: {declined.reason}")


def _quant(node: Node) -> Quant | None:
    weight = node.input(1)
    if weight is None or weight.data is None or weight.tensor is None:
        return None
    return weight.tensor.quant


def _pair(node: Node) -> _Pair:
    """The pair whose second product is ``node``. Raises ``NoMatch``."""
    second = product_of(node)
    maker, added = second.x.producer, None
    if maker is not None and maker.op == "Add" and not maker.domain:  # x[kept] + x[rest] t
        parts = [v for v in maker.inputs if v is not None]
        maker = next((v.producer for v in parts if v.producer is not None and v.producer.op in OPS), None)
        added = next((v for v in parts if v.producer is not maker), None)
        if added is None:
            raise NoMatch("its input is the sum of a product and itself")
    if maker is None or maker.op not in OPS or maker.domain or _quant(maker) is None:
        raise NoMatch("its input is not the result of a product with an annotated weight")
    first = product_of(maker)
    added = added or first.residual
    kept = None if added is None else _kept(first, added)
    if any(len(p.weight.uses) > 1 for p in (first, second)):
        raise NoMatch("one of the two weights has another user")
    if (first.kind == "Conv") != (second.kind == "Conv"):
        raise NoMatch("a convolution and a matrix product")
    if second.kind == "Conv" and any(_moves(p.node) for p in ((second, first) if kept else (second,))):
        raise NoMatch("the second convolution has strides or padding")
    return _Pair(first, second, kept)


def _kept(first: Product, added: Value) -> tuple[Node, int, int]:
    """Where the parts of ``x`` lie. Raises ``NoMatch`` where what is added is no part of the first one's input."""
    split = first.x.producer
    if split is None or split.op != "Split" or added.producer is not split or len(split.outputs) != 2:
        raise NoMatch("what is added to the first product is no part of its input")
    if added.index == first.x.index:
        raise NoMatch("what is added to the first product is its own input")
    return (split, 0, first.n) if added.index == 0 else (split, first.k, 0)


def _moves(node: Node) -> bool:
    attrs: Any = node.attrs
    plain = node.attr("auto_pad", "NOTSET") in ("NOTSET", "", "VALID")
    return not plain or any(s != 1 for s in attrs.get("strides", ())) or any(attrs.get("pads", ()))


def _observed(model: Model, pairs: list[_Pair], ctx: Context) -> dict[Node, Inputs]:
    """What is known of each pair's ``x``, by the first node."""
    seen = observe_inputs(model, [p.first.node for p in pairs], ctx, [p.first.node for p in pairs if p.kept])
    found = {p.first.node: seen.of([p.first.node]) for p in pairs}
    return {node: inputs for node, inputs in found.items() if inputs is not None}


def _rounded(product: Product) -> Array:
    """The weight [K, N] as its annotation stores it. Raises ``NoMatch`` where that changes nothing."""
    quant, data = _quant(product.node), product.weight.data
    assert quant is not None
    assert data is not None
    stored = rounded(data.numpy().astype(np.float32), quant).astype(np.float64)
    found = product.as_matrix(stored)
    if np.array_equal(found, product.matrix()):
        raise NoMatch("rounding does not change the first factor")
    return found


def _fitted(exact: Array, found: Array, covariance: Array, b: Array) -> Array:
    """The second weight that fits ``found`` best; empty where it is hardly better than ``b``."""
    gram = found.T @ covariance @ found
    gram[np.diag_indices(len(gram))] += 1e-10 * max(float(np.trace(gram)) / len(gram), 1e-300)
    fitted: Array = linalg.solve(gram, found.T @ covariance @ exact @ b, assume_a="pos")
    lost = [_mean_square(exact @ b - found @ weight, covariance) for weight in (b, fitted)]
    return fitted if lost[1] < lost[0] * (1 - _LEAST_GAIN) ** 2 else np.zeros((0, 0))


def _mean_square(w: Array, second: Array) -> float:
    return float((w * (second @ w)).sum())


def _write(r: Rewriter, pair: _Pair, matrices: tuple[Array, Array], quant: Quant, shift: Array) -> None:
    own = _quant(pair.first.node)
    for product, matrix, parameters in zip((pair.first, pair.second), matrices, (own, quant), strict=True):
        r.begin(product.node)
        made = r.const(product.stored(matrix), name=product.weight.name)
        r.annotate(made, parameters)
        r.set_input(product.node, 1, made)
    product = pair.second
    if not shift.any():
        return
    vector = product.constant_bias(r, (product.bias_vector() + shift) / product.beta)
    node = product.add or product.node
    if product.bias is None:
        r.set_inputs(node, [*node.inputs[:2], vector])
    else:
        r.set_input(node, next(i for i, v in enumerate(node.inputs) if v is product.bias), vector)


def _fitting(product: Product, matrix: Array) -> Quant:
    """The annotation with its scales for the ranges of the new weight. Raises ``NoMatch`` where some would be cut."""
    quant, data = _quant(product.node), product.weight.data
    assert quant is not None
    assert data is not None
    if quant.block:
        raise NoMatch("the second weight is stored by blocks")
    before, after = data.numpy(), product.stored(matrix).numpy()
    axes = None if quant.axis is None else tuple(i for i in range(before.ndim) if i != quant.axis)
    old, new = np.abs(before).max(axis=axes), np.abs(after).max(axis=axes)
    ratio = np.where((old > 0) & (new > 0), new / np.where(old > 0, old, 1.0), 1.0)
    scale = np.asarray(quant.scale, np.float32) * ratio.astype(np.float32).reshape(-1)
    found = replace(quant, scale=tuple(float(s) for s in scale))
    step = scale if quant.axis is None else scale.reshape([-1 if i == quant.axis else 1 for i in range(before.ndim)])
    if (np.abs(rounded(after, found) - after) > 0.51 * step).any():
        raise NoMatch("the new weight leaves the range of its zero points")
    return found
