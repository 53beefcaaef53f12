"""Half-quadratic quantization: parameters under which errors are sparse rather than small on average.

A few large weights carry a block's range; a norm ``|e|^p`` with p < 1 lets them be off and fits the others. In turns
the errors are shrunk, which takes out the large ones, and the parameters are fitted to what is left; needs no data.
The paper moves float zero points at fixed scales; here zero points are codes, so that the scale is fitted with them.
Source: Badri, Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .blocks import Blocked, BlockScheme, blocked, codes_of, fitted, grouped, joined, range_parameters, row_chunks

Array = np.ndarray[Any, Any]


def hqq(
    weights: Array, scheme: BlockScheme, *, norm: float = 0.7, beta: float = 10.0, growth: float = 1.01, turns: int = 20
) -> Blocked:
    """``weights`` [N, K] by the paper's settings; for each block never worse in the norm than nearest rounding."""
    parts: list[Blocked] = []
    for rows in row_chunks(*weights.shape):
        chunk = weights[rows].astype(np.float32)
        groups, mass = grouped(chunk, None, scheme)
        unit = np.sqrt(np.mean(np.square(groups), axis=1, keepdims=True))
        # The settings are for weights of about this size, and so are shrinkage and norm.
        groups = groups / np.where(unit > 0, unit, 1.0)
        scale, zero = _fit(groups, mass, scheme, norm, beta, growth, turns)
        parts.append(blocked(chunk, scheme, scale * np.where(unit > 0, unit, 1.0)[:, 0], zero))
    return joined(parts)


def _fit(
    groups: Array, mass: Array, scheme: BlockScheme, norm: float, beta: float, growth: float, turns: int
) -> tuple[Array, Array]:
    scale, zero = range_parameters(groups, scheme)
    best_scale, best_zero, least = scale, zero, np.full(len(groups), np.inf)
    for _ in range(turns):
        codes = codes_of(groups, scale, zero, scheme)
        error = groups - (codes - zero[:, None]) * scale[:, None]
        size = np.abs(error) + 1e-8
        loss = np.einsum("mk,mk->m", np.power(size, norm), mass)
        better = loss < least
        least, best_scale, best_zero = (
            np.where(better, new, old) for new, old in ((loss, least), (scale, best_scale), (zero, best_zero))
        )
        shrunk = np.sign(error) * np.maximum(size - np.power(size, norm - 1) / beta, 0.0)
        scale, zero = fitted(groups - shrunk, mass, codes, scale, zero, scheme)
        beta *= growth
    return best_scale, best_zero
