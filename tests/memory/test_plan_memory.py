"""plan-memory: plans hold on random models, several memories take what they are said to, files keep the plan."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.cli import run
from planish.driver.dims import input_symbols, with_dims
from planish.ir.errors import UsageError
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import write_model
from planish.models.cells_random import swiftnet_style
from planish.models.random import random_case
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.shared.arena.buffers import Buffer, overlapping
from planish.passes.shared.arena.spaces import Space, spread
from planish.passes.shared.liveness import liveness
from planish.passes.shared.memory_plan import KEY, check_plan, spaces_of
from planish.passes.target import FIRMWARE_TARGETS, get_target


def plan_of(model: Model, pipeline: str = "plan-memory") -> dict[str, Any]:
    Pipeline(pipeline).run(model)
    return json.loads(model.metadata[KEY])


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_plans_of_random_models_hold(seed: int) -> None:
    model = random_case(seed).model
    model = with_dims(model, dict.fromkeys(input_symbols(model), 3))
    Pipeline("order-nodes,plan-memory{alignment=16}").run(model)
    live = liveness(model.graph)
    if live.unknown:
        assert KEY not in model.metadata
        return
    plan = json.loads(model.metadata[KEY])
    assert check_plan(model.graph, plan) == []
    assert all(b["offset"] % 16 == 0 for b in plan["buffers"])
    assert plan["memories"][0]["bytes"] >= live.peak


def test_a_wrong_plan_is_found() -> None:
    model = swiftnet_style(channels=4, size=32)
    plan = plan_of(model)
    assert check_plan(model.graph, plan) == []
    moved = json.loads(json.dumps(plan))
    for b in moved["buffers"]:
        b["offset"] = 0
    assert "overlap" in check_plan(model.graph, moved)[0]
    cut = json.loads(json.dumps(plan))
    cut["memories"][0]["bytes"] -= 1
    assert check_plan(model.graph, cut) == ["memory arena is exceeded"]
    short = json.loads(json.dumps(plan))
    short["buffers"][3]["size"] -= 1
    assert "its buffer" in check_plan(model.graph, short)[0]
    del plan["buffers"][3]
    assert "has no place" in check_plan(model.graph, plan)[0]


def test_the_fast_memory_takes_what_is_used_most(tmp_path: Path) -> None:
    model = swiftnet_style()
    whole = liveness(model.graph).peak
    small = whole // 4
    target = replace(get_target("generic"), memories=(("tcm", small), ("dram", None)))
    context = Context(target=target)
    Pipeline("plan-memory").run(model, context)
    plan = json.loads(model.metadata[KEY])
    tcm, dram = plan["memories"]
    assert (tcm["name"], dram["name"]) == ("tcm", "dram")
    assert 0.8 * small <= tcm["bytes"] <= small
    assert tcm["traffic"] > (tcm["traffic"] + dram["traffic"]) / 4  # more than its share of the bytes
    assert check_plan(model.graph, plan) == []
    write_model(model, tmp_path / "m.onnx")
    again = read_model(tmp_path / "m.onnx")
    assert json.loads(again.metadata[KEY]) == plan
    assert check_plan(again.graph, plan) == []
    assert Pipeline("plan-memory").run(model, context).changes == 0


@given(
    st.lists(
        st.builds(
            lambda at, length, size: Buffer(at, at + length, size),
            st.integers(0, 6),
            st.integers(1, 4),
            st.integers(1, 6),
        ),
        max_size=7,
    ),
    st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_no_choice_for_the_fast_memory_is_better(buffers: list[Buffer], capacity: int) -> None:
    traffic = [b.size * (i % 3 + 1) for i, b in enumerate(buffers)]
    found = spread(buffers, traffic, [Space("fast", capacity), Space("slow")])
    assert found.fits
    for k in (0, 1):
        inside = [i for i, s in enumerate(found.space) if s == k]
        assert overlapping([buffers[i] for i in inside], [found.offset[i] for i in inside]) is None
        assert all(found.offset[i] + buffers[i].size <= found.used[k] for i in inside)
    assert found.used[0] <= capacity
    best = 0
    for choice in product((False, True), repeat=len(buffers)):
        chosen = [b for b, taken in zip(buffers, choice, strict=True) if taken]
        if all(sum(b.size for b in chosen if b.lower <= t < b.upper) <= capacity for t in range(11)):
            best = max(best, sum(n for n, taken in zip(traffic, choice, strict=True) if taken))
    assert found.traffic[0] <= best <= found.bound[0]


@pytest.mark.parametrize("target", FIRMWARE_TARGETS)
def test_boards_take_a_plan_for_their_memories(target: str, tmp_path: Path) -> None:
    model, memories = swiftnet_style(size=32), FIRMWARE_TARGETS[target].memories
    write_model(model, tmp_path / "m.onnx")
    plan = ["plan", str(tmp_path / "m.onnx"), "-t", target, "-o"]
    assert run([*plan, str(tmp_path / "plan.json")]) == 0
    written = json.loads((tmp_path / "plan.json").read_text())
    assert [(m["name"], m["capacity"]) for m in written["memories"]] == list(memories)
    assert written["memories"][0]["bytes"] > 100_000  # what is used most is in the fast one
    for k, found in enumerate(written["memories"]):
        inside = [b for b in written["buffers"] if b["memory"] == k]
        assert found["bytes"] <= found["capacity"]
        assert found["bytes"] == max((b["offset"] + b["size"] for b in inside), default=0)
        buffers = [Buffer(b["first_node"], b["last_node"] + 1, b["size"]) for b in inside]
        assert overlapping(buffers, [b["offset"] for b in inside]) is None
    header = tmp_path / "plan.h"
    assert run([*plan, str(header)]) == 0
    for memory, _ in memories:
        assert f"M_MEMORY_{memory.upper()}_SIZE" in header.read_text()
    checked = subprocess.run(["gcc", "-fsyntax-only", "-Wall", "-Werror", str(header)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    write_model(swiftnet_style(size=224), tmp_path / "m.onnx")
    fits = target == "imxrt1062"  # it has memory outside of the chip
    assert run([*plan, str(tmp_path / "large.csv")]) == (0 if fits else 1)
    assert (tmp_path / "large.csv").exists() == fits


def test_memories_are_names_and_bytes() -> None:
    assert spaces_of(["tcm:262144", "dram"]) == [Space("tcm", 262144), Space("dram")]
    for text in (":5", "tcm:x", "tcm:0"):
        with pytest.raises(UsageError):
            spaces_of([text])
