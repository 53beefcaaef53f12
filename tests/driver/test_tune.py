"""The search for the fastest plan, with measurements that are made up: no test here asks a clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import planish
from planish.backends.measure import Comparison
from planish.backends.ort.artifact import Artifact
from planish.backends.ort.choices import NO_PREPACKING, combined, memory_choices, speed_choices, thread_choices
from planish.backends.ort.session import SessionSettings
from planish.driver import job as job_module
from planish.driver import peak_memory
from planish.driver.measuring import Measured
from planish.driver.plans import Plan, expanded, without_groups, without_passes
from planish.driver.tuning import cache as tune_cache
from planish.driver.tuning import job as tune_job
from planish.driver.tuning.laboratory import Built
from planish.driver.tuning.record import Tuning
from planish.driver.tuning.search import Search
from planish.ir.errors import BackendError
from planish.passes import pipelines
from planish.passes.target import get_target

from .networks import classifier, images

SAMPLES = {"x": images()}
DEFAULT = SessionSettings()
FUSE, CLEAN = "fold-batchnorm,fuse-gelu,fuse-swish", "remove-identity"
Cost = Callable[[Plan], float]


def comparison(ratio: float, width: float = 0.004, confidence: float = 0.99) -> Comparison:
    return Comparison(ratio, ratio - width, ratio + width, confidence, 100)


@dataclass
class FakeLab:
    """Times are what ``cost`` says; the clock moves by what is asked for."""

    cost: Cost
    problems: dict[str, str] = field(default_factory=dict[str, str])
    """By pipeline, or by a word of the settings."""
    failing: dict[str, str] = field(default_factory=dict[str, str])
    """By pipeline: what shows on the first run."""
    peaks: Callable[[SessionSettings], int | None] = lambda _: None
    loads: Cost = lambda _: 1.0
    """Time of making a session, where the original's is 1."""
    width: float = 0.004
    confidence: float = 0.99
    seconds: float = 0.0
    """Of one run."""
    now: float = 0.0
    compared: list[list[Plan]] = field(default_factory=list[list[Plan]])
    flaky: int = 0
    """From this comparison on, everything takes the same time."""

    def build(self, pipeline: str, disabled: frozenset[str]) -> Built:
        names = pipeline.split(",") if pipeline else []
        fired = tuple((f"{n}/{rule}", 3) for n in names if n.startswith("fu") for rule in ("A", "B"))
        fired = tuple((label, n) for label, n in fired if label not in disabled)
        key = f"{pipeline} {sorted(disabled)}"
        return Built(key, "", fired, frozenset({"LayerNormalization", "Add", "Conv"}))

    def problem(self, built: Built, plan: Plan) -> str:
        return self.failing.get(plan.pipeline, "")

    def refutation(self, built: Built, plan: Plan) -> str:
        if plan.pipeline in self.problems:
            return self.problems[plan.pipeline]
        return next((why for word, why in self.problems.items() if word in str(plan.settings)), "")

    def compare(self, plans: Sequence[tuple[Built, Plan]], seconds: float) -> list[Comparison]:
        self.now += seconds
        self.compared.append([plan for _, plan in plans])
        if self.flaky and len(self.compared) >= self.flaky:
            return [comparison(1.0) for _ in plans[1:]]
        times = [self.cost(plan) for _, plan in plans]
        return [comparison(t / times[0], self.width, self.confidence) for t in times[1:]]

    def run_seconds(self) -> float:
        return self.seconds

    def loading(self, plans: Sequence[tuple[Built, Plan]], seconds: float) -> list[Comparison]:
        self.now += seconds
        return [comparison(self.loads(plan)) for _, plan in plans]

    def peak_bytes(self, built: Built, plan: Plan) -> int | None:
        return self.peaks(plan.settings)


def search(lab: FakeLab, pipelines: Sequence[str] = ("", CLEAN), seconds: float = 100.0) -> Tuning:
    return Search(lab, Plan(FUSE), seconds=seconds, clock=lambda: lab.now).run(pipelines)


def verdicts(found: Tuning) -> dict[str, str]:
    return {t.label: t.verdict for t in found.trials}


def test_nothing_better_leaves_the_start() -> None:
    found = search(FakeLab(lambda plan: 1.0))
    assert found.plan == Plan(FUSE)
    assert not any(t.chosen for t in found.trials)
    assert {t.stage for t in found.trials} == {"pipeline", "passes", "rules", "session", "loading"}
    assert not [t for t in found.trials if t.verdict in ("faster", "slower")]


