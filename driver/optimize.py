"""``optimize``: run a pipeline, prove the result equivalent, measure it, and keep it only if it is no worse."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ..ir.errors import UsageError
from ..ir.safe_files import output_path
from ..passes.manager import Pipeline
from ..passes.pipelines import FACTORIZE, QUANTIZE
from ..passes.target import Target, get_target
from .budget import Budget, Stopwatch
from .checks.validate import AnyModel
from .checks.validation import level_of
from .inputs.samples import Samples, Source
from .job import Job
from .memory.footprint_job import choose_for_memory
from .memory.report import check_limit
from .result import MAX_GROWTH, Options, Result
from .select import Goal

Progress = Callable[[str, int, int], None]


def optimize(
    model: AnyModel,
    target: str | Target = "generic",
    *,
    samples: Source | Samples | None = None,
    pipeline: str = "default",
    validate: str = "final",
    measure: bool = True,
    output: str | os.PathLike[str] | None = None,
    tolerance: float = 0.0,
    allow_different: bool = False,
    dims: Mapping[str, int] | None = None,
    fuel: int | None = None,
    disabled: Sequence[str] = (),
    seed: int = 0,
    max_growth: float = MAX_GROWTH,
    measure_seconds: float = 3.0,
    validate_seconds: float = 60.0,
    bisect_seconds: float = 60.0,
    print_after_change: Callable[[str], object] | None = None,
    repro_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    tune: bool = False,
    tune_seconds: float = 60.0,
    threads: int | None = None,
    cache: bool = True,
    budget: Budget | float | None = None,
    quantize: str | Sequence[str] = (),
    factorize: bool = False,
    goal: Goal | None = None,
    calibration: str | os.PathLike[str] | None = None,
    memory: bool = False,
    max_memory: int | None = None,
    stopwatch: Stopwatch | None = None,
) -> Result:
    """Optimizes a model and proves the result equivalent.

    ``model`` is a path, bytes, a ``ModelProto`` or a graph; it is left as it is.

    * ``samples``: see ``load_samples``; made up from the input types where none are given.
    * ``validate``: ``none``, ``structure`` (invariants and interface), ``final`` (outputs of both models on the
      samples), ``each-pass`` (outputs after every pass as well), ``each-rewrite`` (and each rewrite by itself, 8 of
      each rule; ``each-rewrite:20``, ``each-rewrite:all``; see ``docs/trust.md``). Where the runtime cannot run the
      original, less is done than asked for, and ``result.report.validation.because`` says why.
    * ``tolerance``: how far floats may differ beyond rounding, as a fraction of their scale.
    * ``measure``: run both in turns for ``measure_seconds``; a slower result is not kept.
    * ``max_growth``: a file that grows by more than this fraction (and 1 MiB) is not kept.
    * ``dims``: symbols of the inputs to fix, ``{"batch": 1}``.
    * ``fuel``: stop after that many rewrites; ``disabled``: rules or passes that must not fire.
    * ``repro_dir``: where a reproducer goes when a pass fails or the outputs differ.
    * ``bisect_seconds``: how long to look for the rewrite at fault when outputs differ.
    * ``tune``: search for the fastest pipeline and session settings for about ``tune_seconds``; see ``tune``.
      ``cache``: keep the outcome in the user's cache folder and take it from there; also times of operators that
      selections of lossy units measured.
    * ``budget``: how far lossy passes and rounding together may move the outputs, or a task's score; see ``Budget``.
      A number is the largest error relative to each output slice's scale. Without one, lossy passes do nothing
      (unless ``tolerance`` or ``allow_different`` accept their differences); with one, ``default`` has them.
    * ``quantize``: names of lossy groups, as ``int8``, ``dynamic``, ``int4-weights``; see ``QUANTIZE``. Each decision
      of theirs is taken only where it stays within the budget and, where this machine stands for the target, where it
      was measured to pay. Needs a budget.
    * ``factorize``: weights become products of matrices of low rank, at ranks chosen as ``quantize`` chooses; before
      anything is quantized. Needs a budget.
    * ``goal``: what lossy decisions are selected for: time, size (the default where weights alone are quantized) or
      error, with limits on the others.
    * ``calibration``: a file in which statistics of values on the samples are kept and looked up the next time.
    * ``stopwatch``: times lossy decisions as another backend runs them, also where ``measure`` is not asked for.
    * ``memory``: ``order-nodes`` behind the pipeline, and the session settings with the smallest measured peak among
      those that cost no time; see ``choose_for_memory``.
    * ``max_memory``: bytes for all values but weights, by the model of ``docs/memory.md``: nodes are put in order, run
      again or split into parts until an arena of that size holds them. What that costs in time is not judged.
    * ``threads``: of the session that will run the result; everything is measured on one where it is not given.

    Raises ``NotEquivalentError`` when outputs differ (unless ``allow_different``), ``BudgetError`` when a budget or
    ``max_memory`` cannot be judged or met, ``PassError`` when a pass fails, ``ReadError``, ``PipelineError`` and
    ``UsageError`` for what is wrong with the arguments.
    """
    level_of(validate)
    groups = [quantize] if isinstance(quantize, str) else list(quantize)
    if groups or factorize:
        pipeline = with_lossy(pipeline, groups, factorize, with_budget=budget is not None)
        if goal is None and not factorize and all(name.endswith("weights") for name in groups):
            goal = Goal(minimize="bytes")
    elif goal is not None and budget is None:
        raise UsageError(
            "a limit on size, time or operations is for lossy passes, which need an error budget",
            where="goal",
            help="say what it may cost (--max-error 0.01) and how (--factorize, --quantize int8), or drop the limit",
        )
    elif pipeline == "default" and budget is not None:
        pipeline = "lossless,lossy,layout"
    if memory and "order-nodes" not in pipeline:
        pipeline = f"{pipeline},order-nodes"
    if max_memory is not None:
        if max_memory < 1:
            raise UsageError("the limit on memory is a positive number of bytes", where="max-memory")
        limit = f"{{max-bytes={max_memory}}}"
        pipeline = f"{pipeline},order-nodes,rematerialize{limit},split-regions{limit},order-nodes"
        measure = False
    options = Options(
        get_target(target) if isinstance(target, str) else target,
        pipeline,
        validate,
        measure,
        tolerance,
        allow_different,
        dict(dims or {}),
        fuel,
        frozenset(disabled),
        seed,
        max_growth,
        measure_seconds,
        validate_seconds,
        bisect_seconds,
        print_after_change,
        Path(repro_dir) if repro_dir is not None else None,
        progress,
        tune,
        tune_seconds,
        threads,
        cache,
        Budget(budget) if isinstance(budget, (int, float)) else budget,
        goal,
        Path(calibration) if calibration is not None else None,
        stopwatch,
    )
    path = output_path(output) if output is not None else None
    steps = Pipeline(pipeline)
    with TemporaryDirectory(prefix="planish-") as folder:
        job = Job(model, samples, options, steps, Path(folder))
        result = job.run()
        if max_memory is not None:
            arena = check_limit(result.model, max_memory)
            result.report.notes.append(f"all values fit in an arena of {arena.height:,} bytes")
        if memory:
            result.report.footprint = choose_for_memory(job, result)
            result.report.session = result.settings.to_dict()
    if path is not None:
        result.save(path)
    return result


def with_lossy(pipeline: str, groups: Sequence[str], factorize: bool, *, with_budget: bool) -> str:
    """The pipeline with factorization and ways to quantize behind it. Raises ``UsageError``."""
    unknown = [name for name in groups if name not in QUANTIZE]
    if unknown:
        raise UsageError(
            f"there is no way to quantize called {unknown[0]!r}", where="quantize", help=f"one of {', '.join(QUANTIZE)}"
        )
    if not with_budget:
        raise UsageError(
            "quantization needs an error budget" if groups else "factorization needs an error budget",
            where="quantize" if groups else "factorize",
            help="say what it may cost: --max-error 0.01, or budget=Budget(0.01) with a metric of the task",
        )
    lossy = [*([FACTORIZE] if factorize else []), *(QUANTIZE[name] for name in groups)]
    if pipeline == "default":
        return ",".join(["lossless", *lossy, "layout"])  # layouts are chosen for what is computed in the end
    return ",".join([pipeline, *lossy])


__all__ = ["Options", "Result", "optimize"]
