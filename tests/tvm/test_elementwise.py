"""Elementwise rules and reductions on NaN, infinities, signed zeros, subnormals and extreme integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

pytest.importorskip("tvm")

from planish.backends.tvm.rules.elementwise import BINARY, UNARY

from .models import EPS, expected, lowered, onnx_model

FLOATS = np.array(
    [
        *(0.0, -0.0, 1.5, -1.5, 2.5, 0.5, -0.5, np.inf, -np.inf, np.nan),
        *(1e-40, 3e38, -3e38, 88.0, -104.0, 1e-3, 3.0, -2.0, 100.0, -100.0),
    ],
    np.float32,
)
INTEGERS = np.array([0, 1, -1, 7, -7, 3, -3, 2**31 - 1, -(2**31), 12345], np.int32)
NEWER = {"Swish": 24}
LOGICAL = ("Not", "And", "Or", "Xor")


def _feeds() -> dict[str, np.ndarray]:
    x, y = (grid.ravel().copy() for grid in np.meshgrid(FLOATS, FLOATS))
    a, b = (grid.ravel().copy() for grid in np.meshgrid(INTEGERS, INTEGERS))
    divisor = np.where(b == 0, 5, b)  # division by zero has no meaning
    divisor = np.where((a == -(2**31)) & (divisor == -1), 3, divisor).astype(np.int32)
    shift = (np.arange(a.size) % 32).astype(np.uint32)
    return {"x": x, "y": y, "a": a, "b": b, "d": divisor, "u": a.astype(np.uint32), "s": shift, "p": a > 0, "q": b > 0}


class _Nodes:
    """Nodes with an output each: one model for all, since building many takes time."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.outputs: list[str] = []

    def add(self, op: str, *inputs: str, **attrs: Any) -> None:
        name = f"{len(self.outputs)}_{op}_{''.join(inputs)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        self.outputs.append(name)


def _all() -> _Nodes:
    made = _Nodes()
    for op in UNARY:
        if op in LOGICAL:
            made.add(op, "p")
        elif op == "BitwiseNot":
            made.add(op, "a")
        elif op not in NEWER:
            made.add(op, "x")
    for op in ("Neg", "Abs", "Sign"):
        made.add(op, "a")
    for op in BINARY:
        if op in LOGICAL:
            made.add(op, "p", "q")
        elif op.startswith("Bitwise"):
            made.add(op, "a", "b")
        else:
            made.add(op, "x", "y")
            if op not in ("PRelu", "Sum"):
                made.add(op, "a", "d" if op == "Div" else "b")
    made.add("Mod", "a", "d")
    made.add("Mod", "a", "d", fmod=1)
    made.add("Mod", "x", "y", fmod=1)
    made.add("Pow", "x", "y")
    for n in ("two", "three", "half"):
        made.add("Pow", "x", n)
    made.add("Clip", "x", "low", "high")
    made.add("Clip", "a", "ilow", "ihigh")
    for bounds in ((), ("low",), ("", "high")):
        made.add("Clip", "x", *bounds)
    made.add("Where", "p", "a", "b")
    for direction in ("LEFT", "RIGHT"):
        made.add("BitShift", "u", "s", direction=direction)
    for dtype in (onnx.TensorProto.BOOL, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT):
        made.add("Cast", "a", to=dtype)
    made.add("Cast", "x", to=onnx.TensorProto.BOOL)
    made.add("LeakyRelu", "x", alpha=-0.5)
    made.add("Gelu", "x", approximate="tanh")
    made.add("IsInf", "x", detect_negative=0)
    return made


def test_special_values() -> None:
    """Functions of libm may differ by a few units in the last place, everything else must be the same bits."""
    made, feeds = _all(), _feeds()
    constants = {
        "low": np.float32(-1),
        "high": np.float32(2),
        "ilow": np.int32(-3),
        "ihigh": np.int32(9),
        "two": np.float32(2),
        "three": np.float32(3),
        "half": np.float32(0.5),
    }
    model = onnx_model(made.nodes, feeds, made.outputs, constants)
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    for name, found, wanted in zip(made.outputs, artifact.run(feeds), expected(model, feeds), strict=True):
        assert found.dtype == wanted.dtype, name
        if found.dtype.kind != "f":
            np.testing.assert_array_equal(found, wanted, err_msg=name)
        else:
            # 1e-37: ONNX Runtime's kernels take subnormals for zeros here and there.
            # Gelu cancels in 1 + tanh(u), where a tanh of two units in the last place leaves 2 eps.
            atol = 2 * EPS if "Gelu" in name else 1e-37
            np.testing.assert_allclose(found, wanted, rtol=8e-7, atol=atol, equal_nan=True, err_msg=name)


