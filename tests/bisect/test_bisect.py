"""Bisecting slowdowns, other tools' models and the runtime; shrinking; the runtime in a process of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish
from planish import cli
from planish.backends.core import Sample
from planish.backends.ort.isolated import Isolated
from planish.driver.bisect import align, bisect_runtime
from planish.driver.bisect.reduce import reduce_model
from planish.driver.document import plain
from planish.driver.inputs.sample_text import parse_sample, sample_line
from planish.ir.clone import clone_model
from planish.ir.errors import BackendError, UsageError
from planish.ir.graph import Model
from planish.ir.onnx_writer import model_to_bytes, write_model
from planish.ir.text import parse_model
from planish.models.random import random_case
from planish.passes import manager, registry
from planish.passes.core import Pass
from planish.passes.rewrite.rewriter import Rewriter

NETWORK = """
graph @main(%x: f32[N,4]) {
  %w: f32[4,6] = const rand<1>
  %b: f32[6] = const rand<2>
  %v: f32[6,3] = const rand<3>
  %h = Gemm(%x, %w, %b)
  %r = Relu(%h)
  %t = Tanh(%r)
  %m = MatMul(%t, %v)
  %y = Softmax(%m) {axis = -1}
  return %y
}
"""


def network() -> Model:
    return parse_model(NETWORK)


class SlowDown(Pass):
    """Computes a large product for nothing."""

    def run(self, model: Model, r: Rewriter) -> None:
        node = next(node for node in model.graph if node.op == "Tanh")
        if r.allow(node):
            r.at(node)
            big = r.const(np.ones((400, 400), np.float32))
            x = r.op("RandomNormalLike", big)
            total = r.ReduceMax(r.MatMul(x, r.MatMul(x, x)), keepdims=0)
            nothing = r.Mul(r.Max(r.Min(total, 0.0), 0.0), 0.0)
            r.set_input(node, 0, r.Add(node.inputs[0], nothing))


@pytest.fixture
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> type[Pass] | str:
        return SlowDown if name == "slow-down" else registry.find(name)

    monkeypatch.setattr(manager, "find", find)


@pytest.mark.usefixtures("_slow")
def test_a_slowdown_is_a_fault_where_asked_for() -> None:
    assert planish.bisect(network(), "remove-identity,slow-down").guilty is None
    found = planish.bisect(network(), "remove-identity,slow-down", slower=3.0)
    assert found.guilty is not None
    assert (found.guilty.kind, found.guilty.pass_name) == ("slow", "slow-down")


# -- two models


def test_the_first_value_that_differs_is_named(tmp_path: Path) -> None:
    other = network()
    tanh = next(n for n in other.graph if n.op == "Tanh")
    tanh.op = "Sigmoid"
    found = align(network(), other)
    assert found.first == "t"
    assert found.a == ["%t: f32[N,6] = Tanh(%r)"]
    assert found.b == ["%t: f32[N,6] = Sigmoid(%r)"]
    assert found.agree == ["r"]
    assert not found.equal
    assert "the first value that differs is 't'" in plain(found.document())


def test_a_name_that_is_used_again_is_no_difference() -> None:
    """Optimizers fold what follows into a node and keep its name: other numbers, and the outputs agree."""
    other = network()
    by_op = {n.op: n for n in other.graph}
    by_op["Relu"].output.name, by_op["Gemm"].output.name = "h", "r"
    found = align(network(), other)
    assert found.equal, found.document()
    assert not found.first
    by_op["Softmax"].op = "LogSoftmax"
    wrong = align(network(), other)
    assert (wrong.first, wrong.agree, wrong.equal) == ("y", ["m"], False)


def test_values_without_names_are_paired_by_structure_and_content() -> None:
    other = network()
    for i, node in enumerate(other.graph):
        node.output.name = f"other{i}"
    next(n for n in other.graph if n.op == "Relu").op = "Abs"
    found = align(network(), other)
    assert found.paired["structure"] >= 1
    assert not found.equal


def test_equal_models_agree(tmp_path: Path) -> None:
    path = tmp_path / "optimized.onnx"
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model_to_bytes(network()), options, providers=["CPUExecutionProvider"])
    found = align(network(), path)
    assert found.equal, plain(found.document())
    assert found.paired["name"] > 0


def test_a_model_that_does_not_run_is_no_match() -> None:
    other = parse_model(NETWORK.replace("%x: f32[N,4]", "%x: f32[7,4]"))
    found = align(network(), other)
    assert found.because
    assert not found.equal


# -- the runtime

PAD_FUSION = """
model ir=8 opset {"" = 11}
graph @main(%x: f32[1,1,8,1]) {
  %pads: i64[8] = const dense<[0, 0, 0, 0, 0, 0, 0, 1]>
  %a = Relu(%x)
  %p = Pad(%a, %pads)
  %q = AveragePool(%p) {kernel_shape = [1, 1]}
  %y = Neg(%q)
  return %y
}
"""


def test_the_runtimes_optimizer_can_be_the_suspect() -> None:
    """ONNX Runtime 1.31 folds a Pad into a pooling whose window is no larger than the pads, and refuses the result."""
    found = bisect_runtime(parse_model(PAD_FUSION), seconds=60)
    if found.fault is None:
        pytest.skip("this onnxruntime is right")
    assert (found.level, found.optimizers, found.nodes) == ("basic", ["Pad_Fusion"], 2)
    assert "Pad_Fusion" in plain(found.document())


DOUBLE_QDQ = """
model ir=10 opset {"" = 21}
graph @main(%x: f32[N,4]) {
  %a: f32[] = const dense<0.1>
  %b: f32[] = const dense<0.05>
  %z: u8[] = const dense<128>
  %r = Relu(%x)
  %q = QuantizeLinear(%r, %a, %z)
  %d = DequantizeLinear(%q, %a, %z)
  %p = QuantizeLinear(%d, %b, %z)
  %y = DequantizeLinear(%p, %b, %z)
  return %y
}
"""


def test_the_runtimes_optimizer_can_change_numbers() -> None:
    """ONNX Runtime 1.31 makes one pair of two and forgets the coarser rounding (found by `scripts/peers`)."""
    found = bisect_runtime(parse_model(DOUBLE_QDQ), seconds=60)
    if found.fault is None:
        pytest.skip("this onnxruntime is right")
    assert found.fault.kind == "different"
    assert found.optimizers == ["DoubleQDQPairsRemover"]
    assert found.nodes == 4


def test_a_right_runtime_is_not_suspected() -> None:
    assert bisect_runtime(network()).fault is None


def test_a_crash_of_the_runtime_is_an_error() -> None:
    case = parse_model(
        """
