"""``calibrate``: files, interruptions, streams, and memory that does not grow with the number of samples."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish
from planish.cli import run as run_cli
from planish.driver.calibrate import Kept, Observer, SampleStream, calibrate, read_calibration
from planish.driver.calibrate.content import model_digest
from planish.driver.inputs.samples import load_samples, stream_samples
from planish.ir.dtypes import DType
from planish.ir.errors import BackendError, UsageError
from planish.ir.limits import Limits, current_limits
from planish.ir.onnx_writer import write_model
from planish.passes.shared.quant.scheme import Scheme
from planish.passes.shared.quant.statistics import Kind, Observed, Statistics, Want

from .networks import classifier, embedder, images

ALL = Kind.RANGE | Kind.HISTOGRAM | Kind.CHANNELS | Kind.MOMENTS | Kind.TOKENS


def samples(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"x": image} for image in images(start + count)[start:]]


def same(a: Statistics, b: Statistics) -> None:
    assert a.samples == b.samples
    assert a.values.keys() == b.values.keys()
    for name, found in a.values.items():
        other = b.values[name]
        for key in ("count", "low", "high", "arrays", "nan", "infinite", "rows"):
            assert getattr(found, key) == getattr(other, key), (name, key)
        assert found.mean == pytest.approx(other.mean, rel=1e-9, abs=1e-12)
        assert found.average == pytest.approx(other.average)
        assert_arrays(found, other)


def assert_arrays(found: Observed, other: Observed) -> None:
    for name in ("histogram", "tokens"):
        a, b = getattr(found, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a.keys, b.keys)
            np.testing.assert_array_equal(a.counts, b.counts)
    assert (found.channels is None) == (other.channels is None)
    if found.channels is not None and other.channels is not None:
        np.testing.assert_allclose(found.channels.mean, other.channels.mean, rtol=1e-9, atol=1e-12)
    assert (found.moments is None) == (other.moments is None)
    if found.moments is not None and other.moments is not None:
        np.testing.assert_allclose(found.moments, other.moments, rtol=1e-9)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "calibration.npz"
    found = calibrate(classifier(), samples(3), file, kinds=ALL)
    stage = read_calibration(file).stages[model_digest(classifier())]
    assert stage.complete
    same(stage.statistics, found.statistics)
    assert stage.statistics.declined == found.statistics.declined
    assert found.ranges(Scheme(DType.U8, symmetric=False)).keys() <= found.statistics.values.keys()


def _interrupted(given: list[dict[str, Any]], after: int) -> Iterator[dict[str, Any]]:
    """Samples, with Ctrl-C pressed while one of them is under way."""
    for i, sample in enumerate(given):
        if i == after:
            os.kill(os.getpid(), signal.SIGINT)
        yield sample


def test_interruptions_are_gone_on_with(tmp_path: Path) -> None:
    """The statistics are those of a run without one, and no sample runs twice."""
    file, given = tmp_path / "calibration.npz", samples(5)
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it
    with pytest.raises(KeyboardInterrupt, match="3 samples are observed"):
        calibrate(classifier(), _interrupted(given, 2), file, kinds=ALL)
    assert signal.getsignal(signal.SIGINT) is before
    stage = next(iter(read_calibration(file).stages.values()))
    assert (stage.complete, stage.statistics.samples) == (False, 3)
    labels: list[int] = []
    found = calibrate(classifier(), given, file, kinds=ALL, progress=lambda _, done, __: labels.append(done))
    assert labels == [4, 5]
    assert found.resumed == 3
    same(found.statistics, calibrate(classifier(), given, kinds=ALL).statistics)
    again = calibrate(classifier(), given, file, kinds=ALL, progress=lambda _, done, __: labels.append(done))
    assert labels == [4, 5]
    same(again.statistics, found.statistics)


def test_stale_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "calibration.npz"
    calibrate(classifier(), samples(2), file)
    other = classifier()
    next(n for n in other.graph if n.op == "Relu").op = "Sigmoid"
    with pytest.raises(UsageError, match="another model"):
        calibrate(other, samples(2), file)
    with pytest.raises(UsageError, match="not those that"):
        calibrate(classifier(), samples(2, start=1), file)
    with pytest.raises(UsageError, match="holds 1 samples, 2 were"):
        calibrate(classifier(), samples(1), file)
    assert calibrate(other, samples(1), file, restart=True).statistics.samples == 1


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(UsageError, match="cannot read statistics"):
        calibrate(classifier(), samples(1), tmp_path / "c.npz")


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown method"):
        calibrate(classifier(), samples(1), method="magic")
    with pytest.raises(UsageError, match="holds 0 samples"):
        calibrate(classifier(), [])
    ids = [np.array([[n]], np.int64) for n in (3, 100)]  # the table has 11 rows
    bad = [{"input_ids": i, "attention_mask": np.ones_like(i)} for i in ids]
    with pytest.raises(BackendError, match="sample 1"):
        calibrate(embedder(), bad, tmp_path / "c.npz")
    assert not list(tmp_path.iterdir())


def test_a_pipeline_runs_first() -> None:
    plain = calibrate(classifier(), samples(2))
    fused = calibrate(classifier(), samples(2), pipeline="default")
    assert len(fused.statistics.values) < len(plain.statistics.values)
    assert fused.file is not None
    assert fused.file.model == model_digest(classifier())
    assert list(fused.file.stages) != [fused.file.model]


def test_optimizations_keep_statistics(tmp_path: Path) -> None:
    file, given = tmp_path / "kept.npz", samples(3)
    observer = Observer(given)
    kept = Kept(file, classifier(), observer, "given samples")
    first = observer(classifier(), [Want("x")])
    kept.save()
    again = Observer(given)
    Kept(file, classifier(), again, "given samples").save()
    again.run = None  # type: ignore[method-assign,assignment]  # it must not look again
    assert again(classifier(), [Want("x")])["x"].rms == first["x"].rms
    fresh = Observer(samples(2))
    Kept(file, classifier(), fresh, "other samples")
    assert fresh(classifier(), [Want("x")]).samples == 2
    other = classifier()
    next(n for n in other.graph if n.op == "Relu").op = "Sigmoid"
    with pytest.raises(UsageError, match="another model"):
        Kept(file, other, Observer(given), "")


def test_optimize_writes_and_reads_the_file(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "samples": samples(3),
        "pipeline": "assign-quant,insert-qdq",
        "allow_different": True,
        "measure": False,
        "calibration": tmp_path / "kept.npz",
    }
    result = planish.optimize(classifier(), **options)
    stages = read_calibration(tmp_path / "kept.npz").stages
    assert any(stage.wants for stage in stages.values())
    stamp = (tmp_path / "kept.npz").stat().st_mtime_ns
    assert str(planish.optimize(classifier(), **options).model) == str(result.model)
    assert (tmp_path / "kept.npz").stat().st_mtime_ns == stamp


# -- streams


def test_iterators_are_gone_through_again_from_a_spool() -> None:
    drawn: list[int] = []

    def draw() -> Iterator[dict[str, Any]]:
        for i, sample in enumerate(samples(4)):
            drawn.append(i)
            yield sample

    stream = SampleStream(draw(), classifier())
    first = iter(stream)
    for _ in range(2):  # a round that stops half way
        next(first)
    rounds = [[s["x"].copy() for s in stream] for _ in range(2)]
    assert drawn == [0, 1, 2, 3]
    for found in rounds:
        np.testing.assert_array_equal(np.stack(found), np.stack([s["x"] for s in samples(4)]))


def test_functions_arrays_and_files_start_anew(tmp_path: Path) -> None:
    stacked = images(3)
    np.savez(tmp_path / "plain.npz", x=stacked)
    np.savez_compressed(tmp_path / "packed.npz", x=stacked)
    sources: list[Any] = [{"x": stacked}, lambda: samples(3), tmp_path / "plain.npz", tmp_path / "packed.npz", tmp_path]
    for source in sources:
        stream = SampleStream(source, classifier(), limit=2)
        for _ in range(2):
            np.testing.assert_array_equal(np.stack([s["x"] for s in stream]), stacked[:2])
    assert len(load_samples(lambda: samples(3), classifier())) == 3


def test_one_sample_of_a_file_at_a_time(tmp_path: Path) -> None:
    """A file beyond the limit can be streamed, though not held; a sample beyond it cannot."""
    np.savez(tmp_path / "s.npz", x=np.zeros((20, 2, 3, 16, 16), np.float32))
    token = current_limits.set(Limits(sample_bytes=50_000))
    try:
        assert sum(1 for _ in stream_samples(tmp_path / "s.npz", classifier())) == 20
        with pytest.raises(UsageError, match="holds 1"):
            load_samples(tmp_path / "s.npz", classifier())
        current_limits.set(Limits(sample_bytes=1000))
        with pytest.raises(UsageError, match="one sample takes 6144 bytes"):
            list(stream_samples(tmp_path / "s.npz", classifier()))
    finally:
        current_limits.reset(token)


# -- the command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(classifier(), tmp_path / "m.onnx")
    np.savez(tmp_path / "s.npz", x=images(3))
    command = ["calibrate", str(tmp_path / "m.onnx"), "-s", str(tmp_path / "s.npz"), "-o", str(tmp_path / "c.npz")]
    assert run_cli([*command, "--rows", "2", "--method", "min-max", "--max-memory", "10MB"]) == 0
    out = capsys.readouterr().out
    assert "observed on 3 samples (s.npz)" in out
    assert "ranges by min-max (the worst 2 of" in out
    assert run_cli([*command, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["samples"], plain["resumed"]) == (3, 3)
    assert plain["values"]["x"]["high"] >= plain["values"]["x"]["to"] > 0
    assert run_cli([*command, "--max-memory", "much"]) == 2
    assert planish.calibrate is calibrate


# -- memory

_MEASURED = """
import resource, sys
import numpy as np
from planish.driver.calibrate import calibrate
from planish.ir.builder import Builder
from planish.ir.dtypes import DType

