"""Kernels for 64-bit RISC-V, run under emulation in planish's order and places.

TVM's runtime has no wheel for that processor, and the wheels' sources lack headers, so that nothing there can load an
artifact. Kernels need next to nothing of a runtime: a C program of the tests calls them one after the other.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.link import export_library
from planish.backends.tvm.lower.forms import Form
from planish.backends.tvm.lower.program import Call, Module, Program
from planish.backends.tvm.ready import readied
from planish.driver.deploy import legalized
from planish.ir.graph import Model
from planish.passes.target import get_target

from .conftest import prepare
from .emulation import script
from .test_models import Feeds, check, small_network, zoo_model

TARGET = get_target("riscv64")
RUNNER = Path(__file__).with_name("run_kernels.c")
ARENA = 0
CODES = {"i": 0, "u": 1, "f": 2}
"""DLPack's, by numpy's kind."""


class Plan:
    """The text that ``run_kernels`` follows."""

    def __init__(self, module: Module, program: Program, folder: Path) -> None:
        self.module, self.program, self.folder = module, program, folder
        self.lines = [f"storage {ARENA} {max(1, program.plan.arena_bytes)}"]
        self.places: dict[object, tuple[int, int]] = {key: (ARENA, at) for key, at in program.plan.offsets.items()}
        self.count = 1

    def given(self, key: object, array: np.ndarray) -> None:
        """An input or a weight."""
        path = self.folder / f"{self.count}.bin"
        path.write_bytes(np.ascontiguousarray(array).tobytes())
        self._storage(key, array.nbytes, str(path))

    def _storage(self, key: object, size: int, path: str = "") -> None:
        self.lines.append(f"storage {self.count} {size} {path}".strip())
        self.places[key] = (self.count, 0)
        self.count += 1

    def calls(self) -> None:
        """All kernels in order; what is not in the arena gets storages of its own."""
        for number, call in enumerate(self.program.calls):
            for key, (_, form) in zip(call.writes, call.kernel.results, strict=True):
                if key not in self.places:
                    self._storage(key, _bytes(form))
            name = self.module.function(call.kernel, number in self.program.plan.taken_over).name_hint
            operands = self._operands(call)
            self.lines += [f"call {name} {len(operands)}", *operands]

    def _operands(self, call: Call) -> list[str]:
        forms = [operand.form for operand in call.kernel.operands] + [form for _, form in call.kernel.results]
        return [self._operand(key, form) for key, form in zip([*call.reads, *call.writes], forms, strict=True)]

    def _operand(self, key: object, form: Form) -> str:
        number, offset = self.places[key]
        dtype, shape = np.dtype(form.dtype), form.physical
        extents = [CODES[dtype.kind], 8 * dtype.itemsize, len(shape), *shape]
        return " ".join(map(str, [number, offset, *extents]))

    def write(self, key: object, size: int, path: Path) -> None:
        self.lines.append(f"write {self.places[key][0]} {size} {path}")


def _bytes(form: Form) -> int:
    return int(np.prod([int(str(n)) for n in form.physical])) * np.dtype(form.dtype).itemsize


def run_riscv(model: Model, feeds: Feeds, folder: Path) -> np.ndarray:
    """The only output."""
    machine = Machine(TARGET)
    module = Module(machine)
    ((piece,),) = [readied(legalized(model, TARGET), machine)[1]]
    graph = piece.model.graph
    program = module.lower(graph, "main")
    plan = Plan(module, program, folder)
    for value in graph.inputs:
        plan.given(value, np.asarray(feeds[value.name]))
    for i, array in enumerate(module.weights.arrays):
        plan.given(i, array)
    plan.calls()
    (key,), ((_, form),) = program.calls[-1].writes, program.calls[-1].kernel.results
    plan.write(key, _bytes(form), folder / "y.bin")
    (folder / "plan.txt").write_text("\n".join(plan.lines) + "\n")
    export_library(module.build(), folder / "lib.so", TARGET)
    done = script("run", "rv64", folder / "run", folder / "lib.so", folder / "plan.txt")
    assert done.returncode == 0, done.stderr
    return np.fromfile(folder / "y.bin", form.dtype).reshape([int(str(n)) for n in form.shape])


@pytest.fixture(scope="module")
def compilers() -> str:
    return prepare("--riscv64").compilers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "ppocr_cls"])
def test_models_run_on_riscv64(name: str, compilers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{compilers}{os.pathsep}{os.environ['PATH']}")
    # Kernels find what they need of a runtime in the program.
    command = ["riscv64-linux-gnu-gcc", "-O1", "-Wall", "-Werror", "-rdynamic", RUNNER, "-lm", "-o", tmp_path / "run"]
    subprocess.run([str(word) for word in command], check=True)
    model, feeds = small_network() if name == "small" else zoo_model(name)
    check(model, feeds, [run_riscv(model, feeds, tmp_path)])
