"""``deploy``: optimize a model, build it with a compiler backend, and check what was built on the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.measure import Comparison, Run, compare
from ..backends.ort.session import Session, SessionSettings
from ..ir.clone import clone_model
from ..ir.dims import Shape, SymDim, substitute
from ..ir.errors import BackendError, BudgetError, NotEquivalentError, UsageError
from ..ir.graph import Model
from ..passes.core import Context
from ..passes.manager import Pipeline
from ..passes.target import Target, get_target, native
from .budget import Budget
from .budget.holdout import Part
from .budget.judge import Spending, make_judge
from .budget.ledger import percent
from .checks.validate import AnyModel, as_model, make_reference, make_samples
from .dims import input_symbols
from .inputs.samples import Samples, Source, load_samples
from .inputs.trouble import ORDINARY
from .measuring import host_arch
from .optimize import optimize
from .result import Result
from .stopwatch import TvmStopwatch

if TYPE_CHECKING:
    from ..backends.core import Sample
    from ..backends.tvm.artifact import Artifact
    from .checks.reference import Reference
    from .sizes import Runnable


SECONDS = 1.0
"""For the artifact's time beside ONNX Runtime's."""
SHARES = (1.0, 0.9, 0.7)
"""Of the budget, for selections judged on ONNX Runtime: kernels round ties of quantized values otherwise, so that what
just fits there may not fit in what is built."""


NARROW = frozenset(("weights", "int4-weights"))
"""Ways to quantize that store weights in blocks of 4 bits."""
STANDARD_BLOCKS = "raise-opset{to=21,when=lossy}"
"""The standard has blocks from there on; before, only ONNX Runtime's own operators have."""


@dataclass
class Deployed:
    """What came out."""

    result: Result
    """The optimized model and its report."""
    artifact: Artifact
    checked: int
    """Samples on which the artifact gave the original's outputs; 0 where this machine cannot run it."""
    timed: Comparison | None = None
    """The original on ONNX Runtime and the artifact, with as many threads, in turns; where that was asked for."""


def deploy(
    model: AnyModel,
    target: str | Target = "native",
    *,
    samples: Source | Samples | None = None,
    dims: Mapping[str, int] | None = None,
    tolerance: float = 0.0,
    seed: int = 0,
    measure: bool = True,
    schedules: Path | None = None,
    **options: Any,
) -> Deployed:
    """Optimizes for TVM with the options of :func:`optimize`, builds, and compares on the samples that fit.

    Extents that the model leaves open stay so, but for those of ``dims``; GPUs and decisions that lose accuracy want
    numbers, and take the rest from the first sample. Where this machine can run the result, lossy decisions
    (``budget``) are taken by times that TVM takes, but for ``measure=False``. ``schedules``: a file of
    ``tune_kernels``, which says what is faster than what is shipped. Raises what ``optimize`` raises,
    ``UsageError`` for open extents, ``BackendError`` for what cannot be built, ``NotEquivalentError`` where the
    artifact's outputs are not the original's, and ``BudgetError`` where they cost more than the budget.
    """
    chosen = get_target(target) if isinstance(target, str) else target
    graph, source = as_model(model)
    given = load_samples(samples, graph) if samples is not None and not isinstance(samples, Samples) else samples
    fixed = dict(dims or {})
    if chosen.arch == "cuda" or options.get("budget") is not None:
        fixed = static_dims(graph, fixed, given.items[0] if given is not None else None)
    if given is not None:
        given = _fitting(given, graph, fixed)
    bench = _Bench(graph, source, given, fixed, seed)
    here = runs_on_this_machine(chosen)
    asked: Budget | float | None = options.pop("budget", None)
    budget = Budget(asked) if isinstance(asked, int | float) else asked
    if measure and here and budget is not None:
        options.setdefault("stopwatch", TvmStopwatch(_built_for(chosen), bench.items, lambda m: legalized(m, chosen)))
    if NARROW.intersection(_names(options.get("quantize", ()))) and options.get("pipeline", "default") == "default":
        options["pipeline"] = f"lossless,{STANDARD_BLOCKS}"
    options |= {"dims": fixed, "tolerance": tolerance, "seed": seed, "measure": False}
    spent: list[Spending] = []
    for share in SHARES:
        own = budget.tightened(share) if budget is not None else None
        result = optimize(model, for_passes(chosen), samples=given, budget=own, **options)
        artifact = build(result, chosen, schedules)
        if not here or bench.reference is None:
            return Deployed(result, artifact, 0)
        fitting = bench.fitting(result.model)
        if budget is None or result.report.budget is None or not result.report.budget.taken:
            for i, sample in fitting:
                _compare(bench.reference.compare(i, artifact.run(sample), tolerance=tolerance), options)
            return bench.deployed(result, artifact, fitting, measure=measure)
        spent.append(bench.spending(budget, artifact, fitting))
        if spent[-1].spent <= 1:
            return bench.deployed(result, artifact, fitting, measure=measure)
    raise _overspent(spent)


