"""Decompositions against the operators themselves, in ONNX Runtime with its optimizations off."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.graph import Model
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.verify import verify
from planish.passes.manager import Pipeline

AXIS = np.array([1], np.int64)
CASES: dict[str, tuple[int, list[Any], dict[str, Any]]] = {
    "Softmax": (18, [], {"axis": 1}),
    "LogSoftmax": (18, [], {"axis": -1}),
    "Elu": (22, [], {"alpha": 0.5}),
    "Selu": (22, [], {}),
    "Softplus": (22, [], {}),
    "Softsign": (22, [], {}),
    "ThresholdedRelu": (22, [], {"alpha": 0.3}),
    "Shrink": (18, [], {"bias": 0.1, "lambd": 0.4}),
    "LeakyRelu": (18, [], {"alpha": 0.2}),
    "HardSigmoid": (22, [], {"alpha": 0.3, "beta": 0.4}),
    "HardSwish": (22, [], {}),
    "Mish": (22, [], {}),
    "Celu": (21, [], {"alpha": 2.0}),
    "Relu": (18, [], {}),
    "PRelu": (18, [np.array([[0.1], [0.2], [0.3]], np.float32)], {}),
    "Clip": (18, [np.float32(-0.5), np.float32(0.5)], {}),
    "GreaterOrEqual": (18, [np.float32(0)], {}),
    "LessOrEqual": (18, [np.float32(0)], {}),
    "ReduceL1": (18, [AXIS], {}),
    "ReduceL2": (18, [AXIS], {"keepdims": 0}),
    "ReduceSumSquare": (18, [AXIS], {}),
    "ReduceLogSumExp": (18, [AXIS], {}),
    "MeanVarianceNormalization": (18, [], {"axes": (0, 2)}),
}


def build(op: str) -> Model:
    opset, operands, attrs = CASES[op]
    b = Builder(opset=opset)
    b.output(b.op(op, b.input("x", DType.F32, (2, 3, 4)), *operands, **attrs), "y")
    return b.model()


def run(model: Model, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    outputs: Any = ort.InferenceSession(model_to_bytes(model), options).run(None, {"x": x})
    return outputs[0]


@pytest.mark.parametrize("op", CASES)
def test_function_bodies_compute_the_operator(op: str) -> None:
    before, after = build(op), build(op)
    Pipeline(f"expand-fused{{ops=[{op}]}}").run(after)
    verify(after)
    assert op not in {n.op for n in after.all_nodes()}
    x = np.random.default_rng(7).standard_normal((2, 3, 4)).astype(np.float32)
    want, have = run(before, x), run(after, x)
    assert want.dtype == have.dtype
    assert want.shape == have.shape
    eps = np.finfo(np.float32).eps
    assert np.allclose(want, have, rtol=32 * eps, atol=32 * eps)


@pytest.mark.parametrize(
    ("op", "pipeline", "opset"),
    [
        ("Gelu", "fuse-gelu", 20),
        ("HardSwish", "fuse-hardswish", 14),
        ("Mish", "fuse-mish", 18),
        ("Swish", "fuse-swish", 24),
        ("LayerNormalization", "fuse-layernorm", 17),
        ("LayerNormalization", "fuse-layernorm", 18),
        ("RMSNormalization", "fuse-rmsnorm", 23),
    ],
)
def test_fusing_undoes_expanding(op: str, pipeline: str, opset: int) -> None:
    b = Builder(opset=opset)
    scale = [np.ones(4, np.float32)] if op.endswith("Normalization") else []
    b.output(b.op(op, b.input("x", DType.F32, ("N", 3, 4)), *scale), "y")
    model = b.model()
    Pipeline("expand-fused").run(model)
    assert op not in {n.op for n in model.all_nodes()}
    Pipeline(pipeline).run(model)
    assert [n.op for n in model.all_nodes()] == [op], str(model)
