"""What lives when: checked by playing the graph in an arena of tokens, where every operand must still be found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.cli import run
from planish.driver.dims import input_symbols, with_dims
from planish.driver.memory.open_extents import OpenMemory
from planish.driver.memory.report import inspect_memory, memory
from planish.ir.dims import evaluate
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import write_model
from planish.ir.text import parse_model
from planish.models.bert import BertConfig, bert
from planish.models.random import random_case
from planish.models.zoo import export
from planish.passes.shared.liveness import Sharing, liveness

from .playing import play


def closed(seed: int) -> Graph:
    model = random_case(seed).model
    return with_dims(model, dict.fromkeys(input_symbols(model), 3)).graph


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_random_models_run_in_their_arena(seed: int, views: bool, in_place: bool) -> None:
    graph = closed(seed)
    live = liveness(graph, Sharing(views, in_place))
    height = play(graph, live)
    assert live.peak <= height


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_sharing_never_takes_more(seed: int) -> None:
    graph = closed(seed)
    apart = liveness(graph, Sharing(views=False, in_place=False)).peak
    assert liveness(graph, Sharing(in_place=False)).peak <= apart
    assert liveness(graph).peak <= apart


def test_views_and_elementwise_operators_share() -> None:
    model = parse_model(
        """
graph @main(%x: f32[1,1000]) {
  %shape: i64[1] = const dense<[1000]>
  %a: f32[1,1000] = Softmax(%x)
  %b: f32[1,1000] = Softmax(%a)
  %c: f32[1000] = Reshape(%b, %shape)
  %d: f32[1000] = Relu(%c)
  return %d
}
"""
    )
    live = liveness(model.graph)
    assert [len(s.values) for s in live.storages] == [1, 1, 3]
    assert live.profile == [8000, 8000, 4000, 4000]
    assert liveness(model.graph, Sharing(views=False, in_place=False)).profile == [8000] * 4


def test_what_is_read_again_or_given_out_is_not_written_over() -> None:
    model = parse_model(
        """
graph @main(%x: f32[1000]) {
  %a: f32[1000] = Neg(%x)
  %b: f32[1000] = Exp(%a)
  %c: f32[1000] = Add(%a, %b)
  return %b, %c
}
"""
    )
    live = liveness(model.graph)
    assert [[v.name for v in s.values] for s in live.storages] == [["x"], ["a", "c"], ["b"]]


def test_bodies_take_their_peak_while_their_node_runs() -> None:
    model = parse_model(
        """
graph @main(%p: bool[], %x: f32[1000]) {
  %y: f32[1000] = If(%p) {then_branch = graph @then() {
    %a: f32[1000] = Softmax(%x)
    %b: f32[1000] = Softmax(%a)
    return %b
  }, else_branch = graph @else() {
    %c: f32[1000] = Neg(%x)
    return %c
  }}
  %z: f32[1000] = Softmax(%y)
  return %z
}
"""
    )
    live = liveness(model.graph)
    assert live.workspace == {0: 8000}
    assert live.profile == [1 + 4000 + 4000 + 8000, 8000]
    play(model.graph, live)


@pytest.mark.parametrize("name", ["ppocr_cls", "silero_vad", "magika"])
def test_zoo_models_run_in_their_arena(name: str, tmp_path: Path) -> None:
    path, _ = export(name, tmp_path, count=1)
    model = read_model(path)
    graph = with_dims(model, dict.fromkeys(input_symbols(model), 2)).graph
    live = liveness(graph)
    assert play(graph, live, alignment=64) >= live.peak


def test_the_command_shows_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = export("ppocr_cls", tmp_path, count=1)
    symbols = input_symbols(read_model(path))
    dims = [part for name in symbols for part in ("--dim", f"{name}=1" if name == symbols[0] else f"{name}=48")]
    assert run(["inspect", str(path), "--memory", *dims, "--plot", str(tmp_path / "memory.svg")]) == 0
    shown = capsys.readouterr().out
    assert "alive at the peak" in shown
    assert "in one arena" in shown
    assert (tmp_path / "memory.svg").read_text().startswith("<?xml")
    assert run(["plan", str(path), *dims, "-o", str(tmp_path / "plan.json")]) == 0
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["arena_bytes"] >= written["peak_bytes"] >= written["least_bytes"]
    assert all(b["offset"] % 64 == 0 and b["first_node"] <= b["last_node"] for b in written["buffers"])
    header = tmp_path / "plan.h"
    assert run(["plan", str(path), *dims, "-o", str(header)]) == 0
    checked = subprocess.run(["gcc", "-fsyntax-only", "-Wall", "-Werror", str(header)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert run(["plan", str(path), *dims, "--capacity", "1kB", "-o", str(tmp_path / "no.json")]) == 1
    assert not (tmp_path / "no.json").exists()


def test_open_extents_are_asked_for(tmp_path: Path) -> None:
    path, _ = export("ppocr_cls", tmp_path, count=1)
    with pytest.raises(UsageError, match="sizes depend on") as caught:
        memory(path)
    assert "--dim" in str(caught.value.help)


def test_sizes_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    path, _ = export("magika", tmp_path, count=1)
    with pytest.raises(UsageError, match="bytes together"):
        memory(path, dims={"unk__214": 10**15})


def test_a_plan_of_no_known_form_is_refused_and_csv_can_be_planned_again(tmp_path: Path) -> None:
    path, _ = export("magika", tmp_path, count=1)
    command = ["plan", str(path), "--dim", "unk__214=1", "-o"]
    assert run([*command, str(tmp_path / "plan.txt")]) == 2
    assert not (tmp_path / "plan.txt").exists()
    assert run([*command, str(tmp_path / "plan.csv"), "--alignment", "1"]) == 0
    assert run(["plan", str(tmp_path / "plan.csv")]) == 0
    assert run(["plan", str(tmp_path / "plan.csv"), "--alignment", "64"]) == 2
    assert run(["inspect", str(path), "--plot", str(tmp_path / "memory.svg")]) == 2


def test_open_extents_give_expressions_whose_largest_is_the_peak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    write_model(bert(BertConfig(vocabulary=20, hidden=8, layers=1, heads=2, intermediate=32, positions=32)), path)
    found = inspect_memory(path, {})
    assert isinstance(found, OpenMemory)
    assert len(found.peaks) < len(found.liveness.nodes) / 4
    for values in ({"N": 1, "L": 1}, {"N": 2, "L": 7}, {"N": 1, "L": 31}, {"N": 9, "L": 2}):
        known = {name: values[name] for name in found.symbols}
        fixed = liveness(with_dims(read_model(path), known).graph)
        sizes = [evaluate(peak, known) for peak, _ in found.peaks]
        assert max(n for n in sizes if n is not None) == fixed.peak
    assert run(["inspect", str(path), "--memory"]) == 0
    shown = capsys.readouterr().out
    assert "at most the largest of these" in shown
    assert "*N" in shown
