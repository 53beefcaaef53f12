"""What measurements of whole selections say of single units: linear models with a prior, fitted anew with each.

Time: a selection's time is that of its units, plus a price for each element converted at its borders. Error: errors of
units add in some power p between 1 (all in one direction) and 2 (independent), found from all units alone and
together. Both are Bayesian linear regressions (Gaussian prior and noise, posterior mean); the prior of time is the
share of operations, the prior of error is what a unit alone was measured to spend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from .known import TELLING, UNKNOWN, Known, Learned
from .problem import MANY, Problem
from .program import Costs

PRIOR_GAIN = 0.4
"""Share of an operator's time that taking it is expected to save before anything is measured."""
MISFIT = 0.01
"""By how much the time of a selection is off a sum over units: caches, fusions over borders."""
ALIKE = 0.1
"""Doubt of the time of one degree of a curve where the others are known, in shares of the operator's time."""
SLOPE, PRICE = 0.5, 0.3
"""Doubt of what a share of operations saves, and of what an operator in parts costs beyond its operations."""
BORDER_NS = 0.3
"""Expected price of converting one element, nanoseconds."""
ERROR_NOISE = 0.2
"""By how much errors of selections are off their sum, relative."""
WORST = 1e3
"""What counts as spent where more was."""


@dataclass(frozen=True)
class Timed:
    """A selection's time over that of none, and how sure that is (half the confidence interval)."""

    taken: frozenset[str]
    ratio: float
    spread: float


def posterior(rows: Any, found: Any, spread: Any, mean: Any, deviation: Any) -> tuple[Any, Any]:
    """Posterior mean and standard deviation of theta, where ``rows @ theta = found`` up to noise ``spread``;
    independent Gaussian priors."""
    scaled = rows * deviation  # there are many more columns than rows
    gram = scaled @ scaled.T + np.diag(np.asarray(spread) ** 2)
    solved = cast("Any", np.linalg.solve(gram, np.c_[found - rows @ mean, scaled]))
    left = 1 - np.einsum("ij,ij->j", scaled, solved[:, 1:])
    return mean + deviation * (scaled.T @ solved[:, 0]), deviation * np.sqrt(np.maximum(left, 0.0))


@dataclass(frozen=True)
class Times:
    """What is known of times by now, in shares of the time without any unit; the last one is of a converted element."""

    kinds: list[str]
    mean: Any
    spread: Any
    doubt: Any
    """Standard deviation before any measurement."""

    def regret(self, counts: Mapping[str, int]) -> float:
        """What knowing all times exactly is expected to gain over deciding each kind by its mean, by how many units
        there are of it: the expected value of perfect information, kinds taken as independent."""
        found = 0.0
        for kind, mean, spread in zip(self.kinds, self.mean, self.spread, strict=False):
            z = abs(mean) / max(spread, 1e-12)
            density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
            found += counts[kind] * spread * (density - z * 0.5 * math.erfc(z / math.sqrt(2)))
        return found

    def learned(self, base_ns: float, day: str, known: Known) -> Known:
        """What is worth keeping, with what was known before of other kinds."""
        found = [
            Learned(float(m) * base_ns, float(s) * base_ns, day) for m, s in zip(self.mean, self.spread, strict=True)
        ]
        telling = [bool(s < TELLING * d) for s, d in zip(self.spread, self.doubt, strict=True)]
        kept = {kind: found[k] for k, kind in enumerate(self.kinds) if telling[k]}
        return Known({**known.kinds, **kept}, found[-1] if telling[-1] else known.border)


def fit_time(problem: Problem, timings: Sequence[Timed], base_ns: float, known: Known = UNKNOWN) -> Times:
    """Of each kind of unit, and of a converted element; ``base_ns``: the time without any unit."""
    kinds = sorted(set(problem.kinds))
    column = {kind: k for k, kind in enumerate(kinds)}
    work, mean, deviation, curves = _expected(problem, column)
    for kind, found in known.kinds.items():
        if kind in column:
            mean[column[kind]], deviation[column[kind]] = found.ns / base_ns, max(found.doubt_ns / base_ns, 1e-6)
    shared = _shared(problem, column, work, curves)
    border = BORDER_NS / max(base_ns, 1.0), 2 * BORDER_NS / max(base_ns, 1.0)
    if known.border is not None:
        border = known.border.ns / base_ns, max(known.border.doubt_ns / base_ns, 1e-6)
    counts = np.zeros((len(timings), len(kinds)))
    converted = np.zeros((len(timings), 1))
    for row, timed in enumerate(timings):
        for i in problem.indices(timed.taken):
            counts[row, column[problem.kinds[i]]] += 1
        converted[row] = problem.converted(timed.taken)
    rows = np.hstack([counts, counts @ shared, converted])
    spread = np.hypot([t.spread for t in timings], MISFIT) if timings else np.zeros(0)
    doubt = np.r_[deviation, np.ones(shared.shape[1]), border[1]]
    expected = np.r_[mean, np.zeros(shared.shape[1]), border[0]]
    theta, left = posterior(rows, np.array([t.ratio - 1 for t in timings]), spread, expected, doubt)
    n = len(kinds)
    each = theta[:n] + shared @ theta[n:-1]
    spreads = np.hypot(left[:n], np.sqrt((shared**2) @ (left[n:-1] ** 2)))
    doubts = np.hypot(deviation, np.sqrt((shared**2).sum(axis=1)))
    return Times(kinds, np.r_[each, max(theta[-1], 0.0)], np.r_[spreads, left[-1]], np.r_[doubts, border[1]])


