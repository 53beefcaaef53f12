"""``scripts/arm``: what it says where it cannot work, and that it does nothing twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .emulation import SCRIPT, Emulation, script


def test_without_apt_it_says_what_it_needs(tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(SCRIPT), "--folder", str(tmp_path / "arm"), "prepare"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)}, check=False)
    assert done.returncode == 3
    assert "apt-get and dpkg-deb are missing: this needs Debian or Ubuntu" in done.stderr
    assert not (tmp_path / "arm" / "tools").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "cortex-a72", "true"), "nothing is prepared: `scripts/arm prepare`"),
        (("run", "cortex-a99", "true"), "no processor 'cortex-a99'; known: cortex-a53, cortex-a72"),
        (("python", "max"), "nothing is prepared"),
    ],
)
def test_mistakes_are_answered(words: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    done = script("--folder", tmp_path, *words)
    assert done.returncode == 1
    assert expected in done.stderr


def test_a_second_call_finds_everything_done(emulation: Emulation) -> None:
    assert emulation.runner
    done = script("prepare")
    assert (done.returncode, done.stderr) == (0, "")


def test_versions_are_those_of_the_constraints(emulation: Emulation) -> None:
    assert emulation.runner
    parts = json.loads(script("env").stdout)["parts"]
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (SCRIPT.parents[1] / "constraints.txt").read_text(), re.M))
    assert parts["tvm"]["versions"] == {name: pinned[name] for name in ("apache-tvm", "apache-tvm-ffi")}
    assert any(name.startswith("libpython3") for name in parts["system"]["versions"])
    assert "qemu" in " ".join(parts["tools"]["versions"])


def test_processors_differ_in_what_linux_says_of_them(emulation: Emulation) -> None:
    """Libraries that read /proc/cpuinfo see the emulated processor, not this machine's."""
    assert emulation.runner
    seen = [script("python", cpu, "-c", "print(open('/proc/cpuinfo').read())").stdout for cpu in ("cortex-a72", "max")]
    assert ["asimddp" in text.split() for text in seen] == [False, True]
    assert all("CPU implementer" in text for text in seen)
