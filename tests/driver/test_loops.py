"""Values whose shapes change from one turn of a loop to the next."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, ValueInfoProto
from onnx import helper as h
from onnx import numpy_helper as nh

import planish


def scalar(name: str) -> ValueInfoProto:
    return h.make_tensor_value_info(name, TensorProto.FLOAT, [])


def growing() -> bytes:
    """A loop whose value is a number at first and a vector then; declared a number throughout, as exporters do."""
    first = h.make_graph([h.make_node("Constant", [], ["a"], value_float=1.0)], "first", [], [scalar("a")])
    later = h.make_graph(
        [h.make_node("Constant", [], ["one"], value_floats=[1.0]), h.make_node("Add", ["v", "one"], ["b"])],
        "later",
        [],
        [scalar("b")],
    )
    body = h.make_graph(
        [
            h.make_node("Constant", [], ["zero"], value_int=0),
            h.make_node("Equal", ["i", "zero"], ["is_first"]),
            h.make_node("If", ["is_first"], ["next"], then_branch=first, else_branch=later),
            h.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            h.make_tensor_value_info("i", TensorProto.INT64, []),
            h.make_tensor_value_info("go", TensorProto.BOOL, []),
            scalar("v"),
        ],
        [h.make_tensor_value_info("go_on", TensorProto.BOOL, []), scalar("next")],
    )
    graph = h.make_graph(
        [
            h.make_node("Constant", [], ["start"], value_float=0.0),
            h.make_node("Constant", [], ["yes"], value=nh.from_array(np.array(True))),
            h.make_node("Loop", ["times", "yes", "start"], ["end"], body=body),
            h.make_node("Add", ["end", "x"], ["y"]),
        ],
        "main",
        [
            h.make_tensor_value_info("times", TensorProto.INT64, []),
            h.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        ],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 14)], ir_version=8).SerializeToString()


def test_a_number_that_becomes_a_vector() -> None:
    """ONNX Runtime takes a body's word for its outputs once the loop's own shapes say nothing."""
    samples = [{"times": np.array(n), "x": np.zeros(1, np.float32)} for n in (1, 3)]
    result = planish.optimize(growing(), samples=samples, pipeline="clean", measure=False)
    assert result.changed
    assert result.report.validation.equivalent
