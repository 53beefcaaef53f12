"""Labels: the best choice where all can be tried, bounds that hold, cuts where cuts do."""

from __future__ import annotations

import itertools
import math
from random import Random
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.passes.shared.layout import solve as solver
from planish.passes.shared.layout.problem import Option, Problem, Solution
from planish.passes.shared.layout.solve import two_sides


def solve(problem: Problem, few: int = 0) -> Solution:
    """Without trying out small parts: by cuts and programs alone."""
    with mock.patch.object(solver, "FEW", few):
        return solver.solve(problem)


def drawn(seed: int, labels: str, *, twisted: float = 0.0) -> Problem:
    """A random problem of at most seven nodes; with ``twisted`` some nodes take other labels than they give."""
    random = Random(seed)
    costs: dict[tuple[object, ...], float] = {}

    def convert(*key: object) -> float:
        return costs.setdefault(key, random.choice([0.5, 1.0, 2.0, 5.0]))

    problem, values = Problem(convert), list[str]()
    for i in range(random.randint(2, 7)):
        operands = random.sample(values, min(len(values), random.randint(0, 3)))
        options: list[Option] = []
        for label in random.sample(labels, random.randint(1, len(labels))):
            turned = random.random() < twisted
            takes = tuple((v, random.choice(labels) if turned else label) for v in operands)
            options.append(Option(random.randint(0, 6), takes, ((f"v{i}", label),)))
        problem.add(i, options)
        values.append(f"v{i}")
    return problem


def best_of_all(problem: Problem) -> float:
    nodes = list(problem.options)
    choices = itertools.product(*problem.options.values())
    return min(problem.cost(dict(zip(nodes, choice, strict=True))) for choice in choices)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["ab", "abc"]), st.sampled_from([0.0, 0.3]), st.sampled_from([0, 32]))
def test_no_choice_is_better(seed: int, labels: str, twisted: float, few: int) -> None:
    problem = drawn(seed, labels, twisted=twisted)
    found = solve(problem, few)
    assert found.cost == pytest.approx(problem.cost(found.chosen))
    assert found.cost == pytest.approx(best_of_all(problem))
    assert found.bound == pytest.approx(found.cost, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_two_labels_are_a_cut(seed: int) -> None:
    problem = drawn(seed, "ab")
    assert two_sides(problem) is not None
    assert solve(problem).programs == 0


def test_a_conversion_is_paid_once_for_all_that_take_it() -> None:
    problem = Problem(lambda *_: 5.0)
    problem.add("x", [Option(gives=(("x", "a"),))])
    for user in "123":
        problem.add(user, [Option(2.0, (("x", "a"),)), Option(0.0, (("x", "b"),))])
    found = solve(problem)
    assert found.cost == 5.0  # not 6, and not 15
    assert found.conversions == [("x", "a", "b")]
    assert "no choice costs less (1 minimum cut)" in found.proof


def test_labels_that_no_two_sides_fit_are_a_program() -> None:
    """Of three nodes in a ring each two want to differ."""
    problem = Problem(lambda *_: 1.0)
    problem.add("p", [Option(gives=(("p", side),)) for side in "ab"])
    problem.add("q", [Option(takes=(("p", one),), gives=(("q", two),)) for one, two in ("ab", "ba")])
    problem.add("r", [Option(takes=(("p", side), ("q", side)), gives=(("r", side),)) for side in "ab"])
    found = solve(problem)
    assert (found.programs, found.cost) == (1, 1.0)


def test_what_cannot_be_converted_is_not() -> None:
    problem = Problem(lambda _, a, b: math.inf if (a, b) == ("a", "b") else 1.0)
    problem.add("x", [Option(0.0, (), (("x", "a"),)), Option(7.0, (), (("x", "b"),))])
    problem.add("y", [Option(0.0, (("x", "b"),)), Option(9.0, (("x", "a"),))])
    assert solve(problem).cost == 7.0
    problem.add("x", [Option(0.0, (), (("x", "a"),))])
    assert solve(problem).cost == 9.0
    problem.add("x", [Option(0.0, (), (("x", label),)) for label in "ab"])
    problem.add("y", [Option(0.0, (("x", "b"),))])
    assert solve(problem).cost == 0.0


def test_whole_numbers_stay_exact_in_long_chains() -> None:
    random = Random(5)
    problem = Problem(lambda *_: 10_007)
    for i in range(1000):
        takes = [(f"v{i - 1}",)] if i else [()]
        options = [
            Option(random.randrange(10**5), tuple((v, label) for v in takes[0]), ((f"v{i}", label),)) for label in "ab"
        ]
        problem.add(i, options)
    found = solve(problem)
    assert found.cost == found.bound
    best = {"a": 0.0, "b": 0.0}  # dynamic programming along the chain
    for i in range(1000):
        a, b = (o.cost for o in problem.options[i])
        step = 10_007 if i else 0
        best = {"a": a + min(best["a"], best["b"] + step), "b": b + min(best["b"], best["a"] + step)}
    assert found.cost == min(best.values())


def test_costs_too_large_for_whole_numbers_still_give_a_bound() -> None:
    random = Random(6)
    problem = Problem(lambda *_: 1e9)
    for i in range(300):
        takes = ((f"v{i - 1}", "a"),) if i else ()
        other = ((f"v{i - 1}", "b"),) if i else ()
        gives = [((f"v{i}", label),) for label in "ab"]
        problem.add(
            i, [Option(random.random() * 1e10, takes, gives[0]), Option(random.random() * 1e10, other, gives[1])]
        )
    found = solve(problem)
    assert found.bound <= found.cost * (1 + 1e-12)
    assert found.gap < 1e-6
