"""Why nothing was selected, and why single units were left: in words, with figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .goal import Goal, Timing
from .problem import Problem
from .program import Costs, predict_error, predict_time

ROUNDED = 1e-9
FEW_OPERATIONS = 0.05
"""A share of the operations that small is lost in what parts of an operator cost beside."""
_LOW_RANK = "factorize-"

Selection = frozenset[str]


def excuse(
    problem: Problem,
    goal: Goal,
    max_time: float,
    errors: Mapping[Selection, float],
    timings: Mapping[Selection, Timing],
) -> str:
    """Why no selection meets every limit. ``errors``: shares of the budget, measured; ``max_time``: relative."""
    fits = [s for s, e in errors.items() if s and e <= 1]
    timed = sorted((s for s in fits if s in timings), key=lambda s: timings[s].ratio)
    if timed and max_time < 1:
        return (
            f"the fastest selection that fits takes {timings[timed[0]].ratio:.3f} of the time without it, "
            f"{max_time:.3f} is asked for"
        )
    if timed and goal.minimize == "time":
        best = timings[timed[0]]
        return (
            f"it does not pay here: the best that fits the budget takes {best.ratio:.3f} of the time without it "
            f"({best.low:.3f} to {best.high:.3f}, a gain must be beyond doubt), {len(timed)} selections timed"
            + _of_ranks(problem, errors, timed)
        )
    if fits and max(map(problem.saved, fits)) < goal.min_saved_bytes:
        most = max(map(problem.saved, fits))
        return f"at most {most} bytes can be saved within the budget, {goal.min_saved_bytes} are asked for"
    if fits and max(map(problem.saved_share, fits)) < 1 - goal.max_flops - ROUNDED:
        most = max(map(problem.saved_share, fits))
        return f"at most {most:.1%} of the operations can be saved within the budget"
    least = min((e for s, e in errors.items() if s), default=math.inf)
    return f"nothing fits: the selection that spends least takes {least:.3g} of the budget"


def _of_ranks(problem: Problem, errors: Mapping[Selection, float], timed: list[Selection]) -> str:
    """Whether spectra leave nothing to gain, or operators take as long with fewer operations."""
    if not all(u.owner.startswith(_LOW_RANK) for u in problem.units):
        return ""
    most = max(map(problem.saved_share, timed))
    everything = problem.everything()
    if most >= FEW_OPERATIONS:
        return f": {most:.1%} of the operations less are not faster in factors, which are more and narrower products"
    spent = errors.get(everything, math.inf)
    whole = problem.saved_share(everything)
    if spent <= 1:
        return f": all layers together have but {whole:.1%} of the operations to save"
    dear = f"{spent:.3g} times the budget" if math.isfinite(spent) else "more than can be said"
    return f": {most:.1%} of the operations can go within it; the spectra are flat, {whole:.1%} less spend {dear}"


def reasons(problem: Problem, costs: Costs, best: Selection, room: float, power: float) -> dict[str, str]:
    """Why each unit outside of ``best`` was left: by its effect on what was selected, as estimated. ``room``: for
    errors, in the ``power`` in which they add."""
    found: dict[str, str] = {}
    chosen = {problem.place_of[i] for i in problem.indices(best)}
    time, error = predict_time(problem, costs, best), predict_error(problem, costs, best)
    for i, unit in enumerate(problem.units):
        if unit.key in best:
            continue
        change = predict_time(problem, costs, best | {unit.key}) - time
        if problem.place_of[i] in chosen:
            found[unit.key] = "another option is taken there"
        elif chosen & problem.excluded(problem.place_of[i]):
            found[unit.key] = "what is taken decides about it as well"
        elif change >= 0:
            found[unit.key] = f"it should be slower by {change:.2%} of the time"
        elif error + costs.error[i] > room:
            share = float(costs.error[i]) ** (1 / power)
            found[unit.key] = f"it alone should spend {share:.1%} of the budget, which is taken by what gains more"
        else:
            found[unit.key] = "no selection with it was measured to be faster"
    return found


__all__ = ["excuse", "reasons"]
