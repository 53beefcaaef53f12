"""A matrix as codes of few bits and a product of low rank that makes up for their rounding: ``W ~ Q + A B``.

Both are found together: the codes round what the product leaves, ``Q = round(W - A B)``, and the product is the best of
its rank for what the codes leave, in the metric of the inputs; in turns, and the best turn is kept. Where factors are
codes too, ``A`` is rounded, ``B`` solved for what became of it, and rounded. The rounding of most weights is like
noise, of which a low rank takes little; it takes the few strong directions of the inputs.

Source: Zhang et al. 2024, "LQER: Low-Rank Quantization Error Reconstruction for LLMs"; Li et al. 2024, "LoftQ" (in
turns); Saha et al. 2024, "Compressing Large Language Models using Low Rank and Low Precision Decomposition" (CALDERA:
factors of few bits, one solved for the other).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..quant.blocks import Blocked, BlockScheme
from ..quant.weight_only import Inputs, Matrix, quantize_matrix
from .svd import decompose

Array = np.ndarray[Any, Any]
TURNS = 2
_RIDGE = 1e-10
"""Of the mean diagonal: what regressions on weak directions are damped by."""


@dataclass(frozen=True)
class Residual:
    """``Q + A B`` for a matrix [K, N]."""

    codes: Blocked
    """Of ``Q^T``, [N, K]."""
    a: Array
    """[K, r]"""
    b: Array
    """[r, N]"""
    error: float
    """Of the outputs, root mean square relative to theirs."""
    coded: tuple[Blocked, Blocked] | None = None
    """Codes of ``A^T`` and ``B^T``, where these are what they stand for."""

    @property
    def nbytes(self) -> int:
        codes = [self.codes, *(self.coded or ())]
        return sum(c.codes.nbytes + c.scale.nbytes for c in codes) + self.a.nbytes + self.b.nbytes


def with_residual(
    weight: Array,
    second: Array | None,
    rank: int,
    scheme: BlockScheme,
    turns: int = TURNS,
    factors: tuple[BlockScheme, BlockScheme] | None = None,
) -> Residual:
    """``weight`` [K, N] with ``second`` moments [K, K] of its inputs, ``None`` where nothing is known of them;
    ``factors``: how ``A`` and ``B`` are stored, in floats where nothing is said."""
    part, best = np.zeros(weight.shape), None
    for _ in range(turns):
        codes = rounded_codes(weight - part, second, scheme)
        rest = weight - codes.real().T.astype(np.float64)
        (a, b), coded = decompose(rest, second).factors(rank), None
        if factors is not None:
            coded = _coded(rest, a, second, factors)
            a, b = (part.real().T.astype(np.float64) for part in coded)
        part = a @ b
        found = Residual(codes, a, b, _relative(rest - part, weight, second), coded)
        best = found if best is None or found.error < best.error else best
    assert best is not None
    return best


def _coded(
    rest: Array, a: Array, second: Array | None, factors: tuple[BlockScheme, BlockScheme]
) -> tuple[Blocked, Blocked]:
    """Codes of ``A^T``, and of the ``B^T`` that fits them best, for ``rest`` [K, N]."""
    first = rounded_codes(a, second, factors[0])
    made = first.real().T.astype(np.float64)
    moved = made if second is None else second @ made
    gram = made.T @ moved
    gram[np.diag_indices(len(gram))] += _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-300)
    b = np.linalg.solve(gram, moved.T @ rest)
    return first, rounded_codes(b, gram, factors[1])


def rounded_codes(weight: Array, second: Array | None, scheme: BlockScheme) -> Blocked:
    """Codes of ``weight^T`` [N, K], rounded for the outputs where second moments are known."""
    rows = np.ascontiguousarray(weight.T, np.float32)
    matrix = Matrix(rows.shape[0], rows.shape[1], lambda start, stop: rows[start:stop])
    return quantize_matrix(matrix, scheme, "auto", Inputs(second))[0]


def _relative(error: Array, weight: Array, second: Array | None) -> float:
    def energy(w: Array) -> float:
        return float((w * (w if second is None else second @ w)).sum())

    total = energy(weight)
    return float(np.sqrt(max(energy(error), 0.0) / total)) if total > 0 else 0.0
