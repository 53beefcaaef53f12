"""Keys of units: the same in every run, whatever else is taken."""

from __future__ import annotations

from planish.passes.choices import Choices, Unit


def proposed(left: set[str]) -> tuple[list[str], Choices]:
    """Two places of one name; each proposes ranks until one is taken."""
    choices, taken = Choices(left), list[str]()
    for place in (object(), object()):
        for rank in (8, 16, 32):
            if choices.take(Unit(f"factorize-matmul/c{rank}@add"), place):
                taken.append(f"c{rank}")
                break
    return taken, choices


def test_places_of_one_name_keep_their_numbers() -> None:
    keys = {f"factorize-matmul/c{rank}@add{number}" for rank in (8, 16, 32) for number in ("", "#2")}
    everything = Choices(keys)
    first, second = object(), object()
    for place in (first, second):
        for rank in (8, 16, 32):
            assert not everything.take(Unit(f"factorize-matmul/c{rank}@add"), place)
    assert set(everything.offered) == keys
    wanted = {"factorize-matmul/c16@add", "factorize-matmul/c32@add#2"}
    taken, choices = proposed(keys - wanted)
    assert taken == ["c16", "c32"]
    assert {u.key for u in choices.taken} == wanted
