"""Values observed by running a model: what is seen is what the runtime computes, bodies and functions included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.backends.ort.session import EXACT, Session
from planish.driver.calibrate import Observer, observer
from planish.driver.calibrate.observe import Observation, merged
from planish.driver.calibrate.runner import Plan, Runner, opened_nodes
from planish.driver.calibrate.segments import Environment
from planish.ir.dtypes import DType
from planish.ir.errors import BackendError
from planish.ir.graph import Model, Value
from planish.ir.text.parser import parse_model
from planish.models.random import random_case
from planish.passes.shared.quant.statistics import Kind, Want, value_names

from .networks import classifier, images

Array = np.ndarray[Any, Any]

LOOP = """
graph @main(%n: i64[], %x: f32[3]) {
  %yes: bool[] = const splat<true>
  %last, %all = Loop(%n, %yes, %x) {
    body = graph @body(%i: i64[], %go: bool[], %v: f32[3]) {
      %two: f32[] = const splat<2.0>
      %doubled = Mul(%v, %two)
      %shifted = Add(%doubled, %x)
      return %go, %shifted, %doubled
    }
  }
  %sum = ReduceSum(%all) {keepdims = 0}
  return %last, %sum
}
"""
BRANCH = """
graph @main(%x: f32[N]) {
  %zero: f32[] = const splat<0.0>
  %sum = ReduceSum(%x) {keepdims = 0}
  %positive = Greater(%sum, %zero)
  %y = If(%positive) {
    else_branch = graph @no() {
      %negated = Neg(%x)
      return %negated
    },
    then_branch = graph @yes() {
      %rooted = Sqrt(%x)
      return %rooted
    }
  }
  return %y
}
"""


def observe(model: Model, samples: list[dict[str, Array]], *names: str) -> Any:
    return observer(samples)(model, [Want(n) for n in names])


def test_rounds_of_a_loop() -> None:
    found = observe(
        parse_model(LOOP), [{"n": np.array(3), "x": np.ones(3, np.float32)}], "doubled", "shifted", "v", "x"
    )
    assert (found["doubled"].low, found["doubled"].high) == (2.0, 14.0)
    assert (found["shifted"].low, found["shifted"].high) == (3.0, 15.0)
    assert (found["v"].low, found["v"].high, found["v"].arrays) == (1.0, 7.0, 3)
    assert found["x"].count == 3


def test_branches_see_what_comes_their_way() -> None:
    samples = [{"x": np.full(n, v, np.float32)} for n, v in ((2, 4.0), (3, -5.0), (4, 9.0))]
    found = observe(parse_model(BRANCH), samples, "rooted", "negated", "y")
    assert (found["rooted"].low, found["rooted"].high, found["rooted"].count) == (2.0, 3.0, 6)
    assert (found["negated"].low, found["negated"].count) == (5.0, 3)
    assert found["y"].count == 9
    only = observe(parse_model(BRANCH), samples[:1], "negated", "rooted")
    assert "negated" not in only
    assert only.get("negated") is None


def _seen(model: Model, sample: dict[str, Array], budget: int) -> tuple[list[Any], dict[Value, list[Any]]]:
    """What the runner returns when it opens everything, and what it shows."""
    wanted = {v for v in value_names(model) if v.dtype is not None and v.dtype.kind in ("float", "int", "uint", "bool")}
    opened, declined = opened_nodes(model, wanted)
    plan = Plan(frozenset(wanted - set(declined)), frozenset(opened), EXACT, budget)
    runner = Runner(model.graph, plan, [v for v in model.graph.outputs if v.data is None], lambda _: 64)
    environment: Environment = {v: data.numpy() for v, data in model.graph.defaults.items()}
    environment.update((v, sample[v.name]) for v in model.graph.inputs if v.name in sample)
    shown: dict[Value, list[Any]] = {}
    runner.run(environment, lambda value, array: shown.setdefault(value, []).append(array))
    outputs = [v.data.numpy() if v.data is not None else environment[v] for v in model.graph.outputs]
    return outputs, shown


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) or a is None:
        return (a is None) == (b is None) and len(a or ()) == len(b or ()) and all(map(_same, a or (), b or ()))
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _opens_like_the_runtime(seed: int) -> bool:
    """Whether the random model has anything to open; checks that results are those of one plain session."""
    case = random_case(seed, 10)
    narrow = any(v.dtype in (DType.F16, DType.BF16) for v in value_names(case.model))  # rounds at every stretch
    if narrow or not (case.model.functions or any(n.subgraphs for n in case.model.all_nodes())):
        return False
    session = Session(case.model, EXACT)
    for sample in case.samples[:2]:
        try:
            expected = session.run(sample)
        except BackendError:
            continue
        for budget in (1 << 30, 200):
            outputs, shown = _seen(case.model, sample, budget)
            assert shown
            assert all(map(_same, outputs, expected)), seed
    return True


def test_random_bodies_and_functions_run_as_in_the_runtime() -> None:
    assert sum(_opens_like_the_runtime(seed) for seed in range(30)) > 3


@pytest.mark.slow
def test_more_random_bodies() -> None:
    assert sum(_opens_like_the_runtime(seed) for seed in range(30, 180)) > 15


def test_stretches_give_the_same_statistics() -> None:
    """However little memory there is."""
    model, samples = classifier(), [{"x": image} for image in images(3)]
    wants = [Want(name) for name in value_names(model).values()]
    whole = Observer(samples)(model, wants)
    cut = Observer(samples, max_memory_bytes=1)(model, wants)
    assert len(whole.values) > 5
    for name, found in whole.values.items():
        other = cut.values[name]
        assert found.count == other.count
        assert found.low == pytest.approx(other.low, rel=1e-5, abs=1e-6)
        assert found.rms == pytest.approx(other.rms, rel=1e-5)


def test_large_sums_of_products_lie_in_files() -> None:
    model, samples = classifier(), [{"x": image} for image in images(2)]
    wants = [Want(name, Kind.MOMENTS) for name, v in ((n, v) for v, n in value_names(model).items()) if v.rank == 4]
    memory = Observer(samples)(model, wants)
    files = Observer(samples, max_memory_bytes=1)
    found = files(model, wants)
    for want in wants:
        a, b = memory[want.value].moments, found[want.value].moments
        assert isinstance(b, np.memmap)
        assert a is not None
        assert not isinstance(a, np.memmap)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_asking_again_runs_nothing() -> None:
    count = 0

    class Counted(list[Any]):
        def __iter__(self) -> Any:
            nonlocal count
            count += 1
            return super().__iter__()

    model = classifier()
    names = list(value_names(model).values())
    watch = Observer(Counted([{"x": image} for image in images(2)]))
    first = watch(model, [Want(names[1]), Want(names[2], Kind.CHANNELS, 1)])
    assert watch(model, [Want(names[1])])[names[1]] is first[names[1]]
    assert count == 1
    watch(model, [Want(names[1], Kind.CHANNELS, 1), Want(names[2])])
    assert count == 2
    node = next(n for n in model.graph if n.op == "Relu")
    node.op = "Sigmoid"  # another model under the same names
    watch(model, [Want(names[1])])
    assert count == 3


def test_channels_along_another_axis_are_observed_anew() -> None:
    """Passes that want different axes of one value may run behind each other."""
    model, samples = classifier(), [{"x": image} for image in images(2)]
    watch = observer(samples)
    images_ = np.stack([s["x"] for s in samples]).astype(np.float64)
    rank = images_.ndim - 1
    for axis in (1, -1, 1):
        found = watch(model, [Want("x", Kind.CHANNELS | Kind.HISTOGRAM, axis)]).get("x")
        assert found is not None
        assert found.channels is not None
        assert found.histogram is not None
        others = tuple(i for i in range(rank + 1) if i != axis % rank + 1)
        np.testing.assert_allclose(found.channels.mean, images_.mean(axis=others), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_observed_is_said() -> None:
    model = parse_model(LOOP)
    found = observe(model, [{"n": np.array(1), "x": np.ones(3, np.float32)}], "nothing", "yes")
    assert set(found.declined) == {"nothing", "yes"}
    with pytest.raises(ValueError, match="wanted along axis"):
        merged([Want("a", Kind.CHANNELS, 0), Want("a", Kind.CHANNELS, 1)])


def test_numbers_that_are_none_are_reported_by_name() -> None:
    samples = [{"x": np.array([4.0, -1.0], np.float32)}]
    found = observe(parse_model(BRANCH), samples, "rooted")
    assert found.unusual == {"rooted": "1 NaN"}


def test_a_sample_that_does_not_run_is_named() -> None:
    observation = Observation(classifier(), [Want("x")], EXACT, 1 << 30)
    names = [v.name for v in classifier().graph.inputs]
    assert names == ["x"]
    whole = Observation(classifier(), [Want(n) for n in value_names(classifier()).values()], EXACT, 1 << 30)
    whole.add({"x": images(1)[0]})
    with pytest.raises(BackendError, match="sample 1"):
        whole.add({"x": images(1)[0][:, :2]})
    assert observation.finish().samples == 0


def test_equal_names_are_told_apart() -> None:
    model = parse_model(BRANCH)
    for value in value_names(model):
        value.name = "same"
    names = list(value_names(model).values())
    assert len(set(names)) == len(names)
    assert names[:2] == ["same", "same#2"]
