"""Weights of a few bits with a scale for each block of a row: ``w = scale * (code - zero)``.

A matrix is held as ``[N, K]``: one row for each output, blocks run along the inner dimension K, as MatMulNBits stores
it. Codes are unsigned; the zero point of a symmetric scheme is the middle code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CHUNK_ELEMENTS = 1 << 21
"""Weights that are worked on at a time."""
_TINY = 1e-30


@dataclass(frozen=True)
class BlockScheme:
    """How a matrix is stored."""

    bits: int = 4
    """2, 4 or 8."""
    block: int = 32
    """Weights along a row that share a scale; 0: the whole row."""
    symmetric: bool = False
    positive: bool = False
    """Scales must be positive. Where they need not be, a symmetric scheme's odd code serves the side that reaches
    further."""

    @property
    def levels(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        return 1 << (self.bits - 1)

    def span(self, k: int) -> int:
        """Weights in a block of a row of ``k``."""
        return min(self.block, k) if self.block else k

    def count(self, k: int) -> int:
        """Blocks in a row of ``k``."""
        return -(-k // self.span(k))


@dataclass(frozen=True)
class Blocked:
    """A quantized matrix."""

    scheme: BlockScheme
    codes: Array
    """[N, K], uint8."""
    scale: Array
    """[N, blocks], float32."""
    zero: Array
    """[N, blocks], uint8."""

    def spread(self, parameter: Array) -> Array:
        """[N, blocks] as [N, K]."""
        k = self.codes.shape[1]
        return np.repeat(parameter, self.scheme.span(k), axis=1)[:, :k]

    def steps(self) -> Array:
        """``code - zero``, [N, K], float32."""
        return self.codes.astype(np.float32) - self.spread(self.zero)

    def real(self) -> Array:
        """The weights, [N, K], float32."""
        return self.steps() * self.spread(self.scale)

    def rows(self, which: Any) -> Blocked:
        return replace(self, codes=self.codes[which], scale=self.scale[which], zero=self.zero[which])


def joined(parts: list[Blocked]) -> Blocked:
    """The rows of several matrices below one another."""
    if len(parts) == 1:
        return parts[0]
    fields = ([getattr(p, name) for p in parts] for name in ("codes", "scale", "zero"))
    return Blocked(parts[0].scheme, *(np.concatenate(f) for f in fields))


def picked(wins: Array, a: Blocked, b: Blocked) -> Blocked:
    """Rows of ``a`` where ``wins`` [N] says so, else those of ``b``."""
    which = wins[:, None]
    codes, zero = np.where(which, a.codes, b.codes), np.where(which, a.zero, b.zero)
    return Blocked(b.scheme, codes, np.where(which, a.scale, b.scale), zero)


def block_sums(values: Array, scheme: BlockScheme) -> Array:
    """Sums over the blocks of each row: [N, K] to [N, blocks]."""
    k = int(values.shape[1])
    return np.asarray(np.add.reduceat(values, list(range(0, k, scheme.span(k))), axis=1))


def row_chunks(n: int, k: int) -> Iterator[slice]:
    """Rows of a matrix [n, k], as many at a time as ``CHUNK_ELEMENTS`` allow."""
    step = max(1, CHUNK_ELEMENTS // max(1, k))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def round_to_nearest(weights: Array, scheme: BlockScheme) -> Blocked:
    """Every weight to the nearest code, where the codes span the block's range: the baseline."""
    groups, _ = grouped(weights, None, scheme)
    scale, zero = range_parameters(groups, scheme)
    return blocked(weights, scheme, scale, zero)


def search_parameters(
    weights: Array, scheme: BlockScheme, importance: Array | None = None, *, candidates: int = 14
) -> Blocked:
    """Scales and zero points of least squared error, weighted by ``importance`` ([K], not negative) of the inputs.

    For each block ranges from half of its own to slightly more are tried, each followed by a least-squares fit of the
    parameters to the codes; the best wins, the plain range included: never worse than :func:`round_to_nearest`.
    Source: the fit is that of the k-quants of llama.cpp (make_qkx2_quants).
    """
    n, k = weights.shape
    parts: list[Blocked] = []
    for rows in row_chunks(n, k):
        chunk = weights[rows]
        groups, mass = grouped(chunk, importance, scheme)
        parts.append(blocked(chunk, scheme, *_search(groups, mass, scheme, candidates)))
    return joined(parts)


def squared_error(weights: Array, found: Blocked, importance: Array | None = None) -> float:
    """The sum over all weights of importance times squared error, over the same sum of the squared weights."""
    mass = 1.0 if importance is None else importance
    noise = float((np.square(weights - found.real(), dtype=np.float64) * mass).sum())
    signal = float((np.square(weights, dtype=np.float64) * mass).sum())
    return noise / signal if signal > 0 else 0.0


# -- blocks as rows


