"""What is known of a kernel's inputs and outputs, and its regressions: computed once for all ranks that are offered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...memo import Memo
from ...rewrite.rule import NoMatch
from .inputs import Inputs
from .kernels import Kernel
from .outputs import OutputMetric
from .tucker import Metric, Regression, Weighted, leading, regression

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class KernelData:
    """Metrics and means of each group."""

    metrics: list[Metric]
    means: list[Array] | None
    """Of patches [channels * positions]; ``None`` where they are not known."""
    roots: list[Array] | None
    """[outputs, outputs]: roots of the weights of output errors; ``None`` where they are not known."""
    output: OutputMetric | None

    @property
    def nbytes(self) -> int:
        arrays = [m.second for m in self.metrics] + (self.means or []) + (self.roots or [])
        return sum(a.nbytes for a in arrays if a is not None)

    def scaled(self, weights: Array) -> Array:
        """[groups, channels, positions, outputs] in units of the model's outputs."""
        if self.roots is None:
            return weights
        return np.stack([w @ root for w, root in zip(weights, self.roots, strict=True)])

    def restored(self, factors: Array) -> Array:
        """Undoes :meth:`scaled` along the last axis of [groups, ..., outputs]."""
        if self.roots is None:
            return factors
        parts: list[Array] = []
        for part, root in zip(list[Array](factors), self.roots, strict=True):
            flat: Array = part.reshape(-1, len(root))
            parts.append(np.linalg.solve(root, flat.T).T)
        return np.stack(parts).reshape(factors.shape)

    def metric(self, group: int) -> Array | None:
        """By which errors of scaled outputs are judged: what samples showed, without what was added to it."""
        if self.roots is None or self.output is None:
            return None
        root = self.roots[group]
        cut = slice(group * len(root), (group + 1) * len(root))
        inverse = np.linalg.inv(root)
        found: Array = inverse @ self.output.observed[cut, cut] @ inverse
        return found

    def error(self, lost: float, total: float) -> float:
        """Of the model's outputs where the metric is known, else of the layer's, relative to theirs."""
        if self.output is not None:
            return self.output.error(lost)
        return float(np.sqrt(lost / total)) if total > 0 else 0.0


@dataclass(frozen=True)
class KernelBases:
    """Of all groups of a kernel: computed once, for all options and all builds."""

    kernel: Kernel
    memo: Memo
    key: tuple[object, ...]
    observed: Callable[[], KernelData]

    @property
    def known(self) -> KernelData:
        return self.memo.get((*self.key, "data"), self.observed, lambda data: data.nbytes)

    def at(self, rank: int) -> list[Regression]:
        """For a rank of input channels, all ranks of outputs."""
        key = (*self.key, "basis", rank)
        return self.memo.get(key, lambda: self._regressions(rank), lambda found: sum(b.nbytes for b in found))

    @property
    def weighted(self) -> list[Weighted]:
        """Of each group, in units of the model's outputs."""
        return self.memo.get(
            (*self.key, "weighted"),
            lambda: [
                Weighted(w, m)
                for w, m in zip(self.known.scaled(self.kernel.weights()), self.known.metrics, strict=True)
            ],
            lambda found: sum(w.nbytes for w in found),
        )

    def _regressions(self, rank: int) -> list[Regression]:
        channels = self.memo.get(
            (*self.key, "channels"),
            lambda: [w.basis(w.weight) for w in self.weighted],
            lambda found: sum(b.nbytes for b in found),
        )
        return [regression(w, leading(b, rank)) for w, b in zip(self.weighted, channels, strict=True)]


def kernel_data(kernel: Kernel, inputs: Inputs | None, output: OutputMetric | None, damping: float) -> KernelData:
    """Metrics: of patches about their mean where the bias keeps the mean, else of channels about zero."""
    c, s, g = kernel.channels, kernel.positions, kernel.groups
    roots = None if output is None else _roots(output, g, kernel.outputs)
    if inputs is None:
        return KernelData([Metric(None, c, s)] * g, None, roots, output)
    patches = not kernel.turned and len(inputs.moments) == g * c * s
    width = c * s if patches else c
    if len(inputs.moments) != g * width:
        raise NoMatch(f"its inputs have {len(inputs.moments)} numbers, expected {g * width}")
    second = inputs.covariance(damping) if patches else inputs.second(damping)
    cuts = [slice(i * width, (i + 1) * width) for i in range(g)]
    metrics = [Metric(second[cut, cut], c, s) for cut in cuts]
    return KernelData(metrics, [inputs.mean[cut] for cut in cuts] if patches else None, roots, output)


def _roots(output: OutputMetric, groups: int, outputs: int) -> list[Array]:
    """Symmetric roots of the metric of each group's outputs."""
    if len(output.weights) != groups * outputs:
        raise NoMatch(f"its gradients have {len(output.weights)} channels, expected {groups * outputs}")
    found: list[Array] = []
    for i in range(groups):
        cut = slice(i * outputs, (i + 1) * outputs)
        values, vectors = np.linalg.eigh(output.weights[cut, cut])
        found.append((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
    return found
