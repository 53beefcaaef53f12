"""Rounding that makes up in later weights for the errors of earlier ones, so that outputs change least.

With rows ``w`` of the matrix and second moments ``H = E[x x^T]`` of its inputs, the outputs' mean squared error is
``(w - q) H (w - q)^T``. GPTQ rounds the inputs' columns one after the other and moves the columns to come by the
optimal answer to the error (:func:`gptq`). Its result is a start for exact descent on the same error: one code at a
time (:func:`descend`), then all scales of a row together by least squares (:func:`refit_scales`).

Source: Frantar et al., GPTQ, ICLR 2023 (activation order, damping, blocks of columns); Behdin et al., QuantEase, 2023
(coordinate descent); shrinkage by Chen et al., Shrinkage Algorithms for MMSE Covariance Estimation, 2010 (OAS).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .blocks import Blocked, BlockScheme, block_sums, joined, picked, row_chunks, search_parameters

Array = np.ndarray[Any, Any]
DAMPING = 0.01
"""Of the mean of the diagonal, added to it."""
_LAZY = 64
"""Columns that are handled before their effect on all others is computed at once."""


def regularized(moments: Array, rows: int, damping: float = DAMPING) -> Array:
    """Second moments per row of data, fit to be inverted: [K, K], float64, positive definite.

    ``moments`` is the sum over ``rows`` rows ``x`` of ``x^T x``. Estimates from few rows are shrunk towards their
    diagonal, by as much as their noise demands; ``damping`` times the mean of the diagonal is added to it.
    """
    h = np.asarray(moments, np.float64) / max(rows, 1)
    h = (h + h.T) / 2
    diagonal = np.diagonal(h).copy()
    mean = float(diagonal.mean())
    if not mean > 0:
        return np.eye(len(h))
    keep = 1 - _shrinkage(h, diagonal, rows)
    h *= keep
    np.fill_diagonal(h, diagonal + damping * mean)
    return h


def _shrinkage(h: Array, diagonal: Array, rows: int) -> float:
    """Share of what lies off the diagonal that is noise: OAS on the matrix of correlations."""
    p = len(h)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    squares = float(np.einsum("i,ij,ij,j->", scale**2, h, h, scale**2))
    if p < 2 or squares <= p:
        return 1.0
    top = (1 - 2 / p) * squares + p * p
    return float(min(1.0, top / ((rows + 1 - 2 / p) * (squares - p))))


def output_error(weights: Array, found: Blocked, h: Array) -> Array:
    """``(w - q) H (w - q)^T`` of each row: [N], float64."""
    out: list[Array] = []
    for rows in row_chunks(*weights.shape):
        e = weights[rows].astype(np.float64) - found.rows(rows).real()
        out.append(np.einsum("nk,nk->n", e @ h, e))
    return np.concatenate(out)


def quantize_for_outputs(weights: Array, scheme: BlockScheme, h: Array, *, turns: int = 2) -> Blocked:
    """The best of what this file has: for each row never worse than nearest rounding under searched parameters.

    ``weights`` is [N, K], ``h`` what :func:`regularized` gave.
    """
    parts: list[Blocked] = []
    inverse = inverse_factor(h)
    for rows in row_chunks(*weights.shape):
        w = weights[rows]
        best = search_parameters(w, scheme, np.diagonal(h))
        least = output_error(w, best, h)
        found = gptq(w, best, h, inverse)
        for turn in range(turns + 1):
            error = output_error(w, found, h)
            best, least = picked(error < least, found, best), np.minimum(error, least)
            if turn < turns:
                found = descend(w, refit_scales(w, best, h), h)
        parts.append(best)
    return joined(parts)


def inverse_factor(h: Array) -> tuple[Array, Array]:
    """The order of the columns (largest moments first) and the upper Cholesky factor of the inverse in that order.

    The diagonal is raised tenfold more each time the matrix turns out not to be positive definite.
    """
    order = np.argsort(-np.diagonal(h), kind="stable")
    permuted = h[np.ix_(order, order)]
    extra, mean = 0.0, float(np.diagonal(h).mean())
    identity = np.eye(len(h))
    for _ in range(8):
        try:
            lower = np.linalg.inv(np.linalg.cholesky(permuted + extra * identity))
            return order, np.linalg.cholesky(lower.T @ lower).T
        except np.linalg.LinAlgError:
            extra = max(10 * extra, 1e-3 * mean)
    return order, identity


def gptq(w: Array, grid: Blocked, h: Array, inverse: tuple[Array, Array] | None = None) -> Blocked:
    """``w`` [N, K] rounded column by column to the codes of ``grid``, whose scales and zero points stay."""
    order, factor = inverse_factor(h) if inverse is None else inverse
    span, levels = grid.scheme.span(w.shape[1]), grid.scheme.levels
    scale, zero = grid.scale.astype(np.float64), grid.zero.astype(np.float64)
    rest = np.ascontiguousarray(w[:, order].T).astype(np.float64)
    codes = np.empty(rest.shape, np.uint8)
    for start in range(0, len(rest), _LAZY):
        stop = min(start + _LAZY, len(rest))
        errors = np.empty((stop - start, rest.shape[1]))
        for i in range(start, stop):
            block = order[i] // span
            s, z = scale[:, block], zero[:, block]
            code = np.clip(np.rint(rest[i] / s) + z, 0, levels)
            codes[i] = code
            error = (rest[i] - (code - z) * s) / factor[i, i]
            errors[i - start] = error
            rest[i + 1 : stop] -= factor[i, i + 1 : stop, None] * error
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    back = np.empty_like(codes)
    back[order] = codes
    return replace(grid, codes=np.ascontiguousarray(back.T))


def descend(w: Array, found: Blocked, h: Array, sweeps: int = 1) -> Blocked:
    """Each code in turn set to the best one while all others stay."""
    span, levels = found.scheme.span(w.shape[1]), found.scheme.levels
    scale, zero = found.scale.T.astype(np.float64), found.zero.T.astype(np.float64)
    codes = np.ascontiguousarray(found.codes.T).astype(np.float64)
    diagonal = np.diagonal(h)
    pull = h @ (w.T - found.real().T.astype(np.float64))
    for _ in range(sweeps):
        moved = 0
        for start in range(0, len(codes), _LAZY):
            stop = min(start + _LAZY, len(codes))
            steps = np.zeros((stop - start, codes.shape[1]))
            for i in range(start, stop):
                s, z = scale[i // span], zero[i // span]
                best = np.clip(np.rint((codes[i] - z) + pull[i] / (diagonal[i] * s)) + z, 0, levels)
                step = (best - codes[i]) * s
                steps[i - start] = step
                codes[i] = best
                pull[i:stop] -= h[i:stop, i, None] * step
            moved += int(np.count_nonzero(steps))
            pull[:start] -= h[:start, start:stop] @ steps
            pull[stop:] -= h[stop:, start:stop] @ steps
        if not moved:
            break
    return replace(found, codes=np.ascontiguousarray(codes.T.astype(np.uint8)))


def refit_scales(w: Array, found: Blocked, h: Array) -> Blocked:
    """All scales of each row together of least error, codes and zero points as they are."""
    n, k = w.shape
    span, count = found.scheme.span(k), found.scheme.count(k)
    steps = found.steps().astype(np.float64)
    normal: Array = np.empty((n, count, count))
    for b, start in enumerate(range(0, k, span)):
        columns = slice(start, min(start + span, k))
        normal[:, b] = block_sums((steps[:, columns] @ h[columns]) * steps, found.scheme)
    right = block_sums((w @ h) * steps, found.scheme)
    # Blocks without a step have nothing to fit; the others are held by a trace of their own scale.
    trace: Array = np.einsum("nbb->nb", normal)
    hold = 1e-9 * trace + np.where(trace > 0, 0.0, 1.0)
    old: Array = found.scale.astype(np.float64)
    np.einsum("nbb->nb", normal)[...] += hold
    solved: Array = np.linalg.solve(normal, (right + hold * old)[..., None])[..., 0]
    fits = np.isfinite(solved) & (np.abs(solved) > 1e-30) & (_free(found.scheme) | (solved > 0))
    return replace(found, scale=np.where(fits, solved, old).astype(np.float32))


def _free(scheme: BlockScheme) -> bool:
    """Whether scales may be negative."""
    return scheme.symmetric and not scheme.positive
