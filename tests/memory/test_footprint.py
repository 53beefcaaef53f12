"""``--memory``: what is measured is reported, and what was chosen is in the artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from planish.backends.ort.artifact import Artifact
from planish.cli.shared import app
from planish.driver.memory import footprint_job
from planish.driver.memory.footprint import Footprint
from planish.driver.memory.footprint_job import COST, SAVING
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.graph import Value
from planish.ir.onnx_writer import write_model


def write_wide(path: Path, size: int) -> None:
    """A model whose results take megabytes and are soon read."""
    b = Builder()
    x: Value = b.input("x", DType.F32, (1, 3, size, size))
    for i, (inner, outer) in enumerate(((3, 16), (16, 8), (8, 16), (16, 8))):
        x = b.Conv(x, b.weight(f"w{i}", (outer, inner, 3, 3), i, 0.2), pads=(1, 1, 1, 1))
        x = b.Add(b.Sigmoid(x), b.Tanh(x))
    b.output(b.GlobalAveragePool(x), "y")
    write_model(b.model(), path)


def test_the_peak_is_measured_and_the_artifact_has_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint_job, "_SECONDS", 0.3)
    all_choices = footprint_job.choices
    monkeypatch.setattr(footprint_job, "choices", lambda base: all_choices(base)[:3])  # a process each
    write_wide(tmp_path / "m.onnx", 256)
    out = tmp_path / "out"
    arguments = ["compile", str(tmp_path / "m.onnx"), "-o", str(out), "--memory", "--no-measure", "--json"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    found = report["footprint"]
    assert min(found["original_bytes"], found["before_bytes"]) > 256 * 256 * 16 * 4
    assert found["after_bytes"] <= found["before_bytes"]
    assert found["order"] in _orders(found)
    chosen = [c for c in found["candidates"] if c["verdict"] == "chosen"]
    assert bool(chosen) == (found["after_bytes"] < found["before_bytes"])
    for candidate in chosen:
        assert candidate["peak_bytes"] == found["after_bytes"] <= (1 - SAVING) * found["before_bytes"]
        assert candidate["time"] <= 1 + COST
    assert report["pipeline"].endswith("order-nodes")
    loaded = Artifact.load(out)
    assert loaded.settings.to_dict() == report["session"] == report["manifest"]["session"]
    assert loaded.run({"x": np.ones((1, 3, 256, 256), np.float32)})[0].shape == (1, 8, 1, 1)


def _orders(found: dict[str, Any]) -> list[str]:
    """What may be said of the order, by the arena with and without it."""
    arenas = {c["settings"]: c["arena_bytes"] for c in found["candidates"]}
    assert found["arena_bytes"] == arenas["no memory pattern"]
    ordered = [arenas[label] for label in arenas if label == "no memory pattern, nodes in file order"]
    if not ordered:
        return [""]
    assert min(ordered[0], found["arena_bytes"]) >= 256 * 256 * 16 * 4
    said = Footprint(arena_bytes=found["arena_bytes"], ordered_bytes=ordered[0]).order
    assert ("changes nothing" in said) == (ordered[0] == found["arena_bytes"])
    return [said]


def test_tvm_has_no_sessions(tmp_path: Path) -> None:
    write_wide(tmp_path / "m.onnx", 16)
    arguments = ["optimize", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "out"), "--backend", "tvm", "--memory"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code != 0
    assert "TVM has none" in str(run.exception)
