"""Gradients behind a model against differences of its outputs, operator by operator and for whole models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from planish.backends.ort.session import Session, SessionSettings
from planish.ir.builder import Builder
from planish.ir.constants import ArrayConstant
from planish.ir.dtypes import DType
from planish.ir.graph import Model, Value
from planish.ir.onnx_writer import model_to_bytes
from planish.models.bert import BertConfig, bert, bert_inputs
from planish.passes.shared.gradient import with_gradients

SHAPE = (2, 4, 6, 5)
RNG = np.random.default_rng(5)


def weights(*shape: int) -> Any:
    return np.random.default_rng(7).normal(size=shape)


Make = Callable[[Builder, Value], Value]
ONE: dict[str, Make] = {
    name: partial(lambda op, b, x: b.op(op, x), name)
    for name in (
        "Identity Neg Abs Exp Sin Cos Erf Tanh Sigmoid Softplus Relu LeakyRelu Elu HardSigmoid HardSwish Gelu "
        "GlobalAveragePool GlobalMaxPool Softmax LogSoftmax ReduceSum ReduceMean ReduceL2 ReduceMax "
        "ReduceMin ReduceSumSquare Flatten"
    ).split()
}
MORE: dict[str, Make] = {
    "Reciprocal": lambda b, x: b.Reciprocal(b.Exp(x)),
    "Sqrt": lambda b, x: b.Sqrt(b.Exp(x)),
    "Log": lambda b, x: b.Log(b.Exp(x)),
    "Cast": lambda b, x: b.Cast(x, to=DType.F64.code),
    "Clip": lambda b, x: b.Clip(x, -0.5, 0.7),
    "Softmax axis 1": lambda b, x: b.Softmax(x, axis=1),
    "ReduceMean axes": lambda b, x: b.ReduceMean(x, b.const([1, -1]), keepdims=0),
    "ReduceMax axis": lambda b, x: b.ReduceMax(x, b.const([2]), keepdims=1),
    "Add broadcast": lambda b, x: b.Add(b.ReduceMean(x, b.const([1]), keepdims=1), x),
    "Add ranks": lambda b, x: b.Add(x, b.ReduceMean(x, b.const([0, 1]), keepdims=0)),
    "Sub": lambda b, x: b.Sub(b.Tanh(x), x),
    "Mul": lambda b, x: b.Mul(x, b.Sigmoid(x)),
    "Div": lambda b, x: b.Div(x, b.Exp(b.ReduceMean(x, b.const([2]), keepdims=1))),
    "Pow": lambda b, x: b.Pow(b.Exp(x), 1.7),
    "Pow 2": lambda b, x: b.Pow(x, 2.0),
    "Sum": lambda b, x: b.Sum(x, b.Tanh(x), x),
    "Max": lambda b, x: b.Max(x, b.Tanh(b.Neg(x))),
    "Min": lambda b, x: b.Min(x, b.Tanh(b.Neg(x))),
    "Where": lambda b, x: b.Where(b.Greater(x, 0.1), b.Tanh(x), b.Neg(x)),
    "Transpose": lambda b, x: b.Transpose(x, perm=(1, 3, 0, 2)),
    "Reshape": lambda b, x: b.Reshape(x, b.const([0, -1])),
    "Expand": lambda b, x: b.Expand(b.ReduceMean(x, b.const([1]), keepdims=1), b.Shape(x)),
    "Squeeze": lambda b, x: b.Squeeze(b.Unsqueeze(x, b.const([1])), b.const([1])),
    "Concat": lambda b, x: b.Concat(x, b.Tanh(x), axis=1),
    "Split": lambda b, x: b.Mul(*b.Split(x, b.const([2, 2]), axis=1, _outputs=2)),
    "Split, one part": lambda b, x: b.Split(x, b.const([1, 3]), axis=1, _outputs=2)[1],
    "Slice": lambda b, x: b.Slice(x, b.const([1, -4]), b.const([3, -1]), b.const([1, 3])),
    "Pad": lambda b, x: b.Pad(x, b.const([0, 1, 0, 2, 0, 0, 1, 0])),
    "Gather": lambda b, x: b.Gather(x, b.const([3, 0, 3]), axis=1),
    "Gather one": lambda b, x: b.Gather(x, b.const(2), axis=1),
    "MatMul": lambda b, x: b.MatMul(x, b.const(weights(5, 3))),
    "MatMul both": lambda b, x: b.MatMul(x, b.Transpose(b.Tanh(x), perm=(0, 1, 3, 2))),
    "Gemm": lambda b, x: b.Gemm(b.Reshape(x, b.const([-1, 5])), b.const(weights(3, 5)), b.const(weights(3)), transB=1),
    "Gemm transA": lambda b, x: b.Gemm(b.Reshape(x, b.const([5, -1])), b.const(weights(5, 3)), transA=1, alpha=0.5),
    "Gemm C": lambda b, x: b.Gemm(b.const(weights(8, 3)), b.const(weights(3, 30)), b.Reshape(x, b.const([8, 30]))),
    "Conv": lambda b, x: b.Conv(x, b.const(weights(3, 4, 3, 3)), pads=(1, 1, 1, 1)),
    "Conv strides": lambda b, x: b.Conv(x, b.const(weights(3, 4, 2, 3)), strides=(3, 2), pads=(0, 1, 1, 0)),
    "Conv groups": lambda b, x: b.Conv(x, b.const(weights(4, 1, 3, 1)), group=4, dilations=(2, 1)),
    "ConvTranspose": lambda b, x: b.ConvTranspose(x, b.const(weights(4, 3, 2, 2)), strides=(2, 2)),
    "AveragePool": lambda b, x: b.AveragePool(x, kernel_shape=(3, 2), strides=(3, 2)),
    "BatchNormalization": lambda b, x: b.BatchNormalization(x, *(b.const(np.exp(weights(4))) for _ in range(4))),
    "LayerNormalization": lambda b, x: b.LayerNormalization(x, b.const(weights(5)), b.const(weights(5))),
}

NARROW = ("Erf", "Gelu")
"""Computed in float32 by the reference."""


def model_of(make: Make) -> tuple[Model, Value]:
    b = Builder(opset=20)
    x = b.input("x", DType.F64, ("N", *SHAPE[1:]))
    x = b.Mul(x, 1.0)
    y = make(b, x)
    b.output(b.Mul(y, 1.0), "y")
    return b.model(), x


@pytest.mark.parametrize("name", [*ONE, *MORE])
def test_operator(name: str) -> None:
    model, x = model_of({**ONE, **MORE}[name])
    found = with_gradients(model, [x, model.graph.outputs[0]])
    assert not found.declined
    run = ReferenceEvaluator(model_to_bytes(found.model)).run
    point = RNG.normal(size=SHAPE)
    y, gradient, signs = (np.asarray(v) for v in run(None, {"x": point}))  # type: ignore[arg-type]
    assert np.allclose(np.abs(signs), 1 / np.linalg.norm(y))
    step, tolerance = (1e-3, 1e-4) if name in NARROW else (1e-6, 1e-5)
    for _ in range(3):
        direction = RNG.normal(size=SHAPE)
        ahead, behind = (
            np.asarray(run(["y"], {"x": point + s * direction})[0])  # type: ignore[index]
            for s in (step, -step)
        )
        expected = float((signs * (ahead - behind)).sum() / (2 * step))
        size = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        assert abs(float((gradient * direction).sum()) - expected) <= tolerance * size + 1e-8


def test_model_with_attention() -> None:
    """Errors in one layer move outputs as its gradient says; the outputs themselves stay, and so does every run."""
    model = bert(BertConfig(vocabulary=50, hidden=16, layers=2, heads=2, intermediate=32, positions=16))
    node = next(n for n in model.all_nodes() if "intermediate.dense/MatMul" in n.name)
    found = with_gradients(model, [node.output, model.graph.outputs[0]])
    gradient = found.of[node.output]
    port = found.model.graph.outputs.index(gradient)
    sample = bert_inputs(BertConfig(vocabulary=50), length=8)
    session = Session(found.model, SessionSettings(threads=1))
    first, again = session.run(sample), session.run(sample)
    assert (first[port] == again[port]).all()
    plain = Session(model, SessionSettings(threads=1)).run(sample)[0]
    assert np.allclose(first[0], plain, atol=1e-5)
    signs = first[found.model.graph.outputs.index(found.of[model.graph.outputs[0]])]
    for scale in (1e-2, -1e-2):
        bias = next(v for user, _ in node.output.uses for v in user.inputs if v is not None and v.data is not None)
        assert bias.data is not None
        before = bias.data
        change = scale * RNG.normal(size=before.shape).astype(np.float32)
        bias.data = ArrayConstant(before.numpy() + change)
        moved = Session(model, SessionSettings(threads=1)).run(sample)[0]
        bias.data = before
        expected = float((signs * (moved - plain)).sum())
        assert float((first[port] @ change).sum()) == pytest.approx(expected, rel=0.02, abs=1e-5)


def test_lengths_beyond_float16() -> None:
    b = Builder(opset=20)
    x = b.input("x", DType.F16, (4, 64))
    b.output(b.Mul(x, 30.0), "y")
    model = b.model()
    found = with_gradients(model, [model.graph.inputs[0]])
    gradient = Session(found.model).run({"x": np.full((4, 64), 100, np.float16)})[1]
    assert np.allclose(np.abs(gradient.astype(float)), 30 / (3000 * 16), rtol=1e-2)


def test_what_has_no_gradient_says_why() -> None:
    b = Builder(opset=20)
    x = b.input("x", DType.F32, (1, 4, 8, 8))
    y = b.Relu(x)
    b.output(b.MaxPool(y, kernel_shape=(2, 2)), "y")
    z = b.Tanh(x)
    b.output(b.ArgMax(z), "z")
    found = with_gradients(b.model(), [y, z])
    assert found.declined[y] == "MaxPool behind it has no gradient"
    assert found.declined[z] == "no output of floats depends on it"


def test_bodies_block_and_are_declined() -> None:
    b = Builder(opset=20)
    x = b.input("x", DType.F32, (1, 4))
    y = b.Relu(x)
    body = Builder(opset=20)
    inner = body.op("Neg", y)
    body.output(inner, "out")
    other = Builder(opset=20)
    other.output(other.op("Exp", y), "out")
    b.output(
        b.If(b.const(np.asarray(True)), then_branch=body.graph, else_branch=other.graph),
        "y",
    )
    found = with_gradients(b.model(), [y, inner])
    assert found.declined[inner] == "it lies in a body or a function"
    assert "If behind it" in found.declined[y]
