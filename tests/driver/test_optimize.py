"""optimize(): proves, measures, keeps what is no worse, and otherwise says so."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import planish
from planish.driver import job as module
from planish.driver.checks.contract import contract_of
from planish.driver.measuring import Measured
from planish.driver.optimize import optimize
from planish.driver.reproduce import replay
from planish.ir.builder import Builder
from planish.ir.clone import clone_model
from planish.ir.constants import ArrayConstant
from planish.ir.dtypes import DType
from planish.ir.errors import NotEquivalentError, PassError, ReadError, UsageError
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes, write_model
from planish.passes import manager, registry
from planish.passes.core import Numbers, Pass, RewritePass
from planish.passes.manager import Pipeline
from planish.passes.rewrite import Match, Rewriter, Rule

from .networks import classifier, embedder, images

PIPELINE = "remove-identity,fold-batchnorm"
SAMPLES = {"x": images()}


class Wrong(Rule):
    """Takes away an activation."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Relu(x)

    def rewrite(self, r: Rewriter, m: Match) -> Any:
        return m.x


@dataclass
class RemoveRelu(RewritePass):
    def rules(self) -> Iterable[Rule]:
        return [Wrong()]


@dataclass
class Crash(Pass):
    def run(self, model: Model, r: Rewriter) -> None:
        raise ZeroDivisionError("planted")


@dataclass
class Bloat(Pass):
    """Equal, but much larger: an unused-looking constant that is added as zeros."""

    def run(self, model: Model, r: Rewriter) -> None:
        value = next(v for v in model.graph.constants if v.name == "w2")
        node = next(n for n in model.graph if n.name == "fc")
        added = model.graph.add_constant(ArrayConstant(np.full((4000, 8, 10), -0.0, np.float32)), "zeros")
        b = Builder(model.graph)
        total = b.Add(b.ReduceSum(added, b.const(np.array([0])), keepdims=0), value)
        for made in list(model.graph)[-2:]:
            made.move_before(node)
        node.set_input(1, total)
        r.changes += 1


@pytest.fixture
def extra_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"remove-relu": RemoveRelu, "crash": Crash, "bloat": Bloat}

    def find(name: str) -> type[Pass] | str:
        return known[name] if name in known else registry.find(name)

    monkeypatch.setattr(manager, "find", find)


def test_a_better_model_is_kept_and_proved() -> None:
    model = classifier()
    before = model_to_bytes(model)
    result = optimize(model, samples=SAMPLES, pipeline=PIPELINE, measure_seconds=0.2)
    assert model_to_bytes(model) == before, "the caller's model was changed"
    report = result.report
    assert report.decision in ("kept", "original")  # the measurement has the last word
    assert report.after.nodes <= report.before.nodes
    kept = optimize(model, samples=SAMPLES, pipeline=PIPELINE, measure=False)
    assert kept.changed
    assert "BatchNormalization" not in kept.report.after.ops
    assert kept.report.validation.equivalent
    assert kept.report.validation.contract == "reassociates"
    assert [p.name for p in kept.report.passes] == ["remove-identity", "fold-batchnorm"]


def test_the_result_does_not_share_with_the_argument() -> None:
    model = classifier()
    result = optimize(model, pipeline="none", samples=SAMPLES, measure=False)
    assert result.model is not model
    assert result.report.decision == "unchanged"


def test_paths_bytes_and_graphs_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(classifier(), path)
    outcomes = {
        model_to_bytes(optimize(m, samples=SAMPLES, pipeline=PIPELINE, measure=False).model)
        for m in (path, str(path), path.read_bytes(), read_model(path), onnx.load(path))
    }
    assert len(outcomes) == 1


def test_what_is_no_model_at_all_is_said() -> None:
    with pytest.raises(ReadError, match="cannot read a model from list"):
        optimize([1, 2])  # pyright: ignore[reportArgumentType]


