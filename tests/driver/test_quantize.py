"""optimize(quantize=...): within the budget, where it pays, within limits that were asked for; refused otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish import cli
from planish.driver.budget import Budget
from planish.driver.budget.paying import PayingLab
from planish.driver.optimize import optimize
from planish.driver.select import Goal, Timing
from planish.ir.dtypes import DType
from planish.ir.errors import BudgetError, UsageError
from planish.ir.graph import Model
from planish.ir.onnx_writer import model_to_bytes, write_model
from planish.models.mlp import mlp
from planish.passes.manager import Pipeline
from planish.passes.pipeline import flatten
from planish.passes.pipelines import QUANTIZE

INPUTS = {"input": np.random.default_rng(0).standard_normal((12, 4, 256)).astype(np.float32)}
TARGET = "x86-64-v4-vnni"


def model() -> Model:
    """Two large products and one too small to matter."""
    return mlp((256, 384, 384, 10), batch=4)


def quantized(how: str, budget: Budget, **options: Any) -> Any:
    arguments: dict[str, Any] = {"samples": INPUTS, "measure": False, "max_growth": 1.0, **options}
    return optimize(model(), TARGET, budget=budget, quantize=how, **arguments)


def ops_of(found: Any) -> set[str]:
    return {node.op for node in found.model.graph}


@pytest.mark.parametrize("how", sorted(QUANTIZE))
def test_groups_are_pipelines(how: str) -> None:
    assert any(p.lossy for p in flatten(Pipeline(QUANTIZE[how]).steps))


def test_int8_within_the_budget() -> None:
    found = quantized("int8", Budget(0.05, "rms"), goal=Goal())
    ledger = found.report.budget
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops_of(found)
    assert ledger.taken
    assert 0 < ledger.spent <= 1
    assert found.report.after.file_bytes < found.report.before.file_bytes / 2


@pytest.mark.parametrize("fast", ["u8u8", "u8i8"])
def test_weights_are_of_the_faster_type_where_kernels_saturate(fast: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without VNNI: signed weights of 7 bits or unsigned ones of 8, whichever was measured to take less time."""

    def timing(lab: PayingLab, taken: frozenset[str]) -> Timing:
        ratio = 1.0 - sum(0.2 if f"/{fast}@" in key else 0.05 for key in taken)
        return Timing(ratio, ratio - 0.002, ratio + 0.002, 1e6)

    monkeypatch.setattr(PayingLab, "timing", timing)
    found = optimize(
        model(), "x86-64-v3", samples=INPUTS, measure=False, budget=Budget(0.2, "rms"), quantize="int8", goal=Goal()
    )
    ledger = found.report.budget
    assert ledger is not None
    products = {key.partition("@")[0] for key in ledger.taken}
    assert products == {f"assign-quant/{fast}"}
    stored = {
        v.data.dtype
        for n in found.model.graph
        for v in n.inputs
        if v is not None and v.data is not None and v.data.count > 4096
    }
    assert stored == {DType.U8 if fast == "u8u8" else DType.I8}


class Backend:
    """Times of another backend, on which one product is slower on integers: the last of those that may be."""

    name = "made up 1"

    def __init__(self) -> None:
        self.bases: set[int] = set()

    def timing(self, base: Model, candidate: Model) -> Timing:
        self.bases.add(id(base))
        weights = [v for node in candidate.graph for v in node.inputs if v is not None and v.data is not None]
        wide = {v.shape for v in weights if v.dtype is DType.I8}
        ratio = 1 - 0.4 * ((384, 256) in wide) + 0.2 * ((384, 384) in wide)
        return Timing(ratio, ratio, ratio, 1e6)


def test_times_of_another_backend_decide() -> None:
    backend = Backend()
    found = quantized("int8", Budget(0.2, "rms"), stopwatch=backend)
    assert len(backend.bases) == 1
    assert [key.partition("@")[0] for key in found.report.budget.taken if "i8@" in key] == ["assign-quant/u8i8"]
    assert any("slower" in because for because in found.report.budget.left.values())


