"""``planish tune-kernels`` and ``optimize --schedules``, as docs/tvm.md has them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("tvm")

from planish.backends.tvm.tune.database import load_database
from planish.cli import run
from planish.ir.onnx_writer import write_model

from .test_functions_tune import convolution

PAGE = (Path(__file__).parents[2] / "docs" / "tvm.md").read_text()
COMMANDS = [
    shlex.split(line)[1:] for text in re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S) for line in text.splitlines()
]


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune, optimize = COMMANDS
    write_model(convolution()[0], tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    assert run([*tune, "--trials", "8"]) == 0
    assert load_database(Path("schedules.json")).functions
    assert run(optimize) == 0
    assert Path("out", "manifest.json").exists()


def test_a_folder_that_is_not_there_is_said_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(convolution()[0], tmp_path / "model.onnx")
    assert run(["tune-kernels", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "no" / "schedules.json")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--backend", "tvm", "--schedules", "none.json"], "there is no file none.json"),
        (["--backend", "ort", "--schedules", "none.json"], "only TVM takes schedules"),
    ],
)
def test_schedules_that_nobody_takes(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(convolution()[0], tmp_path / "model.onnx")
    assert run(["optimize", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err
