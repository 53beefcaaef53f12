"""Which samples many units are weighed by."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from planish.driver.budget.holdout import Part, few
from planish.driver.checks.reference import Reference


class _Whole:
    def __init__(self) -> None:
        self.names, self.resolutions = ["y"], {"y": 0.0}
        self.samples = [{"x": np.full(1, i)} for i in range(40)]


def part(places: list[int]) -> Part:
    return Part(cast("Reference", _Whole()), places)


def chosen(found: Any) -> list[int]:
    return [int(s["x"][0]) for s in found.samples]


def test_evenly_where_nothing_is_known() -> None:
    assert chosen(few(part(list(range(16))), 8)) == list(range(0, 16, 2))
    assert chosen(few(part([1, 2]), 8)) == [1, 2]


def test_half_of_them_are_those_that_a_change_moves_most() -> None:
    errors = [0.0] * 20
    errors[3], errors[17], errors[18] = 0.5, 0.9, 0.1
    found = chosen(few(part(list(range(20, 40))), 6, errors))
    assert {23, 37, 38} <= set(found)
    assert found == sorted(set(found))
    assert len(found) == 6
