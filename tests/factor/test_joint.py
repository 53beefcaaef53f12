"""Products of one value: each by itself or with a shared factor, never both."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import planish
from planish.driver.factor import ranks_of
from planish.driver.select import Choice, Problem, make_problem
from planish.driver.select.front import Front
from planish.driver.select.program import Costs, solve
from planish.driver.select.weighing import Weighing
from planish.ir.clone import clone_model
from planish.ir.graph import Model
from planish.ir.text.parser import parse_model
from planish.passes.choices import Choices
from planish.passes.core import Context

MODEL = """graph @main(%x: f32[8,24]) {
  %q: f32[24,16] = const rand<1>
  %k: f32[24,16] = const rand<2>
  %v: f32[24,16] = const rand<3>
  %o: f32[16,16] = const rand<4>
  %y = MatMul(%x, %q) // "query"
  %z = MatMul(%x, %k) // "key"
  %u = MatMul(%x, %v) // "value"
  %a = Add(%y, %z)
  %b = Mul(%a, %u)
  %c = MatMul(%b, %o) // "out"
  return %c
}
"""
OPTIONS = "{min-parameters=16,by-model=false,ranks=[4],forms=[pair]}"
PIPELINE = f"factorize-parallel{OPTIONS},factorize-matmul{OPTIONS}"
JOINT, APART = "factorize-parallel/r4@query", {f"factorize-matmul/r4@{n}" for n in ("query", "key", "value")}
OUT = "factorize-matmul/r4@out"


def named() -> Model:
    model = parse_model(MODEL)
    products = [node for node in model.all_nodes() if node.op == "MatMul"]
    for node, name in zip(products, ("query", "key", "value", "out"), strict=True):
        node.name = name
    return model


@pytest.fixture
def problem() -> Problem:
    choices = Choices(nothing=True)
    planish.Pipeline(PIPELINE).run(clone_model(named()), Context(choices=choices))
    return make_problem(list(choices.offered.values()), named())


def test_a_shared_factor_excludes_those_of_each(problem: Problem) -> None:
    assert {u.key for u in problem.units} == {JOINT, *APART, OUT}
    assert problem.everything() == {*APART, OUT}
    joint, alone = ([u.key for u in problem.units].index(key) for key in (JOINT, OUT))
    assert problem.excluded(problem.place_of[alone]) == {problem.place_of[alone]}
    assert len(problem.excluded(problem.place_of[joint])) == 4
    count = 3 * 24 * 16
    assert problem.savings[joint] == pytest.approx(1 - 4 * (24 + 48) / count)
    assert problem.work[joint] == pytest.approx(count / (count + 16 * 16), rel=0.05)


@pytest.mark.parametrize("better", [0.5, 1.5])
def test_the_program_takes_one_of_both(problem: Problem, better: float) -> None:
    """By what the shared factor costs for what it saves."""
    error = np.array([better * 3 if u.key == JOINT else 1.0 for u in problem.units])
    saved = sum(u.saved_bytes for u in problem.units if u.key in APART)
    costs = Costs(np.zeros(len(error)), 0.0, error)
    solved = solve(problem, costs, min_saved_bytes=saved, minimize="error")
    assert solved is not None
    assert solved.taken == ({JOINT} if better < 1 else APART)


def test_they_are_never_weighed_together(problem: Problem) -> None:
    """Not even where there is time for few measurements."""
    seen: list[frozenset[str]] = []

    def weight(taken: frozenset[str]) -> float:
        seen.append(taken)
        return 1.0

    Weighing(problem, weight, 1.0).run(lambda: 0.0, lambda done, total: None)
    assert set(itertools.chain.from_iterable(seen)) == {u.key for u in problem.units}
    assert not any(JOINT in taken and taken & APART for taken in seen)


@pytest.mark.parametrize("taken", [{JOINT, OUT}, {*APART, OUT}], ids=["shared", "each"])
def test_what_was_taken_is_built_and_told(problem: Problem, taken: set[str]) -> None:
    model = named()
    left = {u.key for u in problem.units} - taken
    planish.Pipeline(PIPELINE).run(model, Context(choices=Choices(left)))
    assert sum(n.op == "MatMul" for n in model.graph) == (6 if JOINT in taken else 8)
    rows = ranks_of(problem, Choice(frozenset(taken), 0.5, None, Front([])), named())
    assert sum(r.parameters for r in rows) == 3 * 24 * 16 + 16 * 16
    assert all(r.rank == "4" for r in rows)
    assert [r.layer for r in rows if r.form == "shared"] == (["query and 2 beside it"] if JOINT in taken else [])
