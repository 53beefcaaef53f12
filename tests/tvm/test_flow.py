"""If, Loop and Scan: bodies of kernels, run by the loaders; what stays with ONNX Runtime and why."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

pytest.importorskip("tvm")

import tvm_ffi

import planish
from planish.backends.tvm.api import tvm
from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.loader import planish_model
from planish.backends.tvm.loader.planish_model import Model
from planish.ir.onnx_reader import read_model
from planish.passes.manager import Pipeline

from .flows import BOOL, CASES, F32, I64, X, graph, loop, node
from .models import TARGET, assert_close, expected, lowered, onnx_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, Path]:
    """Artifacts by their model."""
    root = tmp_path_factory.mktemp("flow")
    made: dict[bytes, Path] = {}
    for _, model, _ in CASES:
        if model not in made:
            made[model] = root / str(len(made))
            lowered(model).save(made[model])
    return made


@pytest.mark.parametrize(("model", "feeds"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_results(model: bytes, feeds: dict[str, Any], folders: dict[bytes, Path]) -> None:
    """By planish and by the loader that stands alone; kernels compute everything."""
    artifact = planish.load_artifact(folders[model])
    assert {step["backend"] for step in artifact.manifest["steps"]} == {"tvm", "flow"}
    wanted = expected(model, feeds)
    for run in (artifact.run, Model(folders[model]).run):
        found = run(feeds)
        assert_close(found, wanted, products=8)
        assert_close(run(feeds), found)


@pytest.mark.slow
def test_results_in_cpp(folders: dict[bytes, Path], tmp_path: Path) -> None:
    """The C++ loader on this machine; ONNX Runtime's pieces want a program that was built with it."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    places = [Path(str(package.__file__)).parent for package in (tvm, tvm_ffi)]
    libraries = [f"-{kind}{place / 'lib'}" for place in places for kind in ("L", "Wl,-rpath,")]
    source = Path(planish_model.__file__).with_name("run.cc")
    program = tmp_path / "run"
    options = ["-O1", "-std=c++17", source, f"-I{places[1] / 'include'}", *libraries, "-ltvm_runtime", "-ltvm_ffi"]
    subprocess.run(["g++", *map(str, options), "-o", str(program)], check=True)
    for number, (_, model, feeds) in enumerate(CASES):
        files = [tmp_path / f"in{i}.npy" for i in range(len(feeds))]
        names = [spec["name"] for spec in planish.load_artifact(folders[model]).manifest["inputs"]]
        for file, key in zip(files, names, strict=True):
            np.save(file, feeds[key])
        subprocess.run([program, folders[model], *files, "-o", tmp_path / f"{number}out"], check=True)
        wanted = expected(model, feeds)
        found = [np.load(tmp_path / f"{number}out{i}.npy") for i in range(len(wanted))]
        assert_close(found, wanted, products=8)
    lowered(with_nonzero()).save(tmp_path / "mixed")
    np.save(tmp_path / "x.npy", X)
    said = subprocess.run(
        [program, tmp_path / "mixed", tmp_path / "x.npy"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 1
    assert "NonZero: the extents of %n are not numbers" in said.stderr
    assert "-DPLANISH_ONNXRUNTIME" in said.stderr


def test_open_extents() -> None:
    """Bodies get the extents of the run; results of no turn at all are as empty as ONNX Runtime's."""
    made = onnx.load_from_string(loop())
    for value in (
        *made.graph.input,
        *made.graph.node[1].attribute[0].g.input,
        *made.graph.node[1].attribute[0].g.output,
    ):
        if len(value.type.tensor_type.shape.dim) == 2:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    model = made.SerializeToString()
    artifact = lowered(model)
    assert {step["backend"] for step in artifact.manifest["steps"]} == {"tvm", "flow"}
    for rows, turns in ((1, 3), (5, 2), (2, 0), (5, 4)):
        x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        feeds: dict[str, Any] = {"x": x, "limit": np.float32(90), "m": np.array(turns), "go_on": np.array(True)}
        assert_close(artifact.run(feeds), expected(model, feeds), products=8)


def with_nonzero() -> bytes:
    nodes = [node("NonZero", ["x"], ["n"]), node("Cast", ["n"], ["y"], to=F32)]
    return onnx_model(nodes, {"x": X}, ["y"])


def test_branches_with_an_operator_of_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other branch stays kernels; the loader that stands alone takes ONNX Runtime where it is installed."""
    yes = graph(
        "yes",
        [
            node("NonZero", ["x"], ["n"]),
            node("Cast", ["n"], ["f"], to=F32),
            node("ReduceSum", ["f"], ["a"], keepdims=0),
        ],
        [],
        [("a", F32, [])],
    )
    no = graph("no", [node("ReduceMax", ["x"], ["b"], keepdims=0)], [], [("b", F32, [])])
    nodes = [node("If", ["flag"], ["p"], then_branch=yes, else_branch=no), node("Mul", ["p", "x"], ["y"])]
    model = onnx_model(nodes, {"x": X, "flag": np.array(True)}, ["y"])
    artifact = lowered(model)
    (flow,) = (step for step in artifact.manifest["steps"] if step["backend"] == "flow")
    assert [[step["backend"] for step in body["steps"]] for body in flow["bodies"]] == [["ort"], ["tvm"]]
    artifact.save(tmp_path / "out")
    for flag in (True, False):
        feeds = {"x": X, "flag": np.array(flag)}
        for run in (artifact.run, Model(tmp_path / "out").run):
            assert_close(run(feeds), expected(model, feeds), products=8)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"piece0.onnx runs on ONNX Runtime \(.*NonZero: .*pip install onnxruntime"):
        Model(tmp_path / "out")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            graph(
                "grows",
                [
                    node("Concat", ["state", "r"], ["next"], axis=0),
                    node("ReduceSum", ["next"], ["s"], keepdims=0),
                    node("Identity", ["go"], ["again"]),
                ],
                [("turn", I64, []), ("go", BOOL, []), ("state", F32, [None, 4])],
                [("again", BOOL, []), ("next", F32, [None, 4]), ("s", F32, []), ("s", F32, [])],
            ),
            "the extents of %state are not numbers",
        ),
        (
            graph(
                "unknown",
                [
                    node("NonZero", ["state"], ["n"]),
                    node("Cast", ["n"], ["f"], to=F32),
                    node("ReduceSum", ["f"], ["s"], keepdims=0),
                    node("Add", ["state", "s"], ["next"]),
                    node("Identity", ["go"], ["again"]),
                ],
                [("turn", I64, []), ("go", BOOL, []), ("state", F32, [3, 4])],
                [("again", BOOL, []), ("next", F32, [3, 4]), ("s", F32, []), ("s", F32, [])],
            ),
            "in its body: NonZero: the extents of",
        ),
    ],
    ids=["grows", "unknown"],
)
def test_what_stays_with_onnx_runtime(body: onnx.GraphProto, why: str) -> None:
    """The whole Loop does where a body's values change their extents, or kernels do not compute all of it."""
    model = loop(body=body)
    artifact = lowered(model)
    (piece,) = (step for step in artifact.manifest["steps"] if step["backend"] == "ort")
    assert why in piece["reasons"]["Loop"]
    feeds: dict[str, Any] = {"x": X, "limit": np.float32(4), "m": np.array(3), "go_on": np.array(True)}
    assert_close(artifact.run(feeds), expected(model, feeds), products=64)


def test_calls_of_functions_become_their_bodies() -> None:
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 22)]
    )
    call = node("Twice", ["r"], ["y"], domain="local")
    made = onnx.load_from_string(onnx_model([node("Relu", ["x"], ["r"]), call], {"x": X}, ["y"]))
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid("local", 1))
    model = read_model(made.SerializeToString())
    text = TvmBackend().legalize(model, TARGET)
    assert text.startswith("inline-functions")
    Pipeline(text).run(model)
    artifact = lowered(model)
    assert artifact.manifest["steps"] == []
    assert_close(artifact.run({"x": X}), [2 * np.maximum(X, 0)])