graph @main(%x: f32[3,N,4]) {
  %w: f32[1,6,4] = const rand<1>
  %r: f32[1,6,2] = const rand<2>
  %y, %h = GRU(%x, %w, %r) {hidden_size = 2}
  return %y
}
"""
    )
    with Isolated() as process:
        data = model_to_bytes(case)
        sample = {"x": np.ones((3, 2, 4), np.float32)}
        assert process.run(data, [sample])[0][0].shape == (3, 1, 2, 2)
        with contextlib.suppress(BackendError):
            process.run(data, [{"x": np.ones((3, 0, 4), np.float32)}])  # ends the process in 1.31
        assert process.run(data, [sample])[0][0].shape == (3, 1, 2, 2)
        with pytest.raises(BackendError, match="missing"):
            process.run(data, [{}])


# -- shrinking


def test_shrinking_keeps_what_the_test_asks_for() -> None:
    ops = {"Softmax", "MatMul"}
    seed = next(s for s in range(100) if ops <= {n.op for n in random_case(s, 30).model.all_nodes()})
    case = random_case(seed, 30)

    def fails(model: Model, samples: Sequence[Sample]) -> bool:
        return ops <= {n.op for n in model.all_nodes()}

    before = str(case.model)
    found = reduce_model(case.model, case.samples, fails, seconds=30)
    assert sum(1 for _ in found.model.all_nodes()) == 2
    assert str(case.model) == before, "the argument was changed"


def test_what_nothing_uses_goes_but_for_what_the_failure_needs() -> None:
    model = parse_model(
        """
model ir=10 opset {"" = 21, "f" = 1}
graph @main(%x: f32[2], %unused: f32[2]) {
  %y = Relu(%x)
  return %y
}
function @f::Kept(%a) opset {"" = 21} graph @kept {
  %b = Neg(%a)
  return %b
}
function @f::Lost(%a) opset {"" = 21} graph @lost {
  %b = Abs(%a)
  return %b
}
"""
    )
    model.metadata = {"by": "somebody"}
    sample = {name: np.ones(2, np.float32) for name in ("x", "unused")}

    def fails(model: Model, samples: Sequence[Sample]) -> bool:
        return ("f", "Kept", "") in model.functions and any(n.op == "Relu" for n in model.graph)

    found = reduce_model(model, [sample], fails, seconds=30).model
    assert [v.name for v in found.graph.inputs] == ["x"]
    assert [name for _, name, _ in found.functions] == ["Kept"]
    assert not found.metadata


def test_what_does_not_fail_is_returned_as_it_is() -> None:
    case = random_case(3, 8)
    found = reduce_model(case.model, case.samples, lambda model, samples: False)
    assert found.model is case.model
    assert found.tests == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
def test_samples_survive_as_text(dtype: str) -> None:
    draw = np.random.default_rng(0).standard_normal((2, 0, 3) if dtype == "uint8" else (2, 3)) * 7
    array = np.abs(draw).astype(dtype)
    line = sample_line({"x": array})
    assert line is not None
    back = parse_sample(line)["x"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert sample_line({"x": np.zeros(10_000)}) is None
    with pytest.raises(UsageError):
        parse_sample("[1]")


# -- the command


def test_the_command_takes_models_pipelines_and_the_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    write_model(network(), a)
    other = clone_model(network())
    next(n for n in other.graph if n.op == "Tanh").op = "Erf"
    write_model(other, b)

    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        code = cli.run([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, found = run("bisect", a, b)
    assert (code, found["first"]) == (1, "t")
    assert run("bisect", a, "clean")[0] == 0
    assert run("bisect", a, a)[0] == 0
    assert run("bisect", a, "--runtime")[0] == 0
    assert run("bisect", a, b, "--runtime")[0] == 2
    assert run("bisect", a, "no-such-pass")[0] == 2
