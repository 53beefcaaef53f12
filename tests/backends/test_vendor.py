"""Linters of runtimes that models are exported for; OpenVINO's is held against its compiled model where it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.backends.findings import Finding, LintReport, Runs
from planish.backends.vendor import coreml, openvino, qnn, tensorrt
from planish.ir import DType
from planish.ir.graph import Model
from planish.ir.onnx_writer import write_model
from planish.passes.target import EXPORT_TARGETS

from .qdq_nets import Net

LINTERS: dict[str, Callable[[Model, Any], LintReport]] = {
    "tensorrt": tensorrt.lint,
    "openvino": openvino.lint,
    "qnn": qnn.lint,
    "coreml": coreml.lint,
}


def lint(model: Model, name: str) -> LintReport:
    return LINTERS[name](model, EXPORT_TARGETS[name])


def about(report: LintReport, op: str) -> Finding:
    return next(f for f in report.findings if f.op == op)


def conv(
    *, x: Any = np.uint8, w: Any = np.int8, zero: int = 0, axis: int | None = 0, out: bool = True, plain: str = ""
) -> Model:
    b = Net(opset=21 if x in (np.uint16, np.int16) else 17)
    image = b.x(1, 8, 8, 8)
    image = image if plain == "x" else b.pair(image, dtype=x, zero=zero)
    weight = b.const(np.ones((8, 8, 3, 3), np.float32)) if plain == "w" else b.stored(8, 8, 3, 3, dtype=w, axis=axis)
    y = b.Conv(image, weight)
    return b.done(b.pair(y, dtype=x, zero=zero) if out else y)


def matmul(
    *, x: Any = np.uint8, w: Any = np.int8, axis: int | None = 1, computed: bool = False, out: bool = True
) -> Model:
    b = Net(opset=17)
    left = b.pair(b.x(4, 64), dtype=x)
    right = (
        b.pair(b.Sigmoid(b.input("z", DType.F32, (64, 32))), dtype=w)
        if computed
        else b.stored(64, 32, dtype=w, axis=axis)
    )
    y = b.MatMul(left, right)
    return b.done(b.pair(y, dtype=x) if out else y)


def weight_only(dtype: Any = np.int8) -> Model:
    b = Net(opset=17)
    return b.done(b.MatMul(b.x(4, 64), b.stored(64, 32, dtype=dtype, axis=1)))


def activation_behind_pair() -> Model:
    b = Net(opset=17)
    y = b.Conv(b.pair(b.x(1, 8, 8, 8), dtype=np.int8), b.stored(8, 8, 3, 3, axis=0))
    return b.done(b.Relu(b.pair(y, dtype=np.int8)))


def concat(scale: float) -> Model:
    b = Net(opset=17)
    x = b.x(4, 8)
    return b.done(b.Concat(b.pair(x, dtype=np.int8), b.pair(b.Sigmoid(x), scale, dtype=np.int8), axis=1))


def sigmoid(scale: float) -> Model:
    b = Net(opset=21)
    return b.done(b.pair(b.Sigmoid(b.pair(b.x(4, 8), dtype=np.uint16)), scale, dtype=np.uint16))


CASES: list[tuple[str, Callable[[], Model], str, Runs, str]] = [
    ("tensorrt", lambda: conv(x=np.int8, out=False), "Conv", Runs.INTEGER, ""),
    ("tensorrt", lambda: conv(x=np.int8, plain="w"), "Conv", Runs.FLOAT, "operand-not-quantized"),
    ("tensorrt", activation_behind_pair, "Conv", Runs.FLOAT, "pair-before-activation"),
    ("tensorrt", lambda: concat(0.1), "Concat", Runs.INTEGER, ""),
    ("tensorrt", lambda: concat(0.2), "Concat", Runs.FLOAT, "parameters-differ"),
    ("qnn", conv, "Conv", Runs.INTEGER, ""),
    ("qnn", lambda: conv(out=False), "Conv", Runs.FLOAT, "result-not-quantized"),
    ("qnn", lambda: conv(x=np.int8), "Conv", Runs.FLOAT, "activation-type"),
    ("qnn", lambda: conv(x=np.uint16), "Conv", Runs.INTEGER, ""),
    ("qnn", matmul, "MatMul", Runs.FLOAT, "weight-axis"),
    ("qnn", lambda: matmul(axis=None), "MatMul", Runs.INTEGER, ""),
    ("qnn", lambda: sigmoid(1 / 65536), "Sigmoid", Runs.INTEGER, ""),
    ("qnn", lambda: sigmoid(0.001), "Sigmoid", Runs.FLOAT, "fixed-parameters"),
    ("coreml", conv, "Conv", Runs.FLOAT, "no-pairs"),
    ("coreml", weight_only, "MatMul", Runs.INTEGER, ""),
    ("coreml", lambda: weight_only(np.uint8), "MatMul", Runs.FLOAT, "weight-type"),
]


@pytest.mark.parametrize(("target", "make", "op", "runs", "rule"), CASES)
def test_condition(target: str, make: Callable[[], Model], op: str, runs: Runs, rule: str) -> None:
    finding = about(lint(make(), target), op)
    assert (finding.runs, finding.rule) == (runs, rule), finding


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (conv, "stored-type"),
        (lambda: conv(x=np.int8, zero=3), "zero-point"),
        (lambda: conv(x=np.int16), "stored-type"),
    ],
)
def test_tensorrt_refuses(make: Callable[[], Model], rule: str) -> None:
    report = lint(make(), "tensorrt")
    assert report.worst == "error"
    assert rule in report.rules()


def test_tensorrt_takes_symmetric_models() -> None:
    assert lint(conv(x=np.int8), "tensorrt").worst == "note"


def test_operators_on_integers_are_refused() -> None:
    b = Net(opset=17)
    x = b.input("x", DType.U8, (4, 8))
    b.output(b.MatMulInteger(x, b.const(np.ones((8, 8), np.int8))), "y")
    model = b.model()
    assert about(lint(model, "tensorrt"), "MatMulInteger").severity == "error"
    assert about(lint(model, "openvino"), "MatMulInteger").severity == "warning"


def test_qnn_wants_static_shapes() -> None:
    b = Net(opset=17)
    b.output(b.Relu(b.input("x", DType.F32, ("N", 8))), "y")
    report = lint(b.model(), "qnn")
    assert report.worst == "error"
    assert "dynamic-shape" in report.rules()
    assert "dynamic-shape" not in lint(conv(), "qnn").rules()


# -- OpenVINO: prediction and compiled model


OPENVINO: list[tuple[Callable[[], Model], str]] = [
    (conv, "Conv"),
    (lambda: conv(axis=None), "Conv"),
    (lambda: conv(out=False), "Conv"),
    (lambda: conv(x=np.int8), "Conv"),
    (lambda: conv(zero=100), "Conv"),
    (lambda: conv(w=np.uint8), "Conv"),
    (lambda: conv(x=np.uint16), "Conv"),
    (lambda: conv(plain="w"), "Conv"),
    (lambda: conv(plain="x"), "Conv"),
    (lambda: conv(axis=1), "Conv"),
    (matmul, "MatMul"),
    (lambda: matmul(axis=None), "MatMul"),
    (lambda: matmul(x=np.int8), "MatMul"),
    (lambda: matmul(w=np.uint8), "MatMul"),
    (lambda: matmul(computed=True), "MatMul"),
    (lambda: matmul(computed=True, w=np.uint8), "MatMul"),
    (lambda: matmul(out=False), "MatMul"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "op"), OPENVINO)
def test_openvino_does_as_predicted(make: Callable[[], Model], op: str, tmp_path: Path) -> None:
    ov: Any = pytest.importorskip("openvino")
    model = make()
    finding = about(lint(model, "openvino"), op)
    node = next(n for n in model.graph if n.op == op)
    node.name = "watched"
    write_model(model, tmp_path / "model.onnx")
    compiled = ov.Core().compile_model(str(tmp_path / "model.onnx"), "CPU", {"INFERENCE_NUM_THREADS": "1"})
    kernels = [
        str(n.get_rt_info()["primitiveType"].astype(str)) for n in compiled.get_runtime_model().get_ops() if _is(n)
    ]
    assert kernels
    assert any("8" in k.rpartition("_")[2] for k in kernels) is (finding.runs is Runs.INTEGER), (kernels, finding)


def _is(node: Any) -> bool:
    info = node.get_rt_info()
    products = ("Convolution", "FullyConnected", "MatMul")
    named = "originalLayersNames" in info and "watched" in info["originalLayersNames"].astype(str)
    return named and info["layerType"].astype(str) in products
