"""Quantized products are integer kernels, and their results those of the numbers that they stand for."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

pytest.importorskip("tvm")

from planish.backends.tvm.api import tirx
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.lower.program import Module
from planish.backends.tvm.lower.requantized import merged_constants
from planish.ir.clone import clone_model
from planish.ir.onnx_reader import read_model

from .models import TARGET, assert_close, expected, lowered, onnx_model


def pair(name: str, scale: str, zero: str, **attrs: Any) -> list[onnx.NodeProto]:
    """A quantizer and its dequantizer."""
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_q"], **attrs),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_d"], **attrs),
    ]


def convolution(dtype: type, group: int = 1) -> tuple[bytes, dict[str, np.ndarray]]:
    """Per-channel weights, an asymmetric operand with borders, a bias, Relu, a residual and a second convolution."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 16, 9, 11)).astype(np.float32)
    zero = np.array(37 if dtype is np.uint8 else -11, dtype)
    constants = {
        "sx": np.float32(0.03),
        "zx": zero,
        "w": rng.integers(-100, 100, (16, 16 // group, 3, 3)).astype(np.int8),
        "sw": (rng.random(16) * 0.01 + 0.001).astype(np.float32),
        "zw": np.zeros(16, np.int8),
        "b": rng.integers(-3000, 3000, 16).astype(np.int32),
    }
    constants["sb"] = (constants["sw"] * constants["sx"]).astype(np.float32)
    nodes = [
        *pair("x", "sx", "zx"),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["w_d"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "sb"], ["b_d"], axis=0),
        helper.make_node("Conv", ["x_d", "w_d", "b_d"], ["c"], pads=[1, 1, 1, 1], group=group),
        helper.make_node("Relu", ["c"], ["r"]),
        *pair("r", "sx", "zx"),
        helper.make_node("Add", ["r_d", "x_d"], ["a"]),
        *pair("a", "sx", "zx"),
        helper.make_node("Conv", ["a_d", "w_d", "b_d"], ["y"], pads=[1, 1, 1, 1], group=group),
        *pair("y", "sx", "zx"),
    ]
    return onnx_model(nodes, {"x": x}, ["y_d"], constants), {"x": x}


@pytest.mark.parametrize(("dtype", "group"), [(np.uint8, 1), (np.int8, 1), (np.uint8, 16)])
def test_convolutions(dtype: type, group: int) -> None:
    model, feeds = convolution(dtype, group)
    found, wanted = lowered(model).run(feeds)[0], expected(model, feeds)[0]
    # A sum that lies on a tie after scaling may be rounded either way; that is one step, and moves few others.
    steps = np.abs(found - wanted) / np.float32(0.03)
    assert steps.max() <= 1.01
    assert (steps > 0.5).mean() < 0.01


def test_products() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 5, 24)).astype(np.float32)
    constants = {
        "sx": np.float32(0.02),
        "zx": np.uint8(120),
        "w": rng.integers(0, 255, (24, 20)).astype(np.uint8),
        "sw": np.float32(0.01),
        "zw": np.uint8(128),
        "v": rng.integers(-128, 127, (8, 20)).astype(np.int8),
        "sv": (rng.random(8) * 0.01 + 0.001).astype(np.float32),
        "bias": rng.standard_normal(8).astype(np.float32),
        "flat": np.array([15, 20]),
    }
    nodes = [
        *pair("x", "sx", "zx"),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["w_d"]),
        helper.make_node("MatMul", ["x_d", "w_d"], ["m"]),
        helper.make_node("Reshape", ["m", "flat"], ["f"]),
        *pair("f", "sx", "zx"),
        helper.make_node("DequantizeLinear", ["v", "sv"], ["v_d"], axis=0),
        helper.make_node("Gemm", ["f_d", "v_d", "bias"], ["y"], transB=1),
    ]
    model = onnx_model(nodes, {"x": x}, ["y"], constants)
    found, wanted = lowered(model).run({"x": x})[0], expected(model, {"x": x})[0]
    # A sum of integers times 0.01 lies on a tie once in a hundred: rounded the other way it is one step of the inner
    # quantization times a weight, in all outputs of its row.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.02 * 127 * 0.011 + 1e-4)
    assert (np.abs(found - wanted) > 1e-4).any(axis=-1).sum() <= 2


