"""One artifact for any extents: what it gives is ONNX Runtime's at extents it was never told of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from planish.backends.tvm.artifact import Artifact
from planish.backends.tvm.loader.planish_model import Model as Loaded
from planish.ir.errors import BackendError

from .models import assert_close, expected, lowered, onnx_model

RNG = np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def opened(model: bytes, shapes: Mapping[str, Sequence[int | str]]) -> bytes:
    """The model with inputs of these shapes, names being open extents."""
    proto = onnx.load_from_string(model)
    for value in proto.graph.input:
        dtype = value.type.tensor_type.elem_type
        value.CopyFrom(helper.make_tensor_value_info(value.name, dtype, list(shapes[value.name])))
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def attention() -> bytes:
    """Two heads over N sequences of length L, with the reshapes that exporters write."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"], axis=0),
        helper.make_node("Gather", ["shape", "one"], ["l"], axis=0),
        helper.make_node("Concat", ["n", "l", "heads"], ["split"], axis=0),
        helper.make_node("Concat", ["n", "l", "width"], ["joined"], axis=0),
    ]
    for name in "qkv":
        nodes += [
            helper.make_node("MatMul", ["x", f"w{name}"], [f"{name}0"]),
            helper.make_node("Reshape", [f"{name}0", "split"], [f"{name}1"]),
            helper.make_node("Transpose", [f"{name}1"], [name], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "joined"], ["y0"]),
        helper.make_node("Add", ["y0", "x"], ["y1"]),
        helper.make_node("LayerNormalization", ["y1", "scale"], ["y"], axis=-1),
        helper.make_node("ReduceMean", ["y", "one"], ["mean"], keepdims=0),
    ]
    constants = {
        **{f"w{name}": floats(16, 16) for name in "qkv"},
        "scale": floats(16),
        "zero": np.array([0]),
        "one": np.array([1]),
        "heads": np.array([2, 8]),
        "width": np.array([16]),
    }
    model = onnx_model(nodes, {"x": floats(1, 4, 16), "mask": floats(1, 1, 1, 4)}, ["y", "mean"], constants)
    return opened(model, {"x": ("N", "L", 16), "mask": ("N", 1, 1, "L")})