def _names(said: str | Sequence[str]) -> list[str]:
    return [said] if isinstance(said, str) else list(said)


def _overspent(spent: list[Spending]) -> BudgetError:
    shares = ", then ".join(percent(s.spent) for s in spent)
    return BudgetError(
        f"what TVM built spends {shares} of the budget, though the same models fit into it on onnxruntime: {spent[-1]}",
        where="tvm",
        help="allow more, or run the same optimized model with --backend ort",
    )


@dataclass
class _Bench:
    """The original, and samples to run beside it."""

    graph: Model
    source: Runnable | None
    given: Samples | None
    dims: dict[str, int]
    seed: int

    @cached_property
    def reference(self) -> Reference | None:
        """The original; ``None`` where the runtime does not load it."""
        found = make_reference(self.graph, self.source)
        return None if isinstance(found, str) else found

    def items(self) -> list[Sample]:
        """Samples that were given, else made up."""
        return self._samples.items if self._samples is not None else []

    @cached_property
    def _samples(self) -> Samples | None:
        if self.reference is None:
            return self.given
        return make_samples(self.given, self.graph, self.reference, seed=self.seed, dims=self.dims)

    def fitting(self, model: Model) -> list[tuple[int, Sample]]:
        """Those of the extents that kernels were made for, with their numbers."""
        shapes = {v.name: v.shape for v in model.graph.inputs}
        fits = [all(_fits(shape, s[name].shape) for name, shape in shapes.items()) for s in self.items()]
        return [(i, sample) for i, (sample, fit) in enumerate(zip(self.items(), fits, strict=True)) if fit]

    def deployed(
        self, result: Result, artifact: Artifact, fitting: list[tuple[int, Sample]], *, measure: bool
    ) -> Deployed:
        """What came out, timed beside the original on ONNX Runtime where ``measure`` asks for it."""
        timed = self._timed(artifact, fitting) if measure else None
        if timed is not None:
            interval = f"({timed.low:.3f} to {timed.high:.3f})"
            advice = ": SLOWER; fix extents with --dim, try tune-kernels, or --backend ort" if timed.low > 1 else ""
            result.report.measured.because = "the optimized model is not what runs; of what was built a note says it"
            result.report.notes.append(
                f"TVM takes {timed.ratio:.3f} of onnxruntime's time on the original {interval}{advice}"
            )
        return Deployed(result, artifact, len(fitting), timed)

    def _timed(self, artifact: Artifact, fitting: list[tuple[int, Sample]]) -> Comparison | None:
        """On samples that aim at no trouble; ``None`` without any, or where the runtime's optimizer fails."""
        from ..backends.tvm.trial import threads

        assert self.reference is not None
        kinds = self.reference.kinds
        samples = [sample for i, sample in fitting if i >= len(kinds) or kinds[i] == ORDINARY]
        if not samples or self.reference.runtime_fault:
            return None
        try:
            session = Session(
                self.source if self.source is not None else self.graph, SessionSettings("all", threads=threads())
            )
        except BackendError:
            return None
        runs: list[Run] = [
            lambda turn: session.run(samples[turn % len(samples)]),
            lambda turn: artifact.run(samples[turn % len(samples)]),
        ]
        return compare(runs, seconds=SECONDS, cpu_clock=threads() == 1)[0]

    def spending(self, budget: Budget, artifact: Artifact, fitting: list[tuple[int, Sample]]) -> Spending:
        """What an artifact with lossy changes costs on the samples."""
        assert self.reference is not None
        return make_judge(budget, Part(self.reference, [i for i, _ in fitting])).spending(artifact.run)


