"""The least error within limits: several beliefs about errors, each solved exactly and measured; then what is known of
the best selection by measuring it without each of its units; then exchanges.

A belief is an error for every unit and the power in which errors add. None is right: measured alone, units do not show
what they do behind each other, predictions by gradients hold for small changes only. So the selection of each is
measured. From the best, each unit is weighed where it is, ``e(S)^p - e(S without it)^p``, which scales the curve of its
place; the program is solved again, as long as that finds better ones. Last, one layer is raised and another lowered,
pairs that should lose least first. The best that was measured is kept, so this is never worse than any of its beliefs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .problem import Problem
from .program import Solved

INDEPENDENT = 2.0
"""The power in which errors add that know nothing of each other."""
_APART = 0.2
"""Powers nearer than this are one."""
PATIENCE = 16
"""Exchanges in a row that may be no better."""
EACH = 60
"""Layers to raise, and to lower, that are paired: those with most error, and least, for a byte."""
_FURTHEST = 4.0
"""By what one weighing in place changes a curve at most."""


@dataclass(frozen=True)
class Belief:
    """What units may cost."""

    name: str
    alone: Any
    """Of each unit."""
    power: float

    @property
    def error(self) -> Any:
        """In the power in which errors add."""
        return np.maximum(self.alone, 0.0) ** self.power


@dataclass(frozen=True)
class Measures:
    """What a descent may ask, and how long."""

    solve: Callable[[Belief], Solved | None]
    """The program under a belief, within all limits."""
    error: Callable[[frozenset[str]], float]
    """By all samples; infinite where a limit is not kept."""
    rough: Callable[[frozenset[str]], float]
    """By some of them."""
    allowed: Callable[[frozenset[str]], bool]
    """Whether a selection should be within all limits."""
    left: Callable[[], float]
    """Seconds."""
    say: Callable[[str, frozenset[str]], None]
    progress: Callable[[str], None]


def beliefs(measured: Any, predicted: Any, power: float) -> list[Belief]:
    """``measured``: errors of units alone, by weighing; ``predicted``: as passes say; ``power``: see ``power_of``."""
    positive = (measured > 0) & (predicted > 0)
    ratios: Any = np.log(measured[positive] / predicted[positive])
    scale = math.exp(float(ratios.mean())) if positive.any() else 1.0
    scaled = predicted * scale
    found = [
        Belief("measured alone", measured, INDEPENDENT),
        Belief("as predicted", scaled, INDEPENDENT),
        Belief("between both", np.sqrt(measured * scaled), INDEPENDENT),
    ]
    if abs(power - INDEPENDENT) > _APART:
        found.append(Belief(f"measured alone, in the power {power:.2f}", measured, power))
    return found


def descend(problem: Problem, starts: list[Belief], ask: Measures) -> None:
    """See the module. What is measured is remembered by ``ask``."""
    best, belief = _portfolio(starts, ask)
    if best is None or belief is None:
        return
    best, belief = _in_place(problem, best, belief, ask)
    _exchanges(problem, best, belief, ask)


def _portfolio(starts: list[Belief], ask: Measures) -> tuple[frozenset[str] | None, Belief | None]:
    found: tuple[frozenset[str] | None, Belief | None] = None, None
    least = math.inf
    for belief in starts:
        ask.progress("solving and measuring")
        solved = ask.solve(belief)
        if solved is None or not solved.taken:
            continue
        error = ask.error(solved.taken)
        ask.say(f"{belief.name}, gap {solved.gap:.1%}", solved.taken)
        if error < least or found[0] is None:
            least, found = error, (solved.taken, belief)
    return found


def _in_place(problem: Problem, best: frozenset[str], belief: Belief, ask: Measures) -> tuple[frozenset[str], Belief]:
    """The best selection that weighing in place finds, and what was believed when it was found."""
    while ask.left() > 0:
        weighed = _weighed(problem, best, belief, ask)
        halfway = Belief("weighed in place, by half", np.sqrt(weighed.alone * belief.alone), belief.power)
        better = next((b for b in (weighed, halfway) if _improves(b, best, ask)), None)
        if better is None:
            return best, halfway
        solved = ask.solve(better)
        assert solved is not None
        best, belief = solved.taken, better
    return best, belief


def _improves(belief: Belief, best: frozenset[str], ask: Measures) -> bool:
    solved = ask.solve(belief)
    if solved is None or not solved.taken or solved.taken == best:
        return False
    error = ask.error(solved.taken)
    ask.say(f"{belief.name}, gap {solved.gap:.1%}", solved.taken)
    return error < ask.error(best)


def _weighed(problem: Problem, best: frozenset[str], belief: Belief, ask: Measures) -> Belief:
    """Each taken unit by what is lost less without it."""
    alone, power = belief.alone.copy(), belief.power
    whole = ask.rough(best) ** power
    for unit in problem.indices(best):
        ask.progress("weighing in place")
        if ask.left() <= 0:
            break
        part = max(whole - ask.rough(best - {problem.units[unit].key}) ** power, 0.0) ** (1 / power)
        believed = float(belief.alone[unit])
        if believed > 0:
            alone[problem.options_with(unit)] *= min(max(part / believed, 1 / _FURTHEST), _FURTHEST)
    return Belief("weighed in place", alone, power)


# -- exchanges


def _exchanges(problem: Problem, best: frozenset[str], belief: Belief, ask: Measures) -> None:
    """Raises one layer and lowers another, as long as that is measured to lose less."""
    tried: set[frozenset[str]] = {best}
    failures = 0
    while failures < PATIENCE and ask.left() > 0:
        pairs = (s for s in _neighbours(problem, best, belief) if s not in tried and ask.allowed(s))
        taken = next(pairs, None)
        if taken is None:
            return
        ask.progress("exchanging")
        tried.add(taken)
        failures += 1
        if ask.error(taken) < ask.error(best):
            ask.say("one up, one down", taken)
            best, failures = taken, 0


@dataclass(frozen=True)
class _Move:
    """Another option, or none, at a place."""

    place: int
    unit: int | None
    lost: float
    """By how much the error grows, as believed."""
    saved: int
    """By how many bytes more; negative: a layer is raised."""


def _neighbours(problem: Problem, best: frozenset[str], belief: Belief) -> Iterator[frozenset[str]]:
    """Selections with one layer raised and another lowered, those that should lose least first."""
    chosen: dict[int, int | None] = dict.fromkeys(range(len(problem.places)))
    chosen.update((problem.place_of[i], i) for i in problem.indices(best))
    moves = [m for place, now in chosen.items() for m in _moves(problem, belief.error, place, now)]
    up = sorted((m for m in moves if m.saved < 0), key=lambda m: m.lost / -m.saved)[:EACH]
    down = sorted((m for m in moves if m.saved > 0), key=lambda m: m.lost / m.saved)[:EACH]
    pairs = [(a, b) for a in up for b in down if a.place != b.place]
    for pair in sorted(pairs, key=lambda pair: pair[0].lost + pair[1].lost):
        after = chosen | {m.place: m.unit for m in pair}
        if any(after[a] is not None and after[b] is not None for a, b in problem.conflicts):
            continue
        yield frozenset(problem.units[i].key for i in after.values() if i is not None)


def _moves(problem: Problem, costs: Any, place: int, now: int | None) -> Iterator[_Move]:
    before = (0.0, 0) if now is None else (float(costs[now]), problem.units[now].saved_bytes)
    for unit in (*problem.places[place], None):
        if unit != now:
            after = (0.0, 0) if unit is None else (float(costs[unit]), problem.units[unit].saved_bytes)
            yield _Move(place, unit, after[0] - before[0], after[1] - before[1])


__all__ = ["Belief", "Measures", "beliefs", "descend"]
