"""What ONNX Runtime 1.31 does to a model before it looks for integer kernels (its level 1), as far as it matters."""

from __future__ import annotations

from collections.abc import Callable

from . import shapes, spread, stand_in, tidy
from .work import Work

STEPS = 10
"""Rounds after which the runtime stops by itself."""


def prepare(work: Work) -> None:
    """Level 1, until nothing changes."""
    spread.unshare(work)
    for _ in range(STEPS):
        changed = [step(work) for step in _PASSES]
        if not any(changed):
            return


_PASSES: tuple[Callable[[Work], bool], ...] = (
    tidy.drop_identities,
    tidy.drop_double_pairs,
    tidy.share_constants,
    tidy.merge_equal,
    tidy.fold,
    shapes.fuse_bias,
    shapes.fuse_reshape,
    spread.propagate,
    stand_in.quantize_weights,
    stand_in.fill_where,
    spread.unshare,
    tidy.cancel_transposes,
)