def _expected(problem: Problem, column: Mapping[str, int]) -> tuple[Any, Any, Any, dict[str, list[tuple[int, float]]]]:
    """Before any measurement, by kind: the share of operations, the time and its doubt; and the kinds of each curve,
    with the share of operations that they save."""
    work, count, saving = (np.zeros(len(column)) for _ in range(3))
    curves: dict[str, dict[int, float]] = {}
    for i, kind in enumerate(problem.kinds):
        k = column[kind]
        work[k] += problem.work[i]
        count[k] += 1
        curve = problem.curve(i)
        if curve:
            curves.setdefault(curve, {})[k] = saving[k] = problem.savings[i]
    work /= np.maximum(count, 1)
    by_degrees = saving > 0
    mean = -np.where(by_degrees, saving, PRIOR_GAIN) * work
    alike = np.where(by_degrees, ALIKE, 1.0)
    deviation = alike * np.maximum(work, 0.25 / max(len(problem.units), 1))
    return work, mean, deviation, {curve: list(members.items()) for curve, members in curves.items()}


def _shared(
    problem: Problem, column: Mapping[str, int], work: Any, curves: Mapping[str, list[tuple[int, float]]]
) -> Any:
    """[kinds, 2 for each curve]: what one standard deviation of a curve's slope and of its price do to each kind."""
    found = np.zeros((len(column), 2 * len(curves)))
    for c, members in enumerate(curves.values()):
        for k, saving in members:
            found[k, 2 * c : 2 * c + 2] = SLOPE * saving * work[k], PRICE * work[k]
    return found


def power_of(alone: Sequence[float], together: float) -> float:
    """The p in [1, 2] in which ``sum(alone^p) = together^p``, nearest where there is none."""
    parts = np.minimum(np.array([a for a in alone if a > 0]), WORST)
    if len(parts) < 2 or not 0 < together < WORST:
        return 1.0
    low, high = 1.0, 2.0

    def sum_in(p: float) -> float:
        return float((parts**p).sum() ** (1 / p))

    if sum_in(low) <= together:
        return low
    if sum_in(high) >= together:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum_in(middle) > together else (low, middle)
    return low


def fit_error(problem: Problem, alone: Any, measured: Mapping[frozenset[str], float], power: float) -> Any:
    """Of each unit, in the power in which they add; ``alone``: shares of the budget, measured or predicted.

    What is fitted is by how much each is off; options of a place that are degrees of one thing are off alike.
    """
    mean = np.minimum(np.maximum(alone, 0.0), WORST) ** power
    known = {s: e for s, e in measured.items() if s and math.isfinite(e) and e < WORST}
    if not known:
        return mean
    floor = float(mean.mean()) or 1.0  # budgets may be any number of times what is spent
    places = problem.places
    column = np.array([places[p][0] if len(places[p]) >= MANY else i for i, p in enumerate(problem.place_of)])
    size = np.maximum(mean, 1e-3 * floor)
    rows = np.zeros((len(known), len(mean)))
    for row, taken in zip(rows, known, strict=True):
        for i in problem.indices(taken):
            row[column[i]] += size[i]
    found = np.array(list(known.values())) ** power
    spread = np.maximum(ERROR_NOISE * power * found, 1e-3 * floor)
    off, _ = posterior(rows, found, spread, mean / size, _doubts(rows, found, mean / size, (mean + 0.1 * floor) / size))
    return np.maximum(size * off[column], 0.02 * mean)


def _doubts(rows: Any, found: Any, expected: Any, doubt: Any) -> Any:
    """How far each may be off: as far as it takes to explain selections that spent more than expected, or a surprise
    would count as noise and nothing be learned from it. Nobody knows which unit is to blame."""
    wide = doubt.copy()
    for row, excess in zip(rows, found - rows @ expected, strict=True):
        members = row > 0
        if excess > 0 and members.any():
            wide[members] = np.maximum(wide[members], excess / (members.sum() * row[members]))
    return wide


def costs_of(problem: Problem, times: Times, alone: Any, errors: Mapping[frozenset[str], float], power: float) -> Costs:
    """All that is known."""
    column = {kind: k for k, kind in enumerate(times.kinds)}
    each = np.array([times.mean[column[kind]] for kind in problem.kinds])
    return Costs(each, float(times.mean[-1]), fit_error(problem, alone, errors, power))
