"""Convolution weights by low rank along channels: Tucker-2, spatial SVD, and CP, by what outputs lose.

A weight [C, S, O] (input channels, positions of the kernel, outputs) multiplies patches ``x`` [C S]. Tucker-2 is

    W'[c, s, o] = sum_pq A[c, p] G[p, s, q] B[q, o]

a 1x1 convolution, one with the kernel between fewer channels, a 1x1 convolution. ``A`` comes from the decomposition of
W by input channels, in the metric of the channels' moments (HOSVD). With ``A`` fixed, ``G`` and ``B`` of every rank q
are optimal in closed form (reduced-rank regression): least squares of the outputs on ``x A``, projected on its
principal outputs. :func:`improved` alternates (HOOI) and keeps what loses less.

Spatial SVD (kh x 1, then 1 x kw) is the same with (c, i) for channels, j for positions and all outputs kept. CP, one
term a channel between the two 1x1 convolutions, is found by alternating least squares; its last factor by regression.

Source: Tucker 1966; De Lathauwer, De Moor and Vandewalle 2000 (HOSVD, HOOI); Kim et al. 2016, "Compression of Deep
Convolutional Neural Networks for Fast and Low Power Mobile Applications"; Jaderberg, Vedaldi and Zisserman 2014,
"Speeding up Convolutional Neural Networks with Low Rank Expansions"; Lebedev et al. 2015, "Speeding-up Convolutional
Neural Networks Using Fine-tuned CP-Decomposition"; Izenman 1975 (reduced-rank regression).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

Array = np.ndarray[Any, Any]
linalg: Any = scipy.linalg  # whose stubs leave types unknown
_RIDGE = 1e-10
"""Of the mean diagonal: what regressions on weak directions are damped by."""
_SWEEPS = 60
"""Of alternating least squares for CP."""
_SETTLED = 1e-5
"""Relative change of a sweep below which it stops."""


@dataclass(frozen=True)
class Metric:
    """Second moments of patches [C S, C S], or of channels [C, C] for all positions alike; ``None``: the identity."""

    second: Array | None
    channels: int
    positions: int

    @property
    def by_patches(self) -> bool:
        return self.second is not None and len(self.second) == self.channels * self.positions

    def of_channels(self) -> Array | None:
        """[C, C]: the mean over positions."""
        if self.second is None or not self.by_patches:
            return self.second
        blocks = self.second.reshape(self.channels, self.positions, self.channels, self.positions)
        found: Array = np.einsum("csds->cd", blocks) / self.positions
        return found

    def times(self, w: Array) -> Array:
        """``P w`` for [C S, ...]."""
        if self.second is None:
            return w
        if self.by_patches:
            return self.second @ w
        return (self.second @ w.reshape(self.channels, -1)).reshape(w.shape)


@dataclass(frozen=True)
class Weighted:
    """A weight [C, S, O] with the metric of what it multiplies; what all ranks need of both is computed once."""

    weight: Array
    metric: Metric

    @cached_property
    def flat(self) -> Array:
        """[C S, O]."""
        return self.weight.reshape(-1, self.weight.shape[2])

    @cached_property
    def moved(self) -> Array:
        """``P W`` [C S, O]."""
        return self.metric.times(self.flat)

    @cached_property
    def root(self) -> Array | None:
        """``R`` [C, C] with ``R^T R`` the moments of channels."""
        second = self.metric.of_channels()
        if second is None:
            return None
        values, vectors = linalg.eigh(second)
        return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T

    def basis(self, rows: Array) -> Array:
        """[C, Q]: combinations of input channels of ``rows`` [C, ...], the strongest first: left factors ``W V`` of the
        decomposition of ``R W``, from ``R W W^T R^T`` alone."""
        flat = rows.reshape(len(rows), -1)
        gram = flat @ flat.T
        half = gram if self.root is None else gram @ self.root.T
        both = half if self.root is None else self.root @ half
        values, vectors = linalg.eigh((both + both.T) / 2)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        left = (half @ vectors) / np.sqrt(np.where(values > 0, values, 1.0))
        return (left * _signs(left))[:, : min(flat.shape)]

    @property
    def nbytes(self) -> int:
        return 3 * self.weight.nbytes


@dataclass(frozen=True)
class Tucker:
    """Factors of a weight [C, S, O]."""

    a: Array
    """[C, p]"""
    core: Array
    """[p, S, q]"""
    b: Array
    """[q, O]"""
    error: float
    """Of the outputs, root mean square relative to theirs."""

    def matrix(self) -> Array:
        """[C, S, O]."""
        return np.einsum("cp,psq,qo->cso", self.a, self.core, self.b, optimize=True)


@dataclass(frozen=True)
class Regression:
    """All ranks of outputs for one basis of input channels."""

    a: Array
    """[C, p]"""
    mapped: Array
    """[p, S, O]: least squares."""
    outputs: Array
    """[O, Q]: principal outputs, the strongest first."""
    values: Array
    """[Q]: what each of them adds to the mean square of the outputs."""
    residual: Array
    """[O, O]: second moments of what no rank of the outputs can bring back."""

    @property
    def total(self) -> float:
        """Mean square of the outputs."""
        return float(np.trace(self.residual) + self.values.sum())

    def losses(self, metric: Array | None = None) -> Array:
        """[Q + 1]: mean square of what is lost, by rank of the outputs (0 first), in ``metric`` [O, O] where given."""
        if metric is None:
            left, terms = float(np.trace(self.residual)), self.values
        else:
            left = float((metric * self.residual).sum())
            terms = self.values * np.einsum("oq,op,pq->q", self.outputs, metric, self.outputs, optimize=True)
        return np.maximum(left + np.concatenate([np.cumsum(terms[::-1])[::-1], [0.0]]), 0.0)

    @property
    def errors(self) -> Array:
        """[Q + 1]: of the outputs, root mean square relative to theirs."""
        total = self.total
        return np.sqrt(self.losses() / total) if total > 0 else np.zeros(len(self.values) + 1)

    def tucker(self, rank: int) -> Tucker:
        """The best of a rank of the outputs."""
        b = self.outputs[:, :rank]
        return Tucker(self.a, self.mapped @ b, b.T, float(self.errors[rank]))

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.mapped.nbytes + self.outputs.nbytes + self.residual.nbytes


def tucker_bases(weighted: Weighted, ranks: Sequence[int]) -> list[Regression]:
    """For each rank of input channels, all ranks of outputs. Rank C keeps the channels."""
    by_channels = weighted.basis(weighted.weight)
    return [regression(weighted, leading(by_channels, rank)) for rank in ranks]


def leading(basis: Array, rank: int) -> Array:
    """[C, rank] of :meth:`Weighted.basis`: the channels themselves where all are kept."""
    return np.eye(len(basis)) if rank >= len(basis) else basis[:, :rank]


def regression(weighted: Weighted, a: Array) -> Regression:
    """The best of what reads the patches only through ``a`` [C, p]."""
    weight, metric, moved = weighted.weight, weighted.metric, weighted.moved
    c, s, o = weight.shape
    p = a.shape[1]
    crossed = np.einsum("cp,cso->pso", a, moved.reshape(c, s, o), optimize=True).reshape(p * s, o)
    mapped = weight if p == c and (a == np.eye(c)).all() else _solved(a, metric, crossed, s)
    explained = crossed.T @ mapped.reshape(p * s, o)
    explained = (explained + explained.T) / 2
    values, vectors = linalg.eigh(explained)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    return Regression(
        a, mapped.reshape(p, s, o), vectors * _signs(vectors), values, weighted.flat.T @ moved - explained
    )


def _solved(a: Array, metric: Metric, crossed: Array, positions: int) -> Array:
    """Least squares of the outputs on ``x a``: [p, S, O]."""
    p = a.shape[1]
    if metric.by_patches:
        assert metric.second is not None
        c = len(a)
        half = np.einsum("cp,csm->psm", a, metric.second.reshape(c, positions, -1), optimize=True)
        gram = np.einsum("nds,dq->nqs", half.reshape(p * positions, c, positions), a, optimize=True)
        return _ridge(gram.reshape(p * positions, p * positions), crossed).reshape(p, positions, -1)
    channels = a if metric.second is None else metric.second @ a
    return _ridge(a.T @ channels, crossed.reshape(p, -1)).reshape(p, positions, -1)


def _ridge(gram: Array, right: Array) -> Array:
    damped = (gram + gram.T) / 2
    damped[np.diag_indices(len(damped))] += _RIDGE * max(float(np.trace(damped)) / len(damped), 1e-300)
    found: Array = linalg.solve(damped, right, assume_a="pos")
    return found


def _signs(columns: Array) -> Array:
    """Makes the largest number of each column positive."""
    largest = np.take_along_axis(columns, np.abs(columns).argmax(axis=0)[None], axis=0)
    return np.where(largest < 0, -1.0, 1.0)


def improved(weighted: Weighted, start: Tucker, sweeps: int = 3) -> Tucker:
    """HOOI: bases of channels and outputs in turns, as long as the error falls."""
    weight, best, rank = weighted.weight, start, start.b.shape[0]
    if start.a.shape[1] == len(weight) or rank == weight.shape[2]:
        return start  # with one mode whole, the other is optimal
    for _ in range(sweeps):
        left = weighted.basis(weight @ best.b.T)  # rows of b are orthonormal: the same as behind b^T b
        found = regression(weighted, left[:, : best.a.shape[1]]).tucker(rank)
        if not found.error < best.error * (1 - _SETTLED):
            break
        best = found
    return best


def tucker_parameters(c: int, s: int, o: int, p: int, q: int, *, compact: bool) -> int:
    """Of three convolutions (fewer where a mode is whole); also multiplications for one position."""
    first = 0 if p == c else p * (c - p if compact else c)
    last = 0 if q == o else q * (o - q if compact else o)
    return first + p * s * q + last


# -- CP


@dataclass(frozen=True)
class Cp:
    """``W'[c, s, o] = sum_r A[c, r] D[r, s] B[r, o]``."""

    a: Array
    d: Array
    b: Array
    residual: Array
    """[O, O]: second moments of the outputs' errors."""

    def matrix(self) -> Array:
        """[C, S, O]."""
        return np.einsum("cr,rs,ro->cso", self.a, self.d, self.b, optimize=True)


