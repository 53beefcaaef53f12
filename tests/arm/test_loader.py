"""Libraries cross-built for ARM, run there by the C++ loader; numbers, and instructions that a processor lacks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from .emulation import ILLEGAL_INSTRUCTION, Emulation

pytest.importorskip("tvm")

from planish.backends.tvm.backend import TvmBackend
from planish.ir.onnx_reader import read_model
from planish.passes.target import get_target

from ..tvm.flows import CASES
from ..tvm.models import assert_close, expected
from .subjects import COLUMNS, FLOAT, INTEGER, ROWS, Subject, save


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, emulation: Emulation) -> dict[tuple[str, str], Path]:
    """Folders by the subject's type and the target."""
    folder = tmp_path_factory.mktemp("built")
    return {
        (subject.dtype, target): save(subject, target, folder / f"{subject.dtype}-{target}")
        for subject, target in ((FLOAT, "rpi4"), (FLOAT, "rpi5"), (INTEGER, "rpi4"), (INTEGER, "rpi5"))
    }


@pytest.mark.parametrize(
    ("subject", "target", "processor"),
    [
        pytest.param(FLOAT, "rpi4", "cortex-a72", id="float-rpi4"),
        pytest.param(FLOAT, "rpi5", "cortex-a76", id="float-rpi5"),
        pytest.param(INTEGER, "rpi4", "cortex-a53", id="int8-rpi4-on-an-older-one"),
        pytest.param(INTEGER, "rpi5", "cortex-a76", id="int8-rpi5"),
        pytest.param(INTEGER, "rpi5", "neoverse-n1", id="int8-rpi5-on-a-server"),
    ],
)
def test_results_are_the_same_on_arm(
    subject: Subject, target: str, processor: str, built: dict[tuple[str, str], Path], emulation: Emulation
) -> None:
    status, said, outputs = emulation.model(processor, built[subject.dtype, target], [subject.arrays()[0]])
    assert status == 0, said
    assert [(o.shape, o.dtype) for o in outputs] == [((ROWS, COLUMNS), np.dtype(subject.result))]
    assert (abs(outputs[0] - subject.expected()) <= subject.tolerance()).all()


def test_dot_products_are_illegal_before_armv8_2(built: dict[tuple[str, str], Path], emulation: Emulation) -> None:
    """The emulated Cortex-A72 has no dot product: a library for Cortex-A76 dies there, so the others prove they fit."""
    status, said, outputs = emulation.model("cortex-a72", built["int8", "rpi5"], [INTEGER.arrays()[0]])
    assert status == ILLEGAL_INSTRUCTION, said
    assert outputs == []


def test_the_loader_refuses_what_would_be_illegal(
    built: dict[tuple[str, str], Path], emulation: Emulation, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(built["int8", "rpi5"], folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["target"] = {"name": "cortex-a76", "arch": "aarch64", "features": ["neon", "fp16", "dotprod"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    inputs = [INTEGER.arrays()[0]]
    status, said, _ = emulation.model("cortex-a72", folder, inputs)
    assert (status, "built for cortex-a76: this processor has no fp16" in said) == (1, True), said
    assert emulation.model("neoverse-n1", folder, inputs)[0] == 0
    manifest["target"]["features"] += ["i8mm"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    status, said, _ = emulation.model("neoverse-n1", folder, inputs)
    assert (status, "no i8mm" in said) == (1, True), said
    assert emulation.model("max", folder, inputs)[0] == 0
    manifest["target"] |= {"name": "cuda-sm_90", "arch": "cuda"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    status, said, _ = emulation.model("max", folder, inputs)
    assert (status, "built for cuda (cuda-sm_90), this is a loader for aarch64" in said) == (1, True), said


def test_the_loader_says_what_is_wrong_with_an_input(
    built: dict[tuple[str, str], Path], emulation: Emulation, tmp_path: Path
) -> None:
    for array in (np.zeros((2, 3), np.float32), np.zeros(FLOAT.arrays()[0].shape, np.float64)):
        status, said, _ = emulation.model("max", built["float32", "rpi4"], [array])
        assert status == 1
        assert "the model takes float32[5,64]" in said
    (tmp_path / "empty").mkdir()
    status, said, _ = emulation.model("max", tmp_path / "empty", [])
    assert status == 1
    assert "manifest.json" in said


def test_branches_and_loops(tmp_path: Path, emulation: Emulation) -> None:
    """The C++ loader runs bodies there: one model of each kind."""
    cases = {name.split(maxsplit=1)[0].strip(","): (model, feeds) for name, model, feeds in CASES}
    target = replace(get_target("rpi5"), runtime="tvm", contrib=False)
    for op, (data, feeds) in cases.items():
        model = read_model(data)
        TvmBackend().lower(model, target).save(tmp_path / op)
        arrays = [np.asarray(feeds[value.name]) for value in model.graph.inputs]
        status, said, outputs = emulation.model("cortex-a76", tmp_path / op, arrays)
        assert status == 0, said
        assert_close(outputs, expected(data, feeds), products=8)
    assert sorted(cases) == ["If", "Loop", "Scan"]