def model():
    b = Builder()
    x = b.input("x", DType.F32, ("N", 64, 64))
    for _ in range(12):
        x = b.Relu(b.Add(b.Neg(x), 0.5))
    b.output(x, "y")
    return b.model()

def samples(count):
    draw = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": draw.standard_normal((size, 64, 64), np.float32)}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

count, limit, size = int(sys.argv[1]), int(sys.argv[2]) << 20, int(sys.argv[3])
calibrate(model(), samples(1), max_memory_bytes=limit)
before = peak()
calibrate(model(), samples(count), max_memory_bytes=limit)
print(before, peak())
"""


def _peak(count: int, limit_mib: int, size: int) -> tuple[int, int]:
    """Peak memory in MiB after one sample and after all of them."""
    command = [sys.executable, "-c", _MEASURED, str(count), str(limit_mib), str(size)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, after = map(int, out.split())
    return before, after


def test_memory_stays_under_the_limit() -> None:
    """37 values of 8 MiB each, 296 MiB in all."""
    assert _peak(1, 64, 512)[1] - _peak(1, 64, 1)[1] < 64


@pytest.mark.slow
@pytest.mark.parametrize("limit_mib", [2, 1024])
def test_memory_is_flat_in_the_number_of_samples(limit_mib: int) -> None:
    """In stretches and in one piece. Ten samples and a thousand."""
    before, after = _peak(1000, limit_mib, 4)
    few = _peak(10, limit_mib, 4)[1]
    assert after - before < 8
    assert after - few < 8
