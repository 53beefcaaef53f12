"""Exact ranks: found where they are, not found where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.passes.shared.factor.exact import UNITS, exact_compact, spanning

Array = np.ndarray[Any, Any]
F32 = 2.0**-24


def low(k: int, n: int, rank: int, seed: int) -> Array:
    """Of the rank, rounded to float32."""
    rng = np.random.default_rng(seed)
    made: Array = (rng.normal(size=(k, rank)) @ rng.normal(size=(rank, n))).astype(np.float32).astype(np.float64)
    return made


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(0, 1000), st.data())
def test_ranks_up_to_rounding_are_found(k: int, n: int, seed: int, more: st.DataObject) -> None:
    rank = more.draw(st.integers(1, min(k, n) - 1))
    w = low(k, n, rank, seed)
    found = spanning(w, F32, min(k, n))
    assert found is not None
    assert found[1] <= rank
    form = exact_compact(w, F32, min(k, n), 1e6)
    assert form is not None
    assert np.array_equal(form.a, w[:, form.kept]), "kept columns stay as they are"
    missed = np.linalg.norm(form.matrix() - w, axis=0)
    assert (missed <= UNITS * F32 * np.linalg.norm(w, axis=0)).all()


def test_what_is_more_than_rounding_counts() -> None:
    w = low(20, 16, 5, 0)
    w[:, 3] += 1e-4 * np.random.default_rng(1).normal(size=20)
    found = spanning(w, F32, 16)
    assert found is not None
    assert found[1] == 6
    assert spanning(w, F32, 5) is None
    assert exact_compact(w, F32, 5, 1e6) is None


@pytest.mark.parametrize("seed", range(3))
def test_small_columns_count_by_their_own_size(seed: int) -> None:
    """A column of small numbers is not rounding of the large ones."""
    w = low(20, 16, 5, seed)
    w[:, 7] = 1e-9 * np.random.default_rng(seed).normal(size=20)
    found = spanning(w, F32, 16)
    assert found is not None
    assert found[1] == 6


def test_zeros_have_no_rank_to_write() -> None:
    assert spanning(np.zeros((4, 4)), F32, 4) is None
