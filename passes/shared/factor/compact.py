"""The compact form of a product of two factors: a matrix of rank r without the r^2 redundant numbers of a pair.

Some r columns of ``W' = A B`` span all others. With these columns as the first factor

    W'[:, kept] = A B[:, kept] = a,    W'[:, rest] = a t,    t = B[:, kept]^-1 B[:, rest]

so that ``z = x a`` is a part of the result and ``z t`` the other: r (K + N - r) parameters and multiplications instead
of r (K + N), for the same matrix. Transposed, r rows span all others: ``z = x[kept] + x[rest] t``, ``y = z a``.

Columns chosen by QR with pivoting keep ``t`` small, but the result must be permuted. The first or the last r columns
need no permutation; where rounding errors allow (:attr:`Compact.growth`), they are taken.

Source: Zhao, Zhang and Chen 2025, "Pivoting Factorization: A Compact Meta Low-Rank Representation of Sparsity for
Efficient Inference in Large Language Models"; Cheng, Gimbutas, Martinsson and Rokhlin 2005, "On the Compression of Low
Rank Matrices" (interpolative decomposition).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from ....ir.dtypes import DType

Array = np.ndarray[Any, Any]
linalg: Any = scipy.linalg  # whose stubs leave types unknown
_GROWTH = {DType.F64: 1e9, DType.F32: 800.0}
"""Rounding errors may grow so much (to 1e-4 of the outputs) before channels are permuted to avoid it."""
_SINGULAR = 1e-12
"""Directions that are so much weaker than the strongest are none."""
_MISSED = 1e-9
"""Of the norm: what kept columns may leave of the others."""


@dataclass(frozen=True)
class Compact:
    """A matrix [K, N] of rank r."""

    side: str
    """``output``: columns are kept, ``a`` is [K, r], ``t`` [r, N - r]; ``input``: rows are kept, ``a`` is [r, N], ``t``
    [K - r, r]."""
    kept: Array
    """[r]: which columns or rows, in order of ``a``."""
    rest: Array
    """The others, in order of ``t``."""
    a: Array
    t: Array
    growth: float
    """Rounding errors of the outputs, in units of the type's own, relative to the outputs."""

    @property
    def first(self) -> bool:
        """Whether the kept ones come before all others."""
        return bool((self.kept == np.arange(len(self.kept))).all())

    @property
    def last(self) -> bool:
        """Whether the kept ones come behind all others."""
        return bool((self.kept == len(self.rest) + np.arange(len(self.kept))).all())

    def matrix(self) -> Array:
        """The product, [K, N]."""
        if self.side == "output":
            out = np.empty((len(self.a), len(self.kept) + len(self.rest)))
            out[:, self.kept], out[:, self.rest] = self.a, self.a @ self.t
        else:
            out = np.empty((len(self.kept) + len(self.rest), self.a.shape[1]))
            out[self.kept], out[self.rest] = self.a, self.t @ self.a
        return out

    @property
    def order(self) -> Array:
        """Where the columns (or rows) of the matrix stand in ``[kept, rest]``."""
        return np.argsort(np.concatenate([self.kept, self.rest]))


def compact(a: Array, b: Array, side: str, second: Array | None = None, largest: float = 0.0) -> Compact:
    """The compact form of ``a`` [K, r] times ``b`` [r, N].

    ``second`` [K, K] are the second moments of the inputs, by which rounding errors are judged. The first or the last
    columns (rows) are kept where that leaves ``growth`` below ``largest``; else those that a QR factorization with
    pivoting chooses.
    """
    r: int = b.shape[0]
    n: int = b.shape[1] if side == "output" else len(a)
    starts: tuple[int, ...] = (0, n - r) if largest > 0 else ()
    for start in starts:
        window: Array = np.arange(start, start + r)
        found = _kept(a, b, side, window, second)
        if found is not None and found.growth <= largest:
            return found
    wide = b if side == "output" else a.T
    found = _kept(a, b, side, _pivots(wide), second)
    if found is None:
        raise ValueError(f"the factors {a.shape} and {b.shape} have a rank below {r}")
    return found


def allowed_growth(dtype: DType | None) -> float:
    """What :func:`compact` may let rounding errors of this type grow by; 0: no more than it must."""
    return 0.0 if dtype is None else _GROWTH.get(dtype, 0.0)


def _pivots(wide: Array) -> Array:
    """Columns of a matrix [r, N] that span it well, in their order."""
    _, order = linalg.qr(wide, mode="r", pivoting=True)
    found: Array = np.sort(np.asarray(order)[: len(wide)])
    return found


def _kept(a: Array, b: Array, side: str, kept: Array, second: Array | None) -> Compact | None:
    """The form that keeps these columns or rows; ``None`` where they do not span the others."""
    wide = b if side == "output" else a.T
    left = np.ones(wide.shape[1], bool)
    left[kept] = False
    rest: Array = np.flatnonzero(left)
    t = _spanned(wide[:, kept], wide[:, rest])
    if t is None:
        return None
    if side == "output":
        made = a @ b[:, kept]
        return Compact(side, kept, rest, made, t, growth_of(a @ b, made, t, second))
    made = a[kept] @ b
    return Compact(side, kept, rest, made, t.T, _growth_inputs(a @ b, made, t.T, rest, second))


def _spanned(own: Array, other: Array) -> Array | None:
    """``t`` with ``own t = other``; ``None`` where there is none. ``own`` may be singular: weights have dead rows."""
    if not other.size:
        return other
    t, _, _, _ = linalg.lstsq(own, other, cond=_SINGULAR, lapack_driver="gelsy", check_finite=False)
    missed = np.linalg.norm(own @ t - other)
    return t if missed <= _MISSED * (np.linalg.norm(own) + np.linalg.norm(other)) else None


def growth_of(w: Array, a: Array, t: Array, second: Array | None = None) -> float:
    """Of rounding errors in ``[z, z t]`` for ``z = x a``, relative to ``x w``."""
    z = _squares(a, second)
    return float(np.sqrt((z.sum() + (z @ (t * t)).sum()) / max(_squares(w, second).sum(), 1e-300)))


def _growth_inputs(w: Array, a: Array, t: Array, rest: Array, second: Array | None) -> float:
    x = np.ones(len(w)) if second is None else np.diagonal(second)
    z = x[rest] @ (t * t)
    return float(np.sqrt(1.0 + (z * (a * a).sum(axis=1)).sum() / max(_squares(w, second).sum(), 1e-300)))


def _squares(w: Array, second: Array | None) -> Array:
    """Mean square of each output of ``x w``."""
    moved = w if second is None else second @ w
    found: Array = (w * moved).sum(axis=0)
    return found
