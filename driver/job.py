"""One optimization: attempts, their judgement, and which of them becomes the result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..backends.ort.backend import Executor, OrtBackend
from ..ir.clone import clone_model
from ..ir.errors import NotEquivalentError, UsageError
from ..ir.graph import Model
from ..ir.onnx_writer import model_to_bytes, write_model
from ..ir.safe_files import SafeFiles
from ..passes.core import Context, Fuel
from ..passes.instruments import NumericsEach, PrintAfterChange, Reproducer, VerifyEach, write_reproducer
from ..passes.manager import Instrument, Pipeline, RunRecord
from ..passes.pipelines import PIPELINES
from ..passes.target import Target
from .bisect import Guilty, find_guilty
from .contract import contract_of
from .dims import with_dims
from .measuring import Measured, host_arch, measure_pair, runs_here
from .reference import Reference, Runnable
from .report import CLEANED, DIMS_ONLY, KEPT, ORIGINAL, UNCHANGED, Report, Size, pass_records, size_of, versions
from .samples import Samples, Source
from .sizes import constant_bytes, file_bytes, is_external
from .validate import (
    AnyModel,
    as_model,
    check_numbers,
    check_structure,
    each_pass_comparer,
    make_reference,
    make_samples,
)
from .validation import Validation

Progress = Callable[[str, int, int], None]
MAX_GROWTH = 0.1
"""How much larger the file may become, as a fraction of the original ..."""
GROWTH_SLACK_BYTES = 64 << 10
"""... and this many bytes on top."""
MAX_MEMORY_BYTES = 1 << 30
"""Models with more constants are not serialized into memory to be checked, but through temporary files."""


@dataclass(frozen=True)
class Options:
    """How to optimize. See :func:`optimize`."""

    target: Target
    pipeline: str = "default"
    validate: str = "final"
    measure: bool = True
    tolerance: float = 0.0
    allow_different: bool = False
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    fuel: int | None = None
    disabled: frozenset[str] = frozenset()
    seed: int = 0
    max_growth: float = MAX_GROWTH
    measure_seconds: float = 3.0
    validate_seconds: float = 60.0
    bisect_seconds: float = 60.0
    print_after_change: Callable[[str], object] | None = None
    repro_dir: Path | None = None
    progress: Progress | None = None


@dataclass
class Result:
    """What came out."""

    model: Model
    report: Report
    source: Path | None = None
    """The original's file, where the result is the original."""

    @property
    def changed(self) -> bool:
        """Whether the model is another than the original."""
        return self.report.decision in (KEPT, CLEANED, DIMS_ONLY)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model to ``path``, whole or not at all; ``path`` may be the original's. Raises ``UsageError``."""
        path = check_output(path)
        if self.source is None or is_external(self.model):
            write_model(self.model, path)
        elif not (path.exists() and path.samefile(self.source)):
            with SafeFiles() as files:
                files.create(path).write(self.source.read_bytes())


def check_output(path: str | os.PathLike[str]) -> Path:
    """The path as one that can be written. Raises ``UsageError`` for a folder, or a path in a missing one."""
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder", where="output", help="give the name of a file, as out/model.onnx")
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"folder {path.parent} does not exist", where="output", help=f"make it: mkdir -p {path.parent}"
        )
    return path


@dataclass
class _Attempt:
    """One pipeline's result."""

    pipeline: str
    model: Model
    record: RunRecord
    source: Runnable
    size: Size
    validation: Validation
    measured: Measured = field(default_factory=Measured)
    worse: str = ""


