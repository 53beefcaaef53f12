"""Whether an optimized model computes what the original computes: by structure, and by running both.

The optimized model runs twice: as written, and under the runtime's own optimizer, the way users will run
it. The bounds are those of ``compare.py``; the report states them. A model whose own rounding noise moves
an output by more than half of its digits is reported as *unstable*: there nothing can be told apart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ...backends.core import Outputs, Sample
from ...backends.ort.isolated import IsolatedSession
from ...backends.ort.session import EXACT, Session
from ...ir.clone import clone_model
from ...ir.dims import Shape
from ...ir.errors import BackendError, PlanishError, UsageError, VerifyError
from ...ir.graph import Model, Value
from ...ir.infer import infer_model
from ...ir.onnx_reader import read_model
from ...ir.types import TensorType, type_text
from ...ir.verify import problems, verify
from ...passes.core import Numbers
from ..inputs.generate import generate_samples
from ..inputs.samples import Samples, Source, load_samples
from ..inputs.trouble import UNUSUAL
from ..sizes import Runnable
from .compare import DIFFERENT, EQUAL, ROUNDED, UNSTABLE, OutputCheck
from .contract import Contract
from .pairing import kernels_differ
from .reference import Reference, runtime_session
from .trial import too_large
from .validation import Validation

if TYPE_CHECKING:
    from onnx import ModelProto

AnyModel: TypeAlias = "Model | ModelProto | bytes | str | os.PathLike[str]"
Progress: TypeAlias = Callable[[str, int, int], None]
MIN_SAMPLES = 2


def as_model(model: AnyModel) -> tuple[Model, Runnable]:
    """The graph, and what the runtime should run: the file itself where there is one."""
    if isinstance(model, Model):
        return model, model
    if isinstance(model, bytes):
        return read_model(model), model
    if isinstance(model, (str, os.PathLike)):
        return read_model(model), Path(model)
    return read_model(model), model.SerializeToString()  # of anything but a ModelProto the reader complains


def validate(
    original: AnyModel,
    optimized: AnyModel,
    samples: Source | Samples | None = None,
    *,
    tolerance: float = 0.0,
    seed: int = 0,
) -> Validation:
    """Compares two models on ``samples`` (made up where none are given). See ``Validation.equivalent``.

    ``tolerance`` allows floats to differ by that fraction of their scale on top of rounding. Raises
    ``ReadError`` and ``UsageError`` for arguments, never for a difference.
    """
    (a, run_a), (b, run_b) = as_model(original), as_model(optimized)
    reference = make_reference(a, run_a)
    if isinstance(reference, str):
        report = check_structure(a, b, "final")
        report.because = reference
        return report
    checked = make_samples(samples, a, reference, seed=seed, trouble=True)
    contract = Contract(spreads=True)  # whoever made the other model, NaN must stay NaN
    return check_numbers(reference, b, checked, optimized_source=run_b, contract=contract, tolerance=tolerance)


def make_reference(model: Model, source: Runnable | None = None, *, optimizer_noise: bool = True) -> Reference | str:
    """The reference, or why there is none: the runtime cannot load the original (custom operators, absurd sizes)."""
    reason = too_large(model)
    if reason is not None:
        return reason
    try:
        return Reference(model, source, optimizer_noise=optimizer_noise)
    except BackendError as error:
        origin = f" (node {error.origin!r})" if error.origin else ""
        return f"onnxruntime cannot load the original: {error.message}{origin}"


def refuse_broken(model: Model) -> None:
    """For a model that the runtime does not load: raises ``ModelError`` where planish sees why, naming the node."""
    found = [*infer_model(clone_model(model)), *problems(model)]
    if found:
        raise found[0]


def make_samples(
    samples: Source | Samples | None,
    model: Model,
    reference: Reference,
    *,
    seed: int = 0,
    dims: dict[str, int] | None = None,
    trouble: bool = False,
) -> Samples:
    """The samples, checked; made up where none are given, some aiming at ``trouble``. Raises ``UsageError``."""
    if samples is None:
        samples = generate_samples(model, reference.accepts, seed=seed, dims=dims, trouble=trouble)
    elif not isinstance(samples, Samples):
        samples = load_samples(samples, model)
    reference.samples, reference.kinds = samples.items, samples.kinds
    try:
        reference.outputs(0)
    except BackendError as error:
        raise UsageError(
            f"the original model does not run on sample 0: {error.message}",
            where="samples",
            origin=error.origin,
            help="the samples do not fit the model (wrong sizes, indices out of range), or the model is broken",
        ) from None
    finally:
        reference.end_trials()
    return samples


def check_structure(original: Model, optimized: Model, level: str) -> Validation:
    """Invariants of the graph and equality of the interface, without running anything."""
    report = Validation(level, "structure")
    try:
        verify(optimized)
    except VerifyError as error:
        report.problems.append(f"the graph is broken: {error.message}")
    report.problems.extend(interface_problems(original, optimized))
    report.equivalent = not report.problems
    return report


def check_numbers(
    reference: Reference,
    optimized: Model,
    samples: Samples,
    *,
    level: str = "final",
    optimized_source: Runnable | None = None,
    contract: Contract | None = None,
    tolerance: float = 0.0,
    seconds: float = 60.0,
    progress: Progress | None = None,
) -> Validation:
    """Structure, then outputs on as many samples as fit into ``seconds`` (at least two)."""
    report = check_structure(reference.model, optimized, level)
    contract = contract or Contract()
    report.contract, report.tolerance = contract.numbers.value, tolerance
    report.reference = f"the original under onnxruntime, optimization level {reference.level!r}, one thread"
    report.origin, report.ranges = samples.origin, samples.ranges
    if not report.equivalent:
        return report
    random = reference.is_random()
    if random is not None:
        report.because = random
        return report
    report.method = "numeric"
    source = optimized_source if optimized_source is not None else optimized
    sides: tuple[tuple[str, Callable[[], Session | IsolatedSession], list[OutputCheck]], ...] = (
        ("as written", lambda: Session(source, EXACT), report.outputs),
        ("optimized by the runtime", lambda: runtime_session(optimized, source), report.optimized_outputs),
    )
    deadline = time.monotonic() + seconds
    for label, load, checks in sides:
        # What the runtime's optimizer makes of NaN is not what our passes make of it.
        reference.contract = contract if checks is report.outputs else None
        try:
            session = load()
            run = _Run(reference, session, samples, optimized, tolerance, deadline, progress)
            report.samples = run.into(checks)
        except PlanishError as error:
            if checks is report.optimized_outputs and reference.runtime_fault:
                report.warnings.append(f"compared as written only, the runtime's optimizer: {reference.runtime_fault}")
                continue
            report.problems.append(f"the optimized model ({label}) fails where the original runs: {error.message}")
            continue
        report.problems.extend(f"{c} [{label}]" for c in checks if not c.equivalent)
    report.equivalent = not report.problems
    report.warnings.extend(_warnings(report, contract.numbers))
    return report


@dataclass
class _Run:
    """One optimized model in one session, compared on all samples."""

    reference: Reference
    session: Session | IsolatedSession
    samples: Samples
    optimized: Model
    tolerance: float
    deadline: float
    progress: Progress | None

    def into(self, merged: list[OutputCheck]) -> int:
        """Merges the results of the samples into ``merged``; returns how many there was time for."""
        found: dict[str, OutputCheck] = {}
        done = 0
        for i, sample in enumerate(self.samples.items):
            if done >= MIN_SAMPLES and time.monotonic() > self.deadline:
                break
            if self.progress is not None:
                self.progress("validating", i, len(self.samples))
            for check in self._checks(i, sample):
                if check.output in found:
                    found[check.output].merge(check)
                else:
                    found[check.output] = check
            done += 1
            if any(c.status == DIFFERENT for c in found.values()):
                break
        merged.extend(found.values())
        return done

    def _checks(self, i: int, sample: Sample) -> list[OutputCheck]:
        """The results of one sample. With NaN or infinities, what the runtime's kernels differ in does not count."""
        checks = self.reference.compare(i, self.session.run(sample), tolerance=self.tolerance)
        unusual = i < len(self.samples.kinds) and self.samples.kinds[i] in UNUSUAL
        if unusual and any(c.status == DIFFERENT for c in checks):
            place = kernels_differ(self.reference.model, self.optimized, sample)
            if place:
                note = f"with {self.samples.kinds[i]} in the inputs kernels of the runtime differ, first at {place}"
                checks = [OutputCheck(c.output, ROUNDED, note=note) if c.status == DIFFERENT else c for c in checks]
        return checks


