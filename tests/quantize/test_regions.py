"""Classes of values with common parameters, and quantized random networks against their float forms."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.backends.findings import Runs
from planish.backends.ort.lint import lint
from planish.driver.calibrate import observer
from planish.ir.dtypes import DType
from planish.ir.graph import Model, Value
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.text.parser import parse_model
from planish.ir.verify import verify
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.memo import Memo
from planish.passes.shared.quant.ranges import Ranges
from planish.passes.shared.quant.regions import Classes, Member
from planish.passes.shared.quant.scheme import Scheme, stored
from planish.passes.shared.quant.statistics import Observed, Statistics
from planish.passes.target import get_target

Array = np.ndarray[Any, Any]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_classes_keep_the_maps_between_their_values(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    values = [Value(f"v{i}") for i in range(count)]
    maps = {0: (1.0, 0.0)}  # of each value, from the first
    classes = Classes()
    for i in range(1, count):
        other = data.draw(st.sampled_from(sorted(maps)))
        gain, shift = 2.0 ** data.draw(st.integers(-3, 3)), float(data.draw(st.integers(-4, 4)))
        maps[i] = (gain * maps[other][0], gain * maps[other][1] + shift)
        classes.join(values[other], values[i], gain, shift)
    x = 1.5
    for i, value in enumerate(values):
        root, gain, shift = classes.find(value)
        at = values.index(root)
        assert gain * (maps[at][0] * x + maps[at][1]) + shift == pytest.approx(maps[i][0] * x + maps[i][1])


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 10), st.floats(-20, 20), st.floats(0.1, 10), st.floats(0.1, 10))
def test_values_of_a_class_have_the_same_integers(gain: float, shift: float, below: float, above: float) -> None:
    x, y = Value("x"), Value("y")
    observed = {"x": Observed(100, -below, above), "y": Observed(100, shift - gain * below, shift + gain * above)}
    ranges = Ranges(Statistics(values=observed), {x: "x", y: "y"}, Scheme(DType.U8, symmetric=False), "min-max", Memo())
    quants = ranges.quants([Member(x, 1.0, 0.0), Member(y, gain, shift)])
    points = np.linspace(-below, above, 50).astype(np.float32)
    first, second = stored(points, quants[x]).astype(int), stored(gain * points + shift, quants[y]).astype(int)
    assert np.abs(first - second).max() <= 1


STEPS = (
    "%{o} = Relu(%{i})",
    "%{o}h = HardSigmoid(%{i}) {{alpha = 0.16666667, beta = 0.5}}\n%{o} = Mul(%{i}, %{o}h)",
    "%{o} = BatchNormalization(%{i}, %g, %s, %m, %u)",
    "%{o} = MaxPool(%{i}) {{kernel_shape = [3, 3], pads = [1, 1, 1, 1]}}",
    "%{o} = Add(%{i}, %{p})",
    "%{o}c = Concat(%{i}, %{p}) {{axis = 1}}\n%{o} = Conv(%{o}c, %w8) {{pads = [1, 1, 1, 1]}}",
    "%{o} = Conv(%{i}, %wd, %b) {{pads = [1, 1, 1, 1], group = 4}}",
    "%{o}p = GlobalAveragePool(%{i})\n%{o}q = Sigmoid(%{o}p)\n%{o} = Mul(%{i}, %{o}q)",
    "%{o}t = Transpose(%{i}) {{perm = [0, 1, 3, 2]}}\n%{o} = LeakyRelu(%{o}t) {{alpha = 0.1}}",
)


def network(seed: int) -> str:
    draw = np.random.default_rng(seed)
    lines, previous, current = ["%c0 = Conv(%x, %w, %b) {pads = [1, 1, 1, 1]}"], "c0", "c0"
    for i in range(8):
        step = STEPS[int(draw.integers(len(STEPS)))].format(o=f"a{i}", i=current, p=previous)
        lines += [step, f"%c{i + 1} = Conv(%a{i}, %w, %b) {{pads = [1, 1, 1, 1]}}"]
        previous, current = f"a{i}", f"c{i + 1}"
    body = "\n".join(lines)
    scale = {name: float(draw.uniform(0.3, 0.8)) for name in "gs"}
    return f"""graph @main(%x: f32[2,4,6,6]) {{
  %w: f32[4,4,3,3] = const rand<{seed}, scale=0.2>
  %wd: f32[4,1,3,3] = const rand<{seed + 1}, scale=0.4>
  %w8: f32[4,8,3,3] = const rand<{seed + 2}, scale=0.15>
  %b: f32[4] = const rand<{seed + 3}, scale=0.3>
  %g: f32[4] = const splat<{scale["g"]}>
  %s: f32[4] = const splat<{scale["s"]}>
  %m: f32[4] = const splat<0>
  %u: f32[4] = const splat<1>
  {body}
  return %{current}
}}"""


def quantize(seed: int, target: str) -> tuple[Model, Context, list[dict[str, Array]]]:
    model = parse_model(network(seed))
    draw = np.random.default_rng(seed)
    samples = [{"x": draw.standard_normal((2, 4, 6, 6)).astype(np.float32)} for _ in range(8)]
    context = Context(target=get_target(target), observe=observer(samples))
    Pipeline("assign-quant{min-macs=1,method=min-max},correct-bias,insert-qdq").run(model, context)
    verify(model)
    return model, context, samples


def outputs(model: Model, sample: dict[str, Array], *, optimized: bool) -> Array:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model_to_bytes(model), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, sample)[0])


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_stay_near_their_float_form(seed: int) -> None:
    model, context, samples = quantize(seed, "x86-64-v4-vnni")
    original = parse_model(network(seed))
    assert len([k for k in context.choices.offered if "/u8i8@" in k]) >= 9
    floats = outputs(original, samples[0], optimized=True)
    spread = np.sqrt(np.square(floats - floats.mean()).mean())
    written, fused = (outputs(model, samples[0], optimized=o) for o in (False, True))
    assert np.sqrt(np.square(written - floats).mean()) < 0.2 * spread
    assert np.sqrt(np.square(fused - floats).mean()) < 0.2 * spread


@pytest.mark.parametrize(("target", "largest"), [("x86-64-v3", 64), ("x86-64-v4-vnni", 127), ("aarch64-dotprod", 127)])
def test_weights_keep_to_the_range_of_the_kernels(target: str, largest: int) -> None:
    for seed in range(3):
        model, _, _ = quantize(seed, target)
        weights = [v.numpy() for v in model.graph.constants if v.dtype is DType.I8 and v.rank == 4]
        assert weights
        assert max(int(np.abs(w.astype(int)).max()) for w in weights) == largest


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4-vnni", "aarch64-dotprod"])
def test_linter_finds_every_operator_on_integers(target: str) -> None:
    for seed in range(3):
        model, _, _ = quantize(seed, target)
        found = {f.op for f in lint(model, get_target(target)).findings if f.runs is Runs.FLOAT}
        assert found <= {"QuantizeLinear", "DequantizeLinear"}


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "qnn"])
def test_vendors_take_every_convolution_on_integers(target: str) -> None:
    checker = importlib.import_module(f"planish.backends.vendor.{target}")
    for seed in range(3):
        model, _, _ = quantize(seed, target)
        findings = [f for f in checker.lint(model, get_target(target)).findings if f.op == "Conv"]
        assert findings
        assert all(f.runs is Runs.INTEGER for f in findings)
