"""Real models as libraries: the original's outputs, within the bounds of every optimization."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tvm")

import planish
from planish.driver.deploy import deploy
from planish.models import zoo


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppocr_cls", "magika", "minilm", "silero_vad_sequence"])
def test_outputs(name: str, tmp_path: Path) -> None:
    if name not in zoo.available():
        pytest.skip(f"the package of {name} is not installed")
    model, samples = zoo.export(name, tmp_path, count=2)
    made = deploy(model, samples=samples)  # raises where outputs differ
    assert made.checked == 2
    assert made.artifact.manifest["steps"] == []
    made.artifact.save(tmp_path / "out")
    for memory in planish.load_artifact(tmp_path / "out").manifest["memory"].values():
        assert memory["arena_bytes"] <= 1.1 * memory["live_bytes"]
