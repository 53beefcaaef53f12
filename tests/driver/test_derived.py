"""Values that follow from another one: their statistics are those of looking at them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.backends.ort.session import SessionSettings
from planish.driver.calibrate import derived, observer
from planish.driver.calibrate.observe import Observation
from planish.driver.calibrate.run import Settings
from planish.ir.graph import Model
from planish.ir.text.parser import parse_model
from planish.passes.shared.quant.statistics import Kind, Statistics, Want, value_names

Array = np.ndarray[Any, Any]

CHAIN = """
graph @main(%x: f32[N,3,40,50]) {
  %three: f32[] = const splat<3.0>
  %six: f32[] = const splat<6.0>
  %minus: f32[1] = const splat<-0.5>
  %zero: f32[] = const splat<0.0>
  %huge: f32[] = const splat<3e38>
  %shape: i64[2] = const dense<[-1, 50]>
  %conv: f32[N,3,40,50] = Neg(%x)
  %square: f32[N,3,40,50] = Mul(%conv, %conv)
  %added: f32[N,3,40,50] = Add(%square, %three)
  %taken: f32[N,3,40,50] = Sub(%three, %added)
  %cut: f32[N,3,40,50] = Clip(%added, %zero, %six)
  %part: f32[N,3,40,50] = Div(%cut, %six)
  %turned: f32[N,3,40,50] = Mul(%part, %minus)
  %positive: f32[N,3,40,50] = Relu(%turned)
  %gate: f32[N,3,40,50] = Sigmoid(%taken)
  %hard: f32[N,3,40,50] = HardSigmoid(%taken)
  %bent: f32[N,3,40,50] = Tanh(%taken)
  %moved: f32[N,40,50,3] = Transpose(%gate) {perm = [0, 2, 3, 1]}
  %flat: f32[A,50] = Reshape(%hard, %shape)
  %over: f32[N,3,40,50] = Mul(%square, %huge)
  %swapped: f32[N,3,40,50] = Div(%three, %added)
  return %positive, %moved, %flat, %bent, %over, %swapped
}
"""
DERIVED = {
    "conv",
    "added",
    "taken",
    "cut",
    "part",
    "turned",
    "positive",
    "gate",
    "hard",
    "bent",
    "moved",
    "flat",
    "over",
}


def chain() -> tuple[Model, list[Want]]:
    model = parse_model(CHAIN)
    return model, [Want(name) for name in value_names(model).values()]


def samples(scale: float = 1.0) -> list[dict[str, Array]]:
    draw = np.random.default_rng(7)
    return [{"x": (scale * draw.standard_normal((n, 3, 40, 50))).astype(np.float32)} for n in (1, 3, 1, 2)]


def looked_at(given: list[dict[str, Array]], monkeypatch: pytest.MonkeyPatch) -> Statistics:
    """Without deriving anything."""
    with monkeypatch.context() as patch:
        patch.setattr(derived, "derivation", lambda value: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        return observer(given)(*chain())


def test_which_values_follow() -> None:
    model, wants = chain()
    how = Settings(SessionSettings("all", threads=1), 1 << 30)
    observation = Observation(model, wants, how.session, how.max_memory_bytes)
    watched = {v.name for v in observation._derivations.watched}  # pyright: ignore[reportPrivateUsage]
    assert watched == {"x", "square", "swapped"}  # neither a product of two nor a quotient of constants is a map
    channels = [Want(w.value, w.kinds | Kind.CHANNELS) for w in wants]
    observation = Observation(model, channels, how.session, how.max_memory_bytes)
    assert len(observation._derivations.watched) == len(wants)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 100.0])
def test_statistics_are_those_of_looking(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    given = samples(scale)
    found, expected = observer(given)(*chain()), looked_at(given, monkeypatch)
    assert found.values.keys() == expected.values.keys() >= DERIVED
    for name, other in expected.values.items():
        o = found[name]
        assert (o.count, o.arrays, o.nan, o.infinite) == (other.count, other.arrays, other.nan, other.infinite), name
        close: dict[str, Any] = {"rel": 1e-5, "abs": 1e-6 * other.absmax}
        assert (o.low, o.high) == (pytest.approx(other.low, **close), pytest.approx(other.high, **close)), name
        assert o.average == pytest.approx(other.average, **close), name
        assert o.mean == pytest.approx(other.mean, rel=0.05, abs=0.02 * other.rms), name
        assert o.rms == pytest.approx(other.rms, rel=0.05), name
        assert o.histogram is not None
        assert other.histogram is not None
        assert o.histogram.total == pytest.approx(other.histogram.total, rel=1e-3)
        for fraction in (0.01, 0.3, 0.5, 0.9, 0.99):
            near = pytest.approx(other.histogram.quantile(fraction), rel=0.1, abs=0.03 * other.absmax)
            assert o.histogram.quantile(fraction) == near, (name, fraction)


def test_numbers_that_are_none_are_counted_in_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input with NaN and infinities, and finite numbers that a product takes beyond the largest."""
    given = samples(3.0)
    given[1]["x"][0, 0, 0, :3] = [np.nan, np.inf, -np.inf]
    found, expected = observer(given)(*chain()), looked_at(given, monkeypatch)
    for name, other in expected.values.items():
        o = found[name]
        assert (o.count, o.nan, o.infinite) == (other.count, other.nan, other.infinite), name
    assert found["over"].infinite > 1000
    assert found["cut"].nan == 1
    assert found["cut"].infinite == 0


def test_the_mean_counts_every_tensor_by_its_size() -> None:
    """Large tensors, of which some numbers are drawn, beside small ones."""
    given = [{"x": np.full((n, 3, 40, 50), float(n), np.float32)} for n in (1, 2, 7)]
    found = observer(given)(*chain())["x"]
    assert found.mean == pytest.approx((1 + 4 + 49) / 10)
    assert found.square == pytest.approx((1 + 8 + 343) / 10)
