"""Times of units kept between runs: by machine, runtime and target, and no error whatever lies in their place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import planish
from planish.backends.ort.session import SessionSettings
from planish.driver.budget import paying
from planish.driver.select import Known, Learned
from planish.driver.unit_times import MOST, TimesFile
from planish.passes.target import get_target

from .networks import classifier, images

ONE = SessionSettings("all", threads=1)
KNOWN = Known({"q/u8i8 Conv f32[1]": Learned(-123.4, 5.25, "2026-11-22")}, Learned(0.3125, 0.01, "2026-11-21"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "planish" / "times"


def test_what_is_written_is_read() -> None:
    file = TimesFile(get_target("x86-64-v4"), ONE)
    assert file.read() == Known()
    file.write(KNOWN)
    assert TimesFile(get_target("x86-64-v4"), ONE).read() == KNOWN


def test_other_machines_have_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    target = get_target("x86-64-v4")
    TimesFile(target, ONE).write(KNOWN)
    assert TimesFile(get_target("x86-64-v3"), ONE).read() == Known()
    assert TimesFile(target, replace(ONE, threads=2)).read() == Known()
    with monkeypatch.context() as patch:
        patch.setattr("planish.driver.unit_times.processor_name", lambda: "another")
        assert TimesFile(target, ONE).read() == Known()
    monkeypatch.setattr("planish.driver.unit_times.versions", lambda: {"onnxruntime": "9.9"})
    assert TimesFile(target, ONE).read() == Known()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"kinds": {"a": [1]}, "border": null}', '{"kinds": 3, "border": 1}']
)
def test_damaged_files_count_as_none(content: str) -> None:
    file = TimesFile(get_target("x86-64-v4"), ONE)
    file.path.parent.mkdir(parents=True)
    file.path.write_text(content)
    assert file.read() == Known()


def test_the_oldest_go_first() -> None:
    file = TimesFile(get_target("x86-64-v4"), ONE)
    rows = {f"k{i}": Learned(-1.0, 0.1, "2026-01-01" if i < 10 else "2026-02-02") for i in range(MOST + 10)}
    file.write(Known(rows))
    kept = file.read().kinds
    assert len(kept) == MOST
    assert "k9" not in kept


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "planish").write_text("a file")
    TimesFile(get_target("x86-64-v4"), ONE).write(KNOWN)


@pytest.mark.parametrize("cache", [True, False])
def test_optimizing_keeps_them(folder: Path, cache: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paying, "SECONDS", 0.05)
    samples = [{"x": image} for image in images(6)]
    budget = planish.Budget(0.5, "rms")
    options: dict[str, Any] = {"samples": samples, "budget": budget, "quantize": "int8", "measure_seconds": 0.2}
    planish.optimize(classifier(), "native", cache=cache, **options)
    files = list(folder.glob("*.json"))
    assert len(files) == cache
    if cache:
        assert json.loads(files[0].read_text())["kinds"]
