"""Recurrent cells beside ONNX Runtime: directions, states, results that nobody reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

pytest.importorskip("tvm")

from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.ready import left_to_ort
from planish.ir.onnx_reader import read_model

from .models import TARGET, assert_close, expected, lowered, onnx_model

RNG = np.random.default_rng(5)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, INPUTS, HIDDEN = 5, 2, 12, 20


def cell(op: str, direction: str, state: bool, outputs: tuple[str, ...], **attrs: Any) -> bytes:
    both = 2 if direction == "bidirectional" else 1
    gates = GATES[op]
    constants = {
        "w": RNG.standard_normal((both, gates * HIDDEN, INPUTS)).astype(np.float32) * 0.3,
        "r": RNG.standard_normal((both, gates * HIDDEN, HIDDEN)).astype(np.float32) * 0.3,
        "b": RNG.standard_normal((both, 2 * gates * HIDDEN)).astype(np.float32),
    }
    given = ["x", "w", "r", "b"]
    if state:
        constants["h0"] = RNG.standard_normal((both, BATCH, HIDDEN)).astype(np.float32)
        given += ["", "h0"]
    node = helper.make_node(op, given, list(outputs), direction=direction, hidden_size=HIDDEN, **attrs)
    x = np.zeros((STEPS, BATCH, INPUTS), np.float32)
    return onnx_model([node], {"x": x}, [name for name in outputs if name], constants)


@pytest.mark.parametrize(
    ("op", "direction", "state", "outputs"),
    [
        ("LSTM", "forward", True, ("y", "h", "c")),
        ("LSTM", "bidirectional", False, ("y",)),
        ("LSTM", "reverse", True, ("", "h", "c")),
        ("GRU", "bidirectional", True, ("y", "h")),
        ("GRU", "forward", True, ("y", "h")),
        ("RNN", "reverse", False, ("y", "h")),
    ],
)
def test_cells(op: str, direction: str, state: bool, outputs: tuple[str, ...]) -> None:
    # Both orders of the GRU's reset gate and product.
    behind = {"linear_before_reset": 1} if op == "GRU" and direction != "forward" else {}
    model = cell(op, direction, state, outputs, **behind)
    feeds = {"x": RNG.standard_normal((STEPS, BATCH, INPUTS)).astype(np.float32)}
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    # A step passes on the error of the ones in front: as many sums as steps, of hidden and inputs together.
    assert_close(artifact.run(feeds), expected(model, feeds), products=STEPS * (HIDDEN + INPUTS))


def test_what_is_unusual_is_declined() -> None:
    model = cell("LSTM", "forward", False, ("y",), input_forget=1)
    (found,) = left_to_ort(read_model(model).graph, Machine(TARGET)).values()
    assert "input_forget of LSTM" in found


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_the_batch_in_front(op: str) -> None:
    """ONNX Runtime runs no such cells: beside the same cell with the steps in front."""
    outputs = ("y", "h", "c") if op == "LSTM" else ("y", "h")
    made = onnx.load_from_string(cell(op, "bidirectional", True, outputs))
    x = RNG.standard_normal((STEPS, BATCH, INPUTS)).astype(np.float32)
    wanted = expected(made.SerializeToString(), {"x": x})
    made.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
    state = next(one for one in made.graph.initializer if one.name == "h0")
    state.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(state).transpose(1, 0, 2).copy(), "h0"))
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [BATCH, STEPS, INPUTS]))
    artifact = lowered(made.SerializeToString())
    assert artifact.manifest["steps"] == []
    found = artifact.run({"x": np.ascontiguousarray(x.transpose(1, 0, 2))})
    turned = [y.transpose((1, 0, 2) if i else (2, 0, 1, 3)) for i, y in enumerate(wanted)]
    assert_close(found, turned, products=STEPS * (HIDDEN + INPUTS))
