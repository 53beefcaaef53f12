"""Weights fitted again to what a factorized model gives them to read.

Let a layer read ``x`` in the model before factorization and ``x'`` behind layers that are factorized by now. The matrix

    minimize E|x W - x' M|^2 + d|M - W|^2        M = (C' + d)^-1 (X + d) W,    C' = E[x'^T x'], X = E[x'^T x]

makes up for what these layers lost, as far as ``x'`` tells of it; ``d`` keeps directions that samples hardly show. Its
best approximation of rank r is that of ``M`` by ``C'``, so it is truncated in place of ``W`` (reduced-rank regression).
With a bias, moments are those about the means.

Both models run side by side on the same samples, layer by layer in the order of execution.

Source: Izenman 1975 (reduced-rank regression); Wang et al. 2024, SVD-LLM (sequential update of later layers); Li et al.
2025, "GPTQv2" (targets of the original model, asymmetric calibration).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.clone import clone_graph, clone_model
from ....ir.graph import Graph, Model, Node, Value
from ...context import Before, Context
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from ..quant.statistics import Kind, Want, value_names
from .inputs import Inputs, inputs_of
from .observed import rows_of

Array = np.ndarray[Any, Any]
WIDEST = 4096
"""Numbers of both inputs together beyond which a layer is not fitted again: moments take 8 bytes for the square."""
DAMPING = 1e-2
"""Of the mean variance of the inputs."""
_ROWS, _FEWEST = 10, 2
"""Rows for each number of the input: with fewer the damping grows; with fewer than these it is not fitted again."""


@dataclass(frozen=True)
class Fit:
    """What stands in the place of a weight [K, N]."""

    matrix: Array
    """``M`` of each group [G, K, N]."""
    inputs: Inputs
    """Of ``x'``, those of all groups one after the other."""
    shift: Array
    """[G N]: what the bias makes up for where means differ; zeros where there is no bias."""


def fitted(model: Model, nodes: Sequence[Node], weights: Array, ctx: Context, *, keeps_mean: bool) -> Fit:
    """The fit of ``weights`` [G, K, N], which ``nodes`` of ``model`` share, each group by itself; ``keeps_mean``:
    whether a bias can.

    Raises ``NoMatch`` where the inputs of both models cannot be compared.
    """
    groups, k, _ = weights.shape
    width = groups * k
    both = _observed(model, nodes, ctx, width)
    if len(both.mean) != 2 * width:
        raise NoMatch(f"both inputs have {len(both.mean)} numbers, expected {2 * width}")
    if both.rows < _FEWEST * k:
        raise NoMatch(f"{both.rows} rows are too few for {k} numbers")
    inputs = Inputs(both.moments[:width, :width], both.mean[:width], both.rows)
    cuts = [slice(i * k, (i + 1) * k) for i in range(groups)]
    parts = [
        _least_squares(both, cut, slice(width + cut.start, width + cut.stop), weight, keeps_mean=keeps_mean)
        for cut, weight in zip(cuts, weights, strict=True)
    ]
    return Fit(np.stack([m for m, _ in parts]), inputs, np.concatenate([shift for _, shift in parts]))


def _least_squares(
    both: Inputs, after: slice, before: slice, weight: Array, *, keeps_mean: bool
) -> tuple[Array, Array]:
    """``M`` of one group [K, N], and what the bias makes up for [N]; where its inputs lie among all. Raises
    ``NoMatch``."""
    k = len(weight)
    own, cross = both.moments[after, after] / both.rows, both.moments[after, before] / both.rows
    if keeps_mean:
        own = own - np.outer(both.mean[after], both.mean[after])
        cross = cross - np.outer(both.mean[after], both.mean[before])
    damping = DAMPING * max(1.0, _ROWS * k / both.rows) * max(float(np.trace(own)) / k, 1e-300) * np.eye(k)
    found = np.linalg.solve(own + damping, (cross + damping) @ weight)
    if not np.isfinite(found).all():
        raise NoMatch("least squares have no finite solution")
    shift = both.mean[before] @ weight - both.mean[after] @ found if keeps_mean else np.zeros(weight.shape[1])
    return found, shift


def _observed(model: Model, nodes: Sequence[Node], ctx: Context, k: int) -> Inputs:
    """Of rows ``[x', x]``. Raises ``NoMatch``."""
    before = ctx.before
    if before is None or before.observe is None:
        raise NoMatch("there is no model to compare it with")
    if any(node.output not in before.values or node.graph is not model.graph for node in nodes):
        raise NoMatch("it lies in a body, or another pass has changed it")
    if 2 * k > WIDEST:
        raise NoMatch(f"two inputs of {k} numbers are too wide to compare")
    joint, mine, theirs = side_by_side(model, before)
    r, made = Rewriter(Context(), "refit"), dict[tuple[object, ...], Value]()
    rows: list[Value] = []
    for node in nodes:
        parts = [values[node.output].producer for values in (mine, theirs)]
        both = [rows_of(r, part, made) for part in parts if part is not None]
        rows.append(r.at(joint.graph.ret).Concat(*both, axis=-1))
    names = value_names(joint)
    wants = [Want(names[row], Kind.MOMENTS | Kind.CHANNELS, -1) for row in rows]
    found = before.observe(joint, wants)
    inputs = inputs_of([found.get(want.value) for want in wants])
    if inputs is None:
        raise NoMatch("its inputs could not be observed")
    return inputs


def side_by_side(model: Model, before: Before) -> tuple[Model, dict[Value, Value], dict[Value, Value]]:
    """One model that computes what both do, from the same inputs; where values of ``model`` lie in it, and where the
    values lie that they were before. Raises ``NoMatch``."""
    if model.opsets != before.model.opsets:
        raise NoMatch("the models import different operators")
    joint = clone_model(model)
    mine = dict(zip(_values(model.graph), _values(joint.graph), strict=True))
    copies: dict[Value, Value] = {}
    part = clone_graph(before.model.graph, copies)
    for value, same in zip(list(part.inputs), joint.graph.inputs, strict=True):
        value.replace_uses(same)
    for value in list(part.constants):
        assert value.data is not None
        value.replace_uses(joint.graph.add_constant(value.data, value.name))
    part.ret.set_inputs([])
    for node in list(part):
        part.unlink(node)
        joint.graph.append(node)
    return joint, mine, {value: copies[old] for value, old in before.values.items() if old in copies}


def _values(graph: Graph) -> list[Value]:
    return [*graph.inputs, *(v for node in graph for v in node.outputs)]
