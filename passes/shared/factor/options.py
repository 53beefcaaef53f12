"""Which ranks are offered for one matrix, what each costs, and the options of passes that offer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ....ir.errors import PipelineError
from ...core import Numbers, Pass, pass_name
from .inputs import DAMPING, Inputs
from .svd import compact_parameters, compact_rank, pair_parameters, pair_rank

Array = np.ndarray[Any, Any]
COMPACT, PAIR = "compact", "pair"
FORMS = (COMPACT, PAIR)
KEPT = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Shares of the parameters that are offered to be kept."""
_MULTIPLE = 8
"""Ranks are whole vectors of the processor where they are large enough."""


@dataclass(frozen=True)
class Option:
    """A rank in one form."""

    form: str
    rank: int
    parameters: int
    """Also multiplications for one row."""
    error: float
    """Predicted: of the outputs, root mean square relative to theirs."""

    @property
    def label(self) -> str:
        """``c96`` for the compact form of rank 96, ``r96`` for a pair."""
        return f"{'c' if self.form == COMPACT else 'r'}{self.rank}"


def options_for(
    k: int, n: int, errors: Array, forms: Sequence[str] = FORMS, kept: Sequence[float] = KEPT, ranks: Sequence[int] = ()
) -> list[Option]:
    """Those with fewer parameters than the matrix [k, n], the fewest first; ``errors`` by rank, 0 first.

    ``ranks`` are offered instead of those that keep shares ``kept`` of the parameters, where they are given.
    """
    found: dict[str, Option] = {}
    for form in forms:
        count, largest = (compact_parameters, compact_rank) if form == COMPACT else (pair_parameters, pair_rank)
        for rank in ranks or [_rounded(largest(k, n, share * k * n)) for share in kept]:
            if 1 <= rank < min(k, n) and count(k, n, rank) < k * n:
                option = Option(form, rank, count(k, n, rank), float(errors[rank]))
                found[option.label] = option
    return sorted(found.values(), key=lambda o: (o.parameters, o.form))


def _rounded(rank: int) -> int:
    return rank - rank % _MULTIPLE if rank >= 2 * _MULTIPLE else rank


@dataclass
class MatrixOptions(Pass):
    """Of passes that offer low ranks for matrices, unit by unit."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    forms: tuple[str, ...] = FORMS
    """``compact`` and ``pair``."""
    kept: tuple[float, ...] = KEPT
    """Shares of the parameters that are offered to be kept."""
    ranks: tuple[int, ...] = ()
    """Ranks that are offered instead."""
    min_parameters: int = 1 << 12
    """Smaller weights stay."""
    damping: float = DAMPING
    """Of the mean variance of the inputs, added to each."""
    by_model: bool = True
    """Errors count by what they do to the model's outputs, where samples say so; else to the layer's own."""

    def require_options(self) -> None:
        """Raises ``PipelineError``."""
        wrong = [str(f) for f in self.forms if f not in FORMS] + [str(s) for s in self.kept if not 0 < s < 1]
        wrong += [str(rank) for rank in self.ranks if rank < 1]
        if wrong:
            raise PipelineError(
                f"{wrong[0]} is not valid",
                where=pass_name(type(self)),
                help=f"forms: {', '.join(FORMS)}; kept: shares between 0 and 1; ranks: 1 and above",
            )

    def second(self, inputs: Inputs | None, *, keeps_mean: bool) -> Array | None:
        """Second moments [K, K] about the mean where a bias keeps the mean, else about zero."""
        if inputs is None:
            return None
        return inputs.covariance(self.damping) if keeps_mean else inputs.second(self.damping)
