"""Scales for the inputs of a product that make the weights of large inputs larger, and so more exact.

``x W = (x / s) (diag(s) W)``: a weight grows with its input's scale while the block's step grows less. The scales are
``s = (m / mean)^a`` for the inputs' mean magnitudes ``m``; the exponent is searched by the outputs' error.
Source: Lin et al., AWQ: Activation-aware Weight Quantization, MLSys 2024.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .blocks import BlockScheme, search_parameters
from .gptq import output_error

Array = np.ndarray[Any, Any]
EXPONENTS = tuple(i / 10 for i in range(10))
_ROWS = 256
"""Rows of a matrix that the exponent is searched on."""
_REACH = 1e3
"""Scales lie within this factor of 1."""


def input_scales(magnitudes: Array, exponent: float) -> Array:
    """[K], float32, geometric mean 1; inputs that were always 0 get what the smallest other one gets."""
    found = np.asarray(magnitudes, np.float64)
    positive = found[found > 0]
    if not positive.size:
        return np.ones(found.shape, np.float32)
    found = np.maximum(found, positive.min())
    scales = np.exp(exponent * (np.log(found) - np.log(found).mean()))
    return np.clip(scales, 1 / _REACH, _REACH).astype(np.float32)


def search_scales(matrices: list[Array], magnitudes: Array, scheme: BlockScheme, h: Array) -> tuple[float, Array]:
    """The exponent and the scales of least error of all ``matrices`` [N, K], which take one input together.

    ``h`` are the second moments of the input (see ``gptq.regularized``). Exponent 0 leaves everything as it is.
    """
    some = [w[:: max(1, len(w) // _ROWS)] for w in matrices]
    best, least = (0.0, np.ones(len(magnitudes), np.float32)), np.inf
    for exponent in EXPONENTS:
        scales = input_scales(magnitudes, exponent)
        narrow = h / np.outer(scales, scales)
        error = 0.0
        for w in some:
            scaled = w * scales
            error += float(output_error(scaled, search_parameters(scaled, scheme, np.diagonal(narrow)), narrow).sum())
        if error < least:
            best, least = (exponent, scales), error
    return best
