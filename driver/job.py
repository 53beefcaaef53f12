"""One optimization: attempts, their judgement, and which of them becomes the result."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..backends.ort.backend import Executor, OrtBackend
from ..ir.clone import clone_model
from ..ir.errors import BudgetError, NotEquivalentError
from ..ir.graph import Model
from ..ir.onnx_writer import model_to_bytes, write_model
from ..passes.choices import Choices
from ..passes.core import Context, Fuel
from ..passes.instruments import NumericsEach, PrintAfterChange, Reproducer, VerifyEach, write_reproducer
from ..passes.manager import Instrument, Pipeline, RunRecord
from ..passes.memo import Memo
from ..passes.pipeline import Step, pipeline_text
from ..passes.pipelines import PIPELINES
from .bisect import Guilty, find_guilty
from .budget import Ledger, Paying, Purse, held_places, is_lossy
from .calibrate import Kept, Observer, calibration_samples
from .checks.contract import contract_of
from .checks.reference import Reference
from .checks.validate import (
    AnyModel,
    as_model,
    check_numbers,
    check_structure,
    each_pass_comparer,
    make_reference,
    make_samples,
    refuse_broken,
)
from .checks.validation import RUNS, Validation, level_of
from .dims import with_dims
from .inputs.samples import Samples, Source
from .kernel_times import KernelTimes, kernel_times
from .measuring import MEASURING, Measured, host_arch, measure_pair, runs_here
from .plans import Plan, expanded, short, without_groups
from .prove.ledger import Ledger as Proofs
from .prove.watch import Watch
from .report import CLEANED, DIMS_ONLY, KEPT, ORIGINAL, PARTLY, UNCHANGED, Report, Size, pass_records, size_of
from .result import Options, Result
from .sizes import Runnable, constant_bytes, file_bytes, is_external, source_hash
from .tuning.job import tuned
from .tuning.record import Tuning
from .unit_times import TimesFile
from .versions import versions

GROWTH_SLACK_BYTES = 1 << 20
"""How many bytes a file may grow on top of ``MAX_GROWTH``: nothing that a machine with a runtime would miss."""
MAX_MEMORY_BYTES = 1 << 30
"""Models with more constants are not serialized into memory to be checked, but through temporary files."""


@dataclass
class _Attempt:
    """One pipeline's result."""

    plan: Plan
    model: Model
    record: RunRecord
    source: Runnable
    size: Size
    validation: Validation
    measured: Measured = field(default_factory=Measured)
    worse: str = ""
    ledger: Ledger | None = None
    """What the error budget was spent on, where there is one."""