def test_nothing_within_a_budget_that_is_too_small() -> None:
    found = quantized("int8", Budget(1e-5, "rms"), goal=Goal())
    assert not found.report.budget.taken
    assert "nothing fits" in found.report.budget.because
    assert "QuantizeLinear" not in ops_of(found)


def test_a_part_where_all_is_too_much() -> None:
    everything = quantized("int8", Budget(1.0, "rms"), goal=Goal()).report.budget
    limit = 0.8 * everything.outputs[0].error
    ledger = quantized("int8", Budget(limit, "rms"), goal=Goal()).report.budget
    assert 0 < len(ledger.taken) < len(everything.taken)
    assert ledger.spent <= 1


def test_least_error_within_a_size() -> None:
    plain = len(model_to_bytes(model()))
    limit = int(plain * 0.6)
    found = quantized("weights", Budget(0.5, "rms"), goal=Goal(minimize="error", max_bytes=limit))
    assert found.report.after.file_bytes <= limit
    smaller = quantized("weights", Budget(0.5, "rms"), goal=Goal(minimize="error", max_bytes=int(plain * 0.2)))
    assert smaller.report.after.file_bytes <= plain * 0.2
    assert smaller.report.budget.spent > found.report.budget.spent


def test_a_size_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(BudgetError, match="1000 bytes cannot be had"):
        quantized("weights", Budget(0.5, "rms"), goal=Goal(minimize="error", max_bytes=1000))


def test_a_budget_is_needed() -> None:
    with pytest.raises(UsageError, match="needs an error budget"):
        optimize(model(), TARGET, samples=INPUTS, quantize="int8")


def test_unknown_ways() -> None:
    with pytest.raises(UsageError, match="no way to quantize called 'int3'"):
        quantized("int3", Budget(0.1))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--quantize with every limit, the table in JSON, and the picture."""
    source, samples, out, plot = (tmp_path / n for n in ("m.onnx", "s.npz", "o.onnx", "front.svg"))
    write_model(model(), source)
    np.savez(samples, input=INPUTS["input"])
    command = f"optimize {source} -o {out} -t {TARGET} --samples {samples} --no-measure --json --max-growth 1"
    lossy = f"--quantize weights --max-error 0.5 --metric rms --max-size 400kB --plot {plot}"
    assert cli.run([*command.split(), *lossy.split()]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert out.stat().st_size <= 400_000
    assert any(p["chosen"] for p in printed["budget"]["front"]["points"])
    assert plot.read_text().lstrip().startswith("<?xml")
    assert cli.run([*command.split(), *lossy.split(), "--plot", str(tmp_path / "front.xyz")]) == 2
    assert "is no picture that can be written" in capsys.readouterr().err
    for wrong in ("--max-size 3apples", "--max-latency fast"):
        assert cli.run([*command.split(), *lossy.split(), *wrong.split()]) == 2
        assert "is not a number with a unit" in capsys.readouterr().err


def test_samples_without_a_number_are_named() -> None:
    """NaN samples: nothing can be quantized, and the report says which value is to blame."""
    bad = {"input": np.full((4, 4, 256), np.nan, np.float32)}
    found: Any = optimize(model(), TARGET, samples=bad, budget=Budget(0.1, "rms"), quantize="int8", measure=False)
    assert "QuantizeLinear" not in ops_of(found)
    assert "no lossy pass proposed anything" in found.report.budget.because
    assert any("NaN" in note for note in found.report.notes)


@pytest.mark.parametrize(("limit", "opset"), [(1e-5, 11), (1.0, 13)])
def test_the_opset_is_raised_for_what_is_quantized_only(limit: float, opset: int) -> None:
    """Where nothing fits the budget, the result is the float form, in the opset that the model came with."""
    old = model()
    old.graph.opsets[""] = 11
    found: Any = optimize(old, "generic", samples=INPUTS, budget=Budget(limit, "rms"), quantize="int8", measure=False)
    assert found.model.opsets[""] == opset
    assert ("QuantizeLinear" in ops_of(found)) == (opset == 13)
