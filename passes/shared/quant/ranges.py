"""Ranges and parameters of activations, from what was observed of them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ....ir.graph import Value
from ....ir.types import Quant
from ...rewrite.rule import NoMatch
from .estimators import estimate, expected_error
from .scheme import Scheme, make_quant, quant_from_range, rounded
from .statistics import Observed, Statistics


class Ranges:
    """What is known of values that may be stored as integers; constants are their own observation."""

    def __init__(self, statistics: Statistics, names: dict[Value, str], scheme: Scheme, method: str) -> None:
        self.statistics, self.names, self.scheme, self.method = statistics, names, scheme, method
        self._ranges: dict[Value, tuple[float, float]] = {}
        self._errors: dict[Value, float] = {}

    def observed(self, value: Value) -> Observed:
        """Raises :class:`NoMatch` where nothing finite was seen of the value."""
        name = self.names.get(value, value.name)
        found = self.statistics.get(name)
        if found is None:
            raise NoMatch(
                f"%{value.name} was not observed: {self.statistics.declined.get(name, 'it was never computed')}"
            )
        if found.nan or found.infinite:
            raise NoMatch(f"%{value.name} holds {found.nan} NaN and {found.infinite} infinities")
        return found

    def range(self, value: Value) -> tuple[float, float]:
        """The range that the value alone would get. Raises :class:`NoMatch` where it is not known."""
        found = self._ranges.get(value)
        if found is None:
            if value.data is not None:
                array = value.data.numpy()
                found = (float(array.min(initial=0.0)), float(array.max(initial=0.0)))
            else:
                found = estimate(self.observed(value), self.scheme, self.method)
            if not all(map(math.isfinite, found)):
                raise NoMatch(f"%{value.name} has the range {found}")
            self._ranges[value] = found
        return found

    def quant(self, group: Iterable[Value]) -> Quant:
        """Common parameters of values."""
        ranges = [self.range(v) for v in group]
        scale, zero = quant_from_range(min(r[0] for r in ranges), max(r[1] for r in ranges), self.scheme)
        return make_quant(self.scheme, scale, zero)

    def error(self, value: Value) -> float:
        """Predicted error of the value with parameters of its own, relative to its root mean square."""
        found = self._errors.get(value)
        if found is None:
            found = self._errors[value] = self.error_with(value, self.quant([value]))
        return found

    def error_with(self, value: Value, quant: Quant) -> float:
        """The same with other parameters."""
        if value.data is not None:
            array = value.data.numpy()
            noise, square = np.square(rounded(array, quant) - array).mean(), np.square(array).mean()
        else:
            seen = self.observed(value)
            low, high = _ends(quant, self.scheme)
            noise, square = expected_error(seen, low, high, self.scheme), seen.square
        return math.sqrt(float(noise) / float(square)) if square else 0.0


def _ends(quant: Quant, scheme: Scheme) -> tuple[float, float]:
    scale, zero = quant.scale[0], quant.zero_point[0]
    return scale * (scheme.qmin - zero), scale * (scheme.qmax - zero)
