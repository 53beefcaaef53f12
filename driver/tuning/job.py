"""The search of ``search.py`` on a job's model: builds by the job, checks against its reference, times sessions."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...backends.measure import Comparison, Run, compare
from ...backends.ort.session import Session, SessionSettings
from ...ir.errors import PlanishError
from ...ir.graph import Model
from ..checks.reference import Reference
from ..checks.validation import Validation
from ..inputs.samples import Samples
from ..measuring import MEASURING
from ..peak_memory import peak_bytes
from ..plans import Plan, alternatives, fired, short
from ..sizes import Runnable, constant_bytes, source_hash
from . import cache as tune_cache
from .estimate import estimate
from .laboratory import Built
from .record import EVEN, FASTER, REFUSED, SLOWER, Trial, Tuning
from .search import FIELD, Search

CHECKED_SAMPLES = 2
"""Samples on which a candidate's session settings are checked; its model was validated on more."""
TABLE_MARGIN = 0.05
"""Differences below this fraction are not believed of the table of costs."""
MAX_BYTES = 1 << 30
"""All models and sessions that are alive at a time, roughly; larger models are not tuned."""


class _Options(Protocol):
    @property
    def target(self) -> Any: ...
    @property
    def measure(self) -> bool: ...
    @property
    def tune_seconds(self) -> float: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def cache(self) -> bool: ...
    @property
    def tolerance(self) -> float: ...
    @property
    def fuel(self) -> int | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def max_growth(self) -> float: ...
    @property
    def dims(self) -> Mapping[str, int]: ...
    @property
    def progress(self) -> Any: ...


class TunedJob(Protocol):
    """What the search needs of a job."""

    base: Model
    source: Runnable
    reference: Reference | None
    samples: Samples | None

    @property
    def options(self) -> _Options: ...
    @property
    def unmeasurable(self) -> str: ...
    @property
    def start_plan(self) -> Plan: ...
    def prepared(self, plan: Plan, level: str) -> Any: ...
    def validation(self, attempt: Any, level: str) -> Validation: ...


