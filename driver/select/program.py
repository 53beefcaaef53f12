"""The exact choice: a 0/1 program over units, solved by HiGHS.

    minimize    time(x) = 1 + sum_i t_i x_i + q sum_b elements_b |X_a - X_b|
    subject to  sum_i e_i x_i <= room,   sum_i bytes_i x_i >= bytes,   time(x) <= limit,   one option a place

with ``x`` the units, ``X`` the places (a place is taken when one of its options is) and ``b`` the borders between
them. Absolute values become one continuous variable and two rows each; where no border crosses it is a
multiple-choice knapsack. Source: Q. Huangfu, J. Hall, Parallelizing the dual revised simplex method, Math. Prog.
Comp. 10, 2018 (HiGHS), through ``scipy.optimize.milp``.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from .problem import Problem, middle
from .quiet import printing_to_stderr

SECONDS = 10.0
"""What one program may take; the best solution so far counts then."""
GAP = 1e-4
_TIE = 1e-7
"""Weight of what does not matter: of two equally fast selections the one with less error, then the smaller."""

_LARGEST = 1e4
"""Errors beyond this many times what one option of every place costs are not told apart."""

Objective = Literal["time", "bytes", "error"]


@dataclass(frozen=True)
class Costs:
    """What is known of the units, in shares: of the plain model's time, of the budget, in bytes saved."""

    time: Any
    """Of each unit, relative to the time of the model without any: negative is faster."""
    border: float
    """Of one converted element."""
    error: Any
    """Of each unit, in the power in which errors add."""


@dataclass(frozen=True)
class Solved:
    """A selection, and what is expected of it."""

    taken: frozenset[str]
    time: float
    """Relative to the model without any unit."""
    error: float
    """In the power in which errors add."""
    saved_bytes: int
    gap: float
    """Relative distance to the bound on the objective."""


def solve(
    problem: Problem,
    costs: Costs,
    *,
    room: float = math.inf,
    min_saved_bytes: int = 0,
    min_saved_work: float = 0.0,
    max_time: float = math.inf,
    minimize: Objective = "time",
    seconds: float = SECONDS,
) -> Solved | None:
    """The best selection; ``None`` where there is none. ``room`` is in the power in which errors add,
    ``min_saved_work`` a share of the model's operations."""
    if not problem.units:
        return None
    program = _Program(problem, costs)
    if math.isfinite(room):
        scale = max(room, 1e-12)
        program.forbid(program.error > room)
        program.limit(np.where(program.error > room, 0.0, program.error / scale), -np.inf, room / scale)
    if min_saved_bytes > 0:
        program.limit(program.saved / min_saved_bytes, 1.0, np.inf)
    if min_saved_work > 0:
        program.limit(program.work / min_saved_work, 1.0, np.inf)
    if math.isfinite(max_time):
        program.limit(program.time, -np.inf, max_time - 1.0)
    found = program.solve(minimize, seconds)
    if found is None:
        return None
    x, gap = found
    taken = frozenset(unit.key for unit, chosen in zip(problem.units, x, strict=True) if chosen)
    n = len(x)
    error, saved = float(program.error[:n] @ x), int(program.saved[:n] @ x)
    return Solved(taken, predict_time(problem, costs, taken), error, saved, gap)


class _Program:
    """Columns: units, then a variable for each border between two places. Rows: options, borders, conflicts."""

    def __init__(self, problem: Problem, costs: Costs) -> None:
        places = problem.places
        inner = [(b.a, b.b, b.elements) for b in problem.borders if b.b is not None]
        n, width = len(problem.units), len(problem.units) + len(inner)
        self.units, self.width = n, width
        self.time, self.error, self.saved = np.zeros(width), np.zeros(width), np.zeros(width)
        self.time[:n] = costs.time
        self.time[n:] = [costs.border * elements for _, _, elements in inner]
        for border in problem.borders:
            if border.b is None:
                self.time[places[border.a]] += costs.border * border.elements
        self.typical = max(sum(costs.error[middle(options)] for options in places), 0.0) or 1.0
        self.most = np.r_[np.ones(n), np.full(len(inner), np.inf)]
        self.work = np.zeros(width)
        self.work[:n] = problem.saved_work
        self.error[:n], self.saved[:n] = costs.error, [u.saved_bytes for u in problem.units]
        tied, count = problem.conflicts, len(places) + 2 * len(inner)
        rows: Any = _scipy("sparse").lil_matrix((count + len(tied), width))
        upper = np.zeros(count + len(tied))
        for p, options in enumerate(places):
            rows[p, options] = 1.0
            upper[p] = 1.0
        for k, (a, b, _) in enumerate(inner):
            for sign, row in ((1.0, len(places) + 2 * k), (-1.0, len(places) + 2 * k + 1)):
                rows[row, places[a]] = sign
                rows[row, places[b]] = -sign
                rows[row, n + k] = -1.0
        for row, pair in enumerate(tied, count):
            rows[row, [i for place in pair for i in places[place]]] = 1.0
            upper[row] = 1.0
        self.constraints: list[Any] = [_scipy("optimize").LinearConstraint(rows.tocsr(), -np.inf, upper)]

    def forbid(self, columns: Any) -> None:
        """Leaves out what fits in no selection: numbers of very different sizes make solvers err."""
        self.most[columns] = 0.0

    def limit(self, row: Any, low: float, high: float) -> None:
        """``low <= row @ x <= high``."""
        self.constraints.append(_scipy("optimize").LinearConstraint(row[None, :], low, high))

    def solve(self, minimize: Objective, seconds: float) -> tuple[Any, float] | None:
        """Which units are taken (0 or 1), and the gap to the bound."""
        optimize: Any = _scipy("optimize")
        scaled = {
            "time": self.time,
            "error": self.error / (float(self.error.sum()) or 1.0),
            "bytes": -self.saved / max(float(self.saved.sum()), 1.0),
        }
        whole, free = np.ones(self.units), np.zeros(self.width - self.units)
        objective = np.minimum(self.error / self.typical, _LARGEST) if minimize == "error" else scaled[minimize]
        with printing_to_stderr():
            found = optimize.milp(
                objective + _TIE * (scaled["error"] + 0.1 * scaled["bytes"]),
                integrality=np.r_[whole, free],
                bounds=optimize.Bounds(0, self.most),
                constraints=self.constraints,
                options={"time_limit": seconds, "mip_rel_gap": GAP},
            )
        if found.x is None:
            return None
        x = cast("Any", np.round(found.x[: self.units]))
        return x, float(getattr(found, "mip_gap", 0.0) or 0.0)


def _scipy(name: str) -> Any:
    """A part of scipy, whose types are incomplete; loaded when it is used."""
    return importlib.import_module(f"scipy.{name}")


def predict_time(problem: Problem, costs: Costs, taken: frozenset[str]) -> float:
    """Time of a selection relative to that of none."""
    return 1.0 + float(sum(costs.time[i] for i in problem.indices(taken))) + costs.border * problem.converted(taken)


def predict_error(problem: Problem, costs: Costs, taken: frozenset[str]) -> float:
    """In the power in which errors add."""
    return float(sum(costs.error[i] for i in problem.indices(taken)))
