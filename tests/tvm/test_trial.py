"""Lossy decisions by times that TVM takes: trials, and what deploy makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.backends.ort.session import Session
from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.trial import Trials
from planish.driver.budget import Budget
from planish.driver.deploy import deploy
from planish.driver.stopwatch import TvmStopwatch
from planish.ir.graph import Model
from planish.ir.text.parser import parse_model
from planish.passes.target import get_target

TARGET = get_target("native")


def model(width: int = 256) -> Model:
    """Two products with an activation."""
    return parse_model(f"""
graph @main(%x: f32[32,64]) {{
  %w: f32[64,{width}] = const rand<1>
  %v: f32[{width},64] = const rand<2>
  %a: f32[32,{width}] = MatMul(%x, %w)
  %b: f32[32,{width}] = Relu(%a)
  %y: f32[32,64] = MatMul(%b, %v)
  return %y
}}
""")


def samples(count: int = 4) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.uniform(-1, 1, (32, 64)).astype(np.float32)} for _ in range(count)]


def test_trials_compute_what_the_library_does_and_share_kernels() -> None:
    trials = Trials(TARGET, lambda piece: Session(piece).run)
    sample = samples(1)[0]
    first = trials.runner(model())
    compiled = len(trials.kernels.names)
    again = trials.runner(model())
    assert compiled == len(trials.kernels.names) == 2
    assert len(trials.kernels.libraries) == 1
    expected = TvmBackend().lower(model(), TARGET).run(sample)[0]
    assert np.array_equal(first(sample)[0], expected)
    assert np.array_equal(again(sample)[0], expected)


def test_pieces_of_onnxruntime_take_part() -> None:
    text = """
graph @main(%x: f32[4,8]) {
  %a: f32[4,8] = Exp(%x)
  %n: i64[2,N] = NonZero(%a)
  %b: i64[2,N] = Neg(%n)
  return %b, %a
}
"""
    trials = Trials(TARGET, lambda piece: Session(piece).run)
    sample = {"x": np.ones((4, 8), np.float32)}
    found = trials.runner(parse_model(text))(sample)
    assert np.array_equal(found[0], -np.stack(np.nonzero(np.ones((4, 8)))))
    np.testing.assert_allclose(found[1], np.exp(1.0), rtol=1e-6)


def test_a_stopwatch_tells_the_larger_model() -> None:
    watch = TvmStopwatch(TARGET, lambda: samples(2), lambda m: m)
    found = watch.timing(model(), model(1024))
    assert watch.name.startswith("tvm ")
    assert found is not None
    assert 1.5 < found.low <= found.ratio <= found.high


def test_what_is_slower_on_tvm_stays_float(tmp_path: Path) -> None:
    class Slow:
        name = "slow"

        def __init__(self) -> None:
            self.asked = 0

        def timing(self, base: Model, candidate: Model) -> Any:
            from planish.driver.select import Timing

            self.asked += 1
            return Timing(1.5, 1.4, 1.6, 1e6)

    watch = Slow()
    made = deploy(model(), samples=samples(), budget=0.5, quantize="int8", stopwatch=watch, cache=False)
    assert watch.asked
    assert made.timed is not None
    assert len(made.timed.times) == 2
    assert any("of onnxruntime's time" in note for note in made.result.report.notes)
    assert made.result.report.budget is not None
    assert not made.result.report.budget.taken
    assert all(node.op != "QuantizeLinear" for node in made.result.model.graph)


def test_what_is_quantized_is_judged_by_the_budget_as_it_was_built(tmp_path: Path) -> None:
    budget = Budget(0.5, "rms")
    made = deploy(model(), samples=samples(), budget=budget, quantize="int8", measure=False, cache=False)
    assert made.checked == 4
    assert made.result.report.budget is not None
    assert made.result.report.budget.taken
    made.artifact.save(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert any(p["dtype"] == "int8" for p in manifest["params"])


@pytest.mark.parametrize("metric", ["rms", "snr", "cosine"])
def test_a_tightened_budget(metric: str) -> None:
    whole = Budget(0.2, metric, outputs={"y": 0.1})
    part = whole.tightened(0.5)
    assert whole.tightened(1.0) == whole
    assert (part.max_error > 0.2) == (metric == "snr")
    assert (part.outputs["y"] > 0.1) == (metric == "snr")


def test_weights_of_four_bits_in_models_of_old_opsets() -> None:
    text = """
model ir=8 opset {"" = 17}
graph @main(%x: f32[4,256]) {
  %w: f32[256,512] = const rand<1>
  %y: f32[4,512] = MatMul(%x, %w)
  return %y
}
"""
    rng = np.random.default_rng(0)
    given = [{"x": rng.uniform(-1, 1, (4, 256)).astype(np.float32)} for _ in range(2)]
    budget = Budget(0.3, "rms")
    made = deploy(parse_model(text), samples=given, budget=budget, quantize="int4-weights", measure=False, cache=False)
    stored = [entry for entry in made.artifact.manifest["params"] if entry["dtype"] == "uint8"]
    assert sum(int(np.prod(entry["shape"])) for entry in stored) == 256 * 512 // 2
