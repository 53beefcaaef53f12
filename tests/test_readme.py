"""The README's examples, run as they stand: the command line, Python, and the pass of a plugin."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from planish.models import zoo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def fences(kind: str) -> list[str]:
    """Contents of the README's fences of one kind, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``model.onnx`` and ``samples.npz``, as the README takes for granted."""
    zoo.export("ppocr_cls", tmp_path)
    return tmp_path


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)


def test_the_command_line_examples(folder: Path) -> None:
    lines = [line[2:] for text in fences("console") for line in text.splitlines() if line.startswith("$ ")]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "planish"
        done = run([sys.executable, "-m", *words], folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert (folder / "small.onnx").exists()


def test_the_python_example(folder: Path) -> None:
    done = run([sys.executable, "-c", fences("python")[0]], folder)
    assert done.returncode == 0, done.stderr
    assert "validated: equivalent" in done.stdout
    assert (folder / "by_hand.onnx").exists()
    assert (folder / "small.onnx").exists()


def test_the_pass_example(folder: Path) -> None:
    code = fences("python")[1]
    use = """
import planish
from planish.ir.text.parser import parse_model
model = parse_model('''graph @main(%x: f32[2,3]) {
  %s = Softmax(%x) {axis = 1}
  %y = Log(%s)
  return %y
}''')
print(planish.Pipeline([FuseLogSoftmax()]).run(model).passes[0].hits)
print(model)
"""
    done = run([sys.executable, "-c", code + use], folder)
    assert done.returncode == 0, done.stderr
    assert "LogSoftmax(%x)" in done.stdout


def test_the_plugin_is_the_one_shown() -> None:
    """The entry point in the README is the one of the package that test_plugin.py installs."""
    shown = fences("toml")[0].strip()
    assert shown in (ROOT / "tests" / "plugin" / "pyproject.toml").read_text()


def _plugin(site: Path) -> None:
    """What pip would install for the broken pass: its module, and its entry point."""
    site.mkdir()
    (site / "planish_broken.py").write_text(fences("python")[2])
    facts = site / "planish_broken-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: planish-broken\nVersion: 1\n")
    ((name, target),) = tomllib.loads(fences("toml")[1])["project"]["entry-points"]["planish.passes"].items()
    (facts / "entry_points.txt").write_text(f"[planish.passes]\n{name} = {target}\n")


def test_the_broken_pass_is_caught_bisected_and_reduced(tmp_path: Path) -> None:
    _plugin(tmp_path / "site")
    paths = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": paths, "COLUMNS": "200"}

    def execute(words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, env=env)

    made = execute(["-c", fences("python")[3]])
    assert made.returncode == 0, made.stderr
    commands = fences("text")[0].strip().split("$ planish ")[1:]
    assert [c.split()[0] for c in commands] == ["optimize", "bisect", "run"]
    for command in commands:
        line, *shown = command.strip().splitlines()
        words = [str(f) for w in shlex.split(line) for f in (sorted(tmp_path.glob(w)) if "*" in w else [w])]
        done = execute(["-m", "planish", *words])
        assert done.returncode == 1, done.stderr
        output = done.stdout + done.stderr
        at = 0
        for text in shown:
            pattern = re.compile(".*".join(map(re.escape, text.split("..."))))
            found = pattern.search(output, at)
            assert found is not None, f"{text}\nnot in\n{output}"
            at = found.end()
    assert not (tmp_path / "small.onnx").exists()


def test_the_two_commands_exist() -> None:
    commands = [line.split("#")[0].strip() for line in fences("sh")[0].splitlines()]
    assert commands == ["make demo", "make test"]
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for command in commands:
        done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
