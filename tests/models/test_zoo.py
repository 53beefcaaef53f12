"""Every entry of the zoo runs its samples, and trained ones do their task."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planish.ir.errors import UsageError
from planish.models import packages, zoo
from planish.models.ort_runner import ort_runner

QUALITY = {
    "ppocr_det": (4, 0.9),
    "ppocr_rec": (16, 0.9),
    "ppocr_cls": (16, 0.95),
    "magika": (37, 0.9),
    "minilm": (44, 0.75),
    "nudenet": (12, 0.9),
    "silero_vad": (12, 0.85),
    "silero_vad_sequence": (12, 0.85),
    "basic_pitch": (4, 0.8),
}
"""Number of labelled samples, and the least quality of the unmodified model."""

ENTRIES = [
    pytest.param(name, marks=pytest.mark.skipif(not entry.installed, reason=entry.install_command))
    for name, entry in zoo.ZOO.items()
]


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_runs_its_samples_and_does_its_task(name: str) -> None:
    entry = zoo.get(name)
    runner = ort_runner(entry.path())
    outputs = [runner(sample) for sample in entry.samples(2)]
    assert all(np.isfinite(array).all() for output in outputs for array in output)
    assert entry.trained == (entry.metric is not None)
    if entry.metric is not None:
        count, least = QUALITY[name]
        assert least <= entry.metric(runner, count) <= 1
    if not name.startswith("light_"):
        assert any(a.shape != b.shape or np.abs(a - b).max() > 1e-4 for a, b in zip(*outputs, strict=True))


@pytest.mark.parametrize("name", [name for name in ENTRIES if name.values[0] in QUALITY])
def test_a_broken_model_scores_low(name: str) -> None:
    entry = zoo.get(name)
    runner = ort_runner(entry.path())
    assert entry.metric is not None

    def constant(sample: zoo.Sample) -> list[np.ndarray]:
        return [np.zeros_like(array) for array in runner(sample)]

    assert entry.metric(constant, 4) <= 0.75


@pytest.mark.parametrize("name", ENTRIES)
def test_samples_depend_on_the_seed_only(name: str) -> None:
    entry = zoo.get(name)
    first, again, other = entry.samples(2, 5), entry.samples(2, 5), entry.samples(2, 6)
    for a, b in zip(first, again, strict=True):
        assert a.keys() == b.keys()
        assert all(a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]) for key in a)
    assert any(not np.array_equal(first[0][key], other[0][key]) for key in first[0])


@pytest.mark.parametrize("name", ENTRIES)
def test_uniform_samples_share_one_shape(name: str) -> None:
    samples = zoo.get(name).samples(3, uniform=True)
    assert len(samples) == 3
    assert len({tuple((key, value.shape) for key, value in sample.items()) for sample in samples}) == 1


def test_samples_match_the_graph_inputs() -> None:
    onnx = pytest.importorskip("onnx")
    for name in zoo.available():
        entry = zoo.get(name)
        graph = onnx.load(str(entry.path()), load_external_data=False).graph
        constants = {tensor.name for tensor in graph.initializer}
        declared = {value.name: value.type.tensor_type for value in graph.input if value.name not in constants}
        (sample,) = entry.samples(1)
        assert sample.keys() == declared.keys()
        for key, array in sample.items():
            assert array.dtype == onnx.helper.tensor_dtype_to_np_dtype(declared[key].elem_type)
            assert array.ndim == len(declared[key].shape.dim)


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UsageError, match="ppocr_rec"):
        zoo.get("ppocr-rec")


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "package_folder", lambda module: None)
    with pytest.raises(UsageError, match="pip install --no-deps magika"):
        zoo.get("magika").path()


def test_available_leaves_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(zoo.get("magika"), name="absent", module="no_such_package_of_planish")
    monkeypatch.setitem(zoo.ZOO, "absent", entry)
    assert "absent" not in zoo.available()
    assert entry.install_command == "pip install --no-deps magika pillow"


def test_importing_the_zoo_loads_nothing_heavy() -> None:
    code = "import sys, planish.models.zoo; print({'onnx', 'onnxruntime', 'PIL'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_export_writes_samples_along_the_first_axis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.main(["export", "light_squeezenet", str(tmp_path / "new"), "--count", "3"]) == 0
    archive = np.load(tmp_path / "new" / "samples.npz")
    assert archive["data_0"].shape == (3, 1, 3, 224, 224)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["model.onnx", "samples.npz"]
    assert (tmp_path / "new" / "model.onnx").read_bytes() == zoo.get("light_squeezenet").path().read_bytes()
    assert zoo.main(["export", "nothing", str(tmp_path)]) == 2
    assert "error[zoo]" in capsys.readouterr().err


def test_list_names_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(zoo.ZOO)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    write: Callable[[Path], None] = fail
    with pytest.raises(RuntimeError):
        packages.write_atomically(tmp_path / "model.onnx", write)
    assert list(tmp_path.iterdir()) == []
