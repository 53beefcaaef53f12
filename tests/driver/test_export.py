"""Export for runtimes that do not run here: quantized as they want, with a report; and ``lint`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.cli import run
from planish.driver.export import export
from planish.driver.lint import lint
from planish.ir import Builder, DType
from planish.ir.errors import UsageError
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import write_model


def network() -> Model:
    """Two convolutions and a head, at an opset without scales per channel."""
    draw = np.random.default_rng(0)
    b = Builder(opset=11)
    x = b.input("x", DType.F32, (1, 8, 16, 16))
    y = b.Relu(b.Conv(x, b.const(draw.standard_normal((16, 8, 3, 3), np.float32) / 8), pads=(1, 1, 1, 1)))
    y = b.Relu(b.Conv(y, b.const(draw.standard_normal((16, 16, 3, 3), np.float32) / 12), pads=(1, 1, 1, 1)))
    y = b.MatMul(b.Flatten(b.GlobalAveragePool(y)), b.const(draw.standard_normal((16, 64), np.float32) / 4))
    b.output(y, "y")
    return b.model()


def samples() -> list[dict[str, Any]]:
    draw = np.random.default_rng(1)
    return [{"x": draw.standard_normal((1, 8, 16, 16), np.float32)} for _ in range(4)]


@pytest.mark.parametrize(("target", "products"), [("tensorrt", 2), ("openvino", 2), ("qnn", 2), ("coreml", 0)])
def test_exported_models_are_accepted(target: str, products: int, tmp_path: Path) -> None:
    made = export(network(), target, tmp_path / "out", samples=samples(), budget=0.3)
    assert made.lint.report.worst != "error"
    findings = [f for f in made.lint.report.findings if f.op == "Conv"]
    assert sum(f.runs.value == "integer" for f in findings) >= products
    plain = json.loads((tmp_path / "out" / "lint.json").read_text("utf-8"))
    assert plain["target"] == target
    assert "written to" in (tmp_path / "out" / "report.txt").read_text("utf-8")
    again = lint(read_model(tmp_path / "out" / "model.onnx"), target)
    assert again.report.worst == made.lint.report.worst


def test_without_a_budget_it_stays_in_floats(tmp_path: Path) -> None:
    export(network(), "tensorrt", tmp_path, samples=samples())
    assert not [n for n in read_model(tmp_path / "model.onnx").all_nodes() if n.op == "QuantizeLinear"]


def test_only_export_targets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no target to export for"):
        export(network(), "x86-64-v3", tmp_path)


def test_lint_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b = Builder(opset=21)
    x = b.Tanh(b.input("x", DType.F32, (1, 4, 8, 8)))
    scale, zero = b.const(np.float32(0.1)), b.const(np.int8(0))
    y = b.DequantizeLinear(b.QuantizeLinear(x, scale, zero), scale, zero)
    b.output(b.Erf(b.Reshape(y, b.const(np.array([4, -1])))), "y")
    path = tmp_path / "model.onnx"
    write_model(b.model(), path)
    assert run(["lint", str(path), "-t", "x86-64-v3"]) == 1
    assert "signed-moved" in capsys.readouterr().out
    assert run(["lint", str(path), "-t", "aarch64", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["counts"]["integer"] == 1
    assert run(["lint", str(path), "-t", "aarch64", "--all"]) == 0
    assert "Reshape" in capsys.readouterr().out