def _warnings(report: Validation, contract: Numbers) -> Iterable[str]:
    unstable = [c for c in (*report.outputs, *report.optimized_outputs) if c.status == UNSTABLE]
    for check in {c.output: c for c in unstable}.values():
        yield f"unstable output {check.output}: {check.reason}"
    for check in {c.output: c for c in (*report.outputs, *report.optimized_outputs) if c.note}.values():
        yield f"output {check.output} differs, which is no proof {check.note}"
    moved = [c for c in report.outputs if c.status != EQUAL]
    if contract is Numbers.EXACT and moved and report.equivalent:
        yield (
            f"the passes promise equality to the bit, yet output {moved[0].output} moved by {moved[0].error:.3g} "
            f"({moved[0].used:.2g} of the bound): the runtime chose other kernels, or a pass breaks its promise"
        )
    if report.origin and report.ranges:
        yield "the samples were made up from the input types; real ones (--samples) prove more"


def each_pass_comparer(reference: Reference, tolerance: float) -> Callable[[object, list[Outputs]], str | None]:
    """The comparison that ``NumericsEach`` asks for: ``None``, or what differs from the original."""

    def compare(_: object, found: list[Outputs], /) -> str | None:
        for i, outputs in enumerate(found):
            bad = [c for c in reference.compare(i, outputs, tolerance=tolerance) if not c.equivalent]
            if bad:
                return str(bad[0])
        return None

    return compare


