"""What errors of a layer's outputs do to the outputs of the model, by gradients on samples.

For rows ``e`` of errors behind a layer, the model's outputs move by ``sum of e g^T`` over all rows, with ``g`` the
gradient of the outputs in a random direction (``shared/gradient``). With independent rows the mean square of that, in
units of the outputs' own, is ``rows * E[e H e^T]`` where ``H = E[g^T g]``. So the truncation that loses least in the
metric ``H`` loses least of the model's outputs, and its loss can be compared from layer to layer.

Source: Martens and Grosse, ICML 2015 (KFAC); Hsu et al., "Language Model Compression with Weighted Low-rank
Factorization", ICLR 2022 (the diagonal of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....ir.graph import Model, Node, Value
from ...core import Context
from ...rewrite.rewriter import Rewriter
from ..gradient import with_gradients
from ..quant.histogram import Histogram
from ..quant.statistics import Kind, Statistics, Want, value_names
from .observed import before_choices
from .svd import Decomposition

Array = np.ndarray[Any, Any]
DAMPING = 0.1
"""Of the mean weight, added to each however many rows were seen."""
_CHANNELS_FIRST = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class OutputMetric:
    """Of one layer."""

    observed: Array
    """[N, N]: ``H``."""
    rows: float
    """Of the layer in one sample."""
    seen: float
    """Rows behind ``observed``, as many as count: where few have most of the gradient, few."""

    @property
    def weights(self) -> Array:
        """[N, N], positive definite: ``H`` with a weight for what samples did not show."""
        n = len(self.observed)
        # Few rows show slopes in few directions, the others have some too.
        share = max(DAMPING / (1 + DAMPING), n / (n + self.seen))
        found: Array = (1 - share) * self.observed + share * float(np.trace(self.observed)) / n * np.eye(n)
        return found

    def error(self, mean_square: float) -> float:
        """Of the model's outputs, root mean square relative to theirs, where ``e H e^T`` is ``mean_square``."""
        return float(np.sqrt(max(mean_square, 0.0) * self.rows))

    def errors(self, found: Decomposition) -> Array:
        """[Q + 1]: of the model's outputs, root mean square relative to theirs, by rank (0 first).

        ``found`` is the decomposition by ``weights``; its terms are independent for the layer's inputs, so that what
        they cost adds up.
        """
        terms = found.energies * np.einsum("qn,nm,qm->q", found.right, self.observed, found.right, optimize=True)
        return np.sqrt(self.rows * np.concatenate([np.cumsum(terms[::-1])[::-1], [0.0]]))


@dataclass(frozen=True)
class OutputMetrics:
    """Of all layers whose gradient is known."""

    statistics: Statistics | None = None
    names: dict[Node, str] = field(default_factory=dict[Node, str])
    declined: dict[Node, str] = field(default_factory=dict[Node, str])
    """Nodes for which it is not known, and why."""

    def of(self, nodes: Sequence[Node]) -> OutputMetric | None:
        """Of nodes that share a weight; ``None`` where the gradient of one is not known."""
        s = self.statistics
        if s is None or any(node not in self.names for node in nodes):
            return None
        seen = [s.get(self.names[node]) for node in nodes]
        if any(o is None or o.moments is None or not o.rows or o.nan or o.infinite for o in seen):
            return None
        known = [o for o in seen if o is not None]
        rows = sum(o.rows for o in known)
        total = np.asarray(sum(np.asarray(o.moments, np.float64) for o in known)) / rows
        if not np.trace(total) > 0:
            return None
        return OutputMetric(total, rows / max(s.samples, 1), _effective([o.tokens for o in known], rows))

    def key(self, nodes: Sequence[Node]) -> object:
        """Says which observations a result depends on."""
        s = self.statistics
        return None if s is None else (s.model, s.samples, tuple(self.names.get(n, "") for n in nodes))


def observe_outputs(model: Model, nodes: Sequence[Node], ctx: Context) -> OutputMetrics:
    """Channels of convolutions, the last axis of other operators; all nodes lie in the main graph or are declined."""
    if ctx.observe is None or not nodes:
        return OutputMetrics()
    model, asked = before_choices(model, nodes, ctx)
    found = _observed(model, asked, ctx)
    same = dict(zip(asked, nodes, strict=True))
    names = {same[node]: name for node, name in found.names.items()}
    return OutputMetrics(found.statistics, names, {same[node]: why for node, why in found.declined.items()})


def _observed(model: Model, nodes: Sequence[Node], ctx: Context) -> OutputMetrics:
    assert ctx.observe is not None
    found = with_gradients(model, [node.output for node in nodes], seed=ctx.seed)
    r = Rewriter(Context(), "observe-outputs").at(found.model.graph.ret)
    rows: dict[Node, Value] = {}
    for node in nodes:
        gradient = found.of.get(node.output)
        if gradient is not None:
            rows[node] = _channels_last(r, gradient) if node.op in _CHANNELS_FIRST else gradient
    declined = {node: found.declined[node.output] for node in nodes if node not in rows}
    if not rows:
        return OutputMetrics(declined=declined)
    names = value_names(found.model)
    wanted = {node: names[value] for node, value in rows.items()}
    wants = [Want(name, Kind.MOMENTS | Kind.TOKENS, -1) for name in dict.fromkeys(wanted.values())]
    return OutputMetrics(ctx.observe(found.model, wants), wanted, declined)


def _effective(sizes: Sequence[Histogram | None], rows: int) -> float:
    """Kish's number of rows: as many of equal size would tell as much. Where a model is sure of nearly all samples, a
    softmax has hardly a gradient but at the others."""
    known = [h.intervals() for h in sizes if h is not None]
    if len(known) < len(sizes):
        return float(rows)
    squares = np.concatenate([((low + high) / 2) ** 2 for low, high, _ in known])
    counts = np.concatenate([c for _, _, c in known])
    total = float((counts * squares).sum())
    return total**2 / max(float((counts * squares**2).sum()), 1e-300) if total > 0 else float(rows)


def _channels_last(r: Rewriter, x: Value) -> Value:
    assert x.rank is not None
    moved: Value = r.Transpose(x, perm=(0, *range(2, x.rank), 1))
    return moved
