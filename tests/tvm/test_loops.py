"""Operators with loops of their own, and those that sample: against ONNX Runtime, with fixed and open extents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.ready import left_to_ort
from planish.ir.onnx_reader import read_model
from planish.passes.target import get_target

from .models import TARGET, assert_close, expected, lowered, onnx_model
from .test_open import floats, opened

RNG = np.random.default_rng(8)
Array = np.ndarray[Any, Any]


@dataclass
class Subject:
    """A model, what it takes, and the shapes of its inputs with open extents."""

    nodes: list[NodeProto]
    feeds: dict[str, Array]
    outputs: list[str]
    open: dict[str, Sequence[int | str]]
    constants: dict[str, Any] = field(default_factory=dict[str, Any])


def indices(low: int, high: int, *shape: int) -> Array:
    return RNG.integers(low, high, shape)


SUBJECTS = {
    "the largest, of equal ones the first": Subject(
        [helper.make_node("TopK", ["x", "k"], ["v", "i"], axis=1)],
        {"x": RNG.integers(0, 5, (2, 9, 3)).astype(np.float32)},
        ["v", "i"],
        {"x": ("N", "L", 3)},
        {"k": np.array([4])},
    ),
    "places of the smallest": Subject(
        [helper.make_node("TopK", ["x", "k"], ["v", "i"], largest=0)],
        {"x": floats(3, 20)},
        ["i"],
        {"x": ("N", 20)},
        {"k": np.array([20])},
    ),
    "slices are replaced": Subject(
        [helper.make_node("ScatterND", ["x", "i", "u"], ["s"]), helper.make_node("Relu", ["s"], ["y"])],
        {"x": floats(4, 3, 17), "i": np.array([[-1, 0], [2, 1]]), "u": floats(2, 17)},
        ["y"],
        {"x": ("N", 3, "L"), "i": ("K", 2), "u": ("K", "L")},
    ),
    "slices are added, the same one twice": Subject(
        [helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction="add")],
        {"x": floats(4, 5), "i": np.array([[1], [1], [-4]]), "u": floats(3, 5)},
        ["y"],
        {"x": (4, "L"), "i": ("K", 1), "u": ("K", "L")},
    ),
    "elements are replaced": Subject(
        [helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=1)],
        {"x": floats(3, 6, 2), "i": np.array([[[0, -1]], [[5, 2]]]), "u": floats(2, 1, 2)},
        ["y"],
        {"x": ("N", 6, 2), "i": ("M", 1, 2), "u": ("M", 1, 2)},
    ),
    "the largest of elements": Subject(
        [helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], reduction="max")],
        {"x": floats(3, 4), "i": indices(0, 3, 5, 4), "u": floats(5, 4)},
        ["y"],
        {"x": ("N", 4), "i": ("M", 4), "u": ("M", 4)},
    ),
    "sums up to each, backwards": Subject(
        [helper.make_node("CumSum", ["x", "a"], ["y"], reverse=1, exclusive=1)],
        {"x": RNG.integers(-9, 9, (2, 300, 2))},
        ["y"],
        {"x": ("N", "L", 2)},
        {"a": np.array(1)},
    ),
    "samples of an image": Subject(
        [helper.make_node("GridSample", ["x", "g"], ["y"], mode="linear", padding_mode="reflection")],
        {"x": floats(2, 3, 5, 7), "g": 1.5 * floats(2, 4, 3, 2)},
        ["y"],
        {"x": ("N", 3, "H", "W"), "g": ("N", "P", 3, 2)},
    ),
    "cubic samples with a border": Subject(
        [helper.make_node("GridSample", ["x", "g"], ["y"], mode="cubic", padding_mode="border", align_corners=1)],
        {"x": floats(1, 2, 6, 5), "g": floats(1, 3, 4, 2)},
        ["y"],
        {"x": ("N", 2, "H", "W"), "g": ("N", 3, 4, 2)},
    ),
    "a sum over labels that is no product of matrices": Subject(
        [helper.make_node("Einsum", ["a", "b", "c"], ["y"], equation="nij, nkj, j -> kn")],
        {"a": floats(2, 3, 4), "b": floats(2, 5, 4), "c": floats(4)},
        ["y"],
        {"a": ("N", "I", 4), "b": ("N", 5, 4), "c": (4,)},
    ),
    "statistics of a normalization": Subject(
        [helper.make_node("LayerNormalization", ["x", "s"], ["y", "m", "d"])],
        {"x": floats(2, 5, 8)},
        ["y", "m", "d"],
        {"x": ("N", "L", 8)},
        {"s": floats(8)},
    ),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_open_extents(name: str) -> None:
    subject = SUBJECTS[name]
    fixed = onnx_model(subject.nodes, subject.feeds, subject.outputs, subject.constants)
    artifact = lowered(opened(fixed, subject.open))
    assert not artifact.manifest["steps"]
    assert_close(artifact.run(subject.feeds), expected(fixed, subject.feeds), products=16)


def test_gpus_leave_them_to_onnx_runtime() -> None:
    """Loops of their own are for processors."""
    subject = SUBJECTS["sums up to each, backwards"]
    model = read_model(onnx_model(subject.nodes, subject.feeds, subject.outputs, subject.constants))
    assert not left_to_ort(model.graph, Machine(TARGET))
    left = left_to_ort(model.graph, Machine(get_target("cuda-sm_90")))
    assert list(left.values()) == ["loops of its own, which there are for processors only"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_fixed_extents(name: str) -> None:
    subject = SUBJECTS[name]
    fixed = onnx_model(subject.nodes, subject.feeds, subject.outputs, subject.constants)
    artifact = lowered(fixed)
    assert not artifact.manifest["steps"]
    assert_close(artifact.run(subject.feeds), expected(fixed, subject.feeds), products=16)


def test_rows_put_into_a_cache() -> None:
    """Each sample's at a place of its own, and around the end."""
    feeds = {"c": floats(2, 3, 6, 4), "u": floats(2, 3, 2, 4), "w": np.array([1, 4]), "e": np.array([5, 3])}
    nodes = [
        helper.make_node("TensorScatter", ["c", "u", "w"], ["y"]),
        helper.make_node("TensorScatter", ["c", "u", "e"], ["z"], mode="circular"),
        helper.make_node("TensorScatter", ["c", "u"], ["first"], axis=2),
    ]
    model = onnx_model(nodes, feeds, ["y", "z", "first"], opset=24)
    artifact = lowered(model)
    assert not artifact.manifest["steps"]
    for found, wanted in zip(artifact.run(feeds), expected(model, feeds), strict=True):
        np.testing.assert_array_equal(found, wanted)