# -- interface


def interface_problems(original: Model, optimized: Model) -> list[str]:
    """What callers would notice without looking at numbers: names, order and types of inputs and outputs."""
    problems: list[str] = []
    a, b = original.graph, optimized.graph
    problems += _name_problems("inputs", [v.name for v in a.inputs], [v.name for v in b.inputs])
    problems += _name_problems("inputs with a default", [v.name for v in a.defaults], [v.name for v in b.defaults])
    problems += _name_problems("outputs", [p.name for p in a.ports], [p.name for p in b.ports])
    if problems:
        return problems
    for kind, left, right in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        names = [v.name for v in left] if kind == "input" else [p.name for p in a.ports]
        for name, x, y in zip(names, left, right, strict=True):
            if _conflict(x, y):
                problems.append(f"{kind} {name!r} was {type_text(x.type)} and is {type_text(y.type)}")
    return problems


def _name_problems(what: str, a: Sequence[str], b: Sequence[str]) -> list[str]:
    if list(a) == list(b):
        return []
    return [f"the {what} were {', '.join(a) or 'none'} and are {', '.join(b) or 'none'}"]


def _conflict(x: Value, y: Value) -> bool:
    """Whether two types cannot both describe one value; unknown parts agree with everything."""
    if not isinstance(x.type, TensorType) or not isinstance(y.type, TensorType):
        return x.type is not None and y.type is not None and x.type != y.type
    if x.type.dtype is not None and y.type.dtype is not None and x.type.dtype is not y.type.dtype:
        return True
    return _shapes_conflict(x.type.shape, y.type.shape)


def _shapes_conflict(a: Shape | None, b: Shape | None) -> bool:
    if a is None or b is None:
        return False
    if len(a) != len(b):
        return True
    return any(isinstance(d, int) and isinstance(e, int) and d != e for d, e in zip(a, b, strict=True))
