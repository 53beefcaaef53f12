"""The search of ``search.py`` on a job's model: builds by the job, checks against its reference, times sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ..backends.measure import Comparison, Run, compare
from ..backends.ort.session import Session
from ..ir.errors import PlanishError
from ..ir.graph import Model
from ..passes.manager import RunRecord
from . import tune_cache
from .measuring import MEASURING
from .peak_memory import peak_bytes
from .plans import Plan, alternatives, fired
from .reference import Reference, Runnable
from .report import Size
from .samples import Samples
from .search import FIELD, Built, Search
from .sizes import constant_bytes, source_hash
from .tuning import Tuning
from .validation import Validation

CHECKED_SAMPLES = 2
"""Samples on which a candidate's session settings are checked; its model was validated on more."""
MAX_BYTES = 1 << 30
"""All models and sessions that are alive at a time, roughly; larger models are not tuned."""


class _Attempt(Protocol):
    model: Model
    record: RunRecord
    source: Runnable
    size: Size
    validation: Validation
    worse: str


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
    def prepared(self, plan: Plan, level: str) -> _Attempt: ...


def tuned(job: TunedJob) -> Tuning:
    """The outcome of the search, or of the same search earlier. Without a way to measure: the start, and why."""
    options, start = job.options, job.start_plan
    size = constant_bytes(job.base)
    because = "" if options.measure else "measuring is switched off, the target's defaults are taken"
    because = because or job.unmeasurable
    if not because and size > MAX_BYTES:
        because = f"the model has {size} bytes of constants, at most {MAX_BYTES} are tuned"
    if because:
        return Tuning(start.pipeline, sorted(start.disabled), start.settings, because=because)
    key = _key(job)
    found = tune_cache.load(key) if options.cache else None
    if found is None:
        field = max(2, min(FIELD, MAX_BYTES // max(2 * size, 1) - 2))
        search = Search(Bench(job), start, seconds=options.tune_seconds, field=field, progress=options.progress)
        found = search.run(alternatives(options.target))
        if options.cache:
            tune_cache.store(key, found)
    return found


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
    """The laboratory (``search.Lab``) of a job."""

    def __init__(self, job: TunedJob) -> None:
        self.job = job
        self._built: dict[tuple[str, frozenset[str]], Built] = {}
        self._bytes = 0

    def build(self, pipeline: str, disabled: frozenset[str]) -> Built:
        """Kept for the stages that vary the settings only."""
        key = (pipeline, disabled)
        if key not in self._built:
            found = self._build(Plan(pipeline, disabled))
            size = len(found.handle) if isinstance(found.handle, bytes) else 0
            if self._bytes + size > MAX_BYTES:
                self._built, self._bytes = {}, 0
            self._built[key] = found
            self._bytes += size
        return self._built[key]

    def _build(self, plan: Plan) -> Built:
        try:
            attempt = self.job.prepared(plan, "final")
        except PlanishError as error:
            return Built(f"failed {plan}", str(error.message))
        validation = attempt.validation
        problem = attempt.worse
        if not validation.equivalent:
            problem = f"not equivalent, {(validation.problems or ['?'])[0]}"
        elif validation.method not in ("numeric", "identity"):
            problem = f"not proved equivalent: {validation.because}"
        hits = tuple(fired(attempt.record).items())
        key = source_hash(attempt.source) or str(plan)
        return Built(key, problem, hits, frozenset(attempt.size.ops), attempt.source)

    def problem(self, built: Built, plan: Plan) -> str:
        if plan.settings == self.job.start_plan.settings:
            return ""
        reference, samples = self.job.reference, self.job.samples
        assert reference is not None
        assert samples is not None
        try:
            session = self._session(built, plan)
            for i, sample in enumerate(samples.items[:CHECKED_SAMPLES]):
                checks = reference.compare(i, session.run(sample), tolerance=self.job.options.tolerance)
                bad = [c for c in checks if not c.equivalent]
                if bad:
                    return f"not equivalent, {bad[0]}"
        except PlanishError as error:
            return error.message
        return ""

    def compare(self, plans: Sequence[tuple[Built, Plan]], seconds: float) -> list[Comparison]:
        assert self.job.samples is not None
        items = self.job.samples.items
        sessions = [self._session(built, plan) for built, plan in plans]

        def runner(session: Session) -> Run:
            return lambda turn: session.run(items[turn % len(items)])

        return compare([runner(s) for s in sessions], seconds=seconds, cpu_clock=self._threads == 1)

    def peak_bytes(self, built: Built, plan: Plan) -> int | None:
        assert self.job.samples is not None
        settings = replace(plan.settings, threads=self._threads)
        return peak_bytes(_runnable(built), settings, self.job.samples.items)

    @property
    def _threads(self) -> int:
        return self.job.options.threads or MEASURING.threads

    def _session(self, built: Built, plan: Plan) -> Session:
        return Session(_runnable(built), replace(plan.settings, threads=self._threads))


def _runnable(built: Built) -> Runnable:
    assert isinstance(built.handle, (bytes, Model)) or hasattr(built.handle, "exists")
    return built.handle  # pyright: ignore[reportReturnType]
