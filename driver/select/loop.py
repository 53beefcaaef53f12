"""Selecting units: measure, fit, solve exactly, measure what was found, until that is what was measured before.

1. Nothing and everything are measured.
2. What each unit alone spends of the budget (``weighing.py``).
3. The time of runs of neighbours of several sizes, and of what is left without them: single units are too small to
   be timed, sums over overlapping groups tell them apart.
4. The exact program finds the fastest selection within the budget by these estimates. It is measured, the estimates
   are corrected by it, and so on. A selection that spends too much makes its units dearer: an automatic retreat.

Where the least error is wanted, ``descent.py`` takes the place of step 4.

Step 3 starts from the times that earlier selections on this machine learned, and is left out where those are enough.

The result is the best selection *measured* to fit and to be faster than without any unit, beyond noise; else none.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from .descent import Measures, beliefs, descend
from .front import Front, Point
from .goal import FASTEST, Goal, Timing
from .known import UNKNOWN, Known
from .problem import Problem, runs_of
from .program import Costs, Solved, predict_time, solve
from .reasons import ROUNDED, excuse, reasons
from .surrogate import WORST, Timed, Times, costs_of, fit_time, power_of
from .weighing import Weighing

NOISE = 0.01
"""A gain below this is not believed."""
ROUNDS = 16
FINALISTS = 3
"""Of the selections that fit, so many of the fastest are timed a second time: the best of many looks better than it
is, and where weights lie in memory moves a session's time by several percent."""
DOUBTS = 5
"""How often the best selection is timed again where it may be faster."""
FRONT_POINTS = 12
TIGHTER = 0.8
"""Where a selection is found twice that spends too much, the program gets this share of the room."""
PATIENCE = 2
"""So many selections in a row may spend too much until the program gets less room: of many units, those are found whose
errors are believed too small, other ones each time."""
TIGHTEST, AMPLE = 0.3, 0.7
"""Share of the room that one of these leaves at the least; share of the budget below which there is room for more."""
ENOUGH = 0.9
"""Share of the units' work whose times are known: nothing but selections is timed then."""
LEAST_PARTS = 4
LEAST_TURNS = 4
"""Selections of the program that are measured, however long it takes: the first one is as good as predictions are."""
_SHARE_ALONE, _SHARE_WEIGHED, _SHARE_AMPLE, _SHARE_GROUPS = 0.35, 0.5, 0.3, 0.3
"""Of the time, for single errors, for these where the least error is wanted, what is left of it then where more of them
are measured than there must be, and for grouped times."""


Progress = Callable[[str, int, int], None]


class Lab(Protocol):
    """Builds and measures selections."""

    def spent(self, taken: frozenset[str]) -> float:
        """Share of the error budget; above 1 does not fit, infinite where it fails."""
        ...

    def weight(self, taken: frozenset[str]) -> float:
        """How far outputs are off, in whatever unit: what ``spent`` is too coarse to tell of few units, or too much
        left to the worst sample. 0 where nothing is."""
        ...

    def rough(self, taken: frozenset[str]) -> float:
        """``weight`` by some of the samples: many units are weighed."""
        ...

    def timing(self, taken: frozenset[str]) -> Timing | None:
        """``None`` where nothing can be measured."""
        ...


