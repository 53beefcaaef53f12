"""Which linker is taken for which machine, and that bare linkers are enough."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from planish.backends.tvm import link
from planish.backends.tvm.link import Linker, find_linker
from planish.ir.errors import BackendError
from planish.passes.target import get_target


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of its own, and no ziglang."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(link.platform, "machine", lambda: "x86_64")
    return tmp_path


def put(tools: Path, name: str) -> str:
    (tools / name).write_text("#!/bin/sh\n")
    (tools / name).chmod(0o755)
    return str(tools / name)


def test_compilers_come_before_bare_linkers(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rpi4 = get_target("rpi4")
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda name: name)
    assert find_linker(rpi4).name == "ziglang"
    assert "aarch64-linux-gnu" in find_linker(rpi4).command
    put(tools, "gcc")  # this machine's own, of no use for another
    put(tools, "clang")
    assert find_linker(rpi4).name == "ziglang"
    put(tools, "ld.lld")
    assert find_linker(rpi4).name == "clang"
    linker = put(tools, "aarch64-linux-gnu-ld")
    assert find_linker(rpi4).command[0] == linker
    compiler = put(tools, "aarch64-linux-gnu-gcc")
    assert find_linker(rpi4).command[0] == compiler


def test_this_machine_uses_its_own_compiler(tools: Path) -> None:
    compiler = put(tools, "gcc")
    assert find_linker(get_target("x86-64-v3")).command[0] == compiler
    assert find_linker(get_target("cuda-sm_90")).command[0] == compiler  # the host's half


@pytest.mark.parametrize(("target", "package"), [("rpi4", "aarch64"), ("riscv64", "riscv64"), ("x86-64-v2", "x86-64")])
def test_without_a_linker_the_error_says_what_to_install(tools: Path, target: str, package: str) -> None:
    with pytest.raises(BackendError, match="no linker for") as error:
        find_linker(get_target(target))
    assert "pip install ziglang" in str(error.value)
    assert f"binutils-{package}-linux-gnu" in str(error.value)


def test_a_linker_that_fails_is_quoted(tmp_path: Path) -> None:
    broken = Linker("broken", (sys.executable, "-c", "import sys; sys.exit('out of luck')"))
    with pytest.raises(BackendError, match="out of luck"):
        broken.link([tmp_path / "a.o"], tmp_path / "a.so")


@pytest.mark.parametrize(("target", "machine"), [("neoverse-v1", 183), ("riscv64", 243), ("x86-64-v2", 62)])
def test_objects_are_the_target_s(target: str, machine: int, tmp_path: Path) -> None:
    """TVM writes a network's objects for the processor without any tool of it; linking is what needs one."""
    pytest.importorskip("tvm")
    from planish.backends.tvm.backend import TvmBackend

    from ..arm.test_models import small_network

    kept: list[str] = []

    def keep(library: str, objects: list[str], **_: object) -> None:
        kept.extend(str(shutil.copy(o, tmp_path)) for o in objects)

    chosen = replace(get_target(target), runtime="tvm", contrib=False)
    artifact = TvmBackend().lower(small_network()[0], chosen)
    assert artifact.manifest["steps"] == []
    artifact.executable.export_library(str(tmp_path / "lib.so"), fcompile=keep)
    heads = [Path(p).read_bytes()[:20] for p in kept]
    assert len(heads) == 2
    assert {int.from_bytes(head[18:20], "little") for head in heads} == {machine}


def test_ziglang_links_for_arm(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    pytest.importorskip("tvm")
    from ..arm.subjects import FLOAT, executable

    target = get_target("rpi4")
    zig = next(found for found in link._linkers(target.triple) if found.name == "ziglang")

    def with_zig(library: str, objects: list[str], **_: object) -> None:
        zig.link(objects, library)

    executable(FLOAT, target).export_library(str(tmp_path / "lib.so"), fcompile=with_zig)
    made = (tmp_path / "lib.so").read_bytes()
    assert made[18:20] == (183).to_bytes(2, "little")
    assert b"__tvm_ffi__library_bin" in made
