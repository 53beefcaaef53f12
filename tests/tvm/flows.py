"""Models with If, Loop and Scan, for the tests of loaders."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from .models import onnx_model

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
X = np.random.default_rng(3).standard_normal((3, 4)).astype(np.float32)


def graph(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, int, list[Any]]],
    outputs: list[tuple[str, int, list[Any]]],
    constants: dict[str, np.ndarray] | None = None,
) -> onnx.GraphProto:
    """A body."""
    made = [[helper.make_tensor_value_info(*one) for one in row] for row in (inputs, outputs)]
    weights = [onnx.numpy_helper.from_array(array, key) for key, array in (constants or {}).items()]
    return helper.make_graph(nodes, name, made[0], made[1], weights)


def node(op: str, inputs: list[str], outputs: list[str], **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, **attrs)


def branches() -> bytes:
    """An If on what is computed, with another inside, values from around it, and one that a branch hands through."""
    inner_yes = graph("inner_yes", [node("Exp", ["x"], ["a"])], [], [("a", F32, [3, 4])])
    inner_no = graph(
        "inner_no", [node("Add", ["r", "one"], ["b"])], [], [("b", F32, [3, 4])], {"one": np.array([1], np.float32)}
    )
    yes = graph(
        "yes",
        [node("If", ["flag"], ["t"], then_branch=inner_yes, else_branch=inner_no), node("Mul", ["t", "x"], ["u"])],
        [],
        [("u", F32, [3, 4]), ("t", F32, [3, 4])],
    )
    no = graph(
        "no",
        [node("Sigmoid", ["r"], ["v"]), node("Identity", ["x"], ["w"])],
        [],
        [("v", F32, [3, 4]), ("w", F32, [3, 4])],
    )
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["positive"]),
        node("If", ["positive"], ["p", "q"], then_branch=yes, else_branch=no),
        node("Sub", ["p", "r"], ["y"]),
    ]
    feeds: dict[str, Any] = {"x": X, "flag": np.array(True)}
    return onnx_model(nodes, feeds, ["y", "q"], {"zero": np.array(0, np.float32)})


def loop(*, trips: bool = True, condition: bool = True, body: onnx.GraphProto | None = None) -> bytes:
    """Adds what is around it to what it carries, until the sum is large; gives the turn and all states on the way."""
    if body is None:
        body = graph(
            "body",
            [
                node("Add", ["state", "r"], ["next"]),
                node("ReduceMax", ["next"], ["top"], keepdims=0),
                node("Less", ["top", "limit"], ["again"]),
                node("Cast", ["turn"], ["seen"], to=F32),
            ],
            [("turn", I64, []), ("go", BOOL, []), ("state", F32, [3, 4])],
            [("again", BOOL, []), ("next", F32, [3, 4]), ("next", F32, [3, 4]), ("seen", F32, [])],
        )
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Loop", ["m" if trips else "", "go_on" if condition else "", "x"], ["last", "all", "turns"], body=body),
        node("Tanh", ["last"], ["y"]),
    ]
    feeds: dict[str, Any] = {"x": X, "limit": np.float32(9)}
    feeds |= {"m": np.array(7)} if trips else {}
    feeds |= {"go_on": np.array(True)} if condition else {}
    return onnx_model(nodes, feeds, ["y", "all", "turns"], {})


def scan() -> bytes:
    """Two sequences, one from behind and along the last axis; results from behind and along another axis."""
    body = graph(
        "body",
        [
            node("Add", ["state", "row"], ["sum"]),
            node("Mul", ["sum", "half"], ["next"]),
            node("ReduceSum", ["next"], ["total"], keepdims=0),
            node("Add", ["total", "element"], ["more"]),
        ],
        [("state", F32, [4]), ("row", F32, [4]), ("element", F32, [2])],
        [("next", F32, [4]), ("sum", F32, [4]), ("more", F32, [2])],
        {"half": np.array([0.5], np.float32)},
    )
    made = node(
        "Scan",
        ["start", "x", "z"],
        ["last", "sums", "totals"],
        body=body,
        num_scan_inputs=2,
        scan_input_axes=[0, -1],
        scan_input_directions=[0, 1],
        scan_output_axes=[1, 0],
        scan_output_directions=[0, 1],
    )
    nodes = [made, node("Exp", ["sums"], ["y"])]
    feeds = {"start": np.ones(4, np.float32), "x": X, "z": np.arange(6, dtype=np.float32).reshape(2, 3)}
    return onnx_model(nodes, feeds, ["last", "y", "totals"], {})


WHOLE: dict[str, Any] = {"x": X, "limit": np.float32(90)}
GO: dict[str, Any] = {"go_on": np.array(True)}
CASES: list[tuple[str, bytes, dict[str, Any]]] = [
    ("If, both taken", branches(), {"x": abs(X), "flag": np.array(True)}),
    ("If, the inner one not taken", branches(), {"x": abs(X), "flag": np.array(False)}),
    ("If, not taken", branches(), {"x": -abs(X), "flag": np.array(True)}),
    ("Loop, stopped by its condition", loop(), WHOLE | GO | {"limit": np.float32(4), "m": np.array(50)}),
    ("Loop, stopped by its count", loop(), WHOLE | GO | {"m": np.array(3)}),
    ("Loop without a count", loop(trips=False), WHOLE | GO | {"limit": np.float32(5)}),
    ("Loop without a condition", loop(condition=False), WHOLE | {"m": np.array(4)}),
    ("Loop that never runs", loop(), WHOLE | GO | {"m": np.array(0)}),
    ("Scan", scan(), {"start": np.ones(4, np.float32), "x": X, "z": np.arange(6, dtype=np.float32).reshape(2, 3)}),
]  # fmt: skip
