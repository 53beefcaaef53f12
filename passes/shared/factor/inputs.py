"""What is known of the rows ``x`` that a matrix is multiplied with: second moments and mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..quant.gptq import regularized
from ..quant.statistics import Observed

Array = np.ndarray[Any, Any]
DAMPING = 1e-4
"""Of the mean variance, added to each: directions that no sample showed still count a little."""


@dataclass(frozen=True)
class Inputs:
    """Sums over rows ``x`` of K numbers."""

    moments: Array
    """[K, K], float64: the sum of ``x^T x``."""
    mean: Array
    """[K], float64."""
    rows: int

    def second(self, damping: float = DAMPING) -> Array:
        """``E[x^T x]``: [K, K], positive definite; estimates from few rows are shrunk towards the diagonal."""
        return regularized(self.moments, self.rows, damping)

    def covariance(self, damping: float = DAMPING) -> Array:
        """``E[(x - mean)^T (x - mean)]``, likewise."""
        centred = self.moments - self.rows * np.outer(self.mean, self.mean)
        return regularized(centred, max(self.rows - 1, 1), damping)


def inputs_of(observed: Sequence[Observed | None]) -> Inputs | None:
    """Joined over several values, all of which must have been observed by moments and channels of the last axis."""
    seen = [o for o in observed if o is not None and o.moments is not None and o.rows and o.channels is not None]
    if not seen or len(seen) != len(observed) or len({o.moments.shape for o in seen if o.moments is not None}) != 1:
        return None
    if any(o.nan or o.infinite for o in seen):
        return None
    rows = sum(o.rows for o in seen)
    moments = np.asarray(sum(np.asarray(o.moments, np.float64) for o in seen))
    mean = sum(o.channels.mean * (o.rows / rows) for o in seen if o.channels is not None)
    return Inputs(moments, np.asarray(mean), rows)