def grouped(weights: Array, importance: Array | None, scheme: BlockScheme) -> tuple[Array, Array]:
    """Blocks as rows [M, block] and the importance of each element; what fills the last block counts nothing."""
    n, k = weights.shape
    span, count = scheme.span(k), scheme.count(k)
    mass = np.ones(k, np.float32) if importance is None else importance.astype(np.float32)
    fill = count * span - k
    # Zeros can always be stored exactly, so that they change no range.
    groups = np.pad(weights, ((0, 0), (0, fill))).reshape(n * count, span).astype(np.float32, copy=False)
    return groups, np.broadcast_to(np.pad(mass, (0, fill)).reshape(count, span), (n, count, span)).reshape(-1, span)


def blocked(weights: Array, scheme: BlockScheme, scale: Array, zero: Array) -> Blocked:
    """``weights`` [N, K] rounded to the nearest codes under parameters [N * blocks]."""
    n, k = weights.shape
    groups, _ = grouped(weights, None, scheme)
    codes = codes_of(groups, scale, zero, scheme).reshape(n, -1)[:, :k]
    count = scheme.count(k)
    return Blocked(
        scheme,
        np.ascontiguousarray(codes.astype(np.uint8)),
        scale.reshape(n, count).astype(np.float32),
        zero.reshape(n, count).astype(np.uint8),
    )


def codes_of(groups: Array, scale: Array, zero: Array, scheme: BlockScheme) -> Array:
    """The nearest codes, float32 [M, block]."""
    steps = np.rint(groups / scale[:, None])
    steps += zero[:, None]
    return np.clip(steps, 0, scheme.levels, out=steps)


def range_parameters(groups: Array, scheme: BlockScheme, part: float | Array = 1.0) -> tuple[Array, Array]:
    """Parameters under which the codes span ``part`` of each block's range."""
    low, high = np.minimum(groups.min(axis=1), 0.0), np.maximum(groups.max(axis=1), 0.0)
    if not scheme.symmetric:
        scale = _usable((high - low) * part / scheme.levels)
        return scale, np.clip(np.rint(-low * part / scale), 0, scheme.levels).astype(np.float32)
    zero = np.full(len(groups), scheme.middle, np.float32)
    if scheme.positive:
        return _usable(np.maximum(-low, high) * part / (scheme.middle - 1)), zero
    sign = np.where(high > -low, -1.0, 1.0)
    return _usable(sign * np.maximum(-low, high) * part / scheme.middle), zero


def _usable(scale: Array) -> Array:
    """No scale is zero or so small that its quotients overflow; such blocks hold nothing but zeros."""
    return np.where(np.abs(scale) > _TINY, scale, 1.0).astype(np.float32)


def _search(groups: Array, mass: Array, scheme: BlockScheme, candidates: int) -> tuple[Array, Array]:
    best_scale, best_zero = range_parameters(groups, scheme)
    best = _losses(groups, mass, codes_of(groups, best_scale, best_zero, scheme), best_scale, best_zero)
    for part in np.linspace(0.55, 1.04, candidates, dtype=np.float32):
        scale, zero = range_parameters(groups, scheme, part)
        codes = codes_of(groups, scale, zero, scheme)
        scale, zero = fitted(groups, mass, codes, scale, zero, scheme)
        # For the codes that were fitted to; under the new parameters the nearest codes can only be better.
        loss = _losses(groups, mass, codes, scale, zero)
        better = loss < best
        best, best_scale, best_zero = (
            np.where(better, new, old) for new, old in ((loss, best), (scale, best_scale), (zero, best_zero))
        )
    return best_scale, best_zero


def _losses(groups: Array, mass: Array, codes: Array, scale: Array, zero: Array) -> Array:
    error = codes - zero[:, None]
    error *= scale[:, None]
    error -= groups
    return np.einsum("mk,mk,mk->m", error, error, mass)


def fitted(
    groups: Array, mass: Array, codes: Array, scale: Array, zero: Array, scheme: BlockScheme
) -> tuple[Array, Array]:
    """The scale, and with it the zero point, of least squared error for given codes."""
    if not scheme.symmetric:
        zero = _fitted_zero(groups, mass, codes, zero, scheme)
    steps = codes - zero[:, None]
    weighted = steps * mass
    top, bottom = np.einsum("mk,mk->m", weighted, groups), np.einsum("mk,mk->m", weighted, steps)
    found = top / np.where(bottom > 0, bottom, 1.0)
    # An unsigned code cannot turn the sign; neither can a positive scale.
    fits = (bottom > 0) & (found * np.sign(scale) > _TINY)
    return np.where(fits, found, scale).astype(np.float32), zero


def _fitted_zero(groups: Array, mass: Array, codes: Array, zero: Array, scheme: BlockScheme) -> Array:
    """``-b / a`` of the line ``a * code + b`` through the weights, rounded."""
    total = mass.sum(axis=1)
    total = np.where(total > 0, total, 1.0)
    x, y = np.einsum("mk,mk->m", codes, mass) / total, np.einsum("mk,mk->m", groups, mass) / total
    dx = (codes - x[:, None]) * mass
    variance = np.einsum("mk,mk->m", dx, codes)
    slope = np.einsum("mk,mk->m", dx, groups) / np.where(variance > 0, variance, 1.0)
    fits = (variance > 0) & (slope > _TINY)
    found = np.rint(x - y / np.where(fits, slope, 1.0))
    return np.where(fits, np.clip(found, 0, scheme.levels), zero).astype(np.float32)
