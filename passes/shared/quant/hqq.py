"""Half-quadratic quantization: zero points under which errors are sparse rather than small on average.

A few large weights carry a block's range; a norm ``|e|^p`` with p < 1 lets them be off and fits the others. The zero
point is moved in turns with a shrinkage of the errors; needs no data.
Source: Badri, Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .blocks import Blocked, BlockScheme, block_sums, joined, picked, round_to_nearest, row_chunks, with_parameters

Array = np.ndarray[Any, Any]


def hqq(
    weights: Array, scheme: BlockScheme, *, norm: float = 0.7, beta: float = 10.0, growth: float = 1.01, turns: int = 20
) -> Blocked:
    """``weights`` [N, K] by the paper's settings, its zero points rounded to codes at the end.

    A symmetric scheme has no zero point to move; its scales are fitted to the shrunk errors instead.
    """
    parts: list[Blocked] = []
    for rows in row_chunks(*weights.shape):
        parts.append(_chunk(weights[rows].astype(np.float32), scheme, norm, beta, growth, turns))
    return joined(parts)


def _chunk(w: Array, scheme: BlockScheme, norm: float, beta: float, growth: float, turns: int) -> Blocked:
    found = round_to_nearest(w, scheme)
    best, least = found, _mean_error(w, found)
    if scheme.symmetric:
        return _symmetric(w, best, least, norm, beta, growth, turns)
    zero = found.zero.astype(np.float32)
    scale = found.spread(found.scale)
    sizes = block_sums(np.ones((1, w.shape[1])), scheme)
    for _ in range(turns):
        offset = found.spread(zero)
        codes = np.clip(np.rint(w / scale + offset), 0, scheme.levels)
        error = _shrunk(w - (codes - offset) * scale, beta, norm)
        zero = np.clip(block_sums(codes - (w - error) / scale, scheme) / sizes, 0, scheme.levels)
        beta *= growth
        candidate = with_parameters(w, found, found.scale, np.rint(zero))
        best, least = _better(w, best, least, candidate)
    return best


def _symmetric(w: Array, best: Blocked, least: Array, norm: float, beta: float, growth: float, turns: int) -> Blocked:
    found = best
    for _ in range(turns):
        steps = found.steps()
        target = w - _shrunk(w - found.real(), beta, norm)
        top, bottom = block_sums(steps * target, best.scheme), block_sums(steps * steps, best.scheme)
        fits = (bottom > 0) & (top * np.sign(found.scale) > 0)
        scale = np.where(fits, top / np.where(bottom > 0, bottom, 1.0), found.scale).astype(np.float32)
        found = with_parameters(w, found, scale)
        beta *= growth
        best, least = _better(w, best, least, found)
    return best


def _better(w: Array, best: Blocked, least: Array, candidate: Blocked) -> tuple[Blocked, Array]:
    """For each row the one of the smaller mean error."""
    error = _mean_error(w, candidate)
    return picked(error < least, candidate, best), np.minimum(error, least)


def _mean_error(w: Array, found: Blocked) -> Array:
    return np.abs(w - found.real()).mean(axis=1)


def _shrunk(error: Array, beta: float, norm: float) -> Array:
    """The proximal operator of ``|e|^norm``, as the paper approximates it."""
    size = np.abs(error)
    return np.sign(error) * np.maximum(size - np.power(size + 1e-8, norm - 1) / beta, 0.0)