def test_a_planted_slow_alternative_is_rejected_and_a_fast_one_wins() -> None:
    found = search(FakeLab(lambda plan: {"": 1.5, CLEAN: 0.8}.get(plan.pipeline, 1.0)))
    assert verdicts(found)["none"] == "slower"
    assert found.pipeline == CLEAN
    assert [t.label for t in found.trials if t.chosen] == [CLEAN, f"the winner against {FUSE}"]


def test_a_pass_that_costs_time_is_left_out() -> None:
    found = search(FakeLab(lambda plan: 1.2 if "fuse-gelu" in plan.pipeline else 1.0), ())
    assert found.pipeline == "fold-batchnorm,fuse-swish"
    assert verdicts(found)["without fuse-swish"] != "faster"


def test_several_drops_are_joined_only_where_that_is_faster_still() -> None:
    both = search(FakeLab(lambda plan: 1.0 + 0.2 * plan.pipeline.count("fuse-")), ())
    assert both.pipeline == "fold-batchnorm"
    either = search(FakeLab(lambda plan: 1.2 if plan.pipeline == FUSE else 1.0), ())
    assert len(either.pipeline.split(",")) == 2


def test_a_single_rule_is_left_out() -> None:
    found = search(FakeLab(lambda plan: 1.0 if "fuse-gelu/A" in plan.disabled else 1.1), ())
    assert found.disabled == ["fuse-gelu/A"]
    assert found.pipeline == FUSE


def test_session_settings_are_chosen_and_combined() -> None:
    def cost(plan: Plan) -> float:
        s = plan.settings
        return 1.0 - 0.1 * ("SkipLayerNormFusion" in s.disabled_optimizers) - 0.2 * (s.optimization_level == "basic")

    found = search(FakeLab(cost), ())
    assert found.settings.optimization_level == "basic"
    assert "SkipLayerNormFusion" in found.settings.disabled_optimizers
    assert found.settings.threads == DEFAULT.threads


def test_only_equivalent_candidates_win() -> None:
    lab = FakeLab(
        lambda plan: 0.5 if plan.pipeline == CLEAN or plan.settings.optimization_level != "all" else 1.0,
        {CLEAN: "not equivalent, output y", "'basic'": "differs", "'extended'": "differs", "'disable'": "differs"},
    )
    found = search(lab)
    assert found.plan == Plan(FUSE)
    refused = {t.label: t.because for t in found.trials if t.verdict == "refused"}
    assert refused[CLEAN] == "not equivalent, output y"
    assert refused["level basic"] == "differs"
    early = FakeLab(lambda plan: 0.5 if plan.pipeline == CLEAN else 1.0, failing={CLEAN: "does not load"})
    assert search(early).plan == Plan(FUSE)
    assert not any(plan.pipeline == CLEAN for plans in early.compared for plan in plans)


def test_a_start_that_is_wrong_gives_way() -> None:
    found = search(FakeLab(lambda plan: 1.0, {FUSE: "not equivalent, output y"}))
    assert found.pipeline == ""
    assert found.trials[0].verdict == "refused"
    nothing = search(FakeLab(lambda plan: 1.0, dict.fromkeys((FUSE, CLEAN, ""), "wrong")))
    assert "no candidate is equivalent" in nothing.because


def test_wide_or_uncertain_intervals_choose_nothing() -> None:
    def cost(plan: Plan) -> float:
        return 0.9 if plan.pipeline == CLEAN else 1.0

    assert search(FakeLab(cost, width=0.15)).plan == Plan(FUSE)
    assert search(FakeLab(cost, confidence=0.9)).plan == Plan(FUSE)
    assert search(FakeLab(cost)).pipeline == CLEAN


def test_a_winner_that_cannot_repeat_it_is_not_taken() -> None:
    lab = FakeLab(lambda plan: 0.9 if plan.pipeline == CLEAN else 1.0)
    lab.flaky = 3  # both halves of the first stage say faster, nothing after them
    found = search(lab)
    assert found.plan == Plan(FUSE)
    assert not any(t.chosen for t in found.trials)
    (proof,) = [t for t in found.trials if t.stage == "proof"]
    assert proof.because == "the plan without a search stays"


