"""A pass from another package: installed for real, found by its entry point, used by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"

TEXT = """
model ir=8 opset {"" = 17}
graph @main(%x: f32[2,3]) -> (%y: f32[2,3]) {
  %s: f32[2,3] = Softmax(%x) {axis = 1}
  %y: f32[2,3] = Log(%s)
  return %y
}
"""

CODE = """
import sys
import planish
from planish.ir.text.parser import parse_model
model = parse_model(sys.argv[1])
planish.Pipeline("fuse-log-softmax").run(model)
print(model)
"""


def _install(source: Path, site: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(site), str(source)], check=True, capture_output=True, text=True)


def _python(site: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that holds the plugin."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    _install(folder / "source", folder / "site")
    return folder / "site"


def test_plugin_pass_runs_by_name(site: Path) -> None:
    done = _python(site, "-c", CODE, TEXT)
    assert done.returncode == 0, done.stderr
    assert "LogSoftmax(%x) {axis = 1}" in done.stdout or "LogSoftmax(%x)" in done.stdout
    assert " Log(" not in done.stdout


def test_plugin_is_listed_with_its_owner(site: Path) -> None:
    done = _python(site, "-m", "planish", "passes")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "fuse-log-softmax" in line)
    assert "planish-logsoftmax" in line


def test_a_clash_names_both_owners(site: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("*.egg-info", "build"))
    project = source / "pyproject.toml"
    project.write_text(project.read_text().replace("planish-logsoftmax", "planish-other"))
    both = tmp_path / "site"
    shutil.copytree(site, both)
    _install(source, tmp_path / "other")
    for found in (tmp_path / "other").glob("*.dist-info"):
        shutil.copytree(found, both / found.name)
    done = _python(both, "-m", "planish", "passes")
    assert done.returncode != 0
    assert "planish-logsoftmax" in done.stderr
    assert "planish-other" in done.stderr
    assert "Traceback" not in done.stderr