def tuned(job: TunedJob) -> Tuning:
    """The outcome of the search, or of the same search earlier; without a way to measure, what the table says."""
    options, start = job.options, job.start_plan
    size = constant_bytes(job.base)
    because = "" if options.measure else "measuring is switched off"
    because = because or job.unmeasurable
    if size > MAX_BYTES:
        because = f"the model has {size} bytes of constants, at most {MAX_BYTES} are tuned"
    elif because:
        return chosen_by_table(job, because)
    if because:
        return Tuning(start.pipeline, sorted(start.disabled), start.settings, because=because)
    key = _key(job)
    found = tune_cache.load(key) if options.cache else None
    if found is None:
        field = max(2, min(FIELD, MAX_BYTES // max(2 * size, 1) - 2))
        search = Search(
            Bench(job),
            start,
            seconds=options.tune_seconds,
            field=field,
            threads=not on_one_thread(job),
            progress=options.progress,
        )
        found = search.run(alternatives(options.target))
        if options.cache:
            tune_cache.store(key, found)
    return found


def chosen_by_table(job: TunedJob, because: str) -> Tuning:
    """The pipeline that takes the least time by ``estimate.py``, with the target's session settings."""
    start, target = job.start_plan, job.options.target
    bench, shapes = Bench(job), _shapes(job)
    best: tuple[float, str] | None = None
    base, trials = 0.0, list[Trial]()
    for pipeline in dict.fromkeys([start.pipeline, *alternatives(target)]):
        trial = Trial("estimate", short(pipeline), EVEN)
        trials.append(trial)
        built = bench.build(pipeline, start.disabled)
        attempt: Any = built.handle
        if built.problem:
            trial.verdict, trial.because = REFUSED, built.problem
            continue
        found = estimate(attempt.model, target, shapes)
        if found.unknown_products:
            trial.verdict, trial.because = REFUSED, f"shapes do not tell what {found.unknown_products} products cost"
            continue
        base = base or found.time_us
        trial.ratio = found.time_us / base
        trial.verdict = FASTER if trial.ratio < 1 - TABLE_MARGIN else SLOWER if trial.ratio > 1 + TABLE_MARGIN else EVEN
        # The start stays where another is not clearly better: the table is no measurement.
        if best is None or found.time_us / (1 - TABLE_MARGIN) < best[0]:
            best = (found.time_us, pipeline)
    chosen = best[1] if best is not None else start.pipeline
    for trial in trials:
        trial.chosen = trial.label == short(chosen)
    because = f"{because}: the table of costs decides, and the target's session settings are taken"
    return Tuning(chosen, sorted(start.disabled), start.settings, trials, because=because)


def _shapes(job: TunedJob) -> dict[str, tuple[int, ...]]:
    """Of the first sample."""
    if job.samples is None or not job.samples.items:
        return {}
    return {name: np.shape(array) for name, array in job.samples.items[0].items()}


def on_one_thread(job: TunedJob) -> bool:
    """Whether everything is measured on one thread, whose clock other processes do not move."""
    threads = job.options.threads
    return (MEASURING.threads if threads is None else threads) == 1


def _key(job: TunedJob) -> str:
    options, start, samples = job.options, job.start_plan, job.samples
    shapes = [{k: f"{v.dtype}{v.shape}" for k, v in s.items()} for s in samples.items] if samples is not None else []
    asked = {
        "pipeline": start.pipeline,
        "disabled": sorted(start.disabled),
        "settings": start.settings.to_dict(),
        "dims": dict(options.dims),
        "limits": [options.tolerance, options.fuel, options.max_growth],
        "shapes": shapes,
    }
    return tune_cache.cache_key(source_hash(job.source) or "", options.target, asked)


class Bench:
    """The laboratory (``laboratory.Lab``) of a job."""

    def __init__(self, job: TunedJob) -> None:
        self.job = job
        self._built: dict[tuple[str, frozenset[str]], Built] = {}
        self._bytes = 0
        self._sessions: dict[tuple[str, SessionSettings], Session] = {}
        """Loaded already, each for one measurement."""
        self._refutations: dict[str, str] = {}
        self._fastest = math.inf

    def build(self, pipeline: str, disabled: frozenset[str]) -> Built:
        """Kept for the stages that vary the settings only."""
        key = (pipeline, disabled)
        if key not in self._built:
            found = self._build(Plan(pipeline, disabled))
            source = getattr(found.handle, "source", None)
            size = len(source) if isinstance(source, bytes) else 0
            if self._bytes + size > MAX_BYTES:
                self._built, self._bytes = {}, 0
            self._built[key] = found
            self._bytes += size
        return self._built[key]

    def _build(self, plan: Plan) -> Built:
        try:
            attempt = self.job.prepared(plan, "none")
        except PlanishError as error:
            return Built(f"failed {plan}", str(error.message))
        key = source_hash(attempt.source) or str(plan)
        hits = tuple(fired(attempt.record).items())
        return Built(key, attempt.worse, hits, frozenset(attempt.size.ops), attempt)

    def problem(self, built: Built, plan: Plan) -> str:
        """Keeps the session for the measurement that follows."""
        try:
            session = self._session(built, plan)
            wrong = self._differs(session, 1)
        except PlanishError as error:
            return error.message
        if not wrong:
            self._sessions[built.key, plan.settings] = session
            self._time(session)
        return wrong

    def _time(self, session: Session) -> None:
        """One warm run."""
        assert self.job.samples is not None
        begin = time.perf_counter()
        session.run(self.job.samples.items[0])
        self._fastest = min(self._fastest, time.perf_counter() - begin)

    def run_seconds(self) -> float:
        return self._fastest if math.isfinite(self._fastest) else 0.0

    def refutation(self, built: Built, plan: Plan) -> str:
        attempt: Any = built.handle
        if built.key not in self._refutations:
            self._refutations[built.key] = _refutation(self.job.validation(attempt, "final"))
        found = self._refutations[built.key]
        if found or plan.settings == self.job.start_plan.settings:
            return found
        try:
            return self._differs(self._session(built, plan), CHECKED_SAMPLES)
        except PlanishError as error:
            return error.message

    def _differs(self, session: Session, count: int) -> str:
        reference, samples = self.job.reference, self.job.samples
        assert reference is not None
        assert samples is not None
        for i, sample in enumerate(samples.items[:count]):
            outputs = session.run(sample)
            compared = reference.compare(i, outputs, tolerance=self.job.options.tolerance)
            bad = [c for c in compared if not c.equivalent]
            if bad:
                return f"not equivalent, {bad[0]}"
        return ""

    def compare(self, plans: Sequence[tuple[Built, Plan]], seconds: float) -> list[Comparison]:
        assert self.job.samples is not None
        items = self.job.samples.items
        kept, self._sessions = self._sessions, {}
        sessions = [kept.pop((built.key, plan.settings), None) or self._session(built, plan) for built, plan in plans]

        def runner(session: Session) -> Run:
            return lambda turn: session.run(items[turn % len(items)])

        return compare([runner(s) for s in sessions], seconds=seconds, cpu_clock=on_one_thread(self.job))

    def loading(self, plans: Sequence[tuple[Built, Plan]], seconds: float) -> list[Comparison]:
        source = self.job.source
        default = SessionSettings(threads=self._settings(self.job.start_plan).threads)

        def maker(model: Runnable, settings: SessionSettings) -> Run:
            return lambda _: Session(model, settings)

        chosen = [(source, default), *((_runnable(built), self._settings(plan)) for built, plan in plans)]
        with tempfile.TemporaryDirectory() as folder:
            makers = [maker(_in_file(m, Path(folder, f"{i}.onnx")), s) for i, (m, s) in enumerate(chosen)]
            return compare(makers, seconds=seconds, cpu_clock=on_one_thread(self.job))

    def peak_bytes(self, built: Built, plan: Plan) -> int | None:
        assert self.job.samples is not None
        return peak_bytes(_runnable(built), self._settings(plan), self.job.samples.items)

    def _settings(self, plan: Plan) -> SessionSettings:
        """On one thread, unless the user says how many there may be."""
        return replace(plan.settings, threads=1) if on_one_thread(self.job) else plan.settings

    def _session(self, built: Built, plan: Plan) -> Session:
        return Session(_runnable(built), self._settings(plan))


def _runnable(built: Built) -> Runnable:
    attempt: Any = built.handle
    return attempt.source


def _in_file(model: Runnable, path: Path) -> Runnable:
    """Bytes as a file, like the original and as artifacts are loaded: from memory the runtime takes another way."""
    if not isinstance(model, bytes):
        return model
    path.write_bytes(model)
    return path


def _refutation(validation: Validation) -> str:
    if validation.method == "identity":
        return ""
    if not validation.equivalent:
        return f"not equivalent, {(validation.problems or ['?'])[0]}"
    return "" if validation.method == "numeric" else f"not proved equivalent: {validation.because}"
