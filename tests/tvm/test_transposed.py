"""Transposed convolutions against ONNX Runtime: windows that overlap or not, borders, groups, open extents."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import helper

from planish.backends.tvm.kernels import transposed
from planish.backends.tvm.kernels.transposed import Transposed

from .models import assert_close, expected, lowered, onnx_model
from .test_open import floats, opened

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "4x4 by 2, as in a U-Net": ((1, 16, 7, 9), (16, 32, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "3x3 by 2 with a row more": (
        (2, 8, 5, 6),
        (8, 24, 3, 3),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "windows side by side": ((1, 24, 6, 5), (24, 24, 2, 2), {"strides": [2, 2]}),
    "few outputs, over the windows of all": ((1, 16, 6, 5), (16, 3, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "axes apart, padding beyond a stride": ((1, 6, 5, 6), (6, 10, 5, 3), {"strides": [3, 1], "pads": [4, 1, 2, 0]}),
    "groups": ((1, 32, 4, 6), (32, 16, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": 2}),
    "a shape that is asked for": ((1, 8, 5, 5), (8, 16, 3, 3), {"strides": [2, 2], "output_shape": [10, 10]}),
    "holes between taps": ((1, 8, 5, 5), (8, 16, 3, 3), {"strides": [2, 2], "dilations": [2, 2]}),
    "places that nothing reaches": ((1, 8, 5, 5), (8, 16, 2, 2), {"strides": [3, 3]}),
    "channels by themselves": ((1, 8, 5, 5), (8, 1, 4, 4), {"strides": [2, 2], "group": 8}),
}


def model_of(shape: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, Any]) -> tuple[bytes, Any]:
    """With bias and activation, between convolutions, so that layouts are as in a network."""
    outputs = weights[1] * attributes.get("group", 1)
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("ConvTranspose", ["a", "w", "b"], ["t"], **attributes),
        helper.make_node("LeakyRelu", ["t"], ["y"]),
    ]
    constants = {"v": floats(shape[1], 3, 1, 1), "w": floats(*weights), "b": floats(outputs)}
    feeds = {"x": floats(shape[0], 3, *shape[2:])}
    return onnx_model(nodes, feeds, ["y"], constants), feeds


WITHOUT_TEMPLATE = ("holes between taps", "places that nothing reaches", "channels by themselves")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in WITHOUT_TEMPLATE else ()) for name in CASES]
)
def test_as_onnx_runtime_has_it(name: str) -> None:
    model, feeds = model_of(*CASES[name])
    artifact = lowered(model)
    assert_close(artifact.run(feeds), expected(model, feeds))


def test_open_extents() -> None:
    (_, *shape), weights, attributes = CASES["4x4 by 2, as in a U-Net"]
    model = opened(model_of((1, *shape), weights, attributes)[0], {"x": ("N", 3, "H", "W")})
    artifact = lowered(model)
    for extents in ((1, 3, 7, 9), (2, 3, 1, 20)):
        feeds = {"x": floats(*extents)}
        assert_close(artifact.run(feeds), expected(model, feeds))


def test_no_product_is_with_zero_where_vectors_are_full() -> None:
    one = Transposed(1, 64, 32, 32, 32, (4, 4), (2, 2), (1, 1), (0, 0), in_block=16, out_block=16)
    kernels = [phase.conv.kernel for phase in transposed.phases(one, 8)]
    assert kernels == [(2, 2)] * 4
    few = Transposed(1, 64, 32, 32, 3, (4, 4), (2, 2), (1, 1), (0, 0), in_block=16)
    assert [(p.conv.kernel, p.conv.outputs) for p in transposed.phases(few, 8)] == [((2, 3), 6)] * 2
