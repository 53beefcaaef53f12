"""The emulated ARM machine, prepared once by ``scripts/arm``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from .emulation import SCRIPT, Emulation

UNAVAILABLE = 3


def prepare(*options: str) -> Emulation:
    """Skips where the machine has no apt or no network; every other failure is one."""
    done = subprocess.run(
        [sys.executable, "-P", str(SCRIPT), "prepare", *options], capture_output=True, text=True, check=False
    )
    if done.returncode == UNAVAILABLE:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return Emulation.described()


@pytest.fixture(scope="session")
def emulation() -> Iterator[Emulation]:
    """An ARM machine for C++ programs; its cross compiler is on the PATH."""
    machine = prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{machine.compilers}{os.pathsep}{os.environ['PATH']}")
        yield machine


@pytest.fixture(scope="session")
def python_emulation(emulation: Emulation) -> Emulation:
    """The same with Python, numpy and ONNX Runtime."""
    assert emulation.runner
    return prepare("--python")
