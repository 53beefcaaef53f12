"""TVM artifacts: saved, loaded, run; what they refuse; what runs on ONNX Runtime inside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import planish

pytest.importorskip("tvm")

from planish.backends.tvm.artifact import Artifact, require_machine
from planish.ir.errors import BackendError
from planish.ir.onnx_reader import read_model
from planish.passes.manager import Pipeline

from .models import assert_close, expected, lowered, onnx_model

X = np.random.default_rng(0).standard_normal((1, 8, 12, 12)).astype(np.float32)


def network() -> bytes:
    """Convolutions with a residual, pooling, a product: every kind of kernel."""
    rng = np.random.default_rng(1)
    weights = {
        "w1": rng.standard_normal((16, 8, 3, 3)).astype(np.float32) * 0.1,
        "b1": rng.standard_normal(16).astype(np.float32),
        "w2": rng.standard_normal((16, 16, 3, 3)).astype(np.float32) * 0.1,
        "w3": rng.standard_normal((16, 10)).astype(np.float32),
        "shape": np.array([1, 16]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a"]),
        helper.make_node("HardSwish", ["a"], ["h"]),
        helper.make_node("GlobalAveragePool", ["h"], ["g"]),
        helper.make_node("Reshape", ["g", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"]),
    ]
    return onnx_model(nodes, {"x": X}, ["y", "h"], weights)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tvm") / "out"
    lowered(network()).save(path)
    return path


def test_a_saved_artifact_gives_the_outputs_of_the_model(folder: Path) -> None:
    artifact = planish.load_artifact(folder)
    assert artifact.manifest["backend"] == "tvm"
    assert_close(artifact.run({"x": X}), expected(network(), {"x": X}), products=16 * 9)


def test_outputs_stay_when_it_runs_again(folder: Path) -> None:
    artifact = Artifact.load(folder)
    first = artifact.run({"x": X})
    kept = [y.copy() for y in first]
    artifact.run({"x": -X})
    for y, k in zip(first, kept, strict=True):
        np.testing.assert_array_equal(y, k)


def test_threads_may_share_an_artifact(folder: Path) -> None:
    artifact = Artifact.load(folder)
    feeds = [{"x": X * np.float32(i + 1)} for i in range(16)]
    alone = [artifact.run(f) for f in feeds]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(artifact.run, feeds))
    for a, b in zip(alone, together, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_bit(folder: Path, tmp_path: Path, threads: int) -> None:
    program = (
        "import sys, numpy as np, planish\n"
        "np.save(sys.argv[3], planish.load_artifact(sys.argv[1]).run({'x': np.load(sys.argv[2])})[1])"
    )
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-P", "-c", program, folder, tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run(command, check=True, env={**os.environ, "TVM_NUM_THREADS": str(threads)})
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), Artifact.load(folder).run({"x": X})[1])


def test_the_same_model_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    lowered(network()).save(tmp_path / "again")
    for name in json.loads((folder / "manifest.json").read_text())["files"]:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize(
    ("feeds", "why"),
    [
        ({}, "input x is missing"),
        ({"x": X, "z": X}, "there is no input z"),
        ({"x": X[:, :4]}, r"input x is float32\[1, 4, 12, 12\], the model takes float32\[1, 8, 12, 12\]"),
        ({"x": X.astype(np.float64)}, "input x is float64"),
    ],
)
def test_wrong_inputs(folder: Path, feeds: dict[str, np.ndarray], why: str) -> None:
    with pytest.raises(BackendError, match=why):
        Artifact.load(folder).run(feeds)


def test_other_processors_are_refused() -> None:
    target = json.loads(json.dumps(lowered(network()).manifest["target"], default=sorted))
    require_machine(target)
    with pytest.raises(BackendError, match="was built for"):
        require_machine(target | {"arch": "riscv64"})
    with pytest.raises(BackendError, match="processors with teleport"):
        require_machine(target | {"features": ["teleport"]})


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    lowered(network()).save(tmp_path / "out")
    with open(tmp_path / "out" / "params.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(BackendError, match=r"params.bin is not the file that was saved"):
        planish.load_artifact(tmp_path / "out")


def test_operators_without_a_kernel_run_on_onnx_runtime(tmp_path: Path) -> None:
    """NonZero's result has no static extent: it and what follows it are one piece."""
    x = np.array([[0.0, 2.0, -1.0], [3.0, 0.0, 0.0]], np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("NonZero", ["r"], ["n"]),
        helper.make_node("Exp", ["r"], ["e"]),
        helper.make_node("Cast", ["n"], ["f"], to=1),
        helper.make_node("ReduceSum", ["f"], ["s"], keepdims=0),
        helper.make_node("Mul", ["e", "s"], ["y"]),
    ]
    model = onnx_model(nodes, {"x": x}, ["y", "n"])
    artifact = lowered(model)
    steps = artifact.manifest["steps"]
    assert [step["backend"] for step in steps] == ["tvm", "ort", "tvm"]
    assert set(steps[1]["reasons"]) >= {"NonZero"}
    artifact.save(tmp_path / "out")
    assert_close(planish.load_artifact(tmp_path / "out").run({"x": x}), expected(model, {"x": x}))


def test_outputs_without_a_node_of_their_own() -> None:
    """An input, a value returned twice and strings, beside what TVM cannot compute."""
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Relu", ["x"], ["b"]),
        helper.make_node("Identity", ["b"], ["c"]),
        helper.make_node("NonZero", ["x"], ["d"]),
        helper.make_node("Identity", ["s"], ["e"]),
    ]
    feeds = {"x": np.array([1.0, -2.0, 3.0], np.float32), "s": np.array(["one", "two"], object)}
    raw = onnx_model(nodes, feeds, ["a", "b", "c", "d", "e"])
    model = read_model(raw)
    Pipeline("clean").run(model)
    for found, wanted in zip(lowered(model).run(feeds), expected(raw, feeds), strict=True):
        np.testing.assert_array_equal(found, wanted)
