"""Bisecting another tool: a function over bytes, or a command over files."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from planish import cli
from planish.driver.bisect import bisect_tool
from planish.driver.document import plain
from planish.ir.errors import UsageError
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes, write_model
from planish.ir.text import parse_model

NETWORK = """
graph @main(%x: f32[N,4]) {
  %w: f32[4,6] = const rand<1>
  %b: f32[6] = const rand<2>
  %h = Gemm(%x, %w, %b)
  %r = Relu(%h)
  %t = Tanh(%r)
  %y = Softmax(%t) {axis = -1}
  return %y
}
"""


def swaps_tanh(data: bytes) -> bytes:
    model = read_model(data)
    for node in model.graph:
        if node.op == "Tanh":
            node.op = "Sigmoid"
    return model_to_bytes(model)


def refused(data: bytes) -> bytes:
    model = read_model(data)
    for node in model.graph:
        node.domain = "nobody.knows" if node.op == "Relu" else node.domain
    return model_to_bytes(model)


def renames(data: bytes) -> bytes:
    model = read_model(data)
    graph = model.graph
    graph.set_outputs(graph.outputs, ["other"])
    return model_to_bytes(model)


def fails(data: bytes) -> bytes:
    if any(node.op == "Relu" for node in read_model(data).graph):
        raise KeyError("Relu")
    return data


def test_a_wrong_result_is_shrunk_and_aligned() -> None:
    found = bisect_tool(parse_model(NETWORK), swaps_tanh, name="swapper")
    assert found.fault is not None
    assert (found.fault.kind, found.nodes) == ("different", 1)
    assert "Tanh" in found.text
    assert "Sigmoid" in found.after
    assert found.alignment is not None
    assert found.alignment.first
    assert "swapper makes the model wrong" in plain(found.document())


@pytest.mark.parametrize(
    ("tool", "kind", "nodes"), [(refused, "refused", 1), (renames, "interface", 0), (fails, "crash", 1)]
)
def test_other_faults_are_told_apart(tool: object, kind: str, nodes: int) -> None:
    found = bisect_tool(parse_model(NETWORK), tool)  # type: ignore[arg-type]
    assert found.fault is not None
    assert (found.fault.kind, found.nodes) == (kind, nodes)


def test_another_error_is_not_what_was_shrunk_for() -> None:
    def fussy(data: bytes) -> bytes:
        ops = [node.op for node in read_model(data).graph]
        if len(ops) < 2:
            raise ValueError("too small for me")
        return fails(data)

    found = bisect_tool(parse_model(NETWORK), fussy)
    assert found.fault is not None
    assert "KeyError" in found.fault.message
    assert found.nodes == 2


def test_a_right_tool_is_right() -> None:
    found = bisect_tool(parse_model(NETWORK), lambda data: model_to_bytes(read_model(data)))
    assert found.fault is None
    assert "changes nothing that matters" in plain(found.document())


def test_the_command_runs_any_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    write_model(parse_model(NETWORK), path)

    def run(code: str) -> tuple[int, dict[str, object]]:
        command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {{before}} {{after}}"
        status = cli.run(["bisect", str(path), "--command", command, "--no-shrink", "--json"])
        return status, json.loads(capsys.readouterr().out)

    copies = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
    assert run(copies)[0] == 0
    status, found = run("raise SystemExit('no such model')")
    assert status == 1
    assert found["fault"] == {"kind": "crash", "message": "RuntimeError: exit status 1: no such model"}
    assert cli.run(["bisect", str(path), "clean", "--command", "x {before} {after}"]) == 2
    with pytest.raises(UsageError, match="does not name both files"):
        bisect_tool(path, "onnxslim {before}")
    with pytest.raises(UsageError, match="there is no program 'no-such-tool'"):
        bisect_tool(path, "no-such-tool {before} {after}")
