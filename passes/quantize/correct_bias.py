"""correct-bias: the bias takes up what rounding a weight moves the mean of the outputs by.

    E[Q(W) x + b'] = E[W x + b]   for   b' = b - (Q(W) - W) E[x]

The weight itself becomes ``Q(W)`` in floats, so that nothing is left to correct.

**Why**    rounding errors of the weights of one output do not cancel where inputs have a mean, as behind a Relu: whole
           channels are shifted, which costs far more than noise of the same size.
**Needs**  annotated weights (``assign-quant``) of Conv and Gemm, and samples, from which ``E[x]`` of each input channel
           is taken; run it in front of ``insert-qdq``, behind passes that choose how weights are rounded.
**Leaves** biases that are not constants (of a Gemm that adds a residual it becomes a bias of its own on ONNX Runtime,
           which needs one there for its integers); weights without an annotation. At the border of padded convolutions
           fewer inputs count than the correction assumes.
**Numbers** approximates: less error in all than without it, as a part of what ``assign-quant`` decided.
**Source** Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.graph import Model, Node, Value
from ..core import Context, Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.attributes import require_own_attributes
from ..shared.quant.forms import split_residual
from ..shared.quant.statistics import Kind, Statistics, Want, value_names
from ..shared.quant.weights import rounded_weight

Array = np.ndarray[Any, Any]
_PRODUCTS = ("Conv", "Gemm")
_LEAST_CHANGE = 1e-6
"""Of the bias and the largest output change: a correction below that is rounding."""


@dataclass
class CorrectBias(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    def run(self, model: Model, r: Rewriter) -> None:
        found = [n for root in model.roots() for n in root.all_nodes() if n.op in _PRODUCTS and not n.domain]
        nodes = [n for n in found if _has_annotated_weight(n)]
        if not nodes:
            if r.ctx.trace:
                r.ctx.note("no product has an annotated weight; assign-quant makes them")
            return
        names = value_names(model)
        seen = _means(model, nodes, names, r.ctx)
        if seen is None:
            r.ctx.note("no bias is corrected: means of inputs come from samples; give some with --samples")
            return
        on_grid: dict[Value, Value] = {}
        for node in nodes:
            try:
                _correct(node, seen, names, on_grid, r)
            except NoMatch as declined:
                if r.ctx.trace:
                    r.ctx.note(f"{node.op} {node.name or node.output.name!r}: {declined.reason}")


def _has_annotated_weight(node: Node) -> bool:
    x, weight = node.inputs[0], node.inputs[1]
    if x is None or weight is None or weight.data is None or weight.tensor is None:
        return False
    return weight.tensor.quant is not None and x.tensor is not None and x.tensor.quant is not None


def _means(model: Model, nodes: list[Node], names: dict[Value, str], ctx: Context) -> Statistics | None:
    if ctx.observe is None:
        return None
    values = dict.fromkeys((node.inputs[0], _axis(node)) for node in nodes)
    return ctx.observe(model, [Want(names[v], Kind.CHANNELS, a) for v, a in values if v is not None and v in names])


def _axis(node: Node) -> int:
    """Of the input channels in ``x``; as others ask for it, so that it is observed once."""
    return 1 if node.op == "Conv" else 0 if node.attr("transA") else -1


def _correct(node: Node, seen: Statistics, names: dict[Value, str], on_grid: dict[Value, Value], r: Rewriter) -> None:
    """``on_grid`` holds weights that were rounded for others. Raises ``NoMatch`` before any change."""
    require_own_attributes(node)
    x, weight, bias = node.inputs[0], node.inputs[1], node.input(2)
    assert x is not None
    assert weight is not None
    observed = seen.get(names.get(x, ""))
    if observed is None or observed.channels is None:
        raise NoMatch(f"%{x.name} was not observed by channels")
    if observed.nan or observed.infinite:
        raise NoMatch(f"%{x.name} holds {observed.nan} NaN and {observed.infinite} infinities")
    assert weight.data is not None
    assert weight.tensor is not None
    assert weight.tensor.quant is not None
    on_integers = rounded_weight(weight.data, weight.tensor.quant, r.ctx.memo)
    mean = observed.channels.mean
    key = ("mean shift", weight.data.digest(), weight.tensor.quant, mean.tobytes(), node.op, str(node.attrs))
    shift = r.ctx.memo.get(key, lambda: _shift(node, weight, on_integers.numpy(), mean), lambda found: found.nbytes)
    residual = bias is not None and bias.data is None and node.op == "Gemm" and node.attr("beta") == 1.0
    if residual and not (r.ctx.target is not None and r.ctx.target.runtime == "ort"):
        raise NoMatch("what is added to the product is no bias; on ONNX Runtime it gets one")
    if bias is not None and not residual and (bias.data is None or bias.data.shape != shift.shape):
        raise NoMatch(f"the bias %{bias.name} is not a constant of shape {list(shift.shape)}")
    old = np.zeros(shift.shape) if bias is None or residual else bias.numpy().astype(np.float64)
    if np.abs(shift).max(initial=0.0) <= _LEAST_CHANGE * np.abs(old).max(initial=0.0) or not shift.any():
        raise NoMatch("rounding moves no mean")
    if not r.allow(node):
        return
    r.begin(node)
    if weight not in on_grid:
        on_grid[weight] = r.const(on_integers, name=weight.name)
        r.annotate(on_grid[weight], weight.tensor.quant)
    r.set_input(node, 1, on_grid[weight])
    if residual:
        split_residual(node, r, -shift)
        return
    made = r.const((old - shift).astype(np.float32), name=bias.name if bias is not None else "")
    r.set_inputs(node, [x, on_grid[weight], made])


def _shift(node: Node, weight: Value, on_integers: Array, mean: Array) -> Array:
    """What rounding the weight adds to the mean of each output channel."""
    array = weight.numpy()
    error = on_integers.astype(np.float64) - array
    if node.op == "Gemm":
        return (error if node.attr("transB") else error.T) @ mean
    groups = int(node.attr("group", 1))
    sums = error.reshape(*error.shape[:2], -1).sum(axis=2)  # [M, C / groups]
    inputs = np.repeat(mean.reshape(groups, -1), array.shape[0] // groups, axis=0)
    found: Array = (sums * inputs).sum(axis=1)
    return found