def test_a_winner_whose_session_takes_longer_to_make_is_not_taken() -> None:
    def cost(plan: Plan) -> float:
        return 0.8 if plan.pipeline == CLEAN else 1.0

    found = search(FakeLab(cost, loads=lambda plan: 1.2 if plan.pipeline == CLEAN else 0.9))
    assert found.plan == Plan(FUSE)
    assert [(t.label, t.verdict) for t in found.trials if t.stage == "loading"] == [
        ("the start", "faster"),
        ("the winner", "slower"),
    ]
    assert search(FakeLab(cost, loads=lambda _: 1.2)).pipeline == CLEAN, "the start takes as long"
    assert search(FakeLab(cost, loads=lambda _: 1.02)).pipeline == CLEAN, "within the margin"


def test_memory_that_costs_no_time_is_saved() -> None:
    def peaks(s: SessionSettings) -> int:
        return 100 - 30 * (not s.memory_pattern) - 3 * (not s.memory_arena)

    found = search(FakeLab(lambda plan: 1.0, peaks=peaks), ())
    assert not found.settings.memory_pattern
    assert not found.settings.memory_arena  # both together take least
    dear = search(FakeLab(lambda plan: 1.0 + 0.2 * (not plan.settings.memory_pattern), peaks=peaks), ())
    assert dear.settings.memory_pattern
    assert [(t.label, t.because) for t in dear.offers] == []  # too dear


def test_memory_that_costs_some_time_is_offered() -> None:
    def peaks(s: SessionSettings) -> int:
        return 100 if s.memory_pattern else 50

    found = search(FakeLab(lambda plan: 1.0 + 0.03 * (not plan.settings.memory_pattern), peaks=peaks), ())
    assert found.settings.memory_pattern
    assert found.offers[0].because == "50% less memory for +3.0% time"
    assert "offered: 50% less memory" in str(found.offers[0].row)
    assert found.offers[0].settings is not None
    assert not SessionSettings.from_dict(found.offers[0].settings).memory_pattern
    wrong = FakeLab(lambda plan: 1.0 + 0.03 * (not plan.settings.memory_pattern), {"memory_pattern=False": "no"})
    wrong.peaks = peaks
    assert search(wrong, ()).offers == []


def test_memory_whose_price_cannot_be_repeated_is_offered() -> None:
    lab = FakeLab(lambda plan: 1.0, peaks=lambda s: 100 if s.memory_pattern else 50)
    chosen = search(lab, ())
    assert not chosen.settings.memory_pattern
    again = FakeLab(lambda plan: 1.0, peaks=lab.peaks)
    proof = len(lab.compared)

    def compare(plans: Sequence[tuple[Built, Plan]], seconds: float) -> list[Comparison]:
        again.compared.append([plan for _, plan in plans])
        ratio = 1.05 if len(again.compared) == proof else 1.0
        return [comparison(ratio) for _ in plans[1:]]

    again.compare = compare  # type: ignore[method-assign]
    found = search(again, ())
    assert found.settings.memory_pattern
    assert [t.because for t in found.offers] == ["50% less memory for +0.0% time"]


def test_fewer_threads_are_tried_where_the_user_allows_several() -> None:
    def cost(plan: Plan) -> float:
        return 0.8 if plan.settings.threads == 2 else 1.0

    def found(threads: bool) -> Tuning:
        lab, start = FakeLab(cost), Plan(FUSE, settings=SessionSettings(threads=4))
        return Search(lab, start, seconds=100, threads=threads, field=20, clock=lambda: lab.now).run(())

    assert found(True).settings.threads == 2
    assert found(False).settings.threads == 4
    labels = [label for label, _ in thread_choices(SessionSettings(threads=0), cores=8)]
    assert labels == ["4 threads", "2 threads", "1 thread", "no spinning"]
    assert thread_choices(SessionSettings(threads=1)) == []


def test_time_is_bounded() -> None:
    lab = FakeLab(lambda plan: 1.0)
    found = search(lab, seconds=10.0)
    assert found.seconds <= 11.0
    late = FakeLab(lambda plan: 0.5 if plan.pipeline == CLEAN else 1.0)
    late.now = 5.0
    assert "too little time" in search(late, seconds=-1.0).because


