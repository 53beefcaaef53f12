"""Truncated singular value decomposition of a matrix, by what its products lose.

For ``y = x W`` with ``C = E[x^T x]`` the matrix ``W'`` of rank r that minimizes ``E|x W - x W'|^2`` is

    W' = W V_r V_r^T,    V_r: the first r right singular vectors of C^(1/2) W, i.e. eigenvectors of W^T C W

so that no inverse of ``C^(1/2)`` is needed: a deficient ``C`` does no harm. The error is the sum of the other
eigenvalues. With a bias to be chosen too, ``C`` is the covariance: the mean is then kept by the bias alone
(:func:`mean_shift`). One decomposition gives the errors of all ranks.

Errors of outputs may weigh differently: ``E|(y - y') R|^2`` for a root ``R`` of what the model makes of them gives
``W' = (W R V_r) (V_r^T R^-1)``. Where outputs are more than inputs, the same comes from the inputs' side, through
``R R^T`` alone.

Source: Eckart and Young 1936; Chen et al. 2021, "DRONE: Data-aware Low-rank Compression for Large NLP Models"; Wang et
al. 2024, "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression"; Yuan et al.
2023, "ASVD". The form without inverse is principal component analysis of the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

Array = np.ndarray[Any, Any]
linalg: Any = scipy.linalg  # whose stubs leave types unknown


_LEAST = 1e-12
"""Of the largest second moment: what directions without any count as where they are divided by."""


@dataclass(frozen=True)
class Decomposition:
    """All truncations of a matrix [K, N]; Q = min(K, N)."""

    left: Array
    """[K, Q]: ``W R V``, in order of falling importance."""
    right: Array
    """[Q, N]: ``V^T R^-1``."""
    energies: Array
    """[Q], falling: what each term adds to the mean square of the outputs."""

    @property
    def errors(self) -> Array:
        """[Q + 1]: root mean square error of the outputs relative to theirs, by rank (0 first)."""
        tails = np.concatenate([np.cumsum(self.energies[::-1])[::-1], [0.0]])
        total = tails[0]
        return np.sqrt(tails / total) if total > 0 else np.zeros(len(tails))

    def factors(self, rank: int) -> tuple[Array, Array]:
        """``[K, rank]`` and ``[rank, N]``, float64, whose product is the best approximation of that rank."""
        return self.left[:, :rank].copy(), self.right[:rank].copy()  # views would keep all ranks in memory

    @property
    def nbytes(self) -> int:
        return self.left.nbytes + self.right.nbytes + self.energies.nbytes


def decompose(weight: Array, second: Array | None = None, outputs: Array | None = None) -> Decomposition:
    """All truncations of ``weight`` [K, N].

    ``second`` is ``C`` [K, K], the identity where nothing is known of the inputs; ``outputs`` is the weight of squared
    output errors: [N], positive, or [N, N], positive definite.
    """
    w = np.asarray(weight, np.float64)
    if outputs is not None and outputs.ndim == 2 and w.shape[1] > w.shape[0]:
        return _from_inputs(w, second, outputs)
    scaled, undo = _weighted(w, outputs)
    energies, right = _eigen_outputs(scaled, second) if w.shape[1] <= w.shape[0] else _svd(scaled, second)
    right = right * _signs(right)
    back = right if undo is None else (right / undo if undo.ndim == 1 else np.linalg.solve(undo.T, right.T).T)
    return Decomposition(scaled @ right.T, back, energies)


def _from_inputs(w: Array, second: Array | None, outputs: Array) -> Decomposition:
    """Of a wide matrix, from ``S W H W^T S^T`` [K, K] for a root ``S`` of ``second``: ``W' = S^-1 U_r U_r^T S W``, so
    that no root of ``H`` [N, N] is needed."""
    root = undo = np.eye(len(w))
    if second is not None:
        values, vectors = linalg.eigh(second)
        scale = np.sqrt(np.maximum(values, max(float(values[-1]), 1e-300) * _LEAST))
        root, undo = scale[:, None] * vectors.T, vectors / scale
    mapped = root @ w
    gram = mapped @ (outputs @ mapped.T)
    energies, u = linalg.eigh((gram + gram.T) / 2)
    energies, u = np.maximum(energies[::-1], 0.0), u[:, ::-1]
    size = np.sqrt(np.where(energies > 0, energies, 1.0))
    left, right = (undo @ u) * size, (u.T @ mapped) / size[:, None]
    signs = _signs(right)
    return Decomposition(left * signs.T, right * signs, energies)


def _weighted(w: Array, outputs: Array | None) -> tuple[Array, Array | None]:
    """``W R``, and ``R``."""
    if outputs is None:
        return w, None
    if outputs.ndim == 1:
        root = np.sqrt(outputs)
        return w * root, root
    values, vectors = np.linalg.eigh(outputs)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return w @ root, root


def _eigen_outputs(w: Array, second: Array | None) -> tuple[Array, Array]:
    """From ``W^T C W`` [N, N], for matrices that are no wider than high."""
    gram = w.T @ w if second is None else w.T @ (second @ w)
    values, vectors = linalg.eigh((gram + gram.T) / 2)
    return np.maximum(values[::-1], 0.0), np.ascontiguousarray(vectors[:, ::-1].T)


def _svd(w: Array, second: Array | None) -> tuple[Array, Array]:
    """From ``C^(1/2) W`` [K, N], for wide matrices."""
    if second is not None:
        values, vectors = linalg.eigh(second)
        w = np.sqrt(np.maximum(values, 0.0))[:, None] * (vectors.T @ w)
    _, singular, right = linalg.svd(w, full_matrices=False)
    return singular**2, right


def _signs(right: Array) -> Array:
    """Makes the largest number of each row positive: the same signs whatever library computed them."""
    largest = np.take_along_axis(right, np.abs(right).argmax(axis=1)[:, None], axis=1)
    return np.where(largest < 0, -1.0, 1.0)


def mean_shift(weight: Array, approximation: tuple[Array, Array], mean: Array) -> Array:
    """What a bias must make up for: ``mean (W - A B)``, [N]."""
    a, b = approximation
    found: Array = mean @ weight - (mean @ a) @ b
    return found


def pair_parameters(k: int, n: int, rank: int) -> int:
    """Of two factors ``[k, rank]`` and ``[rank, n]``; also multiplications for one row."""
    return rank * (k + n)


def compact_parameters(k: int, n: int, rank: int) -> int:
    """Of the compact form of the same product (``compact.py``): the degrees of freedom of a matrix of that rank."""
    return rank * (k + n - rank)


def pair_rank(k: int, n: int, parameters: float) -> int:
    """The largest rank whose pair has no more parameters."""
    return int(parameters / (k + n))


def compact_rank(k: int, n: int, parameters: float) -> int:
    """The largest rank whose compact form has no more parameters."""
    s = k + n
    rest = s * s - 4.0 * parameters
    return min(k, n) if rest <= 0 else min(int((s - rest**0.5) / 2 + 1e-9), k, n)
