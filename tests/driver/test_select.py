"""Selecting with an artificial lab, whose truth is known."""

from __future__ import annotations

import ctypes
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from planish.driver.select import Border, Goal, Known, Learned, Problem, Timing, select
from planish.driver.select.program import Costs, predict_time, solve
from planish.driver.select.quiet import printing_to_stderr
from planish.driver.select.surrogate import Timed, fit_error, fit_time, power_of
from planish.driver.select.weighing import Weighing
from planish.passes.choices import Unit


class World:
    """A chain of layers; each takes time in both forms, conversions take time, errors add in squares."""

    def __init__(self, n: int, seed: int, *, border: float = 0.0, noise: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        share = rng.dirichlet(np.full(n, 2.0))
        self.gain = share * rng.uniform(-0.3, 0.6, n)
        self.error = rng.lognormal(-2.0, 1.0, n)
        self.border, self.noise, self.rng = border, noise, rng
        units = [Unit(f"q/int8@n{i}", error=float(self.error[i] * rng.uniform(0.3, 3))) for i in range(n)]
        borders = [Border(i, i + 1, 1000) for i in range(n - 1)] + [Border(0, None, 1000), Border(n - 1, None, 1000)]
        self.problem = Problem(
            tuple(units), tuple(range(n)), tuple(borders), tuple(f"k{i}" for i in range(n)), tuple(share)
        )
        self.calls = 0

    def spent(self, taken: frozenset[str]) -> float:
        self.calls += 1
        return math.sqrt(sum(self.error[i] ** 2 for i in self.problem.indices(taken)))

    def weight(self, taken: frozenset[str]) -> float:
        return 7 * math.sqrt(sum(self.error[i] ** 2 for i in self.problem.indices(taken)))

    def rough(self, taken: frozenset[str]) -> float:
        return self.weight(taken)

    def true_time(self, taken: frozenset[str]) -> float:
        gain = sum(self.gain[i] for i in self.problem.indices(taken))
        return 1 - gain + self.border * self.problem.converted(taken) / 1000

    def timing(self, taken: frozenset[str]) -> Timing:
        self.calls += 1
        ratio = self.true_time(taken) + self.rng.normal(0, self.noise)
        return Timing(ratio, ratio - self.noise, ratio + self.noise, 1e6)

    def optimum(self) -> float:
        keys = [u.key for u in self.problem.units]
        every = (frozenset(s) for r in range(len(keys) + 1) for s in itertools.combinations(keys, r))
        return min(self.true_time(s) for s in every if self.spent(s) <= 1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("border", [0.0, 0.01])
def test_near_the_optimum(seed: int, border: float) -> None:
    world = World(10, seed, border=border, noise=0.002)
    best = world.optimum()
    choice = select(world.problem, world, Goal(seconds=1e6))
    assert world.spent(choice.taken) <= 1
    assert world.true_time(choice.taken) <= best + 0.03


@pytest.mark.parametrize(("gain", "found"), [(0.02, True), (0.001, False)])
def test_a_small_gain_is_timed_until_it_is_certain(gain: float, found: bool) -> None:
    """Of all together; each timing is off by a part of that."""
    world = World(4, 0, noise=0.03)
    world.gain, world.error = np.full(4, gain), np.full(4, 0.1)
    choice = select(world.problem, world, Goal(seconds=1e6))
    assert bool(choice.taken) == found
    assert found or "beyond doubt" in choice.because


def test_nothing_where_nothing_pays() -> None:
    world = World(8, 0)
    world.gain = -np.abs(world.gain)
    choice = select(world.problem, world, Goal(seconds=1e6))
    assert not choice.taken
    assert "does not pay" in choice.because


def test_nothing_fits() -> None:
    world = World(8, 0)
    world.error[:] = 5.0
    choice = select(world.problem, world, Goal(seconds=1e6))
    assert not choice.taken
    assert "nothing fits" in choice.because


def test_interaction_makes_it_retreat() -> None:
    """Units that fit alone and not together: estimates are corrected by what was measured."""
    world = World(8, 1)
    world.gain = np.full(8, 0.05)
    world.error = np.full(8, 0.1)
    plain = world.spent
    world.spent = lambda taken: plain(taken) if len(taken) < 5 else 3.0  # type: ignore[method-assign]
    choice = select(world.problem, world, Goal(seconds=1e6))
    assert 3 <= len(choice.taken) < 5


def test_size_within_time() -> None:
    """What saves most bytes without being slower."""
    world = World(6, 3)
    units = tuple(Unit(u.key, u.error, saved_bytes=100) for u in world.problem.units)
    world.problem = Problem(units, world.problem.place_of, (), world.problem.kinds, world.problem.work)
    world.error[:] = 0.01
    choice = select(world.problem, world, Goal(minimize="bytes", seconds=1e6))
    assert world.true_time(choice.taken) <= 1.011
    assert len(choice.taken) >= 4


def test_options_exclude_each_other() -> None:
    units = (Unit("w/int4@a", 0.8), Unit("w/int8@a", 0.1), Unit("w/int4@b", 0.8), Unit("w/int8@b", 0.1))
    problem = Problem(units, (0, 0, 1, 1), (), ("4", "8", "4", "8"), (0.5,) * 4)
    costs = Costs(np.array([-0.4, -0.2, -0.3, -0.2]), 0.0, np.array([0.8, 0.1, 0.8, 0.1]))
    solved = solve(problem, costs, room=1.0)
    assert solved is not None
    assert solved.taken == {"w/int4@a", "w/int8@b"}


def test_borders_keep_regions_together() -> None:
    problem = World(3, 0).problem
    costs = Costs(np.array([-0.2, 0.05, -0.2]), 1e-4, np.zeros(3))
    solved = solve(problem, costs)
    assert solved is not None
    assert len(solved.taken) == 3, "the middle one costs less than two conversions"
    assert solved.time == pytest.approx(predict_time(problem, costs, solved.taken))


def test_many_units_in_seconds() -> None:
    world = World(500, 5, border=1e-4)
    costs = Costs(-world.gain, 1e-7, world.error**2)
    solved = solve(world.problem, costs, room=20.0)
    assert solved is not None
    assert solved.gap <= 1e-3


class Degrees(World):
    """Layers that can be cut by degrees, in two forms: one saves more, the other costs less beside."""

    def __init__(self, layers: int, seed: int, degrees: int = 8, noise: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        share = rng.dirichlet(np.full(layers, 3.0))
        self.rng, self.noise, self.border, self.calls = rng, noise, 0.0, 0
        kept = np.linspace(0.1, 0.9, degrees)
        sensitive = rng.lognormal(-0.5, 0.7, layers)
        units, kinds, gains, errors, savings = [], [], [], [], []
        for layer, form, k in itertools.product(range(layers), "cr", kept):
            saved = 1 - float(k)
            error = float(sensitive[layer]) * (saved**1.5 if form == "c" else 1.4 * saved)
            key = f"factorize-matmul/{form}{round(100 * k)}@n{layer}"
            units.append(Unit(key, error * 0.3, saved_bytes=round(1e4 * saved * share[layer])))
            kinds.append(f"factorize-matmul/{form}{round(100 * k)} Gemm {layer % 3}")
            price = (0.12 if form == "c" else 0.02) + 0.05 * (layer % 3)
            gains.append(float(share[layer]) * (0.8 * saved - price))
            errors.append(error)
            savings.append(saved)
        self.gain, self.error = np.array(gains), np.array(errors)
        place_of = tuple(np.repeat(np.arange(layers), 2 * degrees).tolist())
        work = tuple(float(share[p]) for p in place_of)
        self.problem = Problem(tuple(units), place_of, (), tuple(kinds), work, tuple(savings))

    def exact(self) -> float:
        solved = solve(self.problem, Costs(-self.gain, 0.0, self.error**2), room=1.0)
        assert solved is not None
        return solved.time


@pytest.mark.parametrize("seed", range(4))
def test_degrees_are_timed_together(seed: int) -> None:
    """One of many ranks at a layer, weighed and timed, says what to expect of the others."""
    world = Degrees(12, seed, noise=0.002)
    choice = select(world.problem, world, Goal(seconds=1e6))
    assert world.spent(choice.taken) <= 1
    assert world.true_time(choice.taken) <= world.exact() + 0.04
    assert len(choice.taken) == len({key.partition("@")[2] for key in choice.taken})
    assert world.calls < len(world.problem.units), "not every option is measured"


def test_least_error_at_a_size() -> None:
    world = Degrees(12, 1)
    total = 10_000
    choice = select(world.problem, world, Goal(minimize="error", max_time=2.0, min_saved_bytes=total // 8, seconds=1e6))
    saved = sum(world.problem.units[i].saved_bytes for i in world.problem.indices(choice.taken))
    best = solve(world.problem, Costs(-world.gain, 0.0, world.error**2), min_saved_bytes=total // 8, minimize="error")
    assert saved >= total // 8
    assert best is not None
    assert world.spent(choice.taken) <= 1.15 * math.sqrt(best.error)


class Saturating(Degrees):
    """Degrees whose predictions hold for small errors only, each layer's in another way; errors behind each other are
    not independent."""

    def __init__(self, layers: int, seed: int) -> None:
        super().__init__(layers, seed)
        bend = np.random.default_rng(seed + 100).uniform(0.6, 1.8, layers)
        self.error = np.array([e ** bend[p] for e, p in zip(self.error, self.problem.place_of, strict=True)])
        self.pair = 0.3

    def weight(self, taken: frozenset[str]) -> float:
        errors = np.array([self.error[i] for i in self.problem.indices(taken)])
        return math.tanh(math.sqrt(float((errors**2).sum() + self.pair * (errors[1:] * errors[:-1]).sum())))

    def spent(self, taken: frozenset[str]) -> float:
        self.calls += 1
        return 1e-3 * self.weight(taken)


@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_what_predictions_say(seed: int) -> None:
    """Predictions, errors alone, and both between: the best of them that was measured, or better."""
    world, saved = Saturating(8, seed), 2000
    goal = Goal(minimize="error", max_time=2.0, min_saved_bytes=saved, seconds=1e6)
    found = world.weight(select(world.problem, world, goal).taken)
    predicted = np.array([u.error for u in world.problem.units])
    for belief in (world.error, predicted):
        costs = Costs(-world.gain, 0.0, belief**2)
        solved = solve(world.problem, costs, min_saved_bytes=saved, minimize="error")
        assert solved is not None
        assert found <= world.weight(solved.taken) * 1.0001


def test_curves_follow_what_was_measured() -> None:
    """Three options of a layer are weighed; between them the ratio to predictions is interpolated."""
    world = Saturating(6, 0)
    alone = {i: world.weight(frozenset({u.key})) for i, u in enumerate(world.problem.units)}
    weighing = Weighing(world.problem, world.weight, 1.0)
    weighing.run(lambda: 1e6, lambda done, total: None)
    assert weighing.count == 18
    off = [abs(math.log(found / alone[i])) for i, found in enumerate(weighing.alone())]
    raw = [abs(math.log(u.error / alone[i])) for i, u in enumerate(world.problem.units)]
    assert float(np.median(off)) < 0.1 < float(np.median(raw))
    weighing.run(lambda: 1e6, lambda done, total: None, ample=0.0)
    assert set(weighing.found) == set(alone), "with time for it, all of them"


def test_little_time_weighs_neighbours_together() -> None:
    world = Saturating(40, 0)
    calls: list[int] = []

    def weight(taken: frozenset[str]) -> float:
        calls.append(len(taken))
        return world.weight(taken)

    weighing = Weighing(world.problem, weight, 1.0)
    weighing.run(lambda: -1.0, lambda done, total: None)
    assert weighing.count == len(calls) <= 10
    assert sum(calls) == 40
    assert (weighing.alone() > 0).all()


def test_least_error_where_the_budget_is_a_million_times_what_is_spent() -> None:
    """The choice does not depend on the unit of errors."""
    world, far = Degrees(12, 1), Degrees(12, 1)
    far.spent = lambda taken: 1e-6 * world.spent(taken)  # type: ignore[method-assign]
    goal = Goal(minimize="error", max_time=2.0, min_saved_bytes=1250, seconds=1e6)
    assert select(far.problem, far, goal).taken == select(world.problem, world, goal).taken


def test_the_worst_sample_is_no_reason_to_prefer_a_selection() -> None:
    """``spent``, a largest error over samples, says what fits; which of two is better is said by all samples."""
    world = Degrees(12, 1)
    plain, rng = world.spent, np.random.default_rng(0)
    drawn: dict[frozenset[str], float] = {}
    world.spent = lambda taken: (  # type: ignore[method-assign]
        0.1 * min(plain(taken), 1.0) * drawn.setdefault(taken, float(rng.lognormal(0.0, 1.0)))
    )
    goal = Goal(minimize="error", max_time=2.0, min_saved_bytes=1250, seconds=1e6)
    choice = select(world.problem, world, goal)
    best = solve(world.problem, Costs(-world.gain, 0.0, world.error**2), min_saved_bytes=1250, minimize="error")
    assert best is not None
    assert plain(choice.taken) <= 1.15 * math.sqrt(best.error)


def test_a_surprise_is_learned_from() -> None:
    """A unit that is said to cost next to nothing and costs most of all is not selected again and again."""
    n = 8
    units = tuple(Unit(f"q/int8@n{i}", 1.0) for i in range(n))
    problem = Problem(units, tuple(range(n)), (), tuple(f"k{i}" for i in range(n)), (1 / n,) * n)
    alone = np.full(n, 0.1)
    alone[0] = 1e-6
    first = frozenset({units[0].key})
    fitted = fit_error(problem, alone, {first: 5.0, frozenset({units[1].key}): 0.1}, 2.0)
    assert fitted[0] > 5 * fitted[1:].max()
    assert np.allclose(fitted[2:], 0.01, rtol=0.2)


def test_operations_within_a_limit() -> None:
    world = Degrees(8, 2)
    goal = Goal(minimize="error", max_time=2.0, max_flops=0.9, seconds=1e6)
    choice = select(world.problem, world, goal)
    saved = sum(world.problem.saved_work[i] for i in world.problem.indices(choice.taken))
    assert saved >= 0.1 - 1e-9
    world.error[:] = 9.0
    assert "nothing fits" in select(world.problem, world, goal).because


def test_ranks_of_500_layers() -> None:
    """10,000 options: a multiple-choice knapsack, solved to its bound in 2 s of processor time; the limit is one of the
    clock, which says little on a busy machine."""
    world = Degrees(500, 3, degrees=10)
    room = 0.25 * float((world.error**2).sum()) / 20
    solved = solve(world.problem, Costs(-world.gain, 0.0, world.error**2), room=room, seconds=100.0)
    assert solved is not None
    assert solved.gap <= 1e-3
    assert solved.error <= room * (1 + 1e-6)
    timed = Timed(world.problem.everything(), 0.8, 0.01)
    times = fit_time(world.problem, [timed] * 40, 1e6)
    assert len(times.mean) == len(set(world.problem.kinds)) + 1


def test_times_that_are_known_are_not_measured_again() -> None:
    """A second selection on the same machine times nothing but its selections, and finds no worse."""
    world = World(10, 2, border=0.005, noise=0.001)
    first = select(world.problem, world, Goal(seconds=1e6))
    assert first.learned.covers(world.problem.kinds, world.problem.work) > 0.9
    assert all(found.day for found in first.learned.kinds.values())
    again = World(10, 2, border=0.005, noise=0.001)
    second = select(again.problem, again, Goal(seconds=1e6), known=first.learned)
    assert any("of the work are known from this machine" in step for step in second.steps)
    assert again.calls < world.calls / 2
    assert world.true_time(second.taken) <= world.true_time(first.taken) + 0.01
    for kind, found in first.learned.kinds.items():
        assert second.learned.kinds[kind].spread_ns <= found.doubt_ns


def test_times_of_another_model_are_measured() -> None:
    world = World(8, 4)
    known = Known({"elsewhere": Learned(-5.0, 1.0, "2026-01-01")})
    choice = select(world.problem, world, Goal(seconds=1e6), known=known)
    assert choice.learned.kinds["elsewhere"] == known.kinds["elsewhere"]
    assert not any("known" in step for step in choice.steps)


def test_wrong_times_are_corrected() -> None:
    """What is known says that every unit loses; measuring everything says otherwise."""
    world = World(6, 3)
    world.gain = np.full(6, 0.08)
    world.error[:] = 0.01
    known = Known({kind: Learned(-1e4 * (i - 2), 100.0, "2026-01-01") for i, kind in enumerate(world.problem.kinds)})
    choice = select(world.problem, world, Goal(seconds=1e6), known=known)
    assert len(choice.taken) == 6


@pytest.mark.parametrize("p", [1.0, 1.3, 2.0])
def test_power(p: float) -> None:
    parts = [0.1, 0.2, 0.05, 0.3]
    together = sum(a**p for a in parts) ** (1 / p)
    assert power_of(parts, together) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_little_time_and_wrong_predictions(seed: int) -> None:
    """Whatever is selected is what was believed to cost too little; after some of it the program gets less room."""
    world, rng = Degrees(36, seed, noise=0.002), np.random.default_rng(seed)
    world.error = 2 * world.error
    off = np.exp(rng.normal(size=36))[list(world.problem.place_of)] * np.exp(rng.normal(size=len(world.error)))
    units = [replace(u, error=float(e)) for u, e in zip(world.problem.units, world.error * off, strict=True)]
    world.problem = replace(world.problem, units=tuple(units))
    choice = select(world.problem, world, Goal(seconds=3.0), clock=lambda: 0.1 * world.calls)
    assert choice.taken
    assert world.spent(choice.taken) <= 1
    assert world.true_time(choice.taken) < 0.99


def test_what_a_solver_prints_is_no_part_of_a_report(capfd: pytest.CaptureFixture[str]) -> None:
    """It comes from C code, past Python."""
    print("before")
    with printing_to_stderr():
        ctypes.CDLL(None).puts(b"by itself")
    print("behind")
    out, err = capfd.readouterr()
    assert (out, err) == ("before\nbehind\n", "by itself\n")


@pytest.mark.parametrize(
    ("error", "savings", "because"),
    [
        (0.4, 0.5, "50.0% of the operations less are not faster in factors"),
        (2.0, 0.5, "the spectra are flat, 50.0% less spend 2.83 times the budget"),
        (0.1, 0.04, "all layers together have but 4.0% of the operations to save"),
    ],
    ids=["narrow products", "flat spectra", "small layers"],
)
def test_why_low_rank_does_not_pay(error: float, savings: float, because: str) -> None:
    """Two options of two layers each; the mild ones always fit and save 2 % of the operations."""
    world = World(4, 0)
    units = [Unit(f"factorize-matmul/r{8 * (1 + i % 2)}@n{i // 2}") for i in range(4)]
    kinds = tuple(u.key for u in units)
    world.problem = Problem(tuple(units), (0, 0, 1, 1), (), kinds, (0.5,) * 4, (savings, 0.02) * 2)
    world.error, world.gain = np.array([error, 0.01] * 2), np.full(4, -0.01)
    choice = select(world.problem, world, Goal(seconds=1e6))
    assert not choice.taken
    assert "it does not pay here" in choice.because
    assert because in choice.because