def test_long_runs_leave_room_for_the_session_and_for_memory() -> None:
    lab = FakeLab(lambda plan: 1.0 + 0.03 * (not plan.settings.memory_pattern), seconds=0.2)
    lab.peaks = lambda s: 100 if s.memory_pattern else 50
    found = search(lab, seconds=60.0)
    stages = [t.stage for t in found.trials if t.turns]
    assert {"session", "memory", "loading"} <= set(stages)
    assert found.offers
    assert {t.verdict for t in found.trials if not t.turns} <= {"the start", "not measured", "no saving", "same model"}
    assert all(len(plans) * 18 * 0.2 < 60 * 0.5 for plans in lab.compared)


def test_the_worse_half_is_not_measured_again() -> None:
    lab = FakeLab(lambda plan: {"": 1.5, CLEAN: 0.8}.get(plan.pipeline, 0.9 if plan.pipeline == "fuse-gelu" else 1.0))
    search(lab, ("", CLEAN, "fuse-gelu"))
    first, second = lab.compared[:2]
    assert [p.pipeline for p in first] == [FUSE, FUSE, "", CLEAN, "fuse-gelu"]
    assert [p.pipeline for p in second] == [FUSE, FUSE, CLEAN, "fuse-gelu"]


def test_an_outcome_is_data() -> None:
    found = search(FakeLab(lambda plan: 1.2 if "fuse-gelu" in plan.pipeline else 1.0))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Tuning.from_dict(plain) == found
    with pytest.raises(ValueError, match="nothing"):
        Tuning.from_dict({**plain, "nothing": 1})


# -- choices and plans


def test_choices_are_those_that_can_matter() -> None:
    labels = [label for label, _ in speed_choices(DEFAULT, ["Conv", "com.microsoft:Gelu"])]
    assert "level extended" in labels
    assert not [label for label in labels if "fusion" in label]
    assert "without SkipLayerNorm fusion" in dict(speed_choices(DEFAULT, ["LayerNormalization", "Add"]))
    assert "without channels-last" in dict(speed_choices(DEFAULT, ["Conv", "DequantizeLinear", "QuantizeLinear"]))
    assert "without channels-last" not in dict(speed_choices(DEFAULT, ["Conv", "Relu"]))
    off = replace(DEFAULT, memory_pattern=False, memory_arena=False)
    assert [label for label, _ in memory_choices(off)] == ["no prepacking", "no prepacking, no arena, no pattern"]
    assert memory_choices(replace(off, config=(NO_PREPACKING,))) == []
    assert combined(DEFAULT, [off, DEFAULT.with_level("basic"), DEFAULT.with_level("extended")]) == off.with_level(
        "basic"
    )


def test_passes_leave_groups_and_repetitions() -> None:
    text = "(remove-identity,merge-casts)*,(fuse-gelu,fold-batchnorm),merge-constants"
    assert without_passes(text, {"fuse-gelu"}) == "(remove-identity,merge-casts)*,fold-batchnorm,merge-constants"
    assert without_passes(text, {"remove-identity", "merge-casts", "fuse-gelu", "fold-batchnorm"}) == "merge-constants"


def test_groups_are_left_out_one_at_a_time() -> None:
    assert without_groups("clean,fuse,fuse-conv,clean") == ["clean,fuse,clean", "clean,fuse-conv,clean"]
    assert without_groups("clean,fuse,clean") == []
    assert without_groups("clean,(fuse-gelu,fold-batchnorm)") == []


