"""One error budget: what lossy passes take, what the ledger says, retreat and refusal."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish
from planish.driver import job as job_module
from planish.driver.budget import Budget, Ledger
from planish.driver.measuring import Measured
from planish.driver.optimize import Result, optimize
from planish.ir.builder import Builder
from planish.ir.dtypes import DType
from planish.ir.errors import BudgetError, NotEquivalentError, UsageError
from planish.ir.graph import Graph, Model
from planish.ir.onnx_writer import model_to_bytes
from planish.passes import manager, registry
from planish.passes.choices import Choices
from planish.passes.core import Context, Pass
from planish.passes.manager import Pipeline

from .lossy_passes import PLANTED
from .networks import array, classifier, embedder, images, unstable

SAMPLES = {"x": images()}


def ledger_of(result: Result) -> Ledger:
    assert result.report.budget is not None
    return result.report.budget


# -- models and runs


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> type[Pass] | str:
        return PLANTED[name] if name in PLANTED else registry.find(name)

    monkeypatch.setattr(manager, "find", find)


def products() -> Model:
    """y = x + (a b) + c d + e: nudging a alone, or b alone, changes nothing; both do. c, d the same; e always does."""
    b = Builder()
    x = b.input("x", DType.F32, ("N", 32))
    parts = {name: b.const(np.zeros(32, np.float32), f"part_{name}") for name in "abcde"}
    y = b.Add(x, b.Mul(parts["a"], parts["b"]))
    y = b.Add(y, b.Mul(parts["c"], parts["d"]))
    b.output(b.Add(y, parts["e"]), "y")
    return b.model()


def rows(number: int = 3) -> list[dict[str, Any]]:
    return [{"x": array(2, 32, seed=i)} for i in range(number)]


def spend(model: Model, samples: Any, budget: Budget | float, pipeline: str, **options: Any) -> Result:
    return optimize(model, samples=samples, pipeline=pipeline, budget=budget, measure=False, **options)


# -- what is taken


def test_without_a_budget_nothing_lossy_happens() -> None:
    result = optimize(classifier(), samples=SAMPLES, pipeline="store-float16{min-bytes=64}", measure=False)
    assert not result.changed
    assert result.report.budget is None


def test_weights_are_stored_in_half_within_the_budget() -> None:
    result = spend(classifier(), SAMPLES, 1e-2, "clean,store-float16{min-bytes=64}")
    ledger = ledger_of(result)
    assert result.report.decision == "kept"
    assert ledger.taken == ["store-float16@w1", "store-float16@w2"]
    assert 0 < ledger.spent <= 1
    assert ledger.outputs[0].output == "y"
    assert ledger.outputs[0].error <= 1e-2
    entry = ledger.entries[-1]
    assert (entry.kind, entry.offered, entry.taken) == ("lossy", 2, 2)
    assert entry.saved_bytes == (8 * 27 + 80) * 2
    assert ledger.estimate == pytest.approx(ledger.spent, rel=0.5)
    assert result.report.validation.equivalent
    assert result.report.validation.part == "the lossless part"
    found = planish.validate(classifier(), result.model, SAMPLES)
    assert not found.equivalent, "the bounds of rounding must notice the difference"


def test_a_size_is_reached_though_units_promise_more_than_they_save() -> None:
    b = Builder()
    y = b.input("x", DType.F32, ("N", 64))
    for i in range(8):
        y = b.MatMul(y, b.const(array(64, 64, seed=i, scale=0.1), f"part_{i}"))
    b.output(y, "y")
    model = b.model()
    whole = len(model_to_bytes(model))
    limit = whole - 3 * 64 * 64 * 2
    goal = planish.Goal(minimize="error", max_bytes=limit, seconds=1)
    samples = [{"x": array(4, 64, seed=i)} for i in range(3)]
    result = spend(model, samples, Budget(0.1, "rms"), "boast", goal=goal)
    assert len(model_to_bytes(result.model)) <= limit
    assert any("too large: selected again" in step for step in ledger_of(result).steps)


def test_the_default_pipeline_has_the_lossy_passes_when_there_is_a_budget() -> None:
    result = spend(classifier(), SAMPLES, 1e-2, "default")
    assert "store-float16" in result.report.pipeline


def test_weights_in_bodies_are_units() -> None:
    b = Builder()
    x, c = b.input("x", DType.F32, ("N", 16)), b.input("c", DType.BOOL, ())
    bodies: list[Graph] = []
    for name, seed in (("then_branch", 1), ("else_branch", 2)):
        inner = Graph(name)
        inner.adopt(b.graph)
        body = Builder(inner)
        body.graph.set_outputs([body.MatMul(x, body.const(array(16, 16, seed=seed), "w"))], [name])
        bodies.append(inner)
    b.output(b.If(c, then_branch=bodies[0], else_branch=bodies[1]), "y")
    samples = [{"x": array(2, 16, seed=i), "c": np.array(i % 2 == 0)} for i in range(4)]
    ledger = ledger_of(spend(b.model(), samples, 1e-2, "store-float16{min-bytes=64}"))
    assert ledger.taken == ["store-float16@w", "store-float16@w#2"]


def test_units_that_are_harmless_alone_are_not_taken_together() -> None:
    ledger = ledger_of(spend(products(), rows(), Budget(0.5, "absolute"), "nudge"))
    taken = {key[-1] for key in ledger.taken}
    assert "e" not in taken
    assert len(taken & {"a", "b"}) == len(taken & {"c", "d"}) == 1
    assert ledger.spent <= 1
    assert len(ledger.left) == 3
    assert ledger.steps
    assert ledger.evaluations <= ledger.max_evaluations


def test_the_same_command_gives_the_same_bytes() -> None:
    first, again = (spend(products(), rows(), Budget(0.5, "absolute"), "nudge") for _ in range(2))
    assert model_to_bytes(first.model) == model_to_bytes(again.model)
    assert ledger_of(first) == ledger_of(again)


@pytest.mark.parametrize(("name", "unit"), [("drop-relu", "drop-relu/LessRelu@relu"), ("whole", "whole")])
def test_lossy_passes_that_know_no_units_have_some_all_the_same(name: str, unit: str) -> None:
    tight = spend(classifier(), SAMPLES, 1e-4, name)
    assert not tight.changed
    assert list(ledger_of(tight).left) == [unit]
    wide = spend(classifier(), SAMPLES, 10.0, name)
    assert ledger_of(wide).taken == [unit]
    assert "Relu" not in wide.report.after.ops


def test_a_rule_in_plain_code_is_one_unit() -> None:
    b = Builder()
    x = b.input("x", DType.F32, ("N", 32))
    b.output(b.LeakyRelu(b.Neg(b.LeakyRelu(x, alpha=0.4)), alpha=0.4), "y")
    assert ledger_of(spend(b.model(), rows(), 1e-3, "leak")).left.keys() == {"leak/ScaleAttribute"}
    assert ledger_of(spend(b.model(), rows(), 1.0, "leak")).taken == ["leak/ScaleAttribute"]


def test_a_pipeline_alone_takes_everything_and_writes_it_down() -> None:
    model, ctx = products(), Context(choices=Choices(["nudge@part_e"]))
    Pipeline("nudge").run(model, ctx)
    assert [u.key for u in ctx.choices.taken] == [f"nudge@part_{c}" for c in "abcd"]
    assert len(ctx.choices.offered) == 5
    assert ctx.choices.offered["nudge@part_a"].owner == "nudge"


def test_each_lossy_pass_has_an_entry_and_their_sum_is_compared() -> None:
    model = classifier()
    pipeline = "fold-batchnorm,store-float16{min-bytes=64},drop-relu"
    ledger = ledger_of(spend(model, SAMPLES, 10.0, pipeline))
    assert [(e.name, e.kind) for e in ledger.entries] == [
        ("fold-batchnorm", "rounding"),
        ("store-float16", "lossy"),
        ("drop-relu", "lossy"),
    ]
    assert ledger.estimate == pytest.approx(sum(e.spent for e in ledger.entries))
    assert ledger.spent == pytest.approx(ledger.estimate, rel=0.3)


def test_a_slower_result_is_taken_back_and_the_ledger_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(original: Any, optimized: bytes, *_: object, **__: object) -> Measured:
        import onnx

        half = any(n.op_type == "Cast" for n in onnx.load_from_string(optimized).graph.node)
        ratio = 2.0 if half else 0.5
        return Measured(True, "", ratio, ratio, ratio)

    monkeypatch.setattr(job_module, "measure_pair", slow)
    pipeline = "fold-batchnorm,store-float16{min-bytes=64}"
    result = optimize(classifier(), samples=SAMPLES, pipeline=pipeline, budget=1e-2)
    ledger = ledger_of(result)
    assert "BatchNormalization" not in result.report.after.ops
    assert "Cast" not in result.report.after.ops
    assert ledger.taken == []
    assert all("slower" in because for because in ledger.left.values())
    assert ledger.spent < 1e-2


# -- metrics


def test_a_lost_output_is_refused_although_the_mean_hides_it() -> None:
    """Scores below one beside boxes of hundreds, as detectors have them: the pass silences all scores."""
    b = Builder()
    x = b.input("x", DType.F32, (1, 8, 64))
    boxes, scores = b.Split(x, b.const(np.array([4, 4])), axis=1, _outputs=2)
    silenced = b.Sub(scores, b.Mul(scores, b.const(np.zeros((4, 1), np.float32), "part_scores")))
    b.output(b.Concat(boxes, silenced, axis=1), "y")
    scale = np.array([300.0] * 4 + [0.9] * 4, np.float32)[:, None]
    samples = [{"x": np.abs(array(1, 8, 64, seed=i)) * scale} for i in range(2)]

    def mean_error(outputs: list[dict[str, Any]], inputs: list[dict[str, Any]]) -> float:
        pairs = [(o["y"], i["x"]) for o, i in zip(outputs, inputs, strict=True)]
        return float(np.mean([np.abs(y - x).mean() / np.abs(x).mean() for y, x in pairs]))

    mean = Budget(0.03, mean_error, higher_is_better=False)
    assert ledger_of(spend(b.model(), samples, mean, "nudge")).taken == ["nudge@part_scores"]
    for metric in ("relative", "rms", "cosine"):
        ledger = ledger_of(spend(b.model(), samples, Budget(0.03, metric), "nudge"))
        assert ledger.left.keys() == {"nudge@part_scores"}


def gated() -> Model:
    """Two parts, each behind a factor of the input: a sample decides which of them shows."""
    b = Builder()
    x = b.input("x", DType.F32, ("N", 32))
    first, second = b.input("p", DType.F32, ()), b.input("q", DType.F32, ())
    y = b.Add(x, b.Mul(first, b.const(np.zeros(32, np.float32), "part_a")))
    b.output(b.Add(y, b.Mul(second, b.const(np.zeros(32, np.float32), "part_b"))), "y")
    return b.model()


def gates(shown: int | None) -> list[dict[str, Any]]:
    """Eight samples; only the one of this number sees the second part."""
    return [
        {"x": array(2, 32, seed=i), "p": np.float32(1e-5), "q": np.float32(1.0 if i == shown else 0.0)}
        for i in range(8)
    ]


@pytest.mark.parametrize("shown", [None, 2, 3])
def test_what_is_selected_is_checked_on_samples_that_were_held_back(shown: int | None) -> None:
    ledger = ledger_of(spend(gated(), gates(shown), 1e-3, "nudge"))
    assert ledger.taken == (["nudge@part_a", "nudge@part_b"] if shown is None else ["nudge@part_a"])
    assert ledger.spent <= 1
    assert ledger.held == (0 if shown == 3 else 2)  # the fourth is held back: then all are needed to select by
    assert any("held back" in step for step in ledger.steps) == (shown == 3)
    assert ("not used to select by" in str(ledger.document()[0])) == (shown != 3)


def test_labels_are_held_back_with_their_samples() -> None:
    asked: list[list[int]] = []

    def right(outputs: list[dict[str, Any]], labels: list[int]) -> float:
        asked.append(list(labels))
        return float(np.mean([abs(o["y"]).max() < 100 for o in outputs]))

    budget = Budget(0.01, right, labels=list(range(8)))
    assert ledger_of(spend(gated(), gates(None), budget, "nudge")).held == 2
    assert [0, 1, 2, 4, 5, 6] in asked
    assert asked[-1] == list(range(8))
    one_number = Budget(0.01, lambda outputs, labels: 1.0, labels=3)
    assert ledger_of(spend(gated(), gates(None), one_number, "nudge")).held == 0


def loud(place: int | None, count: int = 8) -> list[dict[str, Any]]:
    """Samples up to 1, but for the one at ``place``, which goes up to 4."""
    return [{"x": np.linspace(0, 4 if i == place else 1, 32, dtype=np.float32)[None]} for i in range(count)]


@pytest.mark.parametrize(
    ("place", "count", "fits"),
    [(None, 8, True), (2, 8, True), (3, 8, False), (7, 8, False), (3, 7, True)],
    ids=["all alike", "one to select by", "one held back", "the last held back", "none are held back"],
)
@pytest.mark.parametrize("given", [list, iter], ids=["list", "iterator"])
def test_what_is_held_back_takes_no_part_in_calibration(
    place: int | None, count: int, fits: bool, given: Callable[[list[Any]], Any]
) -> None:
    """A clip at the largest value seen harms a sample that was not seen, and no other."""
    b = Builder()
    x = b.input("x", DType.F32, ("N", 32))
    b.output(b.Relu(x, _name="relu"), "y")
    ledger = ledger_of(spend(b.model(), given(loud(place, count)), 1e-3, "ceiling"))
    assert ledger.taken == (["ceiling@relu"] if fits else [])


def test_all_samples_are_observed_where_labels_cannot_be_split() -> None:
    b = Builder()
    x = b.input("x", DType.F32, ("N", 32))
    b.output(b.Relu(x, _name="relu"), "y")

    def largest(outputs: list[dict[str, Any]], label: float) -> float:
        return -abs(max(o["y"].max() for o in outputs) - label)

    assert ledger_of(spend(b.model(), loud(3), Budget(1e-3, largest, labels=4.0), "ceiling")).taken


def test_task_metrics() -> None:
    def best(outputs: list[dict[str, Any]], samples: list[dict[str, Any]]) -> float:
        assert len(outputs) == len(samples) == 3
        return float(np.mean([o["y"].max() for o in outputs]))

    found = ledger_of(spend(classifier(), SAMPLES, Budget(0.01, best), "store-float16{min-bytes=64}"))
    assert found.taken
    assert found.baseline is not None
    assert found.score is not None
    assert abs(found.baseline - found.score) <= 0.01
    assert "best" in found.metric
    labels = [1, 2, 3]
    seen: list[Any] = []

    def labelled(outputs: list[Any], given: list[int]) -> float:
        seen.append(given)
        return 1.0

    spend(classifier(), SAMPLES, Budget(0, labelled, labels=labels), "store-float16{min-bytes=64}")
    assert seen[0] is labels

    def own_inputs(run: Any) -> float:
        return float(run({"x": images(1)[0]})[0].sum())

    assert ledger_of(spend(classifier(), SAMPLES, Budget(0.1, own_inputs, runs=True), "drop-relu")).taken


def test_lower_is_better() -> None:
    def loss(outputs: list[dict[str, Any]], samples: list[dict[str, Any]]) -> float:
        return float(np.mean([np.abs(o["y"] - s["x"]).max() for o, s in zip(outputs, samples, strict=True)]))

    ledger = ledger_of(spend(products(), rows(), Budget(0.5, loss, higher_is_better=False), "nudge"))
    assert "nudge@part_e" in ledger.left
    assert len(ledger.taken) == 2
    as_gain = ledger_of(spend(products(), rows(), Budget(0.5, loss), "nudge"))
    assert len(as_gain.taken) == 5, "a higher loss is an improvement to a metric of which higher is better"


def test_a_metric_that_fails_on_candidates_only_refuses_them() -> None:
    def picky(outputs: list[dict[str, Any]], samples: list[dict[str, Any]]) -> float:
        off = max(float(np.abs(o["y"] - s["x"]).max()) for o, s in zip(outputs, samples, strict=True))
        if off > 0.5:
            raise ValueError("what is this?")
        return math.nan if off > 0.1 else 1.0

    ledger = ledger_of(spend(products(), rows(), Budget(0.5, picky), "nudge"))
    assert "nudge@part_e" in ledger.left
    assert len(ledger.taken) == 2


@pytest.mark.parametrize(
    ("result", "message"),
    [(math.nan, "is nan for the original"), ("text", "raised ValueError"), (KeyError("label"), "raised KeyError")],
)
def test_a_metric_that_fails_on_the_original_is_refused(result: Any, message: str) -> None:
    def broken(outputs: Any, samples: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    with pytest.raises(BudgetError, match=message):
        spend(classifier(), SAMPLES, Budget(0.1, broken), "store-float16")


def test_a_metric_that_varies_by_itself_is_refused_or_counted() -> None:
    calls = count()

    def drifting(outputs: Any, samples: Any) -> float:
        return 0.001 * (next(calls) % 3)

    with pytest.raises(BudgetError, match=r"0 to 0.002 for the original in 3 calls: a change of 0.003"):
        spend(products(), rows(), Budget(0.003, drifting), "nudge")
    ledger = ledger_of(spend(products(), rows(), Budget(0.1, drifting), "nudge"))
    assert len(ledger.taken) == 5
    assert ledger.spent >= 0.02, "what the metric varies by counts against the budget"


# -- refusal


def test_an_unstable_model_cannot_be_judged_and_the_message_says_why() -> None:
    samples = [{"x": array(4, 64, seed=i)} for i in range(2)]
    with pytest.raises(BudgetError, match=r"unstable: rounding noise in the original alone spends .* of it"):
        spend(unstable(), samples, 1e-3, "store-float16")


def test_outputs_that_rounding_flips_can_be_left_out() -> None:
    b = Builder()
    x = b.input("x", DType.F32, ("N", 32))
    h = b.MatMul(x, b.const(array(32, 32, seed=3), "w"))
    b.output(h, "y")
    b.output(b.Cast(b.Mul(h, 1e6), to=7), "steps")
    with pytest.raises(BudgetError, match="output steps"):
        spend(b.model(), rows(), 1e-2, "store-float16{min-bytes=64}")
    budget = Budget(1e-2, outputs={"steps": math.inf})
    ledger = ledger_of(spend(b.model(), rows(), budget, "store-float16{min-bytes=64}"))
    assert ledger.taken
    assert [o.output for o in ledger.outputs] == ["y"]


def test_single_outputs_have_limits_of_their_own() -> None:
    samples = [
        {"input_ids": np.array([[1, 2, 3]]), "attention_mask": np.array([[1, 1, 0]])},
        {"input_ids": np.array([[4, 5]]), "attention_mask": np.array([[1, 1]])},
    ]
    pipeline = "store-float16{min-bytes=64}"
    assert ledger_of(spend(embedder(), samples, 1e-2, pipeline)).taken
    assert not ledger_of(spend(embedder(), samples, Budget(1e-2, outputs={"embedding": 1e-5}), pipeline)).taken
    with pytest.raises(BudgetError, match="limits output 'nope', which the model has not"):
        spend(embedder(), samples, Budget(1e-2, outputs={"nope": 1.0}), pipeline)


def test_a_pass_that_only_rounds_is_left_out_where_it_costs_too_much() -> None:
    ledger = ledger_of(spend(classifier(), SAMPLES, 1.0, "remove-identity,sloppy"))
    cost = next(e.spent for e in ledger.entries if e.name == "sloppy")
    assert ledger.noise < cost / 2, "else nothing could be told apart"
    result = spend(classifier(), SAMPLES, Budget(ledger.noise * 1.5), "remove-identity,sloppy")
    assert ledger_of(result).dropped == ["sloppy"]
    assert "sloppy" not in result.report.pipeline
    assert ledger_of(result).spent <= 1


def test_a_model_without_a_runtime_cannot_be_judged() -> None:
    b = Builder(opsets={"": 21, "custom": 1})
    x = b.input("x", DType.F32, ("N", 32))
    b.output(b.op("Mystery", x, _domain="custom"), "y")
    with pytest.raises(BudgetError, match="onnxruntime cannot load the original"):
        optimize(b.model(), budget=0.1, validate="structure", measure=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_error": -1}, "no error that can be allowed"),
        ({"max_error": math.nan}, "no error that can be allowed"),
        ({"max_error": 0, "metric": "snr"}, "no error that can be allowed"),
        ({"max_error": 1, "metric": "mean"}, "there is no metric 'mean'"),
        ({"max_error": 1, "metric": max, "outputs": {"y": 1}}, "go with a named metric"),
        ({"max_error": 1, "runs": True}, "goes with a callable"),
        ({"max_error": 1, "max_evaluations": 2}, "the least is 3"),
    ],
)
def test_budgets_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(**arguments)


# -- reports and the command line


def test_the_report_has_the_ledger() -> None:
    result = spend(products(), rows(), Budget(0.5, "absolute"), "nudge")
    plain = json.loads(json.dumps(result.report.to_dict(), allow_nan=False))["budget"]
    assert plain["max_error"] == 0.5
    assert len(plain["taken"]) == 2
    assert len(plain["left"]) == 3
    assert plain["entries"][0]["name"] == "nudge"
    text = str(result.report)
    assert "error budget: absolute at most 0.5" in text
    assert "retreat:" in text
    assert "left out: nudge@part_" in text


def test_the_manifest_names_what_was_left() -> None:
    artifact = spend(products(), rows(), Budget(0.5, "absolute"), "nudge").artifact()
    assert artifact.manifest["budget"]["limit"].startswith("absolute at most 0.5")
    assert len(artifact.manifest["budget"]["left"]) == 3


def test_a_budget_excuses_no_pass_that_promises_equality(tmp_path: Path) -> None:
    """However much is allowed; and the reproducer does not blame the lossy pass."""
    with pytest.raises(NotEquivalentError, match="wrong") as caught:
        spend(classifier(), SAMPLES, 100.0, "wrong,store-float16{min-bytes=64}", repro_dir=tmp_path)
    assert caught.value.repro is not None
    text = next(tmp_path.glob("*.ir")).read_text()
    assert "// pipeline: wrong\n" in text


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from planish.cli.entry import run

    monkeypatch.chdir(tmp_path)
    planish.save(classifier(), "model.onnx")
    np.savez("samples.npz", x=images())
    Path("quality.py").write_text("def top(outputs, samples):\n    return float(max(o['y'].max() for o in outputs))\n")
    common = ["optimize", "model.onnx", "-o", "out.onnx", "-s", "samples.npz", "--no-measure", "--json"]
    common += ["-p", "store-float16{min-bytes=64}"]
    assert run([*common, "--max-error", "0.01"]) == 0
    assert len(json.loads(capsys.readouterr().out)["budget"]["taken"]) == 2
    assert run([*common, "--max-error", "30", "--metric", "snr"]) == 0
    assert len(json.loads(capsys.readouterr().out)["budget"]["taken"]) == 2
    for metric in ("quality.py:top", "quality:top"):
        assert run([*common, "--max-error", "0.1", "--metric", metric]) == 0
        assert json.loads(capsys.readouterr().out)["budget"]["metric"] == "top"
    for wrong, message in [
        (["--metric", "rms"], "give --max-error"),
        (["--max-error", "1", "--metric", "quality:nope"], "has no attribute 'nope'"),
        (["--max-error", "1", "--metric", "nope"], "there is no metric 'nope'"),
        (["--max-error", "1e-9"], "cannot be"),
    ]:
        assert run([*common, *wrong]) != 0
        assert message in capsys.readouterr().err


def test_the_page_s_example_of_a_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from planish.cli.entry import run

    page = (Path(__file__).parents[2] / "docs" / "trust.md").read_text("utf-8")
    code = re.search(r"```python\n# quality.py\n(.*?)```", page, re.S)
    line = re.search(r"^\$ (planish .*--metric quality.py:confidence)$", page, re.M)
    assert code is not None
    assert line is not None
    monkeypatch.chdir(tmp_path)
    planish.save(classifier(), "model.onnx")
    np.savez("samples.npz", x=images(8))
    Path("quality.py").write_text(code[1])
    assert run([*shlex.split(line[1])[1:], "--no-measure"]) == 0
    assert "confidence may drop by 0.01" in capsys.readouterr().out
    assert Path("small.onnx").exists()
