"""The best selection of units that stays within the budget, by group testing.

All units together are measured first. Where they cost too much, a few parts of the pipeline are weighed alone, which
scales the predictions of their units: layers near each other are about equally sensitive. Then units are sorted by
predicted error per gain, and groups are measured on top of what is accepted already: one that fits is taken as a whole,
one that does not is split, at the place where the units before it should just fit when predictions allow that, else in
the middle. Groups that should fit come first, then those that gain most. So one bad unit among n costs about
2 log2(n) + 6 measurements. Units that fit alone and not together are told apart as well, because every group is
measured together with all that is accepted; the last measurement that was accepted is that of the result.

Source: D.-Z. Du, F. K. Hwang, Combinatorial Group Testing, 2000 (binary splitting); A. Zeller, R. Hildebrandt,
Simplifying and Isolating Failure-Inducing Input, IEEE TSE 28(2), 2002.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ...passes.choices import Unit

Measure = Callable[[frozenset[str]], float]
"""Of a selection (keys of units): the share of the budget it spends; above 1 it does not fit."""
MARGIN = 2.0
"""A unit predicted to need more than this many times what is left is not tried."""
PARTS = 6
"""Into how many parts of the pipeline the units go to be weighed, before they are sorted."""
_BEYOND = 1e3
"""What a part counts that spends more than can be said."""
_BLAME = 8.0
"""A group this many times over what is left holds something bad: predictions say nothing about where."""


@dataclass
class Outcome:
    """What was selected."""

    taken: list[str]
    """In the order of the pipeline."""
    spent: float
    """Share of the budget, measured."""
    base: float
    """The same with no unit taken."""
    left: dict[str, str] = field(default_factory=dict[str, str])
    """Why each of the others was not."""
    steps: list[str] = field(default_factory=list[str])
    """What was tried, in words."""
    evaluations: int = 0
    limit: int = 0
    """How many there might have been."""
    scale: float = 0.0
    """Share of the budget for each unit of predicted error, as measured."""


def evaluation_limit(count: int) -> int:
    """The most measurements for ``count`` units: 4 ceil(log2(count + 1)) + 8."""
    return 4 * math.ceil(math.log2(count + 1)) + 8


def gain_of(unit: Unit, total_bytes: int, total_flops: int) -> float:
    """Gains on one scale: fractions of the model's bytes and operations, added. Never 0, an unknown gain may be one."""
    gain = unit.saved_bytes / max(total_bytes, 1) + unit.saved_flops / max(total_flops, 1)
    return max(gain, 1e-9)


def search(
    units: Sequence[Unit],
    measure: Measure,
    *,
    total_bytes: int = 1,
    total_flops: int = 1,
    max_evaluations: int | None = None,
) -> Outcome:
    """See the module. ``outcome.base > 1`` says that the budget cannot be met at all: nothing else was measured then.

    Deterministic where ``measure`` is. Calls it at most ``max_evaluations`` times, once for each selection.
    """
    gains = {u.key: gain_of(u, total_bytes, total_flops) for u in units}
    return _Search(units, gains, measure, max_evaluations or evaluation_limit(len(units))).run()


