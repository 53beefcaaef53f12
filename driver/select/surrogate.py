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

from .problem import Problem
from .program import Costs

PRIOR_GAIN = 0.4
"""Share of an operator's time that taking it is expected to save before anything is measured."""
MISFIT = 0.01
"""By how much the time of a selection is off a sum over units: caches, fusions over borders."""
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


def posterior(rows: Any, found: Any, spread: Any, mean: Any, deviation: Any) -> Any:
    """Posterior mean of theta, where ``rows @ theta = found`` up to noise ``spread``; independent Gaussian priors."""
    whitened = rows * deviation / spread[:, None]
    residual = (found - rows @ mean) / spread
    gram = whitened.T @ whitened + np.eye(len(mean))
    step = cast("Any", np.linalg.solve(gram, whitened.T @ residual))
    return mean + deviation * step


def fit_time(problem: Problem, timings: Sequence[Timed], base_ns: float) -> tuple[Any, float]:
    """Of each unit, and of a converted element; shares of the time without any unit, which takes ``base_ns``."""
    kinds = sorted(set(problem.kinds))
    column = {kind: k for k, kind in enumerate(kinds)}
    work = np.zeros(len(kinds))
    count = np.zeros(len(kinds))
    for kind, share in zip(problem.kinds, problem.work, strict=True):
        work[column[kind]] += share
        count[column[kind]] += 1
    work /= np.maximum(count, 1)
    border = BORDER_NS / max(base_ns, 1.0)
    mean = np.r_[-PRIOR_GAIN * work, border]
    deviation = np.r_[np.maximum(work, 0.25 / max(len(problem.units), 1)), 2 * border]
    rows = np.zeros((len(timings), len(mean)))
    for row, timed in zip(rows, timings, strict=True):
        for i in problem.indices(timed.taken):
            row[column[problem.kinds[i]]] += 1
        row[-1] = problem.converted(timed.taken)
    spread = np.hypot([t.spread for t in timings], MISFIT) if timings else np.zeros(0)
    theta = posterior(rows, np.array([t.ratio - 1 for t in timings]), spread, mean, deviation)
    return np.array([theta[column[kind]] for kind in problem.kinds]), max(float(theta[-1]), 0.0)


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
    """Of each unit, in the power in which they add; ``alone``: shares of the budget, measured or predicted."""
    mean = np.minimum(np.maximum(alone, 0.0), WORST) ** power
    known = {s: e for s, e in measured.items() if s and math.isfinite(e) and e < WORST}
    if not known:
        return mean
    rows = np.zeros((len(known), len(mean)))
    for row, taken in zip(rows, known, strict=True):
        row[problem.indices(taken)] = 1.0
    found = np.array(list(known.values())) ** power
    floor = max(float(mean.mean()), 1e-9)
    spread = np.maximum(ERROR_NOISE * power * found, 1e-3 * floor)
    theta = posterior(rows, found, spread, mean, mean + 0.1 * floor)
    return np.maximum(theta, 0.02 * mean)


def costs_of(
    problem: Problem,
    timings: Sequence[Timed],
    base_ns: float,
    alone: Any,
    errors: Mapping[frozenset[str], float],
    power: float,
) -> Costs:
    """All that is known."""
    time, border = fit_time(problem, timings, base_ns)
    return Costs(time, border, fit_error(problem, alone, errors, power))
