"""Every rule of every pass: proved or exactly checked wherever its golden cases make it fire, or in a table of reasons.

And wrong rules: the exact check alone must not accept one.
"""

from __future__ import annotations

import pytest

from planish.driver.prove.ledger import CHECKED, DIFFERENT, PROVED, Ledger
from planish.tests.bisect.mutants import MUTANTS
from planish.tests.bisect.planted import registered

from .golden import OPEN, RIGHT_IN_A_PLACE, approximations, golden_ledger, planted_ledger, random_ledger, rules

REFUSED = {"drop-expand", "crash-on-tanh", "wrong-element-type", "operator-that-does-not-exist"}
"""Planted faults that the rewriter refuses: no rewrite comes about."""
NOTHING_COMPUTED = {"type-that-is-not-so"}
"""Planted faults that compute what they should: the verifier finds them."""


@pytest.fixture(scope="module")
def golden() -> Ledger:
    return golden_ledger(run=False)


def test_every_rule_is_proved_or_exactly_checked_on_its_golden_cases_or_listed(golden: Ledger) -> None:
    known = rules()
    assert set(OPEN) <= set(known), "the table names rules that do not exist"
    assert set(golden.counts) <= set(known)
    left = {rule for rule in known if not golden.counts.get(rule) or set(golden.counts[rule]) - {PROVED, CHECKED}}
    left -= approximations()
    assert left - set(OPEN) == set(), "neither proved nor exactly checked, see `scripts/prove`"
    assert set(OPEN) - left == set(), "proved or exactly checked by now: take them off the table"


def test_most_rewrites_of_the_golden_cases_are_exact(golden: Ledger) -> None:
    assert golden.total(DIFFERENT) == 0
    claimed = [kinds for rule, kinds in golden.counts.items() if rule not in approximations()]
    exact = sum(kinds.get(PROVED, 0) + kinds.get(CHECKED, 0) for kinds in claimed)
    assert exact >= 0.99 * sum(sum(kinds.values()) for kinds in claimed)


def test_rewrites_of_random_models_are_exact_but_for_few() -> None:
    found = random_ledger(12)
    assert found.total(DIFFERENT) == 0
    exact = found.total(PROVED) + found.total(CHECKED)
    assert exact >= 0.95 * sum(sum(kinds.values()) for kinds in found.counts.values()) > 50


@pytest.mark.parametrize("name", MUTANTS)
def test_the_exact_check_alone_accepts_no_planted_fault(name: str) -> None:
    with registered():
        found = planted_ledger(name)
    if name in REFUSED:
        assert not found
    elif name in NOTHING_COMPUTED:
        assert set(found) == {PROVED}
    elif name in RIGHT_IN_A_PLACE:
        assert set(found) - {PROVED, CHECKED}
    else:
        assert found
        assert not set(found) & {PROVED, CHECKED}
