"""The search for the best selection of lossy units: what it finds, and how few measurements it needs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.driver.budget.search import PARTS, Outcome, evaluation_limit, search
from planish.passes.choices import Unit

Spend = Callable[[frozenset[str]], float]


def units(count: int, seed: int = 0) -> list[Unit]:
    draw = random.Random(seed)
    return [Unit(f"p@{i}", draw.uniform(0.5, 2), draw.randint(1, 1000)) for i in range(count)]


def searched(of: list[Unit], spend: Spend, **options: int) -> Outcome:
    """Searches, and checks what must hold whatever is measured."""
    asked: list[frozenset[str]] = []

    def measure(selection: frozenset[str]) -> float:
        asked.append(selection)
        return spend(selection)

    found = search(of, measure, total_bytes=sum(u.saved_bytes for u in of), **options)
    assert len(asked) == len(set(asked)) == found.evaluations <= found.limit
    assert found.base > 1 or spend(frozenset(found.taken)) == found.spent <= 1
    assert {*found.taken, *found.left} == {u.key for u in of}
    assert not set(found.taken) & set(found.left)
    return found


def gain(found: Outcome, of: list[Unit]) -> float:
    return sum(u.saved_bytes for u in of if u.key in set(found.taken)) / sum(u.saved_bytes for u in of)


def test_everything_that_fits_is_taken_after_two_measurements() -> None:
    of = units(500)
    found = searched(of, lambda s: len(s) / 500)
    assert found.taken == [u.key for u in of]
    assert found.evaluations == 2


def test_nothing_is_tried_where_the_budget_is_spent_already() -> None:
    found = searched(units(9), lambda s: 1.5)
    assert found.evaluations == 1
    assert found.taken == []
    assert set(found.left.values()) == {"the budget is spent without it"}


@pytest.mark.parametrize("count", [20, 500])
@pytest.mark.parametrize("cost", [1.5, 20, math.inf])
def test_one_bad_unit_costs_a_logarithm(count: int, cost: float) -> None:
    of = units(count)
    bad = of[count // 3].key
    found = searched(of, lambda s: (cost if bad in s else 0.0) + 0.5 * len(s) / count)
    assert list(found.left) == [bad]
    assert found.evaluations <= 2 * math.ceil(math.log2(count)) + PARTS + 2


def test_five_bad_units_among_five_hundred_leave_most_of_the_gain() -> None:
    of = units(500)
    bad = {f"p@{i}" for i in (3, 77, 178, 300, 420)}
    found = searched(of, lambda s: math.inf if s & bad else 0.3 * len(s) / 500)
    assert not bad & set(found.taken)
    assert gain(found, of) > 0.9


def test_units_that_are_harmless_alone_and_harmful_together() -> None:
    of = units(64)
    pairs = [{"p@3", "p@11"}, {"p@40", "p@41"}]
    found = searched(of, lambda s: 5.0 * sum(pair <= s for pair in pairs) + 0.2 * len(s) / 64)
    assert [len(pair & set(found.left)) for pair in pairs] == [1, 1]
    assert len(found.left) == 2


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("count", [20, 500])
def test_errors_that_add_up_are_packed_nearly_as_well_as_can_be(count: int, share: float) -> None:
    of = units(count)
    total = share * sum(u.error for u in of)
    found = searched(of, lambda s: sum(u.error for u in of if u.key in s) / total)
    largest = max(u.saved_bytes for u in of) / sum(u.saved_bytes for u in of)
    assert gain(found, of) >= 0.98 * fractional_optimum(of, total) - largest / 4


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("count", [30, 500])
def test_layers_that_are_more_sensitive_than_others_are_found(count: int, share: float) -> None:
    """Sensitivity varies by four orders of magnitude over the depth, and by a third from layer to layer."""
    of = units(count)
    draw = random.Random(1)
    truth = {
        u.key: u.error * 10 ** (2 * math.sin(6 * i / count)) * draw.lognormvariate(0, 0.3) for i, u in enumerate(of)
    }
    total = share * sum(truth.values())
    found = searched(of, lambda s: sum(truth[u.key] for u in of if u.key in s) / total)
    real = [Unit(u.key, truth[u.key], u.saved_bytes) for u in of]
    assert gain(found, of) >= 0.8 * fractional_optimum(real, total)


@pytest.mark.parametrize(("share", "part"), [(0.5, 0.8), (0.1, 0.45)])
def test_predictions_that_are_off_by_factors_cost_a_part_of_the_gain(share: float, part: float) -> None:
    of = units(200)
    draw = random.Random(1)
    truth = {u.key: u.error * draw.lognormvariate(0, 1) for u in of}
    total = share * sum(truth.values())
    found = searched(of, lambda s: sum(truth[u.key] for u in of if u.key in s) / total)
    real = [Unit(u.key, truth[u.key], u.saved_bytes) for u in of]
    assert gain(found, of) >= part * fractional_optimum(real, total)


def fractional_optimum(of: list[Unit], total: float) -> float:
    """The gain of taking units by error per gain, and a part of the first that does not fit: nothing beats it."""
    left, taken = total, 0.0
    for unit in sorted(of, key=lambda u: u.error / u.saved_bytes):
        part = min(1.0, left / unit.error)
        taken, left = taken + part * unit.saved_bytes, left - part * unit.error
    return taken / sum(u.saved_bytes for u in of)


def test_what_is_no_number_is_too_much() -> None:
    found = searched(units(8), lambda s: math.nan if "p@5" in s else 0.0)
    assert list(found.left) == ["p@5"]


def test_the_number_of_measurements_can_be_set() -> None:
    of = units(500)
    bad = {u.key for u in of[::7]}
    found = searched(of, lambda s: float(len(s & bad)) * 2, max_evaluations=10)
    assert found.evaluations == 10
    assert any("10 measurements are made" in because for because in found.left.values())


def test_nothing_proposed() -> None:
    found = searched([], lambda s: 0.5)
    assert (found.taken, found.left, found.evaluations) == ([], {}, 1)


def test_gains_that_nobody_knows_are_still_gains() -> None:
    of = [Unit(f"p@{i}") for i in range(4)]
    found = searched(of, lambda s: 2.0 if "p@2" in s else 0.1)
    assert found.taken == ["p@0", "p@1", "p@3"]


@given(count=st.integers(1, 40), seed=st.integers(0, 1 << 30), density=st.floats(0, 1))
def test_whatever_is_measured_the_result_was_measured_to_fit(count: int, seed: int, density: float) -> None:
    """Even with costs that jump about without rhyme or reason."""
    of = units(count, seed)

    def spend(selection: frozenset[str]) -> float:
        if not selection:
            return 0.0
        draw = random.Random(f"{seed} {sorted(selection)}")
        return 2.0 if draw.random() < density else draw.random()

    first, again = searched(of, spend), searched(of, spend)
    assert first == again
    assert first.limit == evaluation_limit(count)