def build(result: Result, target: Target, schedules: Path | None = None) -> Artifact:
    """The artifact of an optimized model. Raises ``BackendError``."""
    from ..backends.tvm.backend import TvmBackend

    backend, wanted = TvmBackend(), _built_for(target)
    text = backend.legalize(result.model, wanted)
    plan = result.plan.pipeline if result.plan is not None and result.changed else ""
    steps = [part for part in (plan, text if text != "none" else "") if part]
    model = legalized(result.model, target)
    pipeline = ",".join(steps) or "none"
    return backend.lower(model, wanted, pipeline=pipeline, source=result.origin, schedules=schedules)


def legalized(model: Model, target: Target) -> Model:
    """A copy of a model, in operators that the backend has kernels for."""
    from ..backends.tvm.backend import TvmBackend

    model = clone_model(model)
    text = TvmBackend().legalize(model, _built_for(target))
    if text != "none":
        Pipeline(text).run(model, Context(target=for_passes(_built_for(target))))
    return model


def _built_for(target: Target) -> Target:
    """The target as the backend sees it."""
    return replace(target, runtime="tvm", contrib=False)


def for_passes(target: Target) -> Target:
    """The target as passes see it: standard operators, which are what our kernels are made of."""
    arch = target.arch if target.arch in ("x86_64", "aarch64") else "any"
    return replace(target, runtime="ort", arch=arch, contrib=False)


def runs_on_this_machine(target: Target) -> bool:
    """Whether code for the target runs here: the same processor family, with all that the target takes for granted."""
    return target.arch == "any" or (target.arch == host_arch() and target.features <= get_target(native()).features)


def static_dims(model: Model, dims: Mapping[str, int], sample: Sample | None) -> dict[str, int]:
    """A number for every symbol of the inputs' shapes. Raises ``UsageError`` for those that nothing says."""
    found = dict(dims)
    for value in model.graph.inputs if sample is not None else ():
        array = sample.get(value.name) if sample is not None else None
        if array is None or value.shape is None or len(value.shape) != array.ndim:
            continue
        for dim, extent in zip(value.shape, array.shape, strict=True):
            names: set[str] = dim.symbols() if isinstance(dim, SymDim) else set()
            for name in names:
                if len(names) == 1 and substitute(dim, {name: extent}) == extent:
                    found.setdefault(name, extent)
    missing = [name for name in input_symbols(model) if name not in found]
    if missing:
        raise UsageError(
            f"the inputs have open extents: {', '.join(missing)}",
            where="dims",
            help="kernels are made for fixed ones: "
            + " ".join(f"--dim '{name}=...'" for name in missing)
            + ", or --samples with arrays of the wanted shapes",
        )
    return found


def _fitting(samples: Samples, model: Model, dims: Mapping[str, int]) -> Samples:
    """The samples of the fixed shapes; all have one where they were made for one."""
    from .dims import with_dims

    shapes = {v.name: v.shape for v in with_dims(model, dims).graph.inputs} if dims else {}
    kept = [
        i
        for i, sample in enumerate(samples.items)
        if all(name not in shapes or _fits(shapes[name], array.shape) for name, array in sample.items())
    ]
    if len(kept) == len(samples.items):
        return samples
    return replace(
        samples,
        items=[samples.items[i] for i in kept],
        kinds=[samples.kinds[i] for i in kept if i < len(samples.kinds)],
    )


def _fits(shape: Shape | None, found: tuple[int, ...]) -> bool:
    """Whether an array has a shape, open extents being anything."""
    if shape is None or len(shape) != len(found):
        return False
    return all(not isinstance(dim, int) or dim == extent for dim, extent in zip(shape, found, strict=True))


def _compare(checks: Any, options: Mapping[str, Any]) -> None:
    problems = [str(check) for check in checks if not check.equivalent]
    if problems and not options.get("allow_different"):
        raise NotEquivalentError(
            f"what TVM built does not compute what the original computes: {'; '.join(problems[:3])}",
            where="tvm",
            help="planish's kernels are at fault; --backend ort runs the same optimized model",
        )
