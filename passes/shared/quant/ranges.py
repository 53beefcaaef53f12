"""Ranges and parameters of activations, from what was observed of them."""

from __future__ import annotations

import math

import numpy as np

from ....ir.graph import Value
from ....ir.types import Quant
from ...memo import Memo
from ...rewrite.rule import NoMatch
from .estimators import estimate, expected_error
from .regions import Group, Member
from .scheme import Scheme, make_quant, quant_from_range, rounded
from .statistics import Observed, Statistics

_STEPS = 16
"""A shift of so many steps is made whole: the scale grows by a sixteenth at most."""


class Ranges:
    """What is known of values that may be stored as integers; constants are their own observation."""

    def __init__(
        self, statistics: Statistics, names: dict[Value, str], scheme: Scheme, method: str, memo: Memo
    ) -> None:
        self.statistics, self.names, self.scheme, self.method = statistics, names, scheme, method
        self._memo, self._observation = memo, statistics.model or object()
        self._ranges: dict[Value, tuple[float, float]] = {}
        self._errors: dict[Value, float] = {}

    def observed(self, value: Value) -> Observed:
        """Raises :class:`NoMatch` where nothing finite was seen of the value."""
        name = self.names.get(value, value.name)
        found = self.statistics.get(name) or self._unusual(name)
        if found is None:
            raise NoMatch(
                f"%{value.name} was not observed: {self.statistics.declined.get(name, 'it was never computed')}"
            )
        if found.nan or found.infinite:
            raise NoMatch(f"%{value.name} holds {found.nan} NaN and {found.infinite} infinities")
        return found

    def _unusual(self, name: str) -> Observed | None:
        """What was observed of a value that holds no finite number."""
        found = self.statistics.values.get(name)
        return found if found is not None and (found.nan or found.infinite) else None

    def __contains__(self, value: Value) -> bool:
        """Whether numbers of the value were observed."""
        return self.names.get(value, "") in self.statistics

    def range(self, value: Value) -> tuple[float, float]:
        """The range that the value alone would get. Raises :class:`NoMatch` where it is not known."""
        found = self._ranges.get(value)
        if found is None:
            if value.data is not None:
                array = value.data.numpy()
                found = (float(array.min(initial=0.0)), float(array.max(initial=0.0)))
            else:
                seen = self.observed(value)
                found = self._memo.get(
                    (*self._key(value), self.method),
                    lambda: estimate(seen, self.scheme, self.method),
                    lambda _: 64,
                )
            if not all(map(math.isfinite, found)):
                raise NoMatch(f"%{value.name} has the range {found}")
            self._ranges[value] = found
        return found

    def _key(self, value: Value) -> tuple[object, ...]:
        """Of what was observed, and how it is to be stored."""
        return self._observation, self.statistics.samples, self.names.get(value, value.name), self.scheme

    def quants(self, group: Group) -> dict[Value, Quant]:
        """Parameters of values that are affine functions of each other and share their integers.

        Each value's zero is stored exactly but for a part of a step where the shifts are few steps.
        """
        points: list[float] = []
        for value, gain, shift in group:
            points += [(end - shift) / gain for end in (*self.range(value), 0.0)]
        low, high = min(points), max(points)
        scale = float(quant_from_range(low, high, self.scheme)[0])
        shifts = [abs(m.shift / m.gain) for m in group if m.shift]
        if shifts and shifts[0] >= _STEPS * scale:  # a slightly larger scale makes the shift a whole number of steps
            scale = shifts[0] / math.floor(shifts[0] / scale)
        zero = self.scheme.middle if self.scheme.symmetric else round(self.scheme.qmin - low / scale)
        found: dict[Value, Quant] = {}
        for value, gain, shift in group:
            own = min(max(round(zero - shift / (gain * scale)), self.scheme.qmin), self.scheme.qmax)
            found[value] = make_quant(self.scheme, scale * gain, own)
        return found

    def quant(self, value: Value) -> Quant:
        """Parameters of a value by itself."""
        return self.quants([Member(value, 1.0, 0.0)])[value]

    def error(self, value: Value) -> float:
        """Predicted error of the value with parameters of its own, relative to its root mean square."""
        found = self._errors.get(value)
        if found is None:
            found = self._errors[value] = self.error_with(value, self.quant(value))
        return found

    def error_with(self, value: Value, quant: Quant) -> float:
        """The same with other parameters."""
        if value.data is not None:
            array = value.data.numpy()
            wide = array.astype(np.float64)
            noise, square = np.square(rounded(array, quant) - wide).mean(), np.square(wide).mean()
        else:
            seen = self.observed(value)
            low, high = _ends(quant, self.scheme)
            key = (*self._key(value), low, high)
            noise = self._memo.get(key, lambda: float(expected_error(seen, low, high, self.scheme)), lambda _: 64)
            square = seen.square
        return math.sqrt(float(noise) / float(square)) if square else 0.0


def _ends(quant: Quant, scheme: Scheme) -> tuple[float, float]:
    scale, zero = quant.scale[0], quant.zero_point[0]
    return scale * (scheme.qmin - zero), scale * (scheme.qmax - zero)
