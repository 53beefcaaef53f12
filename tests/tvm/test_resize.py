"""Resizing with filters that widen, of regions, and with proportions kept, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

pytest.importorskip("tvm")

from .models import assert_close, expected, lowered, onnx_model

X = np.random.default_rng(0).standard_normal((1, 2, 13, 17)).astype(np.float32)
REGION = np.array([0.1, 0.2, 0.8, 1.3], np.float32)


def test_filters_and_regions() -> None:
    """Linear and cubic filters, shrinking one axis or both, also beside one that grows; a region reaches outside."""
    nodes, constants = [], {"roi": REGION}
    cases: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((5, 9), {"mode": "linear", "antialias": 1}),
        ((13, 7), {"mode": "cubic", "antialias": 1, "exclude_outside": 1}),
        ((4, 33), {"mode": "cubic", "antialias": 1}),
    ]
    region = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    cases += [((9, 1), region | {"mode": "linear"}), ((6, 11), region | {"mode": "nearest"})]
    cases += [
        ((20, 19), {"mode": "linear", "keep_aspect_ratio_policy": policy}) for policy in ("not_larger", "not_smaller")
    ]
    for i, (size, attributes) in enumerate(cases):
        constants[f"s{i}"] = np.array(size)
        roi = "roi" if "extrapolation_value" in attributes else ""
        nodes.append(helper.make_node("Resize", ["x", roi, "", f"s{i}"], [f"y{i}"], axes=[2, 3], **attributes))
    model = onnx_model(nodes, {"x": X}, [f"y{i}" for i in range(len(cases))], constants)
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    assert_close(artifact.run({"x": X}), expected(model, {"x": X}), products=64)


def test_what_stays_with_onnx_runtime() -> None:
    """Bytes, which ONNX Runtime filters in whole numbers, and very wide filters."""
    wide = np.zeros((1, 1, 4, 600), np.float32)
    for x, size in ((np.zeros((1, 1, 8, 8), np.uint8), (1, 1, 4, 4)), (wide, (1, 1, 3, 3))):
        node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear", antialias=1)
        steps = lowered(onnx_model([node], {"x": x}, ["y"], {"s": np.array(size)})).manifest["steps"]
        assert [step["backend"] for step in steps] == ["ort"]
