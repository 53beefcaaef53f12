"""What units spend alone: some of them measured, the others by what was predicted for them beside these.

Options of a place that are degrees of one thing have a curve of errors. Predictions are good for small errors and too
small, or too large, for large ones; so three options are measured, more where there is time, and between them the ratio
of measured to predicted is interpolated, both on logarithmic scales. Where there are too many places for the time,
neighbours are measured together and share what they spend as predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from .problem import MANY, Problem, mildest
from .surrogate import WORST

LEAST = 8
"""Measurements of the first round that are made, however long it takes."""
_TIE = 1e-6
"""Of the weight of everything: what tells units apart that weigh nothing, by their predictions."""
_OFF = 8.0
"""A measurement so many times off its prediction says little of the other options."""

Weight = Callable[[frozenset[str]], float]


class Weighing:
    """Weights of single units, in the unit of ``weight``."""

    def __init__(self, problem: Problem, weight: Weight, whole: float) -> None:
        """``whole``: the weight of everything."""
        self.problem, self._weight, self.whole = problem, weight, min(whole, WORST)
        self.predicted: Any = np.array([u.error for u in problem.units], float)
        self.found: dict[int, float] = {}
        """Of units that were measured, or of their shares in what was measured together."""
        self.count = 0

    def rounds(self) -> list[list[int]]:
        """Units to measure: an option of every place, then a milder one and a stronger one of places with many, then
        what is farthest from those that were measured. All options of places with few."""
        first, milder, stronger, more = list[int](), list[int](), list[int](), list[list[int]]()
        alone = {a for a, _ in self.problem.conflicts}
        for options in self.problem.places:
            if len(options) < MANY:
                first += options
                continue
            n = len(options)
            first.append(options[n // 2])
            milder.append(mildest(options))
            stronger.append(options[n // 6])
            more.append([options[i] for i in _halving(n)])
        known, chosen = {*first, *milder, *stronger}, set(first)
        rest = [i for nth in zip_longest(*more) for i in nth if i is not None and i not in known]
        later = [[i for i in units if i not in chosen] for units in (milder, stronger)]
        first.sort(key=lambda i: (self.problem.place_of[i] in alone, i))  # those that exclude each other far apart
        return [first, *(sorted(units, key=lambda i: -self.problem.units[i].saved_bytes) for units in later), rest]

    def run(self, left: Callable[[], float], progress: Callable[[int, int], None], *, ample: float = math.inf) -> None:
        """Measures until no time is left; ``left``: seconds. Of the first round all units, in groups where needed; more
        than three options of a place while ``ample`` seconds are left."""
        first, *later = self.rounds()
        total, before = len(first) + sum(map(len, later)), left()
        rest, size = first, 1
        while rest:
            progress(total - len(rest), total)
            self._measure(rest[:size])
            rest = rest[size:]
            each = max((before - left()) / self.count, 1e-6)
            size = -(-len(rest) // max(int(left() / each), LEAST - self.count, 1))
        for units, enough in zip(later, (0.0, 0.0, ample), strict=True):
            for i in units:
                if left() <= enough:
                    return
                progress(self.count, total)
                self._measure([i])

    def _measure(self, units: Sequence[int]) -> None:
        """Units that exclude each other cannot be taken together and are measured one after the other."""
        rounds: list[list[int]] = []
        for i in units:
            apart = self.problem.excluded(self.problem.place_of[i])
            free = (r for r in rounds if not any(self.problem.place_of[j] in apart for j in r))
            group = next(free, None)
            if group is None:
                rounds.append([i])
            else:
                group.append(i)
        for members in rounds:
            weight = min(self._weight(frozenset(self.problem.units[i].key for i in members)), WORST)
            predicted = float(sum(self.predicted[i] for i in members))
            for i in members:
                share = self.predicted[i] / predicted if predicted > 0 else 1 / len(members)
                self.found[i] = weight * share + _TIE * self.whole * self.predicted[i]
            self.count += 1

    def alone(self) -> Any:
        """Of every unit."""
        weights = np.where(self.predicted > 0, self.predicted * self._typical(), 0.0)
        for options in self.problem.places:
            known = [i for i in options if i in self.found]
            if len(options) >= MANY and known:
                weights[options] = self._curve(options, known)
            else:
                weights[known] = [self.found[i] for i in known]
        return weights

    def _typical(self) -> float:
        """Measured over predicted."""
        logs = [
            math.log(weight / self.predicted[i])
            for i, weight in self.found.items()
            if weight > 0 and self.predicted[i] > 0
        ]
        return math.exp(sum(logs) / len(logs)) if logs else 1.0

    def _curve(self, options: Sequence[int], known: Sequence[int]) -> list[float]:
        predicted = [float(self.predicted[i]) for i in options]
        least = max(max(predicted) * 1e-9, 1e-300)
        points = sorted((math.log(max(self.predicted[i], least)), self._ratio(i, least, len(known))) for i in known)
        at = [math.log(max(p, least)) for p in predicted]
        ratios = np.interp(at, [p[0] for p in points], [p[1] for p in points])
        return [p * math.exp(ratio) for p, ratio in zip(predicted, ratios, strict=True)]

    def _ratio(self, unit: int, least: float, known: int) -> float:
        """Logarithm of measured over predicted."""
        found = math.log(max(self.found[unit], 1e-300) / max(self.predicted[unit], least))
        if known == 1:
            return found
        typical = math.log(self._typical())
        return min(max(found, typical - math.log(_OFF)), typical + math.log(_OFF))


def _halving(count: int) -> list[int]:
    """All of ``range(count)``, each as far as can be from those before it."""
    found: list[int] = []
    step = 1 << max(count - 1, 0).bit_length()
    while step > 1:
        found += range(step // 2, count, step)
        step //= 2
    return [*found, 0] if count else []


__all__ = ["Weighing"]
