"""The ONNX Runtime backend: settings, errors, artifacts that are the same bytes twice, kernel tables."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.backends.measure import compare, median_rank
from planish.backends.ort.artifact import Artifact
from planish.backends.ort.backend import Executor, OrtBackend
from planish.backends.ort.kernels import ARCHITECTURES, Support, check_kernels, kernel_table, supported
from planish.backends.ort.session import EXACT, Session, SessionSettings, settings_for
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.errors import BackendError, UsageError
from planish.ir.graph import Model
from planish.ir.onnx_writer import model_to_bytes, model_to_proto
from planish.passes.manager import Pipeline
from planish.passes.target import TARGETS, get_target

ROOT = Path(__file__).parents[2]
SAMPLE = {"x": np.ones((2, 8), np.float32)}


def network() -> Model:
    b = Builder()
    x = b.input("x", DType.F32, ("N", 8))
    b.output(b.Relu(b.MatMul(x, b.const(np.arange(32, dtype=np.float32).reshape(8, 4) - 10, "w"), _name="fc")), "y")
    return b.model()


def test_settings_reach_the_runtime() -> None:
    settings = SessionSettings(
        "basic", 3, "priority", False, False, True, config=(("session.disable_prepacking", "1"),)
    )
    options = settings.options()
    assert int(options.graph_optimization_level) == 1
    assert options.intra_op_num_threads == 3
    assert options.execution_order.name == "PRIORITY_BASED"
    assert not options.enable_mem_pattern
    assert not options.enable_cpu_mem_arena
    assert options.use_deterministic_compute
    assert options.get_session_config_entry("session.disable_prepacking") == "1"


def test_settings_survive_json() -> None:
    settings = SessionSettings("all", 1, disabled_optimizers=("ConstantFolding",), config=(("b", "2"), ("a", "1")))
    back = SessionSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert back.to_dict() == settings.to_dict()
    with pytest.raises(BackendError, match="turbo"):
        SessionSettings.from_dict({"turbo": True})


@pytest.mark.parametrize("bad", [{"optimization_level": "most"}, {"execution_order": "random"}, {"threads": -1}])
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(BackendError, match="does not exist"):
        SessionSettings(**bad)  # type: ignore[arg-type]


def test_disabled_optimizers_are_disabled(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", DType.F32, (2,))
    b.output(b.Add(x, b.Neg(b.const(np.ones(2, np.float32)))), "y")

    def ops(*disabled: str) -> set[str]:
        from planish.backends.ort import session as module

        settings = SessionSettings("basic", disabled_optimizers=disabled)
        path = tmp_path / "seen.onnx"
        original = module.SessionSettings.options

        def options(self: SessionSettings) -> object:
            made = original(self)
            made.optimized_model_filepath = str(path)
            return made

        module.SessionSettings.options = options  # type: ignore[method-assign]
        try:
            Session(b.model(), settings)
        finally:
            module.SessionSettings.options = original  # type: ignore[method-assign]
        from planish.ir.onnx_reader import read_model

        return {n.op for n in read_model(path).graph}

    assert "Neg" not in ops()
    assert "Neg" in ops("ConstantFolding")


def test_errors_of_the_runtime_are_ours(capfd: pytest.CaptureFixture[str]) -> None:
    session = Session(network())
    for inputs, words in (
        ({}, "input x is missing"),
        ({"x": SAMPLE["x"], "z": SAMPLE["x"]}, "no input z"),
        ({"x": SAMPLE["x"].astype(np.float64)}, "double"),
        ({"x": np.ones((2, 9), np.float32)}, "Got: 9 Expected: 8"),
    ):
        with pytest.raises(BackendError, match=words):
            session.run(inputs)
    for source in (b"", b"garbage", "missing.onnx"):
        with pytest.raises(BackendError, match="cannot load"):
            Session(source)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest.mark.parametrize(
    ("opset", "ir_version", "words"),
    [(20, 14, "IR version 14, onnxruntime .* takes up to 13"), (27, 13, "opset 27 of domain ai.onnx, .* up to 26")],
)
def test_files_of_a_later_onnx_say_what_they_need(opset: int, ir_version: int, words: str) -> None:
    proto = model_to_proto(network())
    proto.opset_import[0].version, proto.ir_version = opset, ir_version
    with pytest.raises(BackendError, match=words) as caught:
        Session(proto.SerializeToString())
    assert "export the model" in (caught.value.help or "")


def test_unknown_providers_are_refused_rather_than_replaced() -> None:
    with pytest.raises(BackendError, match="CUDAExecutionProvider is not available"):
        OrtBackend().lower(network(), get_target("cuda")).run(SAMPLE)


def test_gpus_that_do_not_start_are_an_error_and_round_as_processors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime would go on without a word on the processor; products in 19 bits are its default there."""
    import onnxruntime

    asked: list[Any] = []

    class WithoutGpu:
        def __init__(self, *arguments: Any, providers: list[Any], **_: Any) -> None:
            asked.extend(providers)

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    cuda = "CUDAExecutionProvider"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cuda, "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", WithoutGpu)
    with pytest.raises(BackendError, match=f"could not start {cuda}"):
        OrtBackend().lower(network(), get_target("cuda")).run(SAMPLE)
    assert asked == [(cuda, {"use_tf32": "0"}), ("CPUExecutionProvider", {})]


