"""Placements: never overlapping, never below the bound, and optimal where every placement can be tried."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.passes.shared.arena.buffers import Buffer, overlapping, sections_of
from planish.passes.shared.arena.fit import fit
from planish.passes.shared.arena.greedy import Gap, fullest_of, orders, place_in_order
from planish.passes.shared.arena.place import place
from planish.passes.shared.arena.skyline import COMPILED

INSTANCES = Path(__file__).parent / "minimalloc"
CAPACITY = 1_048_576


@st.composite
def some_buffers(draw: st.DrawFn, most: int = 40) -> list[Buffer]:
    found: list[Buffer] = []
    for _ in range(draw(st.integers(0, most))):
        lower = draw(st.integers(-5, 30))
        size = draw(st.integers(0, 20))
        found.append(Buffer(lower, lower + draw(st.integers(0, 12)), size, draw(st.sampled_from([1, 1, 1, 2, 8]))))
    return found


def live_at(buffers: list[Buffer], moment: int) -> int:
    return sum(b.size for b in buffers if b.lower <= moment < b.upper)


def is_placement(buffers: list[Buffer], offsets: list[int]) -> bool:
    """By its definition, over all pairs."""
    fine = all(o >= 0 and o % b.alignment == 0 for o, b in zip(offsets, buffers, strict=True) if b.size)
    for (a, x), (b, y) in itertools.combinations(zip(buffers, offsets, strict=True), 2):
        together = a.size and b.size and max(a.lower, b.lower) < min(a.upper, b.upper)
        fine &= not together or x + a.size <= y or y + b.size <= x
    return fine


def least_height(buffers: list[Buffer]) -> int:
    """By trying every order: some order places each buffer at the lowest free offset of a best placement."""
    best = sum(b.size + b.alignment for b in buffers)
    for order in itertools.permutations(buffers):
        done: list[tuple[Buffer, int]] = []
        for b in order:
            above = [o + c.size for c, o in done if c.lower < b.upper and b.lower < c.upper]
            at = max(above, default=0)
            done.append((b, -(-at // b.alignment) * b.alignment))
        best = min(best, max(o + b.size for b, o in done))
    return best


@given(some_buffers())
@settings(max_examples=60, deadline=None)
def test_the_bound_is_what_lives_at_the_fullest_moment(buffers: list[Buffer]) -> None:
    fullest = max((live_at(buffers, b.lower) for b in buffers), default=0)
    assert sections_of([b for b in buffers if b.upper > b.lower]).bound == fullest


@given(some_buffers())
@settings(max_examples=60, deadline=None)
def test_sections_meet_exactly_where_lives_do(buffers: list[Buffer]) -> None:
    buffers = [b for b in buffers if b.upper > b.lower]
    s = sections_of(buffers)
    for i, j in itertools.combinations(range(len(buffers)), 2):
        together = max(buffers[i].lower, buffers[j].lower) < min(buffers[i].upper, buffers[j].upper)
        assert together == (max(s.first[i], s.first[j]) < min(s.last[i], s.last[j]))
    naive = [int(s.live[a:b].max()) for a, b in zip(s.first, s.last, strict=True)]
    assert fullest_of(s).tolist() == naive


@given(some_buffers())
@settings(max_examples=60, deadline=None)
def test_greedy_placements_are_placements(buffers: list[Buffer]) -> None:
    buffers = [b for b in buffers if b.upper > b.lower and b.size]
    s = sections_of(buffers)
    for order, gap in itertools.product(orders(buffers, s), Gap):
        assert is_placement(buffers, place_in_order(buffers, s, order, gap, s.bound))


@given(some_buffers())
@settings(max_examples=60, deadline=None)
def test_what_is_placed_fits_and_keeps_to_the_bound(buffers: list[Buffer]) -> None:
    found = place(buffers, nodes=300)
    assert is_placement(buffers, found.offsets)
    assert found.bound <= found.height <= found.greedy
    assert found.height == max((o + b.size for o, b in zip(found.offsets, buffers, strict=True)), default=0)
    assert found == place(buffers, nodes=300)


@given(some_buffers(most=5))
@settings(max_examples=60, deadline=None)
def test_small_problems_are_solved_and_proved(buffers: list[Buffer]) -> None:
    buffers = [b for b in buffers if b.size and b.upper > b.lower]
    least = least_height(buffers) if buffers else 0
    found = place(buffers, nodes=5_000)
    assert found.height == found.bound == least
    if least:
        assert fit(buffers, sections_of(buffers), least - 1, 5_000).impossible


@given(some_buffers(), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_overlaps_are_found(buffers: list[Buffer], seed: int) -> None:
    offsets = np.random.default_rng(seed).integers(0, 60, len(buffers)).tolist()
    aligned = [Buffer(b.lower, b.upper, b.size) for b in buffers]
    assert (overlapping(aligned, offsets) is None) == is_placement(aligned, offsets)


def read_instance(name: str) -> list[Buffer]:
    lines = (INSTANCES / f"{name}.{CAPACITY}.csv").read_text().splitlines()
    return [Buffer(*(int(field) for field in line.split(",")[1:])) for line in lines[1:]]


@pytest.mark.parametrize("name", "ABCDEFGHIJK" if COMPILED else "ABCEFH")
def test_minimalloc_instances_fit(name: str) -> None:
    buffers = read_instance(name)
    found = place(buffers, CAPACITY, nodes=100_000)
    assert found.height <= CAPACITY < found.greedy
    assert is_placement(buffers, found.offsets)


def test_chains_of_any_length_need_no_search() -> None:
    found = place([Buffer(i, i + 2, 1000 + i % 7) for i in range(20_000)])
    assert found.height == found.bound == 2011
    assert found.nodes == 0


def test_without_the_compiler_the_search_is_the_same() -> None:
    """The same nodes in the same order, whether numba is there or not."""
    code = (
        "import sys; sys.modules['numba'] = None\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from planish.passes.shared.arena.skyline import COMPILED\n"
        "from planish.passes.shared.arena.place import place\n"
        "from test_arena import read_instance\n"
        "assert not COMPILED\n"
        "found = place(read_instance('F'), nodes=5000)\n"
        "print(found.nodes, found.height, sum(i * o for i, o in enumerate(found.offsets)))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = place(read_instance("F"), nodes=5000)
    expected = [found.nodes, found.height, sum(i * o for i, o in enumerate(found.offsets))]
    assert [int(n) for n in seen.stdout.split()] == expected
