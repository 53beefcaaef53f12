"""Integer program: the best choice where nodes have more than two options, solved by HiGHS.

    minimize    sum_no c_no x_no + sum_vab convert(v,a,b) y_vab
    subject to  sum_o x_no = 1,   sum_b t_vuab = x(v given a),   sum_a t_vuab = x(v taken b by u),   t_vuab <= y_vab

with ``u`` the nodes that take ``v``. Only ``x`` has to be integer.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .problem import Key, Label, Option, Problem

_GAP = 1e-9


@dataclass
class Rows:
    """Variables with costs and bounds, and rows with sparse coefficients."""

    cost: list[float] = field(default_factory=list[float])
    high: list[float] = field(default_factory=list[float])
    integer: list[int] = field(default_factory=list[int])
    entries: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])
    low: list[float] = field(default_factory=list[float])
    top: list[float] = field(default_factory=list[float])

    def variable(self, cost: float = 0.0, *, integer: bool = False, high: float = 1.0) -> int:
        self.cost.append(cost)
        self.high.append(high)
        self.integer.append(int(integer))
        return len(self.cost) - 1

    def equal(self, terms: Mapping[int, float], right: float) -> None:
        """``terms . x = right``."""
        self._row(terms)
        self.low.append(right)
        self.top.append(right)

    def at_most(self, terms: Mapping[int, float]) -> None:
        """``terms . x <= 0``."""
        self._row(terms)
        self.low.append(-math.inf)
        self.top.append(0.0)

    def _row(self, terms: Mapping[int, float]) -> None:
        self.entries.extend((len(self.low), i, value) for i, value in terms.items())


def program(problem: Problem, seconds: float) -> tuple[dict[Key, int], float]:
    """The index of each node's option, and a bound on the cost. Raises ``ValueError`` where no choice is finite."""
    rows = Rows()
    picks = {n: [rows.variable(o.cost, integer=True) for o in options] for n, options in problem.options.items()}
    for found in picks.values():
        rows.equal(dict.fromkeys(found, 1.0), 1.0)
    for value, (giver, takers) in problem.values().items():
        if giver is not None:
            _pairs(rows, problem, value, giver, takers, picks)
    solved = _solved(rows, seconds)
    chosen = {n: int(np.argmax([solved.x[i] for i in found])) for n, found in picks.items()}
    return chosen, float(solved.mip_dual_bound)


def _pairs(
    rows: Rows, problem: Problem, value: Key, giver: Key, takers: list[Key], picks: dict[Key, list[int]]
) -> None:
    given = _by_label(problem.options[giver], picks[giver], value, gives=True)
    paid: dict[tuple[Label, Label], int] = {}
    for taker in dict.fromkeys(takers):
        taken = _by_label(problem.options[taker], picks[taker], value, gives=False)
        flows: dict[tuple[Label, Label], int] = {}
        for a in given:
            for b in taken:
                cost = 0.0 if a == b else problem.convert(value, a, b)
                flows[a, b] = rows.variable(high=0.0 if cost == math.inf else 1.0)
                if a != b and cost != math.inf:
                    if (a, b) not in paid:
                        paid[a, b] = rows.variable(cost)
                    rows.at_most({flows[a, b]: 1.0, paid[a, b]: -1.0})
        if _twice(problem.options[taker], value):
            _loose(rows, given, taken, flows)
            continue
        for a, sources in given.items():
            # A taker under one of whose options the value is of no interest takes less than all.
            row = {flows[a, b]: 1.0 for b in taken} | dict.fromkeys(sources, -1.0)
            if _always(problem.options[taker], value):
                rows.equal(row, 0.0)
            else:
                rows.at_most(row)
        for b, users in taken.items():
            rows.equal({flows[a, b]: 1.0 for a in given} | dict.fromkeys(users, -1.0), 0.0)


def _loose(
    rows: Rows, given: dict[Label, list[int]], taken: dict[Label, list[int]], flows: dict[tuple[Label, Label], int]
) -> None:
    """For a node that takes one value under several labels: each label for itself."""
    for b, users in taken.items():
        rows.equal({flows[a, b]: 1.0 for a in given} | dict.fromkeys(users, -1.0), 0.0)
        for a, sources in given.items():
            rows.at_most({flows[a, b]: 1.0} | dict.fromkeys(sources, -1.0))


def _twice(options: list[Option], value: Key) -> bool:
    return any(sum(v == value for v, _ in o.takes) > 1 for o in options)


def _always(options: list[Option], value: Key) -> bool:
    return all(any(v == value for v, _ in o.takes) for o in options)


def _by_label(options: list[Option], picks: list[int], value: Key, *, gives: bool) -> dict[Label, list[int]]:
    found: dict[Label, list[int]] = {}
    for option, pick in zip(options, picks, strict=True):
        for v, label in option.gives if gives else option.takes:
            if v == value:
                found.setdefault(label, []).append(pick)
    return found


def _solved(rows: Rows, seconds: float) -> Any:
    optimize: Any = importlib.import_module("scipy.optimize")
    sparse: Any = importlib.import_module("scipy.sparse")
    i, j, values = zip(*rows.entries, strict=True)
    matrix = sparse.csr_array((values, (i, j)), shape=(len(rows.low), len(rows.cost)))
    found = optimize.milp(
        np.array(rows.cost),
        integrality=np.array(rows.integer),
        bounds=optimize.Bounds(0.0, np.array(rows.high)),
        constraints=optimize.LinearConstraint(matrix, np.array(rows.low), np.array(rows.top)),
        options={"time_limit": seconds, "mip_rel_gap": _GAP},
    )
    if found.x is None:
        raise ValueError(f"no choice of finite cost: {found.message}")
    return found