class Job:
    """One call of :func:`optimize`."""

    def __init__(
        self, model: AnyModel, samples: Source | Samples | None, options: Options, steps: Pipeline, folder: Path
    ) -> None:
        """``folder`` takes models that are too large for memory, while the job runs."""
        self.options, self.steps = options, steps
        self.start = time.process_time()
        self.notes: list[str] = []
        self._progress("reading")
        self.original, source = as_model(model)
        self.file = source if isinstance(source, Path) else None
        self.folder = folder
        if isinstance(model, Model):
            self.original = clone_model(model)  # the caller may change theirs later
            source = self._runnable(self.original, "original")
        self.source: Runnable = source
        self.base = with_dims(self.original, options.dims) if options.dims else self.original
        self.before = size_of(self.original, file_bytes(self.original, self.source))
        self.reference: Reference | None = None
        self.samples: Samples | None = None
        self.because = ""
        if options.validate in ("final", "each-pass") or options.measure:
            self._prepare_runs(samples)

    def run(self) -> Result:
        attempts = [str(self.steps)]
        fallback = PIPELINES.get("clean")
        if fallback is not None and Pipeline("clean").steps and str(Pipeline("clean")) != attempts[0]:
            attempts.append(str(Pipeline("clean")))
        if self.options.dims:
            attempts.append("none")  # with its dimensions fixed the original is no longer the file
        reasons: list[str] = []
        last: _Attempt | None = None
        for i, text in enumerate(attempts):
            attempt = self._attempt(text)
            last = attempt
            if not attempt.record.changes and not self.options.dims:
                return self._original(UNCHANGED if i == 0 else ORIGINAL, reasons, attempt)
            if not attempt.worse or text == "none":
                return Result(attempt.model, self._report(_decision(i, text), reasons, attempt))
            reasons.append(f"{text if len(text) < 60 else 'the pipeline'}: not kept, {attempt.worse}")
        assert last is not None
        return self._original(ORIGINAL, reasons, last)

    # -- preparation

    def _progress(self, label: str, done: int = 0, total: int = 0) -> None:
        if self.options.progress is not None:
            self.options.progress(label, done, total)

    def _prepare_runs(self, samples: Source | Samples | None) -> None:
        self._progress("loading the original")
        reference = make_reference(self.original, self.source)
        if isinstance(reference, str):
            self.because = reference
            return
        self.reference = reference
        wanted = self.base if samples is not None else self.original
        dims = dict(self.options.dims)
        self.samples = make_samples(samples, wanted, reference, seed=self.options.seed, dims=dims)

    # -- one attempt

    def _attempt(self, text: str) -> _Attempt:
        model = clone_model(self.base)
        record = self._transform(model, Pipeline(text))
        source = self._runnable(model, "attempt")
        size = size_of(model, file_bytes(model, source))
        attempt = _Attempt(text, model, record, source, size, Validation(self.options.validate))
        if not record.changes and not self.options.dims:
            attempt.validation = Validation(self.options.validate, "identity", True)
            attempt.measured = Measured(because="nothing changed")
            return attempt
        attempt.validation = self._validate(attempt)
        if attempt.validation.equivalent is False and not self.options.allow_different:
            raise self._not_equivalent(attempt)
        attempt.worse = self._growth(attempt)
        if not attempt.worse:
            attempt.measured = self._measure(attempt)
            if attempt.measured.slower:
                attempt.worse = f"it is {attempt.measured.sentence}"
        return attempt

    def _runnable(self, model: Model, name: str) -> Runnable:
        """Bytes where they fit into memory, else a file, so that every session of one model reads the same."""
        if constant_bytes(model) <= MAX_MEMORY_BYTES:
            return model_to_bytes(model)
        path = self.folder / f"{name}.onnx"
        write_model(model, path, external_data=True)
        return path

    def _transform(self, model: Model, pipeline: Pipeline) -> RunRecord:
        legal = OrtBackend().legalize(model, self.options.target)
        if legal != "none":
            pipeline = Pipeline([*pipeline.steps, *Pipeline(legal).steps])
        return pipeline.run(model, self._context(), self._instruments())

    def _context(self) -> Context:
        return Context(
            target=self.options.target,
            samples=[dict(s) for s in self.samples.items] if self.samples is not None else [],
            executor=Executor() if self.reference is not None else None,
            seed=self.options.seed,
            fuel=Fuel(self.options.fuel),
            sink=self.notes.append,
            progress=self.options.progress,
            disabled=self.options.disabled,
        )

    def _instruments(self) -> list[Instrument]:
        found: list[Instrument] = [VerifyEach()]
        if self.options.print_after_change is not None:
            found.append(PrintAfterChange(self.options.print_after_change))
        if self.options.validate == "each-pass" and self.reference is not None:
            compare: Any = each_pass_comparer(self.reference, self.options.tolerance)
            found.append(NumericsEach(compare))
        if self.options.repro_dir is not None:
            found.append(Reproducer(lambda: clone_model(self.base), self.options.repro_dir))
        return found

    # -- judgement

    def _validate(self, attempt: _Attempt) -> Validation:
        level = self.options.validate
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
            contract=contract_of(attempt.record, Pipeline(attempt.pipeline)),
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
                attempt.pipeline,
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
            help = f"the rule is at fault, leave it out with `--disable {guilty.rule}` and report it; "
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
        different = NotEquivalentError(problem)
        try:
            path = write_reproducer(folder, clone_model(self.base), attempt.pipeline, self._context(), different)
        except OSError as error:
            self.notes.append(f"no reproducer could be written: {error}")
            return None
        return f"planish run {path}"

    def _growth(self, attempt: _Attempt) -> str:
        before, after = self.before.file_bytes, attempt.size.file_bytes
        limit = int(before * (1 + self.options.max_growth)) + GROWTH_SLACK_BYTES
        if after <= limit:
            return ""
        return f"the file grows from {before} to {after} bytes, the limit is {limit} (--max-growth)"

    def _measure(self, attempt: _Attempt) -> Measured:
        target = self.options.target
        if not self.options.measure:
            return Measured()
        if not runs_here(target):
            return Measured(because=f"this machine is {host_arch()}, the target is {target.arch}")
        if self.reference is None or self.samples is None:
            return Measured(because=self.because or "there are no samples")
        self._progress("measuring")
        original = self.source
        if isinstance(original, Path) and isinstance(attempt.source, bytes) and not is_external(self.original):
            original = original.read_bytes()  # loaded the same way as the other: weights lie differently otherwise
        return measure_pair(original, attempt.source, self.samples, seconds=self.options.measure_seconds)

    # -- results

    def _report(self, decision: str, reasons: list[str], attempt: _Attempt) -> Report:
        name = self.file.name if self.file is not None else "model"
        report = Report(name, self.options.target.name, attempt.pipeline, self.before, attempt.size, decision, reasons)
        report.passes = pass_records(attempt.record)
        report.validation, report.measured = attempt.validation, attempt.measured
        unsupported = [str(u) for u in OrtBackend().unsupported(attempt.model, self.options.target)]
        report.notes = [*self.notes, *(f"{self.options.target.name}: {u}" for u in unsupported)]
        report.seconds = time.process_time() - self.start
        report.versions = versions()
        return report

    def _original(self, decision: str, reasons: list[str], attempt: _Attempt) -> Result:
        """The original as the result."""
        report = self._report(decision, reasons, attempt)
        report.passes = [] if decision == UNCHANGED else report.passes
        report.after = self.before
        report.validation = Validation(self.options.validate, "identity", True)
        return Result(self.original, report, self.file)


def _decision(attempt: int, pipeline: str) -> str:
    if attempt == 0:
        return KEPT
    return DIMS_ONLY if pipeline == "none" else CLEANED