def test_a_model_runs_as_written() -> None:
    expected = np.maximum(SAMPLE["x"] @ (np.arange(32, dtype=np.float32).reshape(8, 4) - 10), 0)
    for model in (network(), model_to_bytes(network())):
        assert np.array_equal(OrtBackend().run(model, SAMPLE)[0], expected)


def test_numpy_scalars_are_inputs_of_rank_0() -> None:
    b = Builder()
    b.output(b.Neg(b.input("x", DType.F32, ())), "y")
    scalar: Any = {"x": np.float32(2)}
    assert Session(b.model()).run(scalar)[0] == -2


def test_the_executor_sees_changes_of_the_model() -> None:
    model, executor = network(), Executor()
    first = executor(model, SAMPLE)[0]
    assert np.array_equal(executor(model, SAMPLE)[0], first)
    relu = next(n for n in model.graph if n.op == "Relu")
    relu.op = "Neg"
    assert not np.array_equal(executor(model, SAMPLE)[0], first)


# -- artifacts

SAVE = """
import sys
import numpy as np
from planish.backends.ort.backend import OrtBackend
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.passes.target import get_target
b = Builder()
x = b.input("x", DType.F32, ("N", 8))
h = b.MatMul(x, b.const(np.arange(32, dtype=np.float32).reshape(8, 4) - 10, "w"))
b.output(b.Conv(b.Unsqueeze(h, b.const(np.array([1]))), b.const(np.ones((2, 1, 3), np.float32)), pads=(1, 1)), "y")
model = b.model()
model.metadata = {"b": "2", "a": "1"}
OrtBackend().lower(model, get_target("x86-64-v3"), pipeline="clean", source="0" * 64).save(sys.argv[1])
"""


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-P", "-c", SAVE, str(tmp_path / seed)], check=True, env=env)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    text = (tmp_path / "1" / "manifest.json").read_text()
    assert str(tmp_path) not in text
    manifest = json.loads(text)
    assert manifest["pipeline"] == "clean"
    assert manifest["target"]["features"] == ["avx2", "fma", "sse42"]
    assert manifest["files"]["model.onnx"]["sha256"] == digests(tmp_path / "1")["model.onnx"]
    assert set(manifest["versions"]) == {"planish", "onnx", "onnxruntime", "numpy"}


