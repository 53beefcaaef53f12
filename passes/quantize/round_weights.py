"""round-weights: chooses for each number of an annotated weight whether it is rounded up or down, by what outputs lose.

    minimize (w - q) E[x x^T] (w - q)^T    over q on the grid of the weight's scales

Nearest rounding is best only where inputs are uncorrelated. The weight becomes its rounded numbers in floats, which
``insert-qdq`` then stores as they are.

**Why**    a third to nine tenths of the error that rounding weights causes goes, at no cost when the model runs.
**Needs**  annotated weights (``assign-quant``) of MatMul, Gemm and Conv with one scale in all or for each output, and
           samples, from which the second moments of the inputs, for convolutions of patches, are taken.
**Leaves** convolutions in groups, or with patches of more than 2,048 numbers; weights whose scales run along the inner
           dimension; rows that would not become better.
**Numbers** approximates: less error in all than without it, as a part of what ``assign-quant`` decided.
**Source** Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers";
           ``shared/quant/gptq.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.graph import Model, Node, Value
from ...ir.types import Quant
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.attributes import require_own_attributes
from ..shared.factor.inputs import Inputs
from ..shared.factor.observed import observe_inputs
from ..shared.quant.blocks import Blocked, BlockScheme, picked
from ..shared.quant.gptq import descend, gptq, output_error, regularized
from ..shared.quant.scheme import Scheme, stored

Array = np.ndarray[Any, Any]
_PRODUCTS = ("MatMul", "Gemm", "Conv")
_SWEEPS = 2
"""Over all numbers of a row, after the first rounding."""


@dataclass
class RoundWeights(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    def run(self, model: Model, r: Rewriter) -> None:
        nodes = [n for root in model.roots() for n in root.all_nodes() if n.op in _PRODUCTS and not n.domain]
        nodes = [n for n in nodes if _quant(n.inputs[1]) is not None]
        if not nodes:
            if r.ctx.trace:
                r.ctx.note("no product has an annotated weight; assign-quant makes them")
            return
        if r.ctx.observe is None:
            r.ctx.note("weights are rounded to nearest: second moments come from samples; give some with --samples")
            return
        seen = observe_inputs(model, nodes, r.ctx)
        for i, node in enumerate(nodes):
            if r.ctx.progress is not None:
                r.ctx.progress("round-weights", i, len(nodes))
            try:
                _round(node, seen.of([node]), r)
            except NoMatch as declined:
                if r.ctx.trace:
                    r.ctx.note(f"{node.op} {node.name or node.output.name!r}: {declined.reason}")


def _quant(value: Value | None) -> Quant | None:
    known = value is not None and value.data is not None and value.tensor is not None
    return value.tensor.quant if known and value is not None and value.tensor is not None else None


def _round(node: Node, inputs: Inputs | None, r: Rewriter) -> None:
    """Raises ``NoMatch`` before any change."""
    require_own_attributes(node)
    weight = node.inputs[1]
    quant = _quant(weight)
    assert weight is not None
    assert quant is not None
    turned = node.op == "Conv" or (node.op == "Gemm" and bool(node.attr("transB")))
    if node.op == "Conv" and node.attr("group", 1) != 1:
        raise NoMatch("the channels of a group are few: nearest rounding loses little")
    if (node.op != "Conv" and weight.rank != 2) or quant.block or quant.axis not in (None, 0 if turned else 1):
        raise NoMatch("the weight is no matrix with a scale for each output")
    if len(weight.uses) > 1:
        raise NoMatch(f"the weight %{weight.name} has another user, whose inputs differ")
    if inputs is None or (node.op == "Gemm" and node.attr("transA")):
        raise NoMatch("second moments of its inputs were not observed")
    w = weight.numpy() if turned else weight.numpy().T
    rows = w.reshape(len(w), -1)
    if rows.shape[1] != len(inputs.moments):
        raise NoMatch(f"patches of {rows.shape[1]} numbers are too wide to be observed")
    grid = _grid(rows, quant)
    found = _best(rows, grid, regularized(inputs.moments, inputs.rows))
    if np.array_equal(found.codes, grid.codes):
        raise NoMatch("nearest rounding is best already")
    if not r.allow(node):
        return
    real = found.real().reshape(w.shape)
    r.begin(node)
    made = r.const(np.ascontiguousarray(real if turned else real.T), name=weight.name)
    r.annotate(made, quant)
    r.set_input(node, 1, made)


def _grid(w: Array, quant: Quant) -> Blocked:
    """``w`` [N, K] to the nearest numbers, as unsigned codes."""
    scheme = Scheme(quant.storage, symmetric=False)
    rows = Quant(quant.storage, quant.scale, quant.zero_point, None if quant.axis is None else 0)
    codes = (stored(w, rows).astype(np.int64) - scheme.qmin).astype(np.uint8)
    ones = np.ones((len(w), 1))
    scale = (ones * np.array(quant.scale).reshape(-1, 1)).astype(np.float32)
    zero = (ones * (np.array(quant.zero_point).reshape(-1, 1) - scheme.qmin)).astype(np.uint8)
    return Blocked(BlockScheme(quant.storage.bits, 0, symmetric=False, positive=True), codes, scale, zero)


def _best(w: Array, grid: Blocked, h: Array) -> Blocked:
    """For each row the better of nearest rounding and GPTQ, then descent from there. No code leaves the range of
    ``grid``, which kernels may have asked to be narrow."""
    low, high = int(grid.codes.min()), int(grid.codes.max())
    best, least = grid, output_error(w, grid, h)
    for start in (grid, gptq(w, grid, h)):
        found = descend(w, start, h, _SWEEPS)
        found = Blocked(found.scheme, np.clip(found.codes, low, high), found.scale, found.zero)
        error = output_error(w, found, h)
        best, least = picked(error < least, found, best), np.minimum(error, least)
    return best