def test_integers_are_multiplied() -> None:
    """No float weights are left, and between the two convolutions and the sum only bytes are stored."""
    model = clone_model(read_model(convolution(np.uint8)[0]))
    module = Module(Machine(TARGET))
    program = module.lower(model.graph, "main")
    assert sum(a.dtype == np.int8 for a in module.weights.arrays) == 2  # packed for a plain and a blocked operand
    assert max(a.size for a in module.weights.arrays if a.dtype != np.int8) == 16
    stored = [form.dtype for call in program.calls for _, form in call.kernel.results]
    assert stored == ["uint8", "uint8", "float32", "float32"], "the last two are the output, in blocks and plain"


def test_dynamic_quantization() -> None:
    """The same integers as ONNX Runtime's, whatever the range: positive, negative, nothing but zeros."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "zw"], ["y"]),
    ]
    constants = {"w": rng.integers(0, 255, (24, 20)).astype(np.uint8), "zw": np.uint8(113)}
    x = rng.standard_normal((3, 5, 24)).astype(np.float32)
    model = onnx_model(nodes, {"x": x}, ["q", "s", "z", "y"], constants)
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    for given in (x, np.abs(x), -np.abs(x), x * 0):
        for found, wanted in zip(artifact.run({"x": given}), expected(model, {"x": given}), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_linear_operators() -> None:
    """QLinearConv with a bias and weights a channel, and QLinearMatMul, as ONNX Runtime computes them."""
    rng = np.random.default_rng(3)
    constants = {
        "sx": np.float32(0.03),
        "zx": np.uint8(120),
        "w": rng.integers(-100, 100, (8, 4, 3, 3)).astype(np.int8),
        "sw": (rng.random(8) * 0.01 + 0.001).astype(np.float32),
        "zw": np.zeros(8, np.int8),
        "b": rng.integers(-3000, 3000, 8).astype(np.int32),
        "v": rng.integers(-100, 100, (6, 10)).astype(np.int8),
        "sv": np.float32(0.02),
        "zv": np.int8(0),
    }
    nodes = [
        helper.make_node("QLinearConv", ["x", "sx", "zx", "w", "sw", "zw", "sx", "zx", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("QLinearMatMul", ["c", "sx", "zx", "v", "sv", "zv", "sx", "zx"], ["y"]),
    ]
    x = rng.integers(0, 255, (1, 4, 7, 6)).astype(np.uint8)
    model = onnx_model(nodes, {"x": x}, ["c", "y"], constants)
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    for found, wanted in zip(artifact.run({"x": x}), expected(model, {"x": x}), strict=True):
        apart = np.abs(found.astype(np.int32) - wanted.astype(np.int32))
        assert apart.max() <= 1  # a value on a tie
        assert (apart > 0).mean() < 0.02


@pytest.mark.parametrize("block", [0, 8])
def test_narrow_weights(block: int) -> None:
    """Weights of 4 bits, by column or in blocks, are floats when the library is built."""
    rng = np.random.default_rng(3)
    codes, x = rng.integers(-8, 7, (16, 12)), rng.standard_normal((5, 16)).astype(np.float32)
    scales = (rng.random((2, 12) if block else 12) * 0.1 + 0.01).astype(np.float32)
    weights = helper.make_tensor("w", onnx.TensorProto.INT4, codes.shape, codes.ravel().tolist())
    attrs: dict[str, Any] = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], **attrs),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    made = onnx.load_model_from_string(onnx_model(nodes, {"x": x}, ["y"], {"s": scales}))
    made.graph.initializer.append(weights)
    model = made.SerializeToString()
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    np.testing.assert_allclose(artifact.run({"x": x})[0], expected(model, {"x": x})[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "block", "zero"), [("int4", 32, False), ("uint4", 16, True), ("uint8", 32, True), ("int8", 0, False)]
)
def test_weights_stay_narrow(kind: str, block: int, zero: bool) -> None:
    """In blocks along the sum, or one scale for each column."""
    rng = np.random.default_rng(1)
    k, n = 80, 48
    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    low, high = {"int4": (-8, 8), "uint4": (0, 16), "uint8": (0, 256), "int8": (-128, 128)}[kind]
    shape = (-(-k // block), n) if block else (n,)
    constants = {
        "q": rng.integers(low, high, (k, n)).astype(dtype),
        "s": rng.uniform(0.01, 0.1, shape).astype(np.float32),
        "z": rng.integers(low, high, shape).astype(dtype),
        "b": rng.standard_normal(n).astype(np.float32),
    }
    attrs: dict[str, Any] = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"] if zero else ["q", "s"], ["w"], **attrs),
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    x = rng.standard_normal((2, 7, k)).astype(np.float32)
    model = onnx_model(nodes, {"x": x}, ["y"], constants)
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    stored = [p for p in artifact.manifest["params"] if p["dtype"] == "uint8"]
    assert [int(np.prod(p["shape"])) for p in stored] == [k * n // (2 if kind.endswith("4") else 1)]
    assert all(np.prod(p["shape"]) < k * n for p in artifact.manifest["params"] if p["dtype"] == "float32")
    assert_close(artifact.run({"x": x}), expected(model, {"x": x}), products=k)


def test_weights_of_gemm_stay_narrow() -> None:
    """Also where they lie transposed; 24 columns are stored as 32."""
    rng = np.random.default_rng(2)
    constants = {
        "q": rng.integers(0, 16, (24, 64)).astype(ml_dtypes.uint4),
        "s": rng.uniform(0.01, 0.1, (24, 4)).astype(np.float32),
        "z": rng.integers(0, 16, (24, 4)).astype(ml_dtypes.uint4),
        "c": rng.standard_normal((5, 24)).astype(np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1, block_size=16),
        helper.make_node("Gemm", ["x", "w", "c"], ["y"], transB=1),
    ]
    x = rng.standard_normal((5, 64)).astype(np.float32)
    model = onnx_model(nodes, {"x": x}, ["y"], constants)
    artifact = lowered(model)
    assert [p["shape"] for p in artifact.manifest["params"] if p["dtype"] == "uint8"] == [[32 * 64 // 2]]
    assert_close(artifact.run({"x": x}), expected(model, {"x": x}), products=64)


def test_a_quantized_hard_swish_is_in_the_write_back() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((1, 16, 6, 20)).astype(np.float32)
    constants = {
        "sx": np.float32(0.03),
        "zx": np.uint8(120),
        "w": rng.integers(-100, 100, (32, 16, 1, 1)).astype(np.int8),
        "sw": (rng.random(32) * 0.01 + 0.001).astype(np.float32),
        "zw": np.zeros(32, np.int8),
        "three": np.float32(3),
        "s1": np.float32(6 / 255),
        "z0": np.uint8(0),
        "s2": np.float32(0.0625),
    }
    nodes = [
        *pair("x", "sx", "zx"),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["w_d"], axis=0),
        helper.make_node("Conv", ["x_d", "w_d"], ["c"]),
        *pair("c", "sx", "zx"),
        helper.make_node("Add", ["c_d", "three"], ["a"]),
        *pair("a", "s1", "z0"),
        helper.make_node("Mul", ["c_d", "a_d"], ["y"]),
        *pair("y", "s2", "zx"),
    ]
    data, sample = onnx_model(nodes, {"x": x}, ["y_d"], constants), {"x": x}
    model = read_model(data)
    names = [call.kernel.name for call in Module(Machine(TARGET)).lower(clone_model(model).graph, "main").calls]
    assert [name.split("_")[0] for name in names if name.startswith("conv")] == ["conv"]
    assert len(names) <= 3, names  # the quantizer, the convolution with all that follows, the last dequantizer
    found, want = lowered(model).run(sample)[0], expected(data, sample)[0]
    off = np.abs(found - want)
    assert off.max() <= 1.6 * 0.0625  # a step of the last quantizer, where an inner one lies on a tie
    assert (off > 1e-6).mean() < 0.01


def test_a_sum_of_two_convolutions_is_in_the_write_back_of_one() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((1, 16, 5, 7)).astype(np.float32)
    constants = {n: rng.standard_normal((16, 16, 1, 1)).astype(np.float32) for n in "vw"}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("Conv", ["x", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    data = onnx_model(nodes, {"x": x}, ["y"], constants)
    names = [call.kernel.name for call in Module(Machine(TARGET)).lower(read_model(data).graph, "main").calls]
    assert [name for name in names if "conv" in name] == ["conv", "conv_add_relu"]
    assert_close(lowered(data).run({"x": x}), expected(data, {"x": x}), products=16)


def test_an_operand_of_a_product_is_a_result_of_the_graph_too() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 8)).astype(np.float32)
    constants = {
        "s": np.float32(0.05),
        "z": np.int8(-3),
        "w": rng.integers(-100, 100, (8, 8)).astype(np.int8),
        "sw": np.float32(0.02),
        "zw": np.int8(0),
    }
    nodes = [
        *pair("x", "s", "z"),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["w_d"]),
        helper.make_node("MatMul", ["x_d", "w_d"], ["y"]),
    ]
    model = onnx_model(nodes, {"x": x}, ["y", "x_d"], constants)
    for found, wanted in zip(lowered(model).run({"x": x}), expected(model, {"x": x}), strict=True):
        assert_close(found, wanted)


def test_numbers_that_are_quantized_and_dequantized_at_once_are_as_onnx_runtime_has_them() -> None:
    """Neither cast is written, ties and what is no number go the same way."""
    x = np.array([np.nan, np.inf, -np.inf, 1e30, 0.25, 0.75, -0.25, -2.5, 3.5, 0.0], np.float32)
    for zero in (np.uint8(3), np.int8(-7)):
        nodes = [*pair("x", "s", "z"), helper.make_node("HardSwish", ["x_d"], ["h"]), *pair("h", "s", "z")]
        model = onnx_model(nodes, {"x": x}, ["x_d", "h_d"], {"s": np.float32(0.5), "z": np.array(zero)})
        for got, want in zip(lowered(model).run({"x": x}), expected(model, {"x": x}), strict=True):
            np.testing.assert_array_equal(got, want)


def test_constant_factors_behind_integers_are_one() -> None:
    x, y = tirx.Var("x", "float32"), tirx.Var("y", "float32")
    half, three = tirx.const(0.5, "float32"), tirx.const(3.0, "float32")
    cases = {
        x * half * three: "x * T.float32(1.5)",
        (x * half) * (y * half * three): "x * y * T.float32(0.75)",
        (x * half + three) * half: "x * T.float32(0.25) + T.float32(1.5)",
        x / half: "x * T.float32(2.0)",
        x * y: "x * y",
        (x + y) * half: "(x + y) * T.float32(0.5)",
        tirx.min(tirx.max(tirx.round(x) + three, half), y) - three: None,  # not between constants
        tirx.min(tirx.max(tirx.round(x) + three, three), half) - three: "T.min(T.max(T.round(x), T.float32(0.0)), "
        "T.float32(-2.5))",
        tirx.min(tirx.max(x + three, three), half) - three: None,  # not whole
    }
    for given, want in cases.items():
        assert str(merged_constants(given)) == (want or str(given))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_an_image_of_three_channels_lies_in_words(dtype: type) -> None:
    rng = np.random.default_rng(11)
    x = rng.standard_normal((2, 3, 9, 21)).astype(np.float32)
    constants = {
        "s": np.float32(0.02),
        "z": np.array(7 if dtype is np.uint8 else -9, dtype),
        "w": rng.integers(-100, 100, (16, 3, 3, 3)).astype(np.int8),
        "sw": np.float32(0.01),
    }
    nodes = [
        *pair("x", "s", "z"),
        helper.make_node("DequantizeLinear", ["w", "sw"], ["w_d"]),
        helper.make_node("Conv", ["x_d", "w_d"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2]),
    ]
    model = onnx_model(nodes, {"x": x}, ["y"], constants)
    assert_close(lowered(model).run({"x": x}), expected(model, {"x": x}))
    program = Module(Machine(TARGET)).lower(clone_model(read_model(model)).graph, "main")
    assert [form.physical for call in program.calls[:1] for _, form in call.kernel.results] == [(2, 1, 9, 21, 4)]