def test_an_artifact_comes_back(tmp_path: Path) -> None:
    settings = SessionSettings("extended", threads=1, execution_order="priority")
    artifact = OrtBackend().lower(network(), get_target("generic"), settings=settings, pipeline="none")
    artifact.save(tmp_path / "a")
    artifact.save(tmp_path / "a")  # replaces its own
    back = Artifact.load(tmp_path / "a")
    assert back.settings == settings
    assert np.array_equal(back.run(SAMPLE)[0], artifact.run(SAMPLE)[0])
    assert back.benchmark([SAMPLE], seconds=0.05).time_us > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_damage_is_noticed(tmp_path: Path) -> None:
    artifact = OrtBackend().lower(network(), get_target("generic"))
    for i, damage in enumerate(
        (
            lambda f: (f / "model.onnx").write_bytes(b"x"),
            lambda f: (f / "model.onnx").unlink(),
            lambda f: (f / "manifest.json").unlink(),
            lambda f: (f / "manifest.json").write_text("{}"),
            lambda f: (f / "manifest.json").write_text('{"format": 99}'),
            lambda f: (f / "manifest.json").write_text(
                (f / "manifest.json").read_text().replace('"model.onnx"', '"../m"')
            ),
        )
    ):
        folder = tmp_path / str(i)
        artifact.save(folder)
        damage(folder)
        with pytest.raises(BackendError, match="not a sound artifact"):
            Artifact.load(folder)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    artifact = OrtBackend().lower(network(), get_target("generic"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "precious").write_text("!")
    (tmp_path / "file").write_text("!")
    for name, words in (("theirs", "no artifact"), ("file", "not a folder"), ("no/where", "does not exist")):
        with pytest.raises(UsageError, match=words):
            artifact.save(tmp_path / name)
    assert (tmp_path / "theirs" / "precious").read_text() == "!"


# -- kernels


@pytest.mark.parametrize(
    ("arch", "domain", "op", "version", "types", "expected"),
    [
        ("x86_64", "", "Conv", 11, {"T": "f32"}, Support.KERNEL),
        ("x86_64", "", "Conv", 21, {"T": "f32"}, Support.KERNEL),
        ("x86_64", "", "Conv", 22, {"T": "f16"}, Support.CAST),
        ("aarch64", "", "Conv", 21, {"T": "f16"}, Support.KERNEL),
        ("x86_64", "", "Conv", 21, {"T": "f64"}, Support.NONE),
        ("x86_64", "", "HardSwish", 14, {"T": "f32"}, Support.FUNCTION),
        ("x86_64", "com.microsoft", "FusedConv", 1, {"T": "f32"}, Support.KERNEL),
        ("x86_64", "com.microsoft", "NhwcFusedConv", 1, {"T": "f32"}, Support.NONE),
        ("aarch64", "com.microsoft", "NhwcFusedConv", 1, {"T": "f32"}, Support.KERNEL),
        ("x86_64", "my.ops", "Mystery", 1, {}, Support.NONE),
        ("riscv", "", "Conv", 11, {"T": "f32"}, Support.UNKNOWN),
    ],
)
def test_kernels(arch: str, domain: str, op: str, version: int, types: dict[str, str], expected: Support) -> None:
    assert supported(arch, domain, op, version, types) is expected


def test_the_tables_are_those_of_the_pinned_runtime() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    for arch in ARCHITECTURES:
        path = ROOT / "backends" / "ort" / f"kernels_{arch}.json"
        assert path.stat().st_size < 100_000
        assert len(kernel_table(arch)) > 300
        assert f"onnxruntime=={json.loads(path.read_text())['onnxruntime']}" in pins


def test_lowering_names_nodes_without_a_kernel() -> None:
    b = Builder()
    x = b.input("x", DType.F64, (1, 1, 4, 4))
    b.output(b.Conv(x, b.const(np.ones((1, 1, 3, 3))), _name="conv0"), "y")
    model = b.model()
    assert [u.node for u in check_kernels(model, "x86_64")] == ["conv0"]
    with pytest.raises(BackendError, match="Conv 'conv0'"):
        OrtBackend().lower(model, get_target("x86-64-v3"))
    assert OrtBackend().unsupported(model, get_target("generic")) == []


def test_operators_of_another_processor_are_decomposed() -> None:
    b = Builder(opsets={"": 17, "com.microsoft": 1})
    x = b.input("x", DType.F32, (1, 6, 5, 3))
    weight = b.const(np.ones((4, 3, 3, 3), np.float32), "w")
    conv = b.op("NhwcFusedConv", x, weight, _domain="com.microsoft", activation="Relu")
    b.output(b.op("Gelu", conv, _domain="com.microsoft"), "y")
    model, x86, arm = b.model(), get_target("x86-64-v3"), get_target("aarch64")
    assert OrtBackend().legalize(model, arm) == "none"
    with pytest.raises(BackendError, match="NhwcFusedConv"):
        OrtBackend().lower(model, x86)
    Pipeline(OrtBackend().legalize(model, x86)).run(model)
    assert {n.op for n in model.all_nodes() if n.domain} <= {"Gelu", "FusedConv"}, "Gelu has a kernel and stays"
    feed = {"x": np.full((1, 6, 5, 3), -1, np.float32)}
    assert OrtBackend().lower(model, x86).run(feed)[0].max() == 0


def test_every_target_has_settings() -> None:
    for target in TARGETS.values():
        assert settings_for(target).to_dict()


# -- measuring


def test_the_interval_holds_the_median_with_the_stated_probability() -> None:
    draws = np.sort(np.random.default_rng(0).standard_normal((4000, 40)), axis=1)
    k, confidence = median_rank(40)
    inside = (draws[:, k] <= 0) & (draws[:, -1 - k] >= 0)
    assert abs(inside.mean() - confidence) < 0.01
    assert median_rank(5) == (0, 1 - 2 / 32)


def test_twice_the_work_is_measured_as_such() -> None:
    weights = np.ones((96, 96), np.float32)

    def work(times: int) -> object:
        b = Builder()
        h = b.input("x", DType.F32, (96, 96))
        for _ in range(times):
            h = b.MatMul(h, b.const(weights / 96))
        b.output(h, "y")
        session = Session(b.model(), EXACT)
        return lambda turn: session.run({"x": weights})

    one, two, three = work(8), work(8), work(16)
    same, double = compare([one, two, three], seconds=1.0)  # type: ignore[list-item]
    assert same.low * 0.9 <= 1 <= same.high * 1.1
    assert 1.6 < double.ratio < 2.4