def cp(weight: Array, metric: Metric, rank: int, seed: int = 0) -> Cp:
    """By alternating least squares on the weight, from its decomposition by modes; the outputs by regression."""
    a, d, b = _started(weight, rank, seed)
    previous = np.inf
    for _ in range(_SWEEPS):
        a = _least_squares(np.einsum("cso,sr,or->cr", weight, d, b, optimize=True), d, b)
        d = _least_squares(np.einsum("cso,cr,or->sr", weight, a, b, optimize=True), a, b)
        b = _least_squares(np.einsum("cso,cr,sr->or", weight, a, d, optimize=True), a, d)
        missed = float(np.linalg.norm(weight - np.einsum("cr,sr,or->cso", a, d, b, optimize=True)))
        if previous - missed <= _SETTLED * missed:
            break
        previous = missed
    scale = np.linalg.norm(a, axis=0) * np.linalg.norm(d, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    a, d = a / np.sqrt(scale), d / np.sqrt(scale)
    features = np.einsum("cr,sr->csr", a, d).reshape(-1, rank)
    w = weight.reshape(len(features), -1)
    b = _ridge(features.T @ metric.times(features), features.T @ metric.times(w))
    left = w - features @ b
    return Cp(a, d.T, b, left.T @ metric.times(left))


def cp_parameters(c: int, s: int, o: int, rank: int) -> int:
    """Of a 1x1, a depthwise and a 1x1 convolution."""
    return rank * (c + s + o)


def _started(weight: Array, rank: int, seed: int) -> tuple[Array, Array, Array]:
    """Leading directions of each mode; random columns where a mode has too few."""
    rng = np.random.default_rng(seed)
    found: list[Array] = []
    for mode in range(3):
        flat = np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1)
        _, vectors = linalg.eigh(flat @ flat.T)
        leading = vectors[:, ::-1][:, :rank]
        more = rng.normal(size=(len(flat), rank - leading.shape[1])) / np.sqrt(len(flat))
        found.append(np.concatenate([leading * _signs(leading), more], axis=1))
    return found[0], found[1], found[2]


def _least_squares(right: Array, first: Array, second: Array) -> Array:
    return _ridge((first.T @ first) * (second.T @ second), right.T).T
