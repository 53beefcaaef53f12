"""smooth-activations: channels of an activation that reach far hand some of it to the weights that read them.

    Norm(x; g, b) W = Norm(x; g / s, b / s) (s W)        s[j] = reach(x[j])^alpha / reach(W[j])^(1 - alpha)

``alpha`` is searched for each activation: the one with the least predicted error of the quantized products wins, none
where that gains less than a tenth. ``s`` is rounded to powers of two, so that nothing changes but exponents.

**Why**    a few channels of transformers are a hundred times larger than the others, and with one scale for all of them
           the others have a few steps left.
**Needs**  samples; a LayerNormalization, RMSNormalization or SimplifiedLayerNormalization with constant scale of which
           nothing but products with constant weights (behind views of its rows, too) reads the result.
**Leaves** norms whose result is also a residual; activations whose channels reach equally far.
**Numbers** reassociates: powers of two change no bit unless numbers leave the normal range.
**Source** Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.graph import Graph, Model, Node, Value
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.affine import Affine
from ..shared.linear import Linear, absorb_before, input_axis, linear_of, require_cheap_copy
from ..shared.quant.equalize import input_reach, is_matrix, powers_of_two
from ..shared.quant.statistics import Channels, Kind, Want, value_names

Array = np.ndarray[Any, Any]

_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
_ALPHAS = np.linspace(0.1, 1.0, 10)
_LEVELS = 255.0
_LEAST_GAIN = 0.9
"""The predicted error must fall below this share of what it was."""


@dataclass(frozen=True)
class _Site:
    """A norm and the products that alone read its result."""

    norm: Node
    readers: tuple[Linear, ...]


@dataclass
class SmoothActivations(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def run(self, model: Model, r: Rewriter) -> None:
        found = [site for graph in model.all_graphs() for site in _sites(graph, r)]
        if not found:
            return
        if r.ctx.observe is None:
            r.ctx.note("no activation is smoothed: reaches of channels come from samples; give some with --samples")
            return
        names = value_names(model)
        seen = r.ctx.observe(model, [Want(names[s.norm.output], Kind.CHANNELS, -1) for s in found])
        for site in found:
            observed = seen.get(names[site.norm.output])
            if observed is None or observed.channels is None or observed.nan or observed.infinite:
                r.ctx.note(f"%{site.norm.output.name} was not observed, or holds numbers that are not finite")
                continue
            scales = _best_scales(site, observed.channels)
            if scales is None:
                if r.ctx.trace:
                    r.ctx.note(f"%{site.norm.output.name}: no scales make the predicted error a tenth smaller")
            elif r.allow(site.norm):
                _apply(site, scales, r)


def _sites(graph: Graph, r: Rewriter) -> list[_Site]:
    found: list[_Site] = []
    for node in graph:
        if node.op in _NORMS:
            try:
                found.append(_site(node))
            except NoMatch as declined:
                if r.ctx.trace:
                    r.ctx.note(f"{node.op} {node.name or node.output.name!r}: {declined.reason}")
    return found


def _site(norm: Node) -> _Site:
    """Raises ``NoMatch`` where something else reads the result, or a scale is not constant."""
    if any(v is None or v.data is None or v.rank != 1 for v in norm.inputs[1:]) or len(norm.inputs) < 2:
        raise NoMatch("its scale or bias is not a constant vector")
    if any(out.uses for out in norm.outputs[1:]):
        raise NoMatch("its mean or deviation is used")
    readers: list[Linear] = []
    waiting = [norm.output]
    while waiting:
        value = waiting.pop()
        for user, index in value.uses:
            if user.op == "Reshape" and index == 0 and not user.domain and _keeps_rows(user, value):
                waiting.append(user.output)
                continue
            readers.append(_reader(user, value))
    if not readers:
        raise NoMatch("nothing reads it")
    return _Site(norm, tuple(readers))


def _keeps_rows(node: Node, x: Value) -> bool:
    before, after = x.shape, node.output.shape
    return bool(before) and bool(after) and isinstance(before[-1], int) and before[-1] == after[-1]


def _reader(user: Node, value: Value) -> Linear:
    if user.op not in ("MatMul", "Gemm") or user.domain:
        raise NoMatch(f"{user.op} reads %{value.name}, too: the scales would have to be undone for it")
    linear = linear_of(user)
    if linear.side != 1 or user.inputs[0] is not value or not is_matrix(linear) or input_axis(linear) != -1:
        raise NoMatch(f"%{value.name} is not the left operand of a product with a constant matrix")
    require_cheap_copy(linear.weight, 0)
    return linear


def _best_scales(site: _Site, seen: Channels) -> Array | None:
    """Powers of two for the channels; ``None`` where none gains enough."""
    weights = [_rows(linear) for linear in site.readers]
    reach = np.maximum.reduce([input_reach(linear) for linear in site.readers]).astype(np.float64)
    used = (seen.absmax > 0) & (reach > 0)
    plain = _predicted(weights, seen, np.ones(reach.shape))
    best, found = _LEAST_GAIN * plain, None
    for alpha in _ALPHAS:
        raw = np.where(used, np.maximum(seen.absmax, 1e-30) ** alpha / np.maximum(reach, 1e-30) ** (1 - alpha), 1.0)
        scales = powers_of_two(np.where(used, raw / np.exp(np.log(raw[used]).mean()) if used.any() else raw, 1.0))
        error = _predicted(weights, seen, scales)
        if error < best:
            best, found = error, scales
    return found


def _rows(linear: Linear) -> Array:
    """[K, N]."""
    weight = linear.weight.numpy().astype(np.float64)
    return weight.T if linear.node.op == "Gemm" and linear.node.attr("transB") else weight


def _predicted(weights: list[Array], seen: Channels, scales: Array) -> float:
    """Mean squared error of the products: rounding ``x / s`` by one range, and each column of ``s W`` by its own.

    Rounding moves a number by a twelfth of its step squared in the mean square.
    """
    low, high = np.minimum(seen.low / scales, 0).min(), np.maximum(seen.high / scales, 0).max()
    step = (high - low) / _LEVELS
    error = 0.0
    for weight in weights:
        scaled = weight * scales[:, None]
        steps = np.abs(scaled).max(axis=0) * 2 / _LEVELS
        error += float(np.square(step) * np.square(scaled).sum())
        error += float(np.square(steps).sum() * (seen.square / np.square(scales)).sum())
    return error / 12


def _apply(site: _Site, scales: Array, r: Rewriter) -> None:
    for i, value in enumerate(site.norm.inputs):
        if i and value is not None:
            r.begin(site.norm)
            r.set_input(site.norm, i, r.const((value.numpy() / scales).astype(value.numpy().dtype), name=value.name))
    for linear in site.readers:
        r.begin(linear.node)
        r.replace(linear.node, absorb_before(r, linear, linear.x, Affine(scales, np.zeros(())), 0))
