"""Named metrics: every output and slice counts, quiet slices do not, and amplitudes add up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from planish.backends.core import Outputs, Sample
from planish.driver.budget import Budget
from planish.driver.budget.judge import OutputJudge, Spending
from planish.driver.budget.metrics import METRICS, output_error

Array = np.ndarray[Any, Any]
FLOATS = ("relative", "absolute", "rms", "cosine", "snr")


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def amplitude(metric: str, a: Array | None, b: Array | None, resolution: float = 0.0) -> float:
    return METRICS[metric].amplitude(output_error(metric, a, b, resolution=resolution)[0])


@pytest.mark.parametrize("metric", FLOATS)
def test_equal_arrays_cost_nothing(metric: str) -> None:
    a = draw(2, 3, 20)
    for x in (a, np.zeros((0, 4), np.float32), np.full((3,), np.nan, np.float32), np.arange(4), None):
        assert amplitude(metric, x, x) == 0


@pytest.mark.parametrize("metric", ["relative", "rms", "cosine", "snr"])
def test_a_lost_channel_is_not_hidden_by_a_small_mean(metric: str) -> None:
    """Boxes up to 640 beside scores below one, as in a detector: all scores of one class are gone."""
    a = np.abs(draw(1, 84, 200)) * 300
    a[:, 4:] = np.abs(draw(1, 80, 200, seed=1)) * 0.4
    b = a.copy()
    b[:, 30] = 0
    assert np.sqrt(((a - b) ** 2).mean() / (a**2).mean()) < 1e-3
    error, where = output_error(metric, a, b)
    assert METRICS[metric].amplitude(error) >= 0.5
    assert ("axis 1 at 30" in where) or ", 30, " in where


@pytest.mark.parametrize("metric", ["relative", "rms", "cosine", "snr"])
def test_a_channel_without_a_signal_has_no_digits_to_lose(metric: str) -> None:
    a = draw(1, 8, 64)
    a[:, 3] = 1e-7
    b = a.copy()
    b[:, 3] = 2e-7
    assert amplitude(metric, a, b) < 2e-3


def test_behind_a_sigmoid_half_is_the_least_scale() -> None:
    a = np.full((1, 64), 1e-3, np.float32)
    assert amplitude("relative", a, a * 2) == pytest.approx(1)
    assert amplitude("relative", a, a * 2, resolution=0.5) == pytest.approx(2e-3)


@pytest.mark.parametrize("metric", FLOATS)
@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (np.zeros(3, np.float32), np.zeros(4, np.float32), r"float32\[3\] became float32\[4\]"),
        (np.zeros(3, np.float32), np.zeros(3, np.float16), "became float16"),
        (np.array([1, 2, 3]), np.array([1, 2, 4]), "1 of 3 elements differ, which must be equal"),
        (np.array(["a"], object), np.array(["b"], object), "must be equal"),
        (np.array([np.nan, 1], np.float32), np.array([0, 1], np.float32), "NaN or infinite"),
        (np.array([1, 1], np.float32), np.array([np.inf, 1], np.float32), "NaN or infinite"),
        (None, np.zeros(1, np.float32), "absent"),
    ],
)
def test_what_no_number_measures_spends_everything(metric: str, a: Any, b: Any, why: str) -> None:
    import re

    error, where = output_error(metric, a, b)
    assert METRICS[metric].amplitude(error) == math.inf
    assert re.search(why, where)


@pytest.mark.parametrize("metric", FLOATS)
def test_amplitudes_of_two_disturbances_add_up_at_most(metric: str) -> None:
    a, d, e = draw(4, 40), draw(4, 40, seed=1) * 1e-2, draw(4, 40, seed=2) * 2e-2
    together = amplitude(metric, a, a + d + e)
    assert together <= 1.02 * (amplitude(metric, a, a + d) + amplitude(metric, a, a + e))
    assert amplitude(metric, a, a + d + d) == pytest.approx(2 * amplitude(metric, a, a + d), rel=0.05)


def test_values_in_their_units() -> None:
    a = np.ones((1, 100), np.float32)
    b = a.copy()
    b[0, 7] = 1.5
    assert output_error("absolute", a, b) == (0.5, "element [0, 7]")
    assert output_error("relative", 4 * a, 4 * b)[0] == 0.5
    assert output_error("rms", a, b)[0] == pytest.approx(0.05)
    assert output_error("snr", a, b)[0] == pytest.approx(20 * math.log10(20))
    tilted = np.cos(np.arange(100) * 0 + 1e-4) * a + np.sin(1e-4) * np.where(np.arange(100) % 2, 1, -1)
    assert output_error("cosine", a.astype(np.float64), tilted.astype(np.float64))[0] == pytest.approx(5e-9, rel=1e-3)


def test_a_vector_turned_round_is_as_far_as_can_be() -> None:
    a = draw(1, 64)
    assert output_error("cosine", a, -a)[0] == pytest.approx(2)


class Silent:
    """A reference whose second class is shown by no sample."""

    def __init__(self) -> None:
        self.names: list[str] = ["y"]
        self.resolutions: dict[str, float] = {}
        self.samples: list[Sample] = [{"x": np.array(i)} for i in range(4)]

    def outputs(self, i: int) -> Outputs:
        y = np.zeros((40, 2), np.float32)
        y[:, 0] = 1.0
        return [y]

    def run(self, sample: Sample) -> Outputs:
        return self.outputs(int(sample["x"]))


def test_what_is_typical_grows_with_its_causes_where_the_worst_slice_holds_nothing() -> None:
    """A class that is never shown, or one sample, decides what is spent, but not which of two models is better."""
    judge = OutputJudge(Budget(1.0, "rms"), Silent())

    def spending(*wrong: float) -> Spending:
        """Of a model whose outputs are off by so much in each sample."""

        def run(sample: Sample) -> Outputs:
            (y,) = judge.reference.run(sample)
            y[:, 1] += wrong[int(sample["x"])]
            return [y]

        return judge.spending(run)

    few, one = spending(0.01, 0.01, 0.01, 0.01), spending(0.0, 0.0, 0.0, 0.015)
    assert few.spent > 50
    assert few.typical == pytest.approx(0.01, rel=1e-3)
    assert one.spent > few.spent
    assert one.typical < few.typical
    assert spending(0.0, 0.0, 0.0, 0.0).typical == 0
    assert spending(math.inf, 0.0, 0.0, 0.0).typical == math.inf
