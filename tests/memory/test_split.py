"""split-regions: the same values from parts of random networks, in the memory that was said."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.backends.ort.backend import OrtBackend
from planish.ir.builder import Builder
from planish.ir.clone import clone_model
from planish.ir.dtypes import DType
from planish.ir.graph import Model, Value
from planish.ir.verify import verify
from planish.models.mobilenet import mobilenet_v2
from planish.models.vit import vit
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.shared.liveness import liveness

from .playing import play


@st.composite
def image_networks(draw: st.DrawFn) -> Model:
    """Some layers with windows, and others, of which some results are read twice."""
    b = Builder()
    channels = draw(st.integers(1, 3))
    values: list[Value] = [b.input("x", DType.F32, (1, channels, draw(st.integers(9, 20)), draw(st.integers(5, 9))))]
    for i in range(draw(st.integers(2, 7))):
        x = values[-1] if draw(st.integers(0, 3)) else draw(st.sampled_from(values))
        assert x.shape is not None
        _, channels, *extents = (d for d in x.shape if isinstance(d, int))
        kind = draw(
            st.sampled_from(
                ["conv", "conv", "depthwise", "max", "average", "relu", "add", "concat", "norm", "integers"]
            )
        )
        kernel = draw(st.integers(1, 3))
        pads = tuple(draw(st.integers(0, kernel // 2)) for _ in range(4))
        if min(extents) < 5:
            kind = "relu"
        window = {"pads": pads, "strides": (draw(st.integers(1, 2)), 1)}
        if kind in ("conv", "depthwise"):
            outer, groups = (channels, channels) if kind == "depthwise" else (draw(st.integers(1, 4)), 1)
            weight = b.weight(f"w{i}", (outer, channels // groups, kernel, kernel), i)
            dilations = (draw(st.integers(1, 2)), 1)
            values.append(b.Conv(x, weight, **window, dilations=dilations, group=groups))
        elif kind == "max":
            values.append(b.MaxPool(x, kernel_shape=(kernel, kernel), **window))
        elif kind == "average":
            counted = draw(st.integers(0, 1))
            values.append(b.AveragePool(x, kernel_shape=(kernel, kernel), **window, count_include_pad=counted))
        elif kind == "integers":
            scale, zero = b.const(np.float32(0.02)), b.const(np.uint8(128))
            first = b.QuantizeLinear(values[0], scale, zero)  # of the input: sums that differ in rounding may jump
            values.append(b.DequantizeLinear(first, scale, zero))
        elif kind == "norm":
            columns = [b.const(np.full(channels, n, np.float32)) for n in (1.5, 0.1, 0.2, 0.9)]
            values.append(b.BatchNormalization(x, *columns))
        elif kind in ("add", "concat"):
            like = [v for v in values if v.shape == x.shape]
            other = draw(st.sampled_from(like))
            values.append(b.Add(x, other) if kind == "add" else b.Concat(x, other, axis=1))
        else:
            values.append(b.Relu(x))
    b.output(b.ReduceMax(values[-1], keepdims=0), "y")
    return b.model()


def check(model: Model, limit: int, inputs: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> list[str]:
    """Splits, compares the values, and returns what the pass noted."""
    notes: list[str] = []
    before, peak = OrtBackend().run(model, inputs), liveness(model.graph).peak
    Pipeline(f"split-regions{{max-bytes={limit}}}").run(model, Context(sink=notes.append))
    verify(model)
    live = liveness(model.graph)
    assert live.peak <= peak
    assert f"became {live.peak:,}" in notes[-1]
    assert ("is not reached" in notes[-1]) == (live.peak > limit)
    play(model.graph, live)
    for a, b in zip(before, OrtBackend().run(model, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * float(np.abs(a).max(initial=0)))
    return notes


@given(image_networks(), st.sampled_from([0.2, 0.5, 0.8]))
@settings(max_examples=40, deadline=None)
def test_parts_of_image_networks_make_the_same(model: Model, share: float) -> None:
    shape = model.graph.inputs[0].shape
    assert shape is not None
    x = np.random.default_rng(0).standard_normal([d for d in shape if isinstance(d, int)], np.float32)
    check(model, max(int(liveness(model.graph).peak * share), 1), {"x": x})


def test_a_mobile_network_runs_in_a_third_of_the_memory() -> None:
    model = mobilenet_v2(batch=1, size=96)
    Pipeline("clean,fold-batchnorm").run(model)
    peak = liveness(model.graph).peak
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 96), np.float32)
    (name,) = (v.name for v in model.graph.inputs)
    notes = check(model, peak // 3, {name: x})
    assert liveness(model.graph).peak <= peak // 3
    added = float(notes[-1].split(", ")[-1].split("%")[0])
    assert 0 < added < 10


def test_tokens_of_a_transformer_run_in_parts() -> None:
    model = vit(batch=1, size=32, patch=4, hidden=32, layers=2, heads=2, classes=10)
    Pipeline("clean").run(model)
    (given_input,) = model.graph.inputs
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)
    peak = liveness(clone_model(model).graph).peak
    check(model, int(peak * 0.7), {given_input.name: x})
    assert liveness(model.graph).peak < peak
