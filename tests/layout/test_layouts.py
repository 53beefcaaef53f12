"""Layouts of graphs: values stay whatever is stored how, moves are few, tables say what they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.backends.ort.session import Session, SessionSettings
from planish.ir.builder import Builder
from planish.ir.clone import clone_model
from planish.ir.dtypes import DType
from planish.ir.errors import BackendError, VerifyError
from planish.ir.graph import Model
from planish.ir.verify import verify
from planish.models.random import random_case
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.shared.layout.convolutions import Shape, Window, convolution_ns
from planish.passes.shared.layout.costs import Sizes, single_moves, transpose_ns
from planish.passes.shared.layout.graphs import Layouts
from planish.passes.shared.layout.orders import (
    between,
    inverse,
    layout_of,
    order_of,
    permuted,
    with_axes,
    without,
)
from planish.passes.target import get_target

from .stress import scramble

PLAIN = SessionSettings(threads=1).with_level("disable")


def outputs(model: Model, sample: dict[str, Any]) -> list[Any]:
    return Session(model, PLAIN).run(sample)


def agree(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool((a == b).all())
    finite = np.abs(a[np.isfinite(a)]).max(initial=1e-3)
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-4 * finite, equal_nan=True))


def changed_nodes(seed: int) -> int:
    """How many nodes of a random model changed with its layouts, and its values did not; 0 for models that the runtime
    or the verifier refuses as they are."""
    case = random_case(seed, 8)
    samples = [
        s for s in case.samples[:2] if all(map(np.size, s.values()))
    ]  # reductions of the runtime err on empty ones
    try:
        verify(case.model)
        wanted = [outputs(case.model, sample) for sample in samples]
    except (VerifyError, BackendError):
        return 0
    model = clone_model(case.model)
    changed = scramble(model, seed)[0]
    verify(model)
    for sample, expected in zip(samples, wanted, strict=True):
        assert all(agree(a, b) for a, b in zip(expected, outputs(model, sample), strict=True)), f"seed {seed}"
    return changed


@pytest.mark.parametrize("start", range(0, 48, 12))
def test_values_do_not_depend_on_layouts(start: int) -> None:
    """Random models whose values are stored in random orders, all operators with a rule among them."""
    assert sum(map(changed_nodes, range(start, start + 12))) > 20


@pytest.mark.slow
def test_values_do_not_depend_on_layouts_in_many_models() -> None:
    assert sum(map(changed_nodes, range(1000, 1250))) > 500


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_moves_become_no_dearer(seed: int) -> None:
    """Transposes, and what other operators take for moving elements: never more by the table, and nothing left."""
    model = random_case(seed, 10).model
    before = cost(model)
    Pipeline("cancel-transposes").run(model, Context())
    verify(model)
    assert cost(model) <= before * 1.0000001
    text = str(model)
    Pipeline("cancel-transposes").run(model, Context())
    assert str(model) == text


def cost(model: Model) -> float:
    layouts = [Layouts(graph, Sizes(steps=False)) for graph in model.all_graphs()]
    return sum(found.written_cost(node) for found in layouts for node in found.graph)


# -- orders


@given(st.permutations(range(5)), st.permutations(range(5)))
def test_orders_compose(a: list[int], b: list[int]) -> None:
    first, second = tuple(a), tuple(b)
    x = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    assert (x.transpose(first).transpose(between(first, second)) == x.transpose(second)).all()
    assert permuted(permuted(x.shape, first), inverse(first)) == x.shape
    assert order_of(layout_of(first), 5) == first


@given(st.permutations(range(5)), st.sets(st.integers(0, 4), min_size=1, max_size=4))
def test_axes_of_extent_one_come_and_go(a: list[int], gone: set[int]) -> None:
    order = tuple(a)
    x = np.arange(4**5).reshape((4,) * 5)[tuple(slice(0, 1) if i in gone else slice(None) for i in range(5))]
    less = without(order, sorted(gone))
    small = x.squeeze(tuple(gone))
    assert (x.transpose(order).reshape(-1) == small.transpose(less).reshape(-1)).all()
    again = with_axes(less, sorted(gone))
    assert without(again, sorted(gone)) == less
    assert sorted(again) == list(range(5))


def test_names_of_orders() -> None:
    assert str(layout_of((0, 2, 3, 1))) == "NHWC"
    assert str(layout_of((0, 1, 3, 2))) == "NCWH"
    assert str(layout_of((1, 0))) == "BA"
    assert layout_of((0, 1, 2)) is None


@given(st.permutations(range(6)))
def test_moves_of_one_axis_make_the_whole(perm: list[int]) -> None:
    current = list(range(6))
    moves = single_moves(tuple(perm))
    for start, end in moves:
        current.insert(end, current.pop(start))
    assert current == list(perm)
    assert len(moves) <= 5


def test_general_transposes_are_taken_apart_only_where_that_pays() -> None:
    assert transpose_ns((1, 64, 50, 60), (0, 3, 2, 1), split=True) < transpose_ns(
        (1, 64, 50, 60), (0, 3, 2, 1), split=False
    )
    assert transpose_ns((1, 2, 2, 2), (0, 3, 2, 1), split=True) == transpose_ns((1, 2, 2, 2), (0, 3, 2, 1), split=False)
    assert transpose_ns((1, 64, 1, 60), (0, 2, 1, 3), split=False) < transpose_ns(
        (1, 64, 60, 1), (0, 2, 1, 3), split=False
    )


# -- convolutions


def conv(high: tuple[int, ...], wide: tuple[int, ...], channels: int = 16, filters: int = 16) -> Shape:
    """Each axis: results, kernel, stride, pad in front, pad behind, extent."""
    axes = [Window(r, k, s, 1, (a, b), n) for r, k, s, a, b, n in (high, wide)]
    return Shape(1, channels, filters, 1, axes[0], axes[1])


@pytest.mark.parametrize(
    ("pads", "kernel", "stride", "extent"),
    [((1, 19), 40, 2, 264), ((0, 0), 3, 1, 9), ((2, 2), 5, 3, 4), ((3, 0), 2, 1, 5)],
)
def test_windows_are_counted_as_they_lie(pads: tuple[int, int], kernel: int, stride: int, extent: int) -> None:
    results = (extent + sum(pads) - kernel) // stride + 1
    starts = [i * stride - pads[0] for i in range(results)]
    window = Window(results, kernel, stride, 1, pads, extent)
    assert window.single == sum(s < 0 or s + kernel > extent for s in starts)
    inside = sum(0 <= s + k < extent for s in starts for k in range(kernel))
    assert window.rows == pytest.approx(inside / (results * kernel))


def test_what_the_table_says_of_measured_convolutions() -> None:
    """Ratios of exchanged spatial axes as they were measured (docs/layout.md), within a tenth and the rank kept."""
    slow = conv((172, 3, 1, 1, 1, 172), (132, 40, 2, 19, 20, 264), channels=8)
    assert convolution_ns(slow.swapped, 16) / convolution_ns(slow, 16) == pytest.approx(0.77, abs=0.1)
    same = conv((40, 3, 1, 1, 1, 40), (40, 3, 1, 1, 1, 40), 64, 64)
    assert convolution_ns(same.swapped, 16) == convolution_ns(same, 16)
    tall = conv((43, 6, 4, 1, 4, 172), (22, 6, 4, 1, 4, 88), 32, 16)
    assert convolution_ns(tall.swapped, 16) / convolution_ns(tall, 16) == pytest.approx(0.93, abs=0.11)


def test_samples_say_how_large_open_extents_are() -> None:
    """A convolution of a dynamic model is swapped where the sample shows that it pays."""
    b = Builder(opset=17)
    x = b.input("x", DType.F32, ("N", 8, "H", "W"))
    w = b.const(np.random.default_rng(0).standard_normal((16, 8, 3, 40), dtype=np.float32))
    y = b.op("Conv", x, w, pads=(1, 19, 1, 20), strides=(1, 2))
    b.output(b.op("Relu", y), "y")
    model = b.model()
    sample = {"x": np.random.default_rng(1).standard_normal((1, 8, 172, 264), dtype=np.float32)}
    want = outputs(model, sample)
    made = clone_model(model)
    target = get_target("x86-64-v4")
    Pipeline("assign-layout,insert-transposes").run(made, Context(target=target))
    assert [n.op for n in made.all_nodes()] == ["Conv", "Relu"]
    Pipeline("assign-layout,insert-transposes").run(made, Context(target=target, samples=[sample]))
    assert [n.op for n in made.all_nodes()] == ["Transpose", "Conv", "Relu", "Transpose"]
    assert all(agree(a, b) for a, b in zip(want, outputs(made, sample), strict=True))


def wide_convolution() -> Model:
    b = Builder(opset=17)
    x = b.input("x", DType.F32, (1, 8, 43, 264))
    w = b.const(np.random.default_rng(0).standard_normal((16, 8, 3, 40), dtype=np.float32))
    b.output(b.op("Relu", b.op("Conv", x, w, pads=(1, 19, 1, 20), strides=(1, 2))), "y")
    return b.model()


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("share", [0.5, 0.999, 1.2])
def test_the_clock_decides_where_there_is_one(target: str, share: float) -> None:
    """What won a race is taken on any target, what lost on none, whatever the table says."""
    raced: list[Model] = []

    def race(models: Sequence[Model]) -> list[float]:
        raced.extend(models)
        return [1e6, share * 1e6]

    model = wide_convolution()
    sample = {"x": np.random.default_rng(1).standard_normal((1, 8, 43, 264), dtype=np.float32)}
    want = outputs(model, sample)
    context = Context(target=get_target(target), race=race)
    Pipeline("assign-layout,insert-transposes").run(model, context)
    assert ("Transpose" in [n.op for n in model.all_nodes()]) == (share < 0.9)
    assert all(agree(a, b) for a, b in zip(want, outputs(model, sample), strict=True))
    one, two = raced[:2]  # the same convolution in two layouts
    x = np.random.default_rng(2).standard_normal((1, 8, 43, 264), dtype=np.float32)
    turned = outputs(two, {"x": x.transpose(0, 1, 3, 2)})[0]
    assert agree(outputs(one, {"x": x})[0].transpose(0, 1, 3, 2), turned)


def test_without_a_clock_a_target_without_a_table_stays() -> None:
    model = wide_convolution()
    Pipeline("assign-layout,insert-transposes").run(model, Context(target=get_target("x86-64-v3")))
    assert [n.op for n in model.all_nodes()] == ["Conv", "Relu"]
