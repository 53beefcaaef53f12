"""Linking: from TVM's object files to a shared library, for this machine or another.

The objects of a library need the C library, the mathematics library and TVM's runtime, all of which the program that
loads it has: a linker alone is enough, and no system of the target's. So ``aarch64-linux-gnu-ld`` of binutils or the
linker inside PyPI's ``ziglang`` serve where no cross compiler is installed.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ir.errors import BackendError
from ...passes.target import Target

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Linker:
    """A command that makes shared libraries."""

    name: str
    command: tuple[str, ...]

    def link(self, objects: Sequence[str | Path], library: str | Path) -> None:
        """Raises ``BackendError`` with the linker's words."""
        command = [*self.command, "-shared", "-o", str(library), *map(str, objects)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise BackendError(
                f"{self.name} could not link {Path(library).name} (exit {done.returncode}): {'; '.join(words[:3])}",
                where="link",
                help="try another linker: `pip install ziglang`, or the distribution's cross compiler",
            )


def export_library(executable: Any, path: Path, target: Target) -> None:
    """Writes what ``relax.build`` or ``tvm.compile`` gave as a shared library for the target.

    Raises ``BackendError`` where this machine has no linker for it.
    """
    linker = find_linker(target)

    def link(library: str, objects: Sequence[str], **_: Any) -> None:
        linker.link(objects, library)

    executable.export_library(str(path), fcompile=link)


def find_linker(target: Target) -> Linker:
    """The first that is there: the compiler, the bare linker, clang with lld, ``ziglang``.

    Raises ``BackendError`` that says what to install.
    """
    triple = target.triple or f"{this_machine()}-linux-gnu"
    for linker in _linkers(triple):
        return linker
    arch = triple.partition("-")[0]
    # Debian writes x86-64 in the names of packages.
    package = triple.replace("_", "-")
    raise BackendError(
        f"there is no linker for {arch} on this machine",
        where="link",
        help=f"`pip install ziglang`, or on Debian and Ubuntu `apt-get install binutils-{package}`",
    )


def this_machine() -> str:
    """The processor's architecture as triples write it."""
    machine = platform.machine().lower()
    return _MACHINES.get(machine, machine)


def _linkers(triple: str) -> Iterator[Linker]:
    native = triple.partition("-")[0] == this_machine()
    # -s: no symbols but those that are found at load time; the rest holds names of temporary files.
    for compiler in [f"{triple}-gcc", "gcc", "clang", "cc"] if native else [f"{triple}-gcc"]:
        if found := shutil.which(compiler):
            yield Linker(compiler, (found, "-s", "-lm"))
    if found := shutil.which(f"{triple}-ld"):
        yield Linker(f"{triple}-ld", (found, "-s"))
    clang, lld = shutil.which("clang"), shutil.which("ld.lld")
    if clang and lld:
        yield Linker("clang", (clang, f"--target={triple}", "-fuse-ld=lld", "-nostdlib", "-s"))
    if importlib.util.find_spec("ziglang"):
        # Without -nostdlib it would first build the C library's stubs: half a minute.
        yield Linker("ziglang", (sys.executable, "-m", "ziglang", "cc", "-target", triple, "-nostdlib", "-s"))