def test_reductions_of_extremes() -> None:
    """Without NaN, for which ONNX Runtime's largest and smallest depend on where it stands."""
    inf, most = np.inf, np.finfo(np.float32).max
    x = np.array([[-inf] * 4, [inf] * 4, [-most] * 4, [-inf, 1, 3, 3], [inf, 1, inf, -inf], [0, 2, 2, -1]], np.float32)
    a = np.array([[-(2**31)] * 4, [2**31 - 1] * 4, [1, 5, 5, -3]], np.int32)
    made = _Nodes()
    for op in ("ReduceMax", "ReduceMin", "ReduceLogSumExp", "ReduceSum", "ReduceL1", "ReduceProd"):
        made.add(op, "x", "last")
    for op in ("ReduceMax", "ReduceMin"):
        made.add(op, "a", "last")
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        made.add(op, "x", axis=-1)
    for op in ("ArgMax", "ArgMin"):
        for last in (0, 1):
            made.add(op, "x", axis=1, select_last_index=last)
            made.add(op, "a", axis=1, select_last_index=last)
    model = onnx_model(made.nodes, {"x": x, "a": a}, made.outputs, {"last": np.array([1])})
    feeds = {"x": x, "a": a}
    for name, found, wanted in zip(made.outputs, lowered(model).run(feeds), expected(model, feeds), strict=True):
        assert found.dtype == wanted.dtype, name
        np.testing.assert_allclose(found, wanted, rtol=8e-7, equal_nan=True, err_msg=name)


def test_casts_round_towards_zero() -> None:
    """Inside the range of the result; outside the standard leaves it open."""
    x = np.array([0.0, -0.9, 0.9, 1.5, -1.5, 100.7, -100.7], np.float32)
    nodes = [helper.make_node("Cast", ["x"], [f"y{t}"], to=t) for t in (3, 5, 6, 7)]
    model = onnx_model(nodes, {"x": x}, [n.output[0] for n in nodes])
    for found, wanted in zip(lowered(model).run({"x": x}), expected(model, {"x": x}), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_rounding_is_half_to_even() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9], np.float32)
    node = helper.make_node("Round", ["x"], ["y"])
    found = lowered(onnx_model([node], {"x": x}, ["y"])).run({"x": x})[0]
    np.testing.assert_array_equal(found, np.round(x))


def test_extremes_of_rows_with_nan() -> None:
    """NaN stays where the first element is; behind it, it neither counts nor wipes out what was found before (which it
    does in ONNX Runtime, by its place)."""
    x = np.tile(np.array([[1, 2, 5, 3], [3, 2, -1, 7], [-4, -3, -2, -np.inf]], np.float32), (1, 9)).reshape(1, 3, 1, 36)
    rows = np.repeat(x, 40, axis=2)
    for place in range(36):
        rows[:, :2, place, place] = np.nan
    rows[:, 2, 3] = np.nan
    made = _Nodes()
    for op in ("ReduceMax", "ReduceMin"):
        made.add(op, "x", "last")
    made.add("MaxPool", "x", kernel_shape=[1, 36], strides=[1, 1])
    made.add("MaxPool", "x", kernel_shape=[1, 3], pads=[0, 1, 0, 1])
    made.add("GlobalMaxPool", "x")
    model = onnx_model(made.nodes, {"x": rows}, made.outputs, {"last": np.array([3])})
    first = np.isnan(rows[..., :1])
    largest = np.where(first, np.nan, np.fmax.reduce(rows, axis=3, keepdims=True))
    least = np.where(first, np.nan, np.fmin.reduce(rows, axis=3, keepdims=True))
    around = np.pad(rows, ((0, 0), (0, 0), (0, 0), (1, 1)), constant_values=-np.inf)
    near = np.where(
        np.isnan(around[..., :-2]), np.nan, np.fmax(np.fmax(around[..., :-2], around[..., 1:-1]), around[..., 2:])
    )
    all_ = np.where(np.isnan(rows[:, :, :1, :1]), np.nan, np.fmax.reduce(rows, axis=(2, 3), keepdims=True))
    for name, found, right in zip(
        made.outputs, lowered(model).run({"x": rows}), [largest, least, largest, near, all_], strict=True
    ):
        np.testing.assert_array_equal(found, right, err_msg=name)


def test_an_empty_constant_is_joined() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    made = _Nodes()
    made.add("Concat", "x", "empty", axis=1)
    model = onnx_model(made.nodes, {"x": x}, made.outputs, {"empty": np.zeros((2, 0), np.float32)})
    np.testing.assert_array_equal(lowered(model).run({"x": x})[0], x)


def test_floats_are_not_simplified_as_if_they_were_real() -> None:
    """What TVM's simplifier makes of them: numbers that are rounded by adding a large one, inf - inf, NaN == NaN."""
    x = np.array([0.3, 1.7, -2.5, 3.5, np.inf, np.nan, 0.0, 1e-3], np.float32)
    y = np.array([1e8, 3, 1e20, np.inf, 1, 2, 3, -1e7], np.float32)
    constants = {"large": np.float32(1.5 * 2**23), "zero": np.float32(0)}
    nodes = [
        helper.make_node("Add", ["x", "large"], ["moved"]),
        helper.make_node("Sub", ["moved", "large"], ["rounded"]),
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("Sub", ["sum", "y"], ["first"]),
        helper.make_node("Sub", ["x", "sum"], ["second"]),
        helper.make_node("Sub", ["x", "x"], ["nothing"]),
        helper.make_node("Mul", ["zero", "x"], ["zeros"]),
        helper.make_node("Equal", ["x", "x"], ["same"]),
        helper.make_node("Where", ["same", "x", "zero"], ["numbers"]),
    ]
    names = ["rounded", "first", "second", "nothing", "zeros", "numbers"]
    model = onnx_model(nodes, {"x": x, "y": y}, names, constants)
    feeds = {"x": x, "y": y}
    for name, found, wanted in zip(names, lowered(model).run(feeds), expected(model, feeds), strict=True):
        np.testing.assert_array_equal(found, wanted, err_msg=name)