@dataclass
class Choice:
    """What was selected, and all that was learned."""

    taken: frozenset[str]
    spent: float
    timing: Timing | None
    front: Front
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    """Why each of the other units was left."""
    steps: list[str] = field(default_factory=list[str])
    evaluations: int = 0
    because: str = ""
    """Why nothing was taken."""
    predicted: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Of each unit that was taken: the change of time, relative, and the share of the budget that it spends alone."""
    learned: Known = UNKNOWN
    """Times of units, for the next selection on this machine."""


def select(
    problem: Problem,
    lab: Lab,
    goal: Goal = FASTEST,
    *,
    known: Known = UNKNOWN,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.thread_time,
) -> Choice:
    """See the module. Deterministic but for what the lab measures. ``known``: what earlier selections learned."""
    loop = _Loop(problem, lab, goal, known, progress or _silent, clock)
    return replace(loop.run(), learned=loop.learned)


def _silent(label: str, done: int, total: int) -> None:
    pass


class _Loop:
    def __init__(
        self, problem: Problem, lab: Lab, goal: Goal, known: Known, progress: Progress, clock: Callable[[], float]
    ) -> None:
        self.problem, self.lab, self.goal, self.progress, self.clock = problem, lab, goal, progress, clock
        self.known = known
        self.start = clock()
        self.errors: dict[frozenset[str], float] = {}
        self.weights: dict[frozenset[str], float] = {}
        """Where the least error is wanted: see ``Lab.weight``."""
        self.share = 1.0
        """Of the budget, for each unit of weight."""
        self.timings: dict[frozenset[str], Timing] = {}
        self.timed = True
        self.base_ns = 0.0
        self.alone: Any = np.array([u.error for u in problem.units], float)
        self.power = 1.0
        self.steps: list[str] = []

    @property
    def _least(self) -> bool:
        """Whether the least error is wanted."""
        return self.goal.minimize == "error"

    # -- measuring

    def _seconds(self, share: float = 1.0) -> float:
        """What is left of this share of the time."""
        return self.start + share * self.goal.seconds - self.clock()

    def _error(self, taken: frozenset[str]) -> float:
        if taken not in self.errors:
            found = self.lab.spent(taken)
            self.errors[taken] = math.inf if math.isnan(found) else found
            if taken and self._least:
                self.weights[taken] = self.lab.weight(taken)
        return self.errors[taken]

    def _time(self, taken: frozenset[str]) -> Timing | None:
        if not taken or not self.timed:
            return None
        if taken not in self.timings:
            found = self.lab.timing(taken)
            if found is None:
                self.timed = bool(self.timings)
                return None
            self.timings[taken], self.base_ns = found, found.base_ns
        return self.timings[taken]

    @property
    def times(self) -> Times:
        timed = [Timed(s, t.ratio, max(t.high - t.low, 0.0) / 2) for s, t in self.timings.items()]
        return fit_time(self.problem, timed, self.base_ns or 1e6, self.known if self.base_ns else UNKNOWN)

    @property
    def costs(self) -> Costs:
        return costs_of(self.problem, self.times, self.alone, self._measured, self.power)

    @property
    def _measured(self) -> dict[frozenset[str], float]:
        """Shares of the budget by which estimates are corrected. The worst sample tells whether a selection fits, not
        which of two is better."""
        if self._least:
            return {taken: weight * self.share for taken, weight in self.weights.items()}
        return self.errors

    @property
    def learned(self) -> Known:
        if not self.timings:
            return self.known
        return self.times.learned(self.base_ns, time.strftime("%Y-%m-%d"), self.known)

    # -- the steps

    def run(self) -> Choice:
        base = self._error(frozenset())
        if base > 1 or not self.problem.units:
            return self._nothing("the budget is spent without it" if base > 1 else "nothing was proposed")
        everything = self.problem.everything()
        together = self._error(everything)
        found = self._time(everything)
        self._say("everything", everything, together, found)
        self._sensitivities(together)
        self._groups()
        if self._least:
            self._descend()
        if not self._least or not self._feasible():
            self._search()
        return self._conclude()

    def _sensitivities(self, together: float) -> None:
        """What units spend alone, as far as the time goes."""
        base = self._error(frozenset())
        first = self.problem.indices(self.problem.everything())
        if together <= 1 and not self._least:  # whatever is taken fits: predictions are enough
            predicted = sum(self.problem.units[i].error for i in first) or 1.0
            self.alone *= max(together - base, 0.0) / predicted
            return
        whole = self.lab.rough(self.problem.everything())
        share = _SHARE_WEIGHED if self._least else _SHARE_ALONE
        weighing = Weighing(self.problem, self.lab.rough, whole)
        ample = _SHARE_AMPLE * self.goal.seconds if self._least else math.inf
        weighing.run(partial(self._seconds, share), partial(self.progress, "weighing errors"), ample=ample)
        self.alone = weighing.alone()
        self.power = power_of([float(self.alone[i]) for i in first], whole)
        if whole > 0 and math.isfinite(whole):  # from the weights' unit into shares of the budget
            self.share = min(max(together - base, 0.0), WORST) / min(whole, WORST)
            self.alone *= self.share
        self.steps.append(f"errors of {weighing.count} runs of units, they add in the power {self.power:.2f}")

    def _groups(self) -> None:
        """Times of runs of neighbours, the largest first, and of everything but them; at least of quarters, until more
        would hardly change what is selected. None where times of units are known."""
        covered = self.known.covers(self.problem.kinds, self.problem.work)
        if covered:
            oldest = self.known.oldest(self.problem.kinds)
            self.steps.append(f"times of {covered:.0%} of the work are known from this machine, the oldest of {oldest}")
        if covered >= ENOUGH:
            return
        keys = sorted(self.problem.everything(), key=[u.key for u in self.problem.units].index)
        share, counts = _SHARE_ALONE + _SHARE_GROUPS, Counter(self.problem.kinds)
        parts = 2
        while parts <= len(keys) and self.timed:
            for group in runs_of(keys, -(-len(keys) // parts)):
                if parts > LEAST_PARTS and (self._seconds(share) <= 0 or self.times.regret(counts) < NOISE / 2):
                    return
                self.progress("weighing times", len(self.timings), 2 * len(keys))
                self._time(frozenset(group))
                if parts > 2:
                    self._time(frozenset(keys) - frozenset(group))
            parts *= 2

    def _descend(self) -> None:
        """Where the least error is wanted: see ``descent.py``."""
        predicted, costs = np.array([u.error for u in self.problem.units], float), self.costs
        ask = Measures(
            lambda belief: self._solved(replace(self.costs, error=belief.error), self._room(power=belief.power)),
            self._lost,
            lambda taken: self.share * self.lab.rough(taken),
            partial(self._allowed, costs),
            self._seconds,
            lambda what, taken: self._say(what, taken, self.errors[taken], self.timings.get(taken)),
            lambda what: self.progress(what, 0, 0),
        )
        descend(self.problem, beliefs(self.alone, predicted, self.power), ask)

    def _lost(self, taken: frozenset[str]) -> float:
        """What a selection loses as a whole; infinite where it does not keep the limits."""
        if self._error(taken) <= 1:
            self._time(taken)
        return self.weights[taken] if self._fits(taken) else math.inf

    def _allowed(self, costs: Costs, taken: frozenset[str]) -> bool:
        """Whether it should keep the limits on size, operations and time."""
        if (
            self.problem.saved(taken) < self.goal.min_saved_bytes
            or self.problem.saved_share(taken) < 1 - self.goal.max_flops - ROUNDED
        ):
            return False
        return not self.timed or predict_time(self.problem, costs, taken) <= self._max_time + NOISE

    def _search(self) -> None:
        """Solves and measures in turns."""
        tightness, failures = 1.0, 0
        for turn in range(ROUNDS):
            self.progress("solving and measuring", turn, ROUNDS)
            solved = self._solved(self.costs, self._room(tightness))
            if solved is None or not solved.taken:
                break
            taken, seen = solved.taken, solved.taken in self.errors
            timed = taken in self.timings
            spent = self._error(taken)
            timing = self._time(taken) if spent <= 1 else None
            if not seen:
                self._say(f"program {turn + 1}, gap {solved.gap:.1%}", taken, spent, timing)
            failures = failures + 1 if spent > 1 else 0
            if failures > PATIENCE:
                tightness *= min(max(spent ** (-self.power / 2), TIGHTEST), TIGHTER)
            elif spent > 1:
                tightness *= TIGHTER if seen else 1.0
            elif tightness < 1 and spent < AMPLE:
                tightness = min(tightness / math.sqrt(TIGHTER), 1.0)
            elif timed or (seen and not self.timed):
                break
            if turn + 1 >= LEAST_TURNS and self._seconds() <= 0 and self._feasible():
                break

    def _room(self, tightness: float = 1.0, power: float | None = None) -> float:
        """For units, in the power in which errors add."""
        return tightness * (1 - self._error(frozenset())) ** (power or self.power)

    @property
    def _max_time(self) -> float:
        """Relative to the model without any unit."""
        return min(self.goal.max_time, self.goal.max_us * 1e3 / self.base_ns if self.base_ns else math.inf)

    def _solved(self, costs: Costs, room: float) -> Solved | None:
        goal = self.goal
        return solve(
            self.problem,
            costs,
            room=room,
            min_saved_bytes=goal.min_saved_bytes,
            min_saved_work=1 - goal.max_flops,
            max_time=self._max_time + (NOISE if goal.minimize != "time" else 0.0),
            minimize=goal.minimize,
        )

    # -- the result

    def _fits(self, taken: frozenset[str]) -> bool:
        """Measured to meet every limit."""
        if not taken or self.errors.get(taken, math.inf) > 1 or self.problem.saved(taken) < self.goal.min_saved_bytes:
            return False
        if self.problem.saved_share(taken) < 1 - self.goal.max_flops - ROUNDED:
            return False
        timing = self.timings.get(taken)
        if timing is None:
            return not self.timed
        if self.goal.minimize == "time":
            return timing.high < min(1 - NOISE, self._max_time)
        return timing.low <= self._max_time + NOISE

    def _feasible(self) -> list[frozenset[str]]:
        return [taken for taken in self.errors if self._fits(taken)]

    def _conclude(self) -> Choice:
        for taken in sorted(self.timings, key=lambda s: self.timings[s].ratio):
            if taken not in self.errors and self.timings[taken].ratio < self._best_ratio():
                self._error(taken)  # a group that was only timed may be what is best
        if self.goal.minimize == "time":
            self._time_again()
            self._settle()
        candidates = self._feasible()
        if not candidates:
            return self._nothing(excuse(self.problem, self.goal, self._max_time, self.errors, self.timings))
        costs = self.costs

        def rank(taken: frozenset[str]) -> tuple[float, ...]:
            timing = self.timings.get(taken)
            ratio = timing.ratio if timing is not None else predict_time(self.problem, costs, taken)
            by = {
                "time": ratio,
                "bytes": -self.problem.saved(taken),
                "error": self.weights.get(taken, self.errors[taken]),
            }
            return by[self.goal.minimize], self.errors[taken], -self.problem.saved(taken)

        best = min(candidates, key=rank)
        return Choice(
            best,
            self.errors[best],
            self.timings.get(best),
            self._front(costs, best),
            reasons(self.problem, costs, best, self._room(), self.power),
            self.steps,
            len(self.errors) + len(self.timings),
            predicted={
                self.problem.units[i].key: (float(costs.time[i]), float(costs.error[i]) ** (1 / self.power))
                for i in self.problem.indices(best)
            },
        )

    def _time_again(self) -> None:
        """The fastest that fit, in fresh sessions."""
        fastest = sorted((s for s in self._feasible() if s in self.timings), key=lambda s: self.timings[s].ratio)
        for taken in fastest[:FINALISTS] if len(fastest) > 1 else ():
            again = self.lab.timing(taken)
            if again is not None:
                self.timings[taken] = self.timings[taken].joined(again)
                self._say("timed again", taken, self.errors[taken], self.timings[taken])

    def _settle(self) -> None:
        """Where no gain is certain, the one that looks largest is timed until it is, or is none."""
        fits = [s for s in self.timings if s and self.errors.get(s, math.inf) <= 1]
        best = min(fits, key=lambda s: self.timings[s].ratio, default=None)
        for _ in range(DOUBTS):
            if best is None or self._feasible() or self.timings[best].ratio >= 1 - NOISE:
                return
            again = self.lab.timing(best)
            if again is None:
                return
            self.timings[best] = self.timings[best].joined(again)
            self._say("timed again, for it may be faster", best, self.errors[best], self.timings[best])

    def _best_ratio(self) -> float:
        return min((self.timings[s].ratio for s in self._feasible() if s in self.timings), default=1 - NOISE)

    def _nothing(self, because: str) -> Choice:
        reasons = {u.key: because for u in self.problem.units}
        front = self._front(self.costs, frozenset()) if self.problem.units and self.errors else Front([])
        count = len(self.errors) + len(self.timings)
        return Choice(frozenset(), self.errors.get(frozenset(), 0.0), None, front, reasons, self.steps, count, because)

    def _front(self, costs: Costs, best: frozenset[str]) -> Front:
        """Fastest selections over a range of errors by the estimates, and everything that was measured."""
        points = [
            Point(
                self.errors[s],
                self.timings[s].ratio if s in self.timings else predict_time(self.problem, costs, s),
                self.problem.saved(s),
                len(s),
                measured=s in self.timings or not s,
                chosen=s == best and bool(s),
            )
            for s in self.errors
            if math.isfinite(self.errors[s]) and (s in self.timings or not s or not self.timed)
        ]
        total = float(costs.error.sum())
        for share in np.geomspace(1e-3, 1.0, FRONT_POINTS) if total > 0 else np.zeros(0):
            solved = solve(self.problem, costs, room=total * float(share), minimize=self.goal.minimize, seconds=2.0)
            if solved is not None and solved.taken and solved.taken not in self.timings:
                spent = solved.error ** (1 / self.power) + self._error(frozenset())
                points.append(Point(spent, solved.time, solved.saved_bytes, len(solved.taken), False))
        return Front(sorted(set(points), key=lambda p: (p.spent, p.time)))

    def _say(self, what: str, taken: frozenset[str], spent: float, timing: Timing | None) -> None:
        share = f"{spent:.1%}" if math.isfinite(spent) else "more than all"
        time_ = "" if timing is None else f", {timing.ratio:.3f} of the time without any"
        verdict = "" if spent <= 1 else ", too much"
        self.steps.append(f"{what}: {len(taken)} units spend {share} of the budget{verdict}{time_}")