@pytest.fixture(scope="module")
def network() -> bytes:
    """Convolutions of every kind over images of any size: strided, depthwise, pointwise with a residual; pooling."""
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1] * 4, group=16),
        helper.make_node("Conv", ["c1", "w2"], ["c2"]),
        helper.make_node("Add", ["c2", "r0"], ["c3"]),
        helper.make_node("Conv", ["c3", "w3"], ["c4"], pads=[1] * 4),
        helper.make_node("MaxPool", ["c4"], ["p0"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("AveragePool", ["c4"], ["p1"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Concat", ["p0", "p1"], ["p"], axis=1),
        helper.make_node("GlobalAveragePool", ["p"], ["g"]),
        helper.make_node("Mul", ["p", "g"], ["y"]),
    ]
    constants = {
        "w0": floats(16, 3, 3, 3),
        "b0": floats(16),
        "w1": floats(16, 1, 3, 3),
        "w2": floats(16, 16, 1, 1),
        "w3": floats(16, 16, 3, 3),
    }
    return opened(onnx_model(nodes, {"x": floats(1, 3, 8, 8)}, ["y"], constants), {"x": ("N", 3, "H", "W")})


@pytest.fixture(scope="module")
def folder(attention: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("open") / "out"
    lowered(attention).save(made)
    return made


@pytest.fixture(scope="module")
def sequences(folder: Path) -> Artifact:
    return Artifact.load(folder)


@pytest.mark.parametrize(("n", "length"), [(1, 1), (2, 5), (1, 8), (3, 33), (1, 7)])
def test_sequences_of_any_length(attention: bytes, sequences: Artifact, n: int, length: int) -> None:
    feeds = {"x": floats(n, length, 16), "mask": floats(n, 1, 1, length)}
    assert_close(sequences.run(feeds), expected(attention, feeds), products=64)


def test_images_of_any_size(network: bytes) -> None:
    artifact = lowered(network)
    for n, height, width in [(1, 16, 16), (2, 9, 40), (1, 1, 1), (1, 5, 61), (3, 31, 7), (1, 16, 16)]:
        feeds = {"x": floats(n, 3, height, width)}
        assert_close(artifact.run(feeds), expected(network, feeds), products=400)


def test_quantized_images_of_any_width() -> None:
    """The zero point stands at borders that show when it runs."""
    scale, zero = np.float32(0.05), np.uint8(117)
    weights = RNG.integers(-127, 128, (16, 16, 3, 3)).astype(np.int8)
    spread = RNG.integers(-127, 128, (16, 1, 3, 3)).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"]),
        helper.make_node("DequantizeLinear", ["q0", "s", "z"], ["d0"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["dw"]),
        helper.make_node("Conv", ["d0", "dw"], ["c0"], pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["c0", "big", "z"], ["q1"]),
        helper.make_node("DequantizeLinear", ["q1", "big", "z"], ["d1"]),
        helper.make_node("DequantizeLinear", ["v", "ws"], ["dv"]),
        helper.make_node("Conv", ["d1", "dv"], ["y"], pads=[1] * 4, group=16, strides=[2, 2]),
    ]
    constants = {"s": scale, "z": zero, "w": weights, "v": spread, "ws": np.float32(0.02), "big": np.float32(1.5)}
    model = onnx_model(nodes, {"x": floats(1, 16, 4, 9)}, ["y"], constants)
    model = opened(model, {"x": ("N", 16, 4, "W")})
    artifact = lowered(model)
    for n, width in [(1, 9), (2, 1), (1, 30)]:
        feeds = {"x": floats(n, 16, 4, width)}
        (found,), (wanted,) = artifact.run(feeds), expected(model, feeds)
        assert found.shape == wanted.shape
        # A value on a tie may be rounded either way by the first quantizer behind a convolution.
        assert float(np.mean(np.abs(found - wanted) > 1e-3)) < 0.01


def test_the_loader_that_artifacts_carry_takes_any_extents(attention: bytes, folder: Path) -> None:
    loaded = Loaded(folder)
    for n, length in [(2, 6), (1, 3), (2, 6)]:
        feeds = {"x": floats(n, length, 16), "mask": floats(n, 1, 1, length)}
        assert_close(loaded.run(feeds), expected(attention, feeds), products=64)
    with pytest.raises(ValueError, match=r"mask is float32\[1, 1, 1, 5\].* with L = 4, N = 1"):
        loaded.run({"x": floats(1, 4, 16), "mask": floats(1, 1, 1, 5)})


def test_extents_that_do_not_go_together_are_refused(sequences: Artifact) -> None:
    with pytest.raises(BackendError, match="with L = 4, N = 2"):
        sequences.run({"x": floats(2, 4, 16), "mask": floats(1, 1, 1, 4)})
    with pytest.raises(BackendError, match="the model takes"):
        sequences.run({"x": floats(1, 0, 16), "mask": floats(1, 1, 1, 0)})


def test_tensors_of_more_elements_than_kernels_count_are_refused() -> None:
    shape = [helper.make_node("Shape", ["x"], ["n"]), helper.make_node("Concat", ["n", "many"], ["shape"], axis=0)]
    column = helper.make_node("ReduceSum", ["y", "last"], ["z"], keepdims=0)
    constants = {"many": np.array([1 << 28]), "last": np.array([1])}
    nodes = [
        *shape,
        helper.make_node("Unsqueeze", ["x", "last"], ["c"]),
        helper.make_node("Expand", ["c", "shape"], ["y"]),
    ]
    model = opened(onnx_model([*nodes, column], {"x": floats(2)}, ["z"], constants), {"x": ("N",)})
    with pytest.raises(BackendError, match="cannot run the model"):
        lowered(model).run({"x": floats(8)})


def test_what_depends_on_extents_is_checked_when_it_runs() -> None:
    """A table of 5 rows for sequences of any length: longer ones have no row."""
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
        helper.make_node("Slice", ["table", "zero", "n"], ["rows"]),
        helper.make_node("Add", ["x", "rows"], ["y"]),
    ]
    model = onnx_model(nodes, {"x": floats(3, 2)}, ["y"], {"table": floats(5, 2), "zero": np.array([0])})
    model = opened(model, {"x": ("L", 2)})
    artifact = lowered(model)
    for length in (1, 3, 5):
        feeds = {"x": floats(length, 2)}
        assert_close(artifact.run(feeds), expected(model, feeds))
    with pytest.raises(BackendError, match="cannot run the model") as caught:
        artifact.run({"x": floats(6, 2)})
    assert "L = 6" in str(caught.value)


def test_a_reshape_that_leaves_elements_over_is_refused() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "view"], ["v"]),
        helper.make_node("Relu", ["v"], ["y"]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Reshape", ["r", "view"], ["z"]),
    ]
    model = onnx_model(nodes, {"x": floats(2, 6)}, ["y", "z"], {"view": np.array([-1, 4])})
    model = opened(model, {"x": ("N", 6)})
    artifact = lowered(model)
    feeds = {"x": floats(4, 6)}
    assert_close(artifact.run(feeds), expected(model, feeds))
    with pytest.raises(BackendError, match="cannot run the model"):
        artifact.run({"x": floats(3, 6)})


def test_the_manifest_names_open_extents_and_their_memory(sequences: Artifact) -> None:
    manifest = sequences.manifest
    assert manifest["symbols"] == ["L", "N"]
    assert manifest["inputs"][0]["shape"] == ["N", "L", 16]
    memory = manifest["memory"]["main"]
    assert memory["with"] == {"L": 64, "N": 64}
    assert memory["live_bytes"] <= memory["arena_bytes"] <= 1.1 * memory["live_bytes"]


def test_numbers_counted_up_to_an_extent_as_floats() -> None:
    """Rows of a grid as detectors write them: a range of floats up to a width."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "axis"], ["width"]),
        helper.make_node("Cast", ["width"], ["limit"], to=1),
        helper.make_node("Range", ["start", "limit", "step"], ["columns"]),
        helper.make_node("Add", ["columns", "half"], ["centres"]),
        helper.make_node("Shape", ["centres"], ["count"]),
        helper.make_node("Concat", ["two", "count"], ["grid"], axis=0),
        helper.make_node("Expand", ["centres", "grid"], ["rows"]),
    ]
    constants = {
        "axis": np.array(1),
        "start": np.float32(1),
        "step": np.float32(1),
        "half": np.float32(0.5),
        "two": np.array([2]),
    }
    model = opened(onnx_model(nodes, {"x": floats(2, 3)}, ["rows"], constants), {"x": (2, "W")})
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    for width in (2, 5, 40):
        feeds = {"x": floats(2, width)}
        assert_close(artifact.run(feeds), expected(model, feeds))
