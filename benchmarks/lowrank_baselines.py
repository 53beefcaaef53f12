"""Low rank as papers have it, in numpy: plain SVD at one rank for all, whitened SVD with ranks by a Lagrangian.

Weights are replaced by the product of their factors, which loses what factors lose; parameters are those of pairs,
``r (K + N)``. Nothing of planish's passes is used but the observation of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

METHODS = ("plain SVD, equal ranks", "whitened SVD, Lagrangian")
STEP = 4
"""Between ranks."""


@dataclass
class Layer:
    """A weight as a matrix [K, N], and what multiplies it."""

    node: Any
    weight: Any
    second: Any
    """[K, K]: mean of ``x^T x``; of channels only, where patches are too wide to be observed."""


def layers_of(model: Any, samples: list[Any], least: int) -> list[Layer]:
    """Constant weights of MatMul, Gemm and ungrouped Conv of ``least`` parameters and more, with their inputs."""
    from planish.driver.calibrate import observer
    from planish.passes.core import Context
    from planish.passes.shared.factor.observed import observe_inputs

    nodes = [n for n in model.all_nodes() if counts(n, least)]
    seen = observe_inputs(model, nodes, Context(observe=observer(samples)))
    found: list[Layer] = []
    for node in nodes:
        inputs = seen.of([node])
        found.append(Layer(node, _matrix(node), inputs.moments / inputs.rows))
    return found


def counts(node: Any, least: int) -> bool:
    """Whether a node's weight is one of the layers."""
    if node.op not in ("MatMul", "Gemm", "Conv") or node.domain or node.attr("group", 1) != 1:
        return False
    weight = node.inputs[1]
    return weight.data is not None and weight.data.count >= least and len(weight.uses) == 1


def _matrix(node: Any) -> Any:
    array = node.inputs[1].data.numpy().astype(float)
    if node.op == "Conv":
        return array.reshape(len(array), -1).T
    return array.T if node.attr("transB", 0) else array


def replace(layer: Layer, matrix: Any) -> None:
    """Puts an approximation where the weight was."""
    from planish.ir.constants import ArrayConstant

    value = layer.node.inputs[1]
    array = matrix.T if layer.node.op == "Conv" or layer.node.attr("transB", 0) else matrix
    value.data = ArrayConstant(np.ascontiguousarray(array.reshape(value.data.shape), np.float32))


def plain_svd(layers: list[Layer], cut: float) -> list[Any]:
    """Every matrix at the rank whose pair has ``1 - cut`` of its parameters."""
    found: list[Any] = []
    for layer in layers:
        k, n = layer.weight.shape
        rank = max(int((1 - cut) * k * n / (k + n)), 1)
        u, s, v = np.linalg.svd(layer.weight, full_matrices=False)
        found.append((u[:, :rank] * s[:rank]) @ v[:rank])
    return found


def whitened_svd(layers: list[Layer], cut: float, known: dict[int, Any]) -> list[Any]:
    """Truncation of ``S W`` with ``S^2`` the second moments of the inputs; ranks that lose least of the sum of relative
    errors of the outputs at the parameters that are left, by bisection of a Lagrange multiplier. A matrix may stay
    whole. ``known`` keeps decompositions between calls."""
    for layer in layers:
        if id(layer) not in known:
            known[id(layer)] = _whitened(layer)
    curves = [_curve(layer, known[id(layer)][1]) for layer in layers]
    total = sum(layer.weight.size for layer in layers)
    low, high = 1e-14, 1e3
    for _ in range(80):
        middle = float(np.sqrt(low * high))
        kept = sum(c[1][int(np.argmin(c[2] + middle * c[1]))] for c in curves)
        low, high = (middle, high) if kept > (1 - cut) * total else (low, middle)
    found: list[Any] = []
    for layer, (ranks, parameters, errors) in zip(layers, curves, strict=True):
        rank = int(ranks[int(np.argmin(errors + high * parameters))])
        left, s, v = known[id(layer)]
        found.append(layer.weight if rank == 0 else (left[:, :rank] * s[:rank]) @ v[:rank])
    return found


def _whitened(layer: Layer) -> tuple[Any, Any, Any]:
    values, vectors = np.linalg.eigh(layer.second)
    roots = np.sqrt(np.maximum(values, values.max() * 1e-7))
    u, s, v = np.linalg.svd(_times((vectors * roots) @ vectors.T, layer.weight), full_matrices=False)
    return _times((vectors / roots) @ vectors.T, u), s, v


def _times(root: Any, matrix: Any) -> Any:
    """Where only channels were observed (wide kernels), every position counts by itself and alike."""
    return (root @ matrix.reshape(len(root), -1)).reshape(matrix.shape)


def _curve(layer: Layer, singular: Any) -> tuple[Any, Any, Any]:
    """Ranks, parameters and squared relative errors; the last point, called rank 0, is the whole matrix."""
    k, n = layer.weight.shape
    tails = np.concatenate([np.cumsum((singular**2)[::-1])[::-1], [0.0]])
    ranks = np.arange(STEP, min(k, n) + 1, STEP)
    ranks = ranks[ranks * (k + n) < k * n]
    errors = tails[ranks] / max(tails[0], 1e-300)
    return np.append(ranks, 0), np.append(ranks * (k + n), k * n), np.append(errors, 0.0)