def test_nothing_to_improve_gives_back_the_very_file(tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    write_model(classifier(), path)
    result = optimize(path, samples=SAMPLES, pipeline="none", output=out)
    assert not result.changed
    assert out.read_bytes() == path.read_bytes()


def test_output_may_be_the_input(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(classifier(), path)
    optimize(path, samples=SAMPLES, pipeline=PIPELINE, output=path, measure=False)
    assert "BatchNormalization" not in {n.op for n in read_model(path).graph}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_bad_outputs_are_refused_before_any_work(tmp_path: Path) -> None:
    for path, word in ((tmp_path, "is a folder"), (tmp_path / "no" / "o.onnx", "does not exist")):
        with pytest.raises(UsageError, match=word):
            optimize(tmp_path / "not-even-read.onnx", output=path)


@pytest.mark.usefixtures("extra_passes")
def test_a_wrong_result_is_refused() -> None:
    with pytest.raises(NotEquivalentError) as error:
        optimize(classifier(), samples=SAMPLES, pipeline="remove-relu", measure=False)
    text = str(error.value)
    assert "output y" in text
    assert "allowed" in text
    assert "--allow-different" in text
    assert "first wrong after rewrite 1 of 1: remove-relu/Wrong at 'relu'" in text
    allowed = optimize(classifier(), samples=SAMPLES, pipeline="remove-relu", measure=False, allow_different=True)
    assert allowed.report.validation.equivalent is False


@pytest.mark.usefixtures("extra_passes")
def test_each_pass_names_the_guilty_one() -> None:
    with pytest.raises(NotEquivalentError) as error:
        optimize(
            classifier(),
            samples=SAMPLES,
            pipeline="remove-identity,remove-relu,fold-batchnorm",
            validate="each-pass",
            measure=False,
        )
    assert error.value.where == "remove-relu"


@pytest.mark.usefixtures("extra_passes")
def test_the_guilty_rewrite_is_found_among_others() -> None:
    found = planish.bisect(classifier(), "remove-identity,fold-batchnorm,remove-relu", SAMPLES)
    assert found.guilty is not None
    assert (found.guilty.number, found.guilty.rule) == (found.guilty.total, "remove-relu/Wrong")
    found = planish.bisect(classifier(), "remove-relu,remove-identity,fold-batchnorm", SAMPLES)
    assert found.guilty is not None
    assert found.guilty.number == 1
    assert found.guilty.total == 3
    assert planish.bisect(classifier(), PIPELINE, SAMPLES).guilty is None


@pytest.mark.usefixtures("extra_passes")
def test_a_difference_leaves_a_reproducer_that_replays(tmp_path: Path) -> None:
    with pytest.raises(NotEquivalentError) as error:
        optimize(classifier(), pipeline="remove-relu", measure=False, repro_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    assert error.value.repro == f"planish run {file}"
    found = replay(file)
    assert found.reproduced
    assert "output y" in found.error


@pytest.mark.usefixtures("extra_passes")
def test_a_crash_is_a_message_with_a_reproducer(tmp_path: Path) -> None:
    with pytest.raises(PassError) as error:
        optimize(classifier(), samples=SAMPLES, pipeline="remove-identity,crash", measure=False, repro_dir=tmp_path)
    assert "ZeroDivisionError: planted" in str(error.value)
    assert error.value.where == "crash"
    (file,) = tmp_path.iterdir()
    found = replay(file)
    assert found.reproduced
    assert found.pipeline == "crash"


@pytest.mark.usefixtures("extra_passes")
def test_a_file_that_grows_is_not_kept() -> None:
    result = optimize(classifier(), samples=SAMPLES, pipeline="bloat", measure=False)
    assert result.report.decision in ("original", "clean-only")
    assert "file grows" in result.report.reasons[0]
    grown = optimize(classifier(), samples=SAMPLES, pipeline="bloat", measure=False, max_growth=1e6)
    assert grown.report.decision == "kept"


def test_a_slower_model_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Measured(True, "", 1.2, 1.15, 1.25, 0.99, 0.02, 50, 100.0, 120.0)
    monkeypatch.setattr(module, "measure_pair", lambda *_, **__: slow)
    result = optimize(classifier(), samples=SAMPLES, pipeline=PIPELINE)
    assert result.report.decision == "original"
    assert not result.changed
    assert "slower" in result.report.reasons[0]
    assert "BatchNormalization" in {n.op for n in result.model.graph}


def test_slower_only_beyond_noise() -> None:
    assert not Measured(True, "", 1.2, 1.01, 1.4, noise=0.02).slower
    assert Measured(True, "", 1.2, 1.03, 1.4, noise=0.02).slower
    assert not Measured(True, "", 1.2, 1.03, 1.4, noise=0.05).slower
    assert Measured(True, "", 0.9, 0.85, 0.97, noise=0.02).faster


def test_fuel_and_disabled_rules() -> None:
    def ops(**options: Any) -> dict[str, int]:
        return optimize(classifier(), samples=SAMPLES, pipeline=PIPELINE, measure=False, **options).report.after.ops

    assert "Identity" in ops(fuel=0)
    assert ops(fuel=1).get("Identity") is None
    assert "BatchNormalization" in ops(fuel=1)
    assert "Identity" in ops(disabled=["SameValue"])


def test_dims_are_fixed() -> None:
    result = optimize(embedder(), pipeline="none", dims={"length": 7}, measure=False)
    assert str(result.model.graph.inputs[0].type) == "i64[batch,7]"
    assert result.report.validation.equivalent
    worse = optimize(embedder(), pipeline="fold-constants", dims={"length": 7}, measure=False, max_growth=-1e9)
    assert worse.report.decision in ("dims-only", "kept")
    assert str(worse.model.graph.inputs[0].type) == "i64[batch,7]"
    with pytest.raises(UsageError, match="batch, length"):
        optimize(embedder(), pipeline="none", dims={"N": 7}, measure=False)


def test_custom_operators_are_validated_by_structure_and_that_is_said() -> None:
    b = Builder(opsets={"": 21, "my.ops": 1})
    x = b.Identity(b.input("x", DType.F32, (2,)))
    b.output(b.op("Mystery", x, _domain="my.ops"), "y")
    result = optimize(b.model(), pipeline="remove-identity")
    assert result.report.validation.short
    assert "Mystery" in result.report.validation.because
    assert "structure only because" in str(result.report)
    assert not result.report.measured.done


def test_another_processor_is_not_measured_here() -> None:
    target = "aarch64" if module.host_arch() == "x86_64" else "x86-64-v3"
    result = optimize(classifier(), target, samples=SAMPLES, pipeline=PIPELINE)
    assert not result.report.measured.done
    assert "this machine" in result.report.measured.because
    assert result.report.validation.equivalent


@pytest.mark.parametrize("level", ["none", "structure", "final", "each-pass"])
def test_levels(level: str) -> None:
    result = optimize(classifier(), samples=SAMPLES, pipeline=PIPELINE, validate=level, measure=False)
    method = {"none": "none", "structure": "structure"}.get(level, "numeric")
    assert result.report.validation.method == method
    assert result.report.validation.equivalent is (None if level == "none" else True)


def test_an_unknown_level() -> None:
    with pytest.raises(UsageError, match="each-pass"):
        optimize(classifier(), validate="some")


def test_the_report_is_data_and_text() -> None:
    report = optimize(classifier(), samples=SAMPLES, pipeline=PIPELINE, measure_seconds=0.1).report
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["schema"] == 1
    assert set(plain) >= {
        "source",
        "target",
        "pipeline",
        "before",
        "after",
        "decision",
        "passes",
        "validation",
        "measured",
    }
    assert plain["validation"]["bound"]
    assert "measured: " in str(report)


def test_progress_is_told() -> None:
    seen: list[str] = []
    optimize(
        classifier(), samples=SAMPLES, pipeline=PIPELINE, measure=False, progress=lambda label, *_: seen.append(label)
    )
    assert {"reading", "validating", "fold-batchnorm"} <= set(seen)


def test_contracts() -> None:
    model = classifier()
    pipeline = Pipeline("(remove-identity)*,fold-batchnorm")
    assert contract_of(pipeline.run(clone_model(model)), pipeline).numbers is Numbers.REASSOCIATES
    pipeline = Pipeline("remove-identity")
    assert contract_of(pipeline.run(clone_model(model)), pipeline).numbers is Numbers.EXACT


def test_compile_gives_an_artifact(tmp_path: Path) -> None:
    artifact = planish.compile(classifier(), "generic", samples=SAMPLES, pipeline=PIPELINE, measure=False)
    assert artifact.manifest["pipeline"] == PIPELINE
    assert len(artifact.manifest["source"]) == 64
    artifact.save(tmp_path / "a")
    assert (tmp_path / "a" / "model.onnx").exists()