class Job:
    """One call of :func:`optimize`."""

    def __init__(
        self, model: AnyModel, samples: Source | Samples | None, options: Options, steps: Pipeline, folder: Path
    ) -> None:
        """``folder`` takes models that are too large for memory, while the job runs."""
        self.options, self.steps = options, steps
        self.tuning: Tuning | None = None
        self.start = time.process_time()
        self.notes: list[str] = []
        self.memo = Memo()
        self._progress("reading")
        self.original, source = as_model(model)
        self.file = source if isinstance(source, Path) else None
        self.folder = folder
        if isinstance(model, Model):
            self.original = clone_model(model)  # the caller may change theirs later
            source = self.runnable(self.original, "original")
        self.source: Runnable = source
        self.base = with_dims(self.original, options.dims) if options.dims else self.original
        self.before = size_of(self.original, file_bytes(self.original, self.source))
        self.reference: Reference | None = None
        self.samples: Samples | None = None
        self.observe: Observer | None = None
        """What lossy passes ask for statistics; none without real samples."""
        self.kept: Kept | None = None
        """The file in which these stay for the next time."""
        self.because = ""
        self.watched: Proofs | None = None
        """What is known of the rewrites of the last run."""
        if level_of(options.validate)[0] in RUNS or options.measure or options.tune or options.budget is not None:
            self._prepare_runs(samples)
        self.purse = self._make_purse()

    def run(self) -> Result:
        """The first plan that makes nothing worse."""
        found = self._run()
        if self.kept is not None:
            self.kept.save()
        return found

    def _run(self) -> Result:
        self.tuning = tuned(self) if self.options.tune else None
        plans = self._plans()
        reasons: list[str] = []
        rejected: dict[str, str] = {}
        last: _Attempt | None = None
        for plan in plans:
            attempt = self._attempt(plan, rejected)
            last = attempt
            none = not plan.pipeline
            if not attempt.record.changes and not self.options.dims:
                if attempt.worse:  # the same model with settings of its own
                    reasons.append(f"the settings: not kept, {attempt.worse}")
                    continue
                return self._original(
                    UNCHANGED if not reasons and plan.pipeline == self.start_plan.pipeline else ORIGINAL,
                    reasons,
                    attempt,
                )
            if not attempt.worse or (none and plan is plans[-1]):
                report = self._report(self._decision(plan), reasons, attempt)
                return self._result(attempt.model, report, attempt)
            reasons.append(f"{short(plan.pipeline)[:60]}: not kept, {attempt.worse}")
        assert last is not None
        last.plan = Plan("", settings=self.options.settings)
        return self._original(ORIGINAL, reasons, last)

    def _plans(self) -> list[Plan]:
        """What is tried, in turn, until something makes nothing worse."""
        options = self.options
        texts = [str(self.steps)]
        if PIPELINES.get("clean"):
            lossy = [step for step in self.steps.steps if is_lossy(step)]
            clean = Pipeline("clean").steps
            texts += [*map(expanded, without_groups(options.pipeline)), pipeline_text([*clean, *lossy])]
        if options.dims:
            texts.append("")  # with its dimensions fixed the original is no longer the file
        plans = [replace(self.start_plan, pipeline=text) for text in dict.fromkeys(texts)]
        if self.tuning is not None and self.tuning.trials:
            plans = list(dict.fromkeys([self.tuning.plan, *plans]))
        return plans

    # -- preparation

    def _progress(self, label: str, done: int = 0, total: int = 0) -> None:
        if self.options.progress is not None:
            self.options.progress(label, done, total)

    def _prepare_runs(self, samples: Source | Samples | None) -> None:
        self._progress("loading the original")
        reference = make_reference(self.original, self.source)
        if isinstance(reference, str):
            refuse_broken(self.original)
            self.because = reference
            return
        self.reference = reference
        wanted = self.base if samples is not None else self.original
        dims = dict(self.options.dims)
        self.samples = make_samples(samples, wanted, reference, seed=self.options.seed, dims=dims, trouble=True)
        if samples is not None and not self.samples.ranges:
            held = held_places(self.options.budget, len(self.samples))
            seen = calibration_samples(samples, self.samples, wanted, held)
            self.observe = Observer(seen, progress=self.options.progress)
            if self.options.calibration is not None:
                self.kept = Kept(self.options.calibration, self.original, self.observe, self.samples.origin)

    def _make_purse(self) -> Purse | None:
        budget = self.options.budget
        if budget is None:
            return None
        if self.reference is None or self.samples is None:
            raise BudgetError(
                f"the budget cannot be judged: {self.because}",
                where="budget",
                help="without a runtime there are no outputs to compare; optimize without a budget",
            )
        self._progress("judging the original")
        return Purse(self, budget, self.reference, self.samples)

    # -- one attempt

    def prepared(self, plan: Plan, level: str) -> _Attempt:
        """The model of a plan, validated, not judged."""
        model = clone_model(self.base)
        record = self._transform(model, Pipeline(plan.pipeline), plan.disabled)
        attempt = self._made(plan, model, record, Validation(level))
        if not record.changes and not self.options.dims:
            attempt.validation = Validation(level, "identity", True)
            attempt.measured = Measured(because="nothing changed")
            return attempt
        attempt.validation = self.validation(attempt, level)
        attempt.validation.rewrites = self.watched
        attempt.worse = self._growth(attempt)
        return attempt

    def _made(self, plan: Plan, model: Model, record: RunRecord, validation: Validation) -> _Attempt:
        source = self.runnable(model, "attempt")
        return _Attempt(plan, model, record, source, size_of(model, file_bytes(model, source)), validation)

    def _attempt(self, plan: Plan, rejected: dict[str, str]) -> _Attempt:
        """The model of a plan, proved and measured; ``rejected``: why earlier models were not kept, by their hash."""
        attempt = self.prepared(plan, self.options.validate)
        if attempt.validation.equivalent is False and not self.options.allow_different:
            raise self._not_equivalent(attempt)
        if self.purse is None or attempt.worse:
            return self._judged(attempt, rejected)
        spent = self._spent(attempt, self.purse)
        if self._judged(spent, rejected).worse and spent.ledger is not None and spent.ledger.taken:
            refunded = self.purse.refunded(spent.ledger, spent.worse)
            spent = self._judged(self.prepared(spent.plan, self.options.validate), rejected)
            spent.ledger = refunded
        return spent

    def _spent(self, attempt: _Attempt, purse: Purse) -> _Attempt:
        """What the budget makes of an attempt without lossy passes."""
        self._progress("spending the budget")
        plan, spending = purse.affordable(attempt.plan, attempt.source, attempt.record)
        if plan != attempt.plan:
            attempt = self.prepared(plan, self.options.validate)
        found = purse.spend(plan, spending)
        if found.model is not None and found.record is not None:
            structure = check_structure(self.original, found.model, self.options.validate)
            proved = attempt.validation.of_part("the lossless part", structure)
            attempt = self._made(plan, found.model, found.record, proved)
            if structure.problems:
                raise self._not_equivalent(attempt)
            attempt.worse = self._growth(attempt)
        attempt.ledger = found.ledger
        return attempt

    def _judged(self, attempt: _Attempt, rejected: dict[str, str]) -> _Attempt:
        """Measures, where something changed and nothing speaks against it."""
        plan = attempt.plan
        if attempt.worse or not (attempt.record.changes or self.options.dims or plan.settings != self.options.settings):
            return attempt
        key = f"{source_hash(attempt.source)} {plan.settings}"
        if key in rejected:
            attempt.worse = rejected[key]
            return attempt
        attempt.measured = self._measure(attempt)
        if attempt.measured.slower:
            rejected[key] = attempt.worse = f"it is {attempt.measured.sentence}"
        return attempt

    def runnable(self, model: Model, name: str) -> Runnable:
        """Bytes where they fit into memory, else a file, so that every session of one model reads the same.

        With the types of intermediates where the result is saved with them.
        """
        typed = self.options.target.value_info
        if constant_bytes(model) <= MAX_MEMORY_BYTES:
            return model_to_bytes(model, value_info=typed)
        path = self.folder / f"{name}.onnx"
        write_model(model, path, external_data=True, value_info=typed)
        return path

    def _transform(self, model: Model, pipeline: Pipeline, disabled: frozenset[str]) -> RunRecord:
        context, instruments = self._context(disabled), self._instruments()
        level, each = level_of(self.options.validate)
        self.watched = None
        if level == "each-rewrite":
            samples = [] if self.samples is None else self.samples.items
            watch = Watch(
                each=each,
                seconds=self.options.validate_seconds,
                samples=samples,
                refuse=not self.options.allow_different,
            )
            context.witness, self.watched = watch, watch.ledger
            instruments = [watch, *instruments]
        return Pipeline(self.steps_of(pipeline)).run(model, context, instruments)

    def steps_of(self, pipeline: Pipeline) -> list[Step]:
        """The pipeline's steps, and those that the target asks for."""
        legal = OrtBackend().legalize(self.base, self.options.target)
        return [*pipeline.steps, *(Pipeline(legal).steps if legal != "none" else [])]

    def _context(self, disabled: frozenset[str] | None = None) -> Context:
        """For a run without lossy passes, unless the caller accepts differences and has no budget."""
        budgeted = self.options.budget is not None
        lossless = budgeted or not (self.options.tolerance or self.options.allow_different)
        choices = Choices(lossless=lossless, idle=budgeted)  # who spends the budget runs the pipeline with others
        return self.context(self.options.disabled if disabled is None else disabled, choices)

    def context(self, disabled: frozenset[str], choices: Choices) -> Context:
        """For one run of a pipeline."""
        return Context(
            target=self.options.target,
            samples=[dict(s) for s in self.samples.items] if self.samples is not None else [],
            executor=Executor() if self.reference is not None else None,
            race=self.race,
            observe=self.observe,
            seed=self.options.seed,
            fuel=Fuel(self.options.fuel),
            sink=self.notes.append,
            progress=self.options.progress,
            disabled=disabled,
            choices=choices,
            memo=self.memo,
        )

    def _instruments(self) -> list[Instrument]:
        found: list[Instrument] = [VerifyEach()]
        if self.options.print_after_change is not None:
            found.append(PrintAfterChange(self.options.print_after_change))
        level, _ = level_of(self.options.validate)
        each = level == "each-pass" or (level == "each-rewrite" and not self.options.allow_different)
        if each and self.reference is not None:
            compare: Any = each_pass_comparer(self.reference, self.options.tolerance)
            found.append(NumericsEach(compare))
        if self.options.repro_dir is not None:
            found.append(Reproducer(lambda: clone_model(self.base), self.options.repro_dir))
        return found

    # -- judgement

    def validation(self, attempt: _Attempt, level: str) -> Validation:
        """What comparing the attempt with the original gives."""
        if level == "none":
            return Validation(level)
        if level == "structure":
            return check_structure(self.original, attempt.model, level)
        if self.reference is None or self.samples is None:
            report = check_structure(self.original, attempt.model, level)
            report.because = self.because
            return report
        foreign = self._foreign(attempt.model)
        if foreign:
            report = check_structure(self.original, attempt.model, level)
            report.because = foreign
            return report
        return check_numbers(
            self.reference,
            attempt.model,
            self.samples,
            level=level,
            optimized_source=attempt.source,
            contract=contract_of(attempt.record, Pipeline(attempt.plan.pipeline)),
            tolerance=self.options.tolerance,
            seconds=self.options.validate_seconds,
            progress=self.options.progress,
        )

    def _foreign(self, model: Model) -> str:
        """Why this machine cannot run what was made for the target; empty where it can."""
        target = self.options.target
        if runs_here(target):
            return ""
        here = replace(target, arch=host_arch())
        missing = [u for u in OrtBackend().unsupported(model, here) if u.support.value == "none"]
        return f"this machine ({host_arch()}) lacks kernels that {target.name} has: {missing[0]}" if missing else ""

    def _not_equivalent(self, attempt: _Attempt) -> NotEquivalentError:
        v = attempt.validation
        repro = self._write_repro(attempt, v.problems[0]) if self.options.repro_dir is not None else None
        guilty: Guilty | None = None
        if self.reference is not None and v.method == "numeric":
            self._progress("looking for the rewrite at fault")
            guilty, _ = find_guilty(
                self.base,
                attempt.plan.pipeline,
                self._context,
                self.reference,
                tolerance=self.options.tolerance,
                seconds=self.options.bisect_seconds,
            )
        problems = "; ".join(v.problems[:3])
        if guilty is None:
            help = "a pass is at fault: `--validate each-pass` names it; "
        else:
            problems = f"{problems}; {guilty}"
            leave_out = f"the rule is at fault, leave it out with `--disable {guilty.rule}`"
            help = f"{leave_out if guilty.rule else 'planish is at fault'} and report it; "
        return NotEquivalentError(
            f"the optimized model is not equivalent: {problems}",
            where="validate",
            origin=guilty.origin[0] if guilty is not None and guilty.origin else None,
            help=f"{help}`--allow-different` writes the result nevertheless",
            repro=repro,
        )

    def _write_repro(self, attempt: _Attempt, problem: str) -> str | None:
        """The original with the whole pipeline: the difference shows only at its end."""
        folder = self.options.repro_dir
        assert folder is not None
        different, ctx = NotEquivalentError(problem), self._context()
        steps = [s for s in Pipeline(attempt.plan.pipeline).steps if not (ctx.choices.lossless and is_lossy(s))]
        try:
            path = write_reproducer(folder, clone_model(self.base), pipeline_text(steps), ctx, different)
        except OSError as error:
            self.notes.append(f"no reproducer could be written: {error}")
            return None
        return f"planish run {path}"

    def _growth(self, attempt: _Attempt) -> str:
        before, after = self.before.file_bytes, attempt.size.file_bytes
        limit = int(before * (1 + self.options.max_growth)) + GROWTH_SLACK_BYTES
        if after <= limit:
            return ""
        enough = math.ceil((after - GROWTH_SLACK_BYTES) / max(before, 1) * 100 - 100) / 100
        return f"the file grows from {before} to {after} bytes, the limit is {limit}; --max-growth {enough} keeps it"

    def _measure(self, attempt: _Attempt) -> Measured:
        if not self.options.measure:
            return Measured()
        because = self.unmeasurable
        if because or self.samples is None:
            return Measured(because=because)
        self._progress("measuring")
        original = self.source
        if isinstance(original, Path) and isinstance(attempt.source, bytes) and not is_external(self.original):
            original = original.read_bytes()  # loaded the same way as the other: weights lie differently otherwise
        return measure_pair(
            original,
            attempt.source,
            self.samples,
            seconds=self.options.measure_seconds,
            settings=replace(MEASURING, threads=self.options.threads or 1),
            optimized_settings=attempt.plan.settings,
        )

    @property
    def paying(self) -> Paying:
        """How gains of lossy passes are judged."""
        options = self.options
        settings = replace(options.settings, threads=options.threads or 1)
        timed = options.stopwatch is not None or (options.measure and not self.unmeasurable)
        backend = options.stopwatch.name if options.stopwatch is not None else ""
        times = TimesFile(options.target, settings, backend) if timed and options.cache else None
        return Paying(options.goal, timed, settings, options.progress, times, options.stopwatch)

    @cached_property
    def race(self) -> KernelTimes | None:
        return kernel_times(self.options, self.unmeasurable)

    @property
    def unmeasurable(self) -> str:
        """Why nothing can be measured here; empty where it can."""
        target = self.options.target
        if not runs_here(target):
            return f"this machine is {host_arch()}, the target is {target.arch}"
        if self.reference is None or self.samples is None:
            return self.because or "there are no samples"
        return self.reference.runtime_fault

    @property
    def start_plan(self) -> Plan:
        """What would be tried first without a search."""
        return Plan(str(self.steps), self.options.disabled, self.options.settings)

    # -- results

    def _report(self, decision: str, reasons: list[str], attempt: _Attempt) -> Report:
        name = self.file.name if self.file is not None else "model"
        report = Report(
            name, self.options.target.name, attempt.plan.pipeline, self.before, attempt.size, decision, reasons
        )
        report.passes = pass_records(attempt.record)
        report.validation, report.measured = attempt.validation, attempt.measured
        report.tuning, report.budget = self.tuning, attempt.ledger
        unsupported = [str(u) for u in OrtBackend().unsupported(attempt.model, self.options.target)]
        report.notes = [*dict.fromkeys(self.notes), *(f"{self.options.target.name}: {u}" for u in unsupported)]
        report.seconds = time.process_time() - self.start
        report.versions = versions()
        return report

    def _original(self, decision: str, reasons: list[str], attempt: _Attempt) -> Result:
        """The original as the result."""
        report = self._report(decision, reasons, attempt)
        report.passes = [] if decision == UNCHANGED else report.passes
        report.after = self.before
        report.validation = Validation(self.options.validate, "identity", True)
        return self._result(self.original, report, attempt, self.file)

    def _result(self, model: Model, report: Report, attempt: _Attempt, file: Path | None = None) -> Result:
        settings = attempt.plan.settings
        report.session = settings.to_dict()
        return Result(model, report, file, settings, attempt.plan, self.options.target, source_hash(self.source))

    def _decision(self, plan: Plan) -> str:
        if plan.pipeline in ("", str(Pipeline("clean"))) and plan.pipeline != self.start_plan.pipeline:
            return CLEANED if plan.pipeline else DIMS_ONLY
        tuning = self.tuning
        return KEPT if plan == self.start_plan or (tuning is not None and plan == tuning.plan) else PARTLY
