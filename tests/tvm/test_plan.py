"""The memory plan: what the built program asks for, beside what lives at one moment."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import helper

pytest.importorskip("tvm")

from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.lower.program import Module
from planish.backends.tvm.plan import Step, plan_memory
from planish.ir.onnx_reader import read_model

from .models import TARGET, onnx_model

SIZE = 16 * 64 * 64 * 4


def branches() -> bytes:
    """Three wide branches, each narrowed at once: their order decides what is alive."""
    x = np.zeros((1, 16, 64, 64), np.float32)
    weights = {
        f"{kind}{i}": np.ones(shape, np.float32)
        for i in range(3)
        for kind, shape in (("e", (64, 16, 1, 1)), ("r", (16, 64, 1, 1)))
    }
    nodes = [
        node
        for i in range(3)
        for node in (
            helper.make_node("Conv", ["x", f"e{i}"], [f"wide{i}"]),
            helper.make_node("Conv", [f"wide{i}", f"r{i}"], [f"narrow{i}"]),
        )
    ]
    nodes.append(helper.make_node("Concat", [f"narrow{i}" for i in range(3)], ["y"], axis=1))
    return onnx_model(nodes, {"x": x}, ["y"], weights)


def storages(module: Module) -> list[int]:
    """Bytes of the storages that the virtual machine's instructions ask for."""
    text = module.builder.get()["main"].script()
    return [int(n) for n in re.findall(r"alloc_storage\(R\.shape\(\[(\d+)\]\)", text)]


def test_planned_bytes_are_those_of_the_program() -> None:
    module = Module(Machine(TARGET))
    program = module.lower(read_model(branches()).graph, "main")
    arena, output = storages(module)
    assert arena == program.plan.arena_bytes
    assert output == 3 * SIZE
    assert program.plan.bound_bytes == 4 * SIZE + 3 * SIZE  # a wide one, and all narrow ones
    assert arena <= 1.1 * program.plan.bound_bytes


def test_the_order_of_nodes_is_kept() -> None:
    module = Module(Machine(TARGET))
    program = module.lower(read_model(branches()).graph, "main")
    written = [value.name for call in program.calls for value, _ in call.kernel.results]
    assert written == ["wide0", "narrow0", "wide1", "narrow1", "wide2", "narrow2", "y"]


def test_views_take_nothing_and_elementwise_kernels_write_in_place() -> None:
    x = np.zeros((4, 64), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Reshape", ["m", "shape"], ["v"]),
        helper.make_node("Softmax", ["v"], ["s"]),
        helper.make_node("Exp", ["s"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["y"]),
    ]
    constants = {"w": np.eye(64, dtype=np.float32), "shape": np.array([2, 2, 64])}
    module = Module(Machine(TARGET))
    program = module.lower(read_model(onnx_model(nodes, {"x": x}, ["y"], constants)).graph, "main")
    assert len(program.calls) == 3  # Exp goes into the softmax's kernel, the view is none
    assert program.plan.bound_bytes == 2 * x.nbytes


def test_in_place_only_where_nobody_reads_later() -> None:
    steps = [
        Step([], [("a", 64)]),
        Step(["a"], [("b", 64)], over=["a"]),
        Step(["a", "b"], [("c", 64)], over=["b"]),
        Step(["c"], [("out", 64)]),
    ]
    plan = plan_memory(steps, frozenset(["out"]))
    assert plan.taken_over == {2: "b"}
    assert plan.offsets["c"] == plan.offsets["b"] != plan.offsets["a"]
    assert plan.arena_bytes == plan.bound_bytes == 128