class _Search:
    def __init__(self, units: Sequence[Unit], gains: dict[str, float], measure: Measure, limit: int) -> None:
        self.units, self.gains, self.measure = units, gains, measure
        self.known: dict[frozenset[str], float] = {}
        self.taken: frozenset[str] = frozenset()
        self.errors = {u.key: max(u.error, 0.0) for u in units}
        base = self._spent(self.taken)
        self.out = Outcome([], base, base, limit=limit, evaluations=1)
        self.pending: list[list[Unit]] = []
        self.suspects: set[str] = set()
        """Units of parts that cost so much that one of them may be to blame and the others harmless."""

    def run(self) -> Outcome:
        out = self.out
        if out.base > 1:
            out.left = dict.fromkeys((u.key for u in self.units), "the budget is spent without it")
        elif self.units:
            self._try(list(self.units))
            if self.pending:
                self.pending = [self._sorted()] if self._weigh() else self.pending
            while self.pending and out.evaluations < out.limit:
                self._try(self._next())
            for group in self.pending:
                self._leave(group, f"not tried, {out.limit} measurements are made")
        out.taken = [u.key for u in self.units if u.key in self.taken]
        return out

    def _weigh(self) -> bool:
        """Measures parts of the pipeline alone: layers near each other are about equally sensitive. Says if it did.

        Predictions of units are scaled by what their part was measured to cost.
        """
        count = min(PARTS, len(self.units) // 2)
        if count < 2 or self.out.limit - self.out.evaluations < 2 * count:
            return False
        bounds = [len(self.units) * i // count for i in range(count + 1)]
        for a, b in pairwise(bounds):
            part = self.units[a:b]
            spent = self._spent(frozenset(u.key for u in part))
            self.out.evaluations += 1
            self._say(part, spent)
            predicted = sum(self.errors[u.key] for u in part)
            cost = min(max(spent - self.out.base, 1e-6), _BEYOND)
            for unit in part:
                share = self.errors[unit.key] / predicted if predicted > 0 else 1 / len(part)
                self.errors[unit.key] = cost * share
            if cost > _BLAME * self._room:
                self.suspects.update(u.key for u in part)
        self.out.scale = 1.0
        return True

    def _sorted(self) -> list[Unit]:
        """By predicted error per gain; equal ones as the pipeline has them."""
        return sorted(self.units, key=lambda u: self.errors[u.key] / self.gains[u.key])

    def _spent(self, selection: frozenset[str]) -> float:
        if selection not in self.known:
            spent = self.measure(selection)
            self.known[selection] = math.inf if math.isnan(spent) else spent
        return self.known[selection]

    @property
    def _room(self) -> float:
        return 1 - self.out.spent

    def _predicted(self, units: Sequence[Unit]) -> float:
        return self.out.scale * sum(self.errors[u.key] for u in units)

    def _next(self) -> list[Unit]:
        """What should fit first, then what gains most, then what comes first."""

        def rank(item: tuple[int, list[Unit]]) -> tuple[bool, float, int]:
            i, group = item
            return self._predicted(group) > self._room, -sum(self.gains[u.key] for u in group), i

        i, group = min(enumerate(self.pending), key=rank)
        del self.pending[i]
        return group

    def _try(self, group: list[Unit]) -> None:
        group = self._promising(group)
        if not group:
            return
        selection = self.taken | {u.key for u in group}
        fresh = selection not in self.known
        spent = self._spent(selection)
        self.out.evaluations += fresh
        if fresh:
            self._say(group, spent)
        if spent <= 1:
            self._accept(selection, spent)
        elif len(group) == 1:
            self._leave(group, f"{_percent(spent)} of the budget would be spent with it")
        else:
            excess = spent - self.out.spent
            self._calibrate(group, excess)
            cut = self._cut(group, excess)
            self.pending[:0] = [group[:cut], group[cut:]]

    def _promising(self, group: list[Unit]) -> list[Unit]:
        """Leaves units that need far more than there is, by what those that are taken were measured to cost."""
        if not self.taken:
            return group
        found: list[Unit] = []
        for unit in group:
            if unit.key in self.suspects or self._predicted([unit]) <= MARGIN * self._room:
                found.append(unit)
            else:
                self._leave([unit], f"it should cost {_percent(self._predicted([unit]))} of the budget")
        return found

    def _accept(self, selection: frozenset[str], spent: float) -> None:
        self.taken, self.out.spent = selection, spent
        cost = sum(self.errors[u.key] for u in self.units if u.key in selection)  # in an order that no hash decides
        if cost > 0:
            self.out.scale = max(spent - self.out.base, 0.0) / cost

    def _calibrate(self, group: list[Unit], excess: float) -> None:
        """While nothing is taken, what does not fit is all there is to scale predictions with."""
        cost = sum(self.errors[u.key] for u in group)
        if not self.taken and cost > 0 and excess <= _BLAME * self._room:
            self.out.scale = excess / cost

    def _cut(self, group: list[Unit], excess: float) -> int:
        """Where to split: behind the units that should fit together, else in the middle."""
        count = len(group)
        if self.out.scale <= 0 or excess > _BLAME * self._room:
            return count // 2
        room, fits = self._room / max(excess, 1e-30) * sum(self.errors[u.key] for u in group), 0
        for unit in group:
            room -= self.errors[unit.key]
            if room < 0:
                break
            fits += 1
        return min(fits, count - 1) if fits >= max(count // 8, 1) else count // 2

    def _leave(self, units: Sequence[Unit], because: str) -> None:
        self.out.left.update((u.key, because) for u in units)

    def _say(self, group: Sequence[Unit], spent: float) -> None:
        more = f" on top of {len(self.taken)}" if self.taken else ""
        verdict = "taken" if spent <= 1 else "too much"
        self.out.steps.append(f"{len(group)} units{more}: {_percent(spent)} of the budget, {verdict}")


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %" if math.isfinite(share) else "out of bounds"
