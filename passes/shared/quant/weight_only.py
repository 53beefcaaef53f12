"""One matrix by any of the methods, a piece of its rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .blocks import Blocked, BlockScheme, joined, round_to_nearest, search_parameters
from .gptq import output_error, quantize_for_outputs
from .hqq import hqq

Array = np.ndarray[Any, Any]
METHODS = ("auto", "rtn", "search", "hqq", "gptq", "awq")
PIECE_ELEMENTS = 1 << 24
"""Weights that are in memory as floats at a time."""


@dataclass(frozen=True)
class Matrix:
    """A matrix [n, k] whose rows can be asked for."""

    n: int
    k: int
    rows: Callable[[int, int], Array]
    """Rows [start, stop) as float32 [stop - start, k]."""


@dataclass(frozen=True)
class Inputs:
    """What is known of the inputs that a matrix is multiplied with."""

    moments: Array | None = None
    """[K, K], see ``gptq.regularized``."""
    importance: Array | None = None
    """[K], mean squares."""

    @property
    def weights(self) -> Array | None:
        """Mean squares of the inputs, where anything is known."""
        return self.importance if self.moments is None else np.diagonal(self.moments)


def quantize_matrix(
    matrix: Matrix, scheme: BlockScheme, method: str = "auto", inputs: Inputs = Inputs(), scales: Array | None = None
) -> tuple[Blocked, float]:
    """The quantized matrix, and the root mean square of its outputs' error relative to theirs.

    ``auto`` is ``gptq`` where second moments are known, else ``search``, weighted by what is known; ``gptq`` without
    them is ``search`` too. ``scales`` [K] multiply the columns first (see ``awq.py``); ``inputs`` are those of the
    scaled matrix then.
    """
    parts: list[Blocked] = []
    noise = signal = 0.0
    step = max(1, PIECE_ELEMENTS // max(1, matrix.k))
    for start in range(0, matrix.n, step):
        w = matrix.rows(start, min(start + step, matrix.n))
        w = w if scales is None else w * scales
        found = _quantized(w, scheme, method, inputs)
        parts.append(found)
        part = _noise_and_signal(w, found, inputs)
        noise, signal = noise + part[0], signal + part[1]
    return joined(parts), (noise / signal) ** 0.5 if signal > 0 else 0.0


def _quantized(w: Array, scheme: BlockScheme, method: str, inputs: Inputs) -> Blocked:
    if method == "rtn":
        return round_to_nearest(w, scheme)
    if method == "hqq":
        return hqq(w, scheme)
    if method != "search" and inputs.moments is not None:
        return quantize_for_outputs(w, scheme, inputs.moments)
    return search_parameters(w, scheme, inputs.weights)


def _noise_and_signal(w: Array, found: Blocked, inputs: Inputs) -> tuple[float, float]:
    """Sums over the outputs of the squared error and of their own squares, by the best measure there is."""
    if inputs.moments is not None:
        wide = w.astype(np.float64)
        signal = float(np.einsum("nk,nk->", wide @ inputs.moments, wide))
        return float(output_error(w, found, inputs.moments).sum()), signal
    mass = 1.0 if inputs.importance is None else inputs.importance
    error = np.square(w - found.real(), dtype=np.float64)
    return float((error * mass).sum()), float((np.square(w, dtype=np.float64) * mass).sum())
