"""Matrices whose rank is low up to rounding: some columns span all others.

QR with column pivoting puts the columns in order: those behind the r-th are, up to what is left of them below row r,
combinations of the first r. The rank is the smallest at which every column is reproduced to a few units of rounding.

Source: Businger and Golub 1965; Gu and Eisenstat 1996, "Efficient Algorithms for Computing a Strong Rank-Revealing QR
Factorization"; Cheng, Gimbutas, Martinsson and Rokhlin 2005.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from .compact import Compact, growth_of

Array = np.ndarray[Any, Any]
linalg: Any = scipy.linalg  # whose stubs leave types unknown
UNITS = 8.0
"""Of the type's rounding, relative to each column's length: what may be left of it."""
_NOTHING = 1e-12
"""Of the largest coefficient: smaller ones are rounding."""


def spanning(w: Array, unit: float, largest: int) -> tuple[Array, int] | None:
    """The columns of ``w`` [K, N] in order, and how many of the first span all others up to ``UNITS * unit``.

    ``None`` where none are, or more than ``largest`` are needed.
    """
    lengths = np.linalg.norm(w, axis=0)
    triangular, order = linalg.qr(w / np.where(lengths > 0, lengths, 1.0), mode="r", pivoting=True)
    triangular = np.asarray(triangular)[: min(w.shape)]
    below = np.cumsum(triangular[::-1] ** 2, axis=0)[::-1]  # what is left of each column from this row on
    fits = np.append((below <= (UNITS * unit) ** 2).all(axis=1), True)
    rank = int(fits.argmax())
    return (np.asarray(order), rank) if 0 < rank <= largest else None


def exact_compact(w: Array, unit: float, largest: int, growth: float) -> Compact | None:
    """``w`` [K, N] as some of its columns, as they are, and combinations of them; ``None`` where its rank is above.

    The first or the last columns are kept where rounding errors grow less than ``growth`` so.
    """
    found = spanning(w, unit, largest)
    if found is None:
        return None
    order, rank = found
    n = w.shape[1]
    choices: list[Array] = [np.arange(rank), np.arange(n - rank, n), np.sort(order[:rank])]
    for kept in choices:
        made = _from_columns(w, kept, unit)
        if made is not None and made.growth <= growth:
            return made
    return None


def _from_columns(w: Array, kept: Array, unit: float) -> Compact | None:
    left = np.ones(w.shape[1], bool)
    left[kept] = False
    rest: Array = np.flatnonzero(left)
    a, other = w[:, kept], w[:, rest]
    t: Array = linalg.lstsq(a, other, cond=unit, lapack_driver="gelsy")[0] if rest.size else np.zeros((len(kept), 0))
    t = np.where(np.abs(t) <= _NOTHING * np.abs(t).max(initial=0.0), 0.0, t)
    missed = np.linalg.norm(a @ t - other, axis=0)
    if (missed > UNITS * unit * np.linalg.norm(other, axis=0)).any():
        return None
    return Compact("output", kept, rest, a, t, growth_of(w, a, t))
