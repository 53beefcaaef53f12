"""Fourier transforms and columns put back into images, beside ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

pytest.importorskip("tvm")

from .models import assert_close, expected, lowered, onnx_model

RNG = np.random.default_rng(2)


def test_transforms() -> None:
    """Forward and back, of real and complex numbers, one half of the bins, cut and filled up; frames with a window."""
    feeds = {
        "x": RNG.standard_normal((2, 12, 3, 1)).astype(np.float32),
        "z": RNG.standard_normal((2, 10, 2)).astype(np.float32),
        "s": RNG.standard_normal((1, 40, 1)).astype(np.float32),
        "w": RNG.standard_normal(9).astype(np.float32),
    }
    constants = {"one": np.array(1), "short": np.array(7), "long": np.array(16), "step": np.array(5)}
    nodes = [
        helper.make_node("DFT", ["x", "", "one"], ["a"]),
        helper.make_node("DFT", ["x", "", "one"], ["b"], onesided=1),
        helper.make_node("DFT", ["x", "short", "one"], ["c"]),
        helper.make_node("DFT", ["z", "long", "one"], ["d"]),
        helper.make_node("DFT", ["z", "", "one"], ["e"], inverse=1),
        helper.make_node("STFT", ["s", "step", "w"], ["f"], onesided=1),
        helper.make_node("STFT", ["s", "step", "", "short"], ["g"], onesided=0),
    ]
    model = onnx_model(nodes, feeds, list("abcdefg"), constants)
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    assert_close(artifact.run(feeds), expected(model, feeds), products=64)


def test_columns() -> None:
    """Windows that overlap, with steps, gaps and borders."""
    feeds = {
        "x": RNG.standard_normal((2, 3 * 6, 20)).astype(np.float32),
        "y": RNG.standard_normal((1, 2 * 4, 10)).astype(np.float32),
    }
    constants = {"sx": np.array([5, 7]), "kx": np.array([2, 3]), "sy": np.array([6, 10]), "ky": np.array([2, 2])}
    nodes = [
        helper.make_node("Col2Im", ["x", "sx", "kx"], ["a"]),
        helper.make_node("Col2Im", ["y", "sy", "ky"], ["b"], strides=[3, 2], dilations=[2, 1], pads=[1, 0, 1, 0]),
    ]
    model = onnx_model(nodes, feeds, ["a", "b"], constants)
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    assert_close(artifact.run(feeds), expected(model, feeds), products=16)