# -- as part of optimize


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tune_job, "peak_bytes", lambda *_: None)
    return tmp_path / "cache"


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sessions at level ``basic`` are twice as fast; the list counts the comparisons."""
    calls: list[int] = []

    def compare(self: tune_job.Bench, plans: Sequence[tuple[Built, Plan]], seconds: float) -> list[Comparison]:
        calls.append(len(plans))
        times = [0.5 if plan.settings.optimization_level == "basic" else 1.0 for _, plan in plans]
        return [comparison(t / times[0]) for t in times[1:]]

    def loading(self: tune_job.Bench, plans: Sequence[tuple[Built, Plan]], seconds: float) -> list[Comparison]:
        return [comparison(0.5) for _ in plans]

    monkeypatch.setattr(tune_job.Bench, "compare", compare)
    monkeypatch.setattr(tune_job.Bench, "loading", loading)
    fast = Measured(True, "", 0.5, 0.49, 0.51, 0.99, 0.02, 50, 100.0, 50.0)
    monkeypatch.setattr(job_module, "measure_pair", lambda *_, **__: fast)
    return calls


def tuned(**options: Any) -> planish.Result:
    given: dict[str, Any] = {"samples": SAMPLES, "pipeline": "remove-identity,fold-batchnorm", "tune": True}
    return planish.optimize(classifier(), **{**given, **options})


def test_the_artifact_runs_with_what_was_chosen(cache: Path, timed: list[int], tmp_path: Path) -> None:
    result = tuned()
    assert result.settings.optimization_level == "basic"
    assert result.report.session["optimization_level"] == "basic"
    assert "level basic" in str(result.report)
    json.dumps(result.report.to_dict(), allow_nan=False)
    result.artifact().save(tmp_path / "a")
    loaded = Artifact.load(tmp_path / "a")
    assert loaded.settings == result.settings
    assert loaded.session.settings.optimization_level == "basic"
    assert loaded.manifest["pipeline"] == result.report.tuning.pipeline if result.report.tuning else ""
    other = result.artifact(SessionSettings("extended"))
    assert other.manifest["session"]["optimization_level"] == "extended"


def test_the_second_search_comes_from_the_cache(cache: Path, timed: list[int]) -> None:
    first = tuned().report.tuning
    searched = len(timed)
    again = tuned().report.tuning
    assert first is not None
    assert again is not None
    assert (searched > 0, len(timed)) == (True, searched)
    assert (first.cached, again.cached) == (False, True)
    assert again.plan == first.plan
    (file,) = (cache / "planish" / "tune").iterdir()
    tuned(cache=False)
    assert len(timed) == 2 * searched
    tuned(pipeline="remove-identity")
    assert len(list(file.parent.iterdir())) == 2
    file.write_text("{")  # a damaged entry is searched for again
    assert not getattr(tuned().report.tuning, "cached", True)


def test_making_sessions_is_timed(cache: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    found = tuned(tune_seconds=0.2, measure_seconds=0.1).report.tuning
    assert found is not None
    (start,) = [t for t in found.trials if t.label == "the start"]
    assert start.stage == "loading"
    assert start.turns > 0
    assert 0.01 < start.ratio < 100


def test_sessions_are_made_from_files_on_both_sides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sources: list[object] = []

    class Recorded(tune_job.Session):
        def __init__(self, source: Any, settings: SessionSettings) -> None:
            sources.append(source)
            super().__init__(source, settings)

    def compare(runs: Sequence[Any], **_: Any) -> list[Comparison]:
        for run in runs:
            run(0)
        return [comparison(1.0) for _ in runs[1:]]

    monkeypatch.setattr(tune_job, "Session", Recorded)
    path = Path(tmp_path, "m.onnx")
    planish.save(classifier(), path)

    class Stub:
        source, start_plan = path.read_bytes(), Plan("")
        options = type("Options", (), {"threads": 1})

    built = Built("key", "", (), frozenset(), type("Attempt", (), {"source": path.read_bytes()}))
    monkeypatch.setattr(tune_job, "compare", compare)
    tune_job.Bench(Stub()).loading([(built, Plan(""))], 0.1)  # type: ignore[arg-type]
    assert list(map(type, sources)) == [type(path), type(path)]


def test_an_interrupt_leaves_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(*_: Any) -> list[Comparison]:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_job.Bench, "compare", compare)
    with pytest.raises(KeyboardInterrupt):
        tuned(output=tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()
    assert not (cache / "planish").exists()  # the runtime keeps a folder of its own there


def test_without_measuring_the_table_of_costs_decides(cache: Path, timed: list[int]) -> None:
    result = tuned(measure=False)
    assert not timed
    assert result.settings == SessionSettings()
    assert "measuring is switched off: the table of costs decides" in str(result.report)
    assert "by the table of costs" in str(result.report)
    assert not (cache / "planish").exists()
    found = result.report.tuning
    assert found is not None
    assert {t.stage for t in found.trials} == {"estimate"}
    assert len([t for t in found.trials if t.chosen]) == 1
    assert all(t.turns == 0 for t in found.trials), "nothing was measured"
    assert tuned(measure=False, threads=3).settings.threads == 3


def test_the_table_leaves_a_start_that_costs_more(cache: Path, timed: list[int]) -> None:
    dear = tuned(measure=False, pipeline="none").report.tuning
    assert dear is not None
    ratios = {t.label: t.ratio for t in dear.trials}
    assert ratios["none"] == 1.0
    assert min(ratios.values()) < 0.95
    assert dear.pipeline, "Identity and what stands alone cost more than nothing"


def test_the_table_decides_for_machines_that_are_not_here(cache: Path, timed: list[int]) -> None:
    from planish.driver.measuring import host_arch

    found = tuned(target="aarch64" if host_arch() == "x86_64" else "x86-64-v3").report.tuning
    assert found is not None
    assert "the table of costs decides" in found.because
    assert not timed


def test_a_slower_winner_is_not_kept(cache: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Measured(True, "", 1.2, 1.15, 1.25, 0.99, 0.02, 50, 100.0, 120.0)
    monkeypatch.setattr(job_module, "measure_pair", lambda *_, **__: slow)
    result = tuned()
    assert result.report.decision == "original"
    assert result.settings == SessionSettings()


def test_a_candidate_with_another_result_never_wins(
    cache: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tune_job.Session

    class Broken(real):
        def run(self, inputs: Any) -> Any:
            found = super().run(inputs)
            return [found[0] * 2] if self.settings.optimization_level == "basic" else found

    monkeypatch.setattr(tune_job, "Session", Broken)
    found = tuned().report.tuning
    assert found is not None
    (basic,) = [t for t in found.trials if t.label == "level basic"]
    assert basic.verdict == "refused"
    assert basic.because.startswith("not equivalent, output y")
    assert found.settings.optimization_level == "all"


def test_a_candidate_that_does_not_load_is_refused(
    cache: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tune_job.Bench._session  # pyright: ignore[reportPrivateUsage]

    def refuse(self: tune_job.Bench, built: Built, plan: Plan) -> Any:
        if plan.settings != SessionSettings():
            raise BackendError("no such kernel", where="ort")
        return real(self, built, plan)

    monkeypatch.setattr(tune_job.Bench, "_session", refuse)
    found = tuned().report.tuning
    assert found is not None
    assert {t.because for t in found.trials if t.stage == "session"} == {"no such kernel"}


def test_a_slower_pipeline_loses_one_group_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pipelines.PIPELINES, "fuse", "fold-batchnorm")
    monkeypatch.setitem(pipelines.PIPELINES, "fuse-conv", "remove-identity")
    slow = Measured(True, "", 1.2, 1.15, 1.25, 0.99, 0.02, 50, 100.0, 120.0)
    seen: list[int] = []

    def measured(*_: Any, **__: Any) -> Measured:
        seen.append(1)
        return slow if len(seen) == 1 else replace(slow, ratio=0.9, low=0.89, high=0.91)

    monkeypatch.setattr(job_module, "measure_pair", measured)
    result = planish.optimize(classifier(), samples=SAMPLES, pipeline="fuse,fuse-conv")
    assert result.report.decision == "partly"
    assert result.plan is not None
    assert result.plan.pipeline == "fold-batchnorm"
    assert "optimized in part" in str(result.report)


# -- the cache's key, memory


def test_the_key_depends_on_everything_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    target = get_target("generic")

    def key(**changes: Any) -> str:
        given: dict[str, Any] = {"model_hash": "a", "target": target, "options": {"dims": {"n": 1}}, **changes}
        return tune_cache.cache_key(**given)

    keys = {key(), key(model_hash="b"), key(target=get_target("x86-64-v3")), key(options={"dims": {"n": 2}})}
    assert len(keys) == 4
    before = key()
    monkeypatch.setattr(tune_cache, "processor_name", lambda: "another")
    assert key() != before


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    tune_cache.store("k", Tuning("none"))
    assert tune_cache.load("k") is None
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert tune_cache.cache_folder() == Path.home() / ".cache" / "planish"


def test_peak_memory_is_of_a_process_of_its_own() -> None:
    from planish.ir.onnx_writer import model_to_bytes

    found = peak_memory.peak_memory(model_to_bytes(classifier()), DEFAULT, [{"x": SAMPLES["x"][0]}])
    assert found is None or (0 < found.resident < 200 << 20 and 0 < found.arena < 200 << 20)
    assert peak_memory.peak_bytes(b"no model", DEFAULT, [{"x": SAMPLES["x"][0]}]) is None
    assert peak_memory.peak_bytes(classifier(), DEFAULT, [{"x": SAMPLES["x"][0]}]) is None


def test_names_of_pipelines_stay_short() -> None:
    from planish.driver.plans import short

    assert short(expanded("clean,fuse,clean")) == "clean,fuse,clean"
    assert short("") == "none"
    assert expanded("no-such-pass") == ""
