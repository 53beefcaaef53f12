"""Commands that optimize, measure and look at models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..driver.document import Table, Text
from ..ir.errors import PlanishError, UsageError
from ..ir.limits import current_limits
from .shared import (
    FAILED,
    AsJson,
    Cache,
    Dims,
    Factorize,
    LowerIsBetter,
    MaxError,
    MaxFlops,
    MaxLatency,
    MaxMemory,
    MaxSize,
    Memory,
    MetricName,
    ModelFile,
    Quantize,
    SamplesFile,
    Seed,
    TargetName,
    Threads,
    Tune,
    TuneSeconds,
    ValidateLevel,
    app,
    limits_text,
    parse_budget,
    parse_dims,
    parse_goal,
    parse_limits,
    parse_size,
    print_result,
    show_result,
    shown_progress,
)

if TYPE_CHECKING:
    from ..backends.core import Artifact
    from ..driver.report import Report
    from ..driver.result import Result


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"planish {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="show where in planish an error arose")] = False,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", metavar="NAME=N", help=f"what a model may ask for: {limits_text()}")
    ] = None,
) -> None:
    current_limits.set(parse_limits(limit))


@app.command()
def optimize(
    model: ModelFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="may be MODEL itself; with --backend tvm a folder")
    ],
    target: TargetName = "generic",
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="ort, or tvm: builds a library for the target")
    ] = None,
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="passes, see `planish passes`")] = "default",
    samples: SamplesFile = None,
    validate: ValidateLevel = "final",
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="keep only what is not slower")] = True,
    as_json: AsJson = False,
    fuel: Annotated[int | None, typer.Option(metavar="N", min=0, help="stop after N rewrites")] = None,
    disable: Annotated[list[str] | None, typer.Option(metavar="RULE", help="a rule that must not fire")] = None,
    print_after_change: Annotated[bool, typer.Option("--print-after-change", help="print the graph to stderr")] = False,
    repro_dir: Annotated[Path | None, typer.Option(metavar="FOLDER", help="where reproducers of failures go")] = None,
    allow_different: Annotated[bool, typer.Option("--allow-different", help="write it even if it differs")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="allowed difference beyond rounding, of the scale")] = 0.0,
    max_growth: Annotated[float, typer.Option(min=0, help="how much larger the file may become, above 1 MiB")] = 0.1,
    dim: Dims = None,
    seed: Seed = 0,
    tune: Tune = False,
    tune_seconds: TuneSeconds = 60.0,
    threads: Threads = None,
    cache: Cache = True,
    max_error: MaxError = None,
    metric: MetricName = "relative",
    lower_is_better: LowerIsBetter = False,
    quantize: Quantize = None,
    factorize: Factorize = False,
    memory: Memory = False,
    max_memory: MaxMemory = None,
    max_size: MaxSize = None,
    max_latency: MaxLatency = None,
    max_flops: MaxFlops = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="keeps what is observed on samples, for the next time")
    ] = None,
    schedules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="with --backend tvm: what `planish tune-kernels` measured")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="picture of error against time")] = None,
) -> None:
    """Optimize MODEL, prove that it computes the same, and write it to FILE."""
    from ..backends.folder import check_folder
    from ..driver.compile import backend_name
    from ..driver.select import new_picture
    from ..ir.safe_files import output_path

    built = backend_name(target, backend) == "tvm"
    if built and memory:
        raise UsageError(
            "--memory chooses settings of ONNX Runtime's session, TVM has none",
            where="memory",
            help="TVM plans its memory when it builds: leave the option out",
        )
    if schedules is not None and not (built and schedules.is_file()):
        raise UsageError(
            f"there is no file {schedules}" if built else "only TVM takes schedules",
            where="schedules",
            help="`planish tune-kernels` makes the file, --backend tvm takes it",
        )
    (check_folder if built else output_path)(output)
    if plot is not None:
        new_picture(output_path(plot))  # before the work, not behind it
    with shown_progress() as progress:
        options: dict[str, Any] = {
            "samples": samples,
            "pipeline": pipeline,
            "validate": validate,
            "tolerance": tolerance,
            "allow_different": allow_different,
            "dims": parse_dims(dim),
            "fuel": fuel,
            "disabled": disable or (),
            "seed": seed,
            "max_growth": max_growth,
            "print_after_change": sys.stderr.write if print_after_change else None,
            "repro_dir": repro_dir,
            "progress": progress,
            "tune": tune,
            "tune_seconds": tune_seconds,
            "threads": threads,
            "cache": cache,
            "budget": parse_budget(max_error, metric, lower_is_better),
            "quantize": quantize or (),
            "factorize": factorize,
            "memory": memory,
            "max_memory": parse_size(max_memory, "--max-memory") if max_memory is not None else None,
            "goal": parse_goal(max_size, max_latency, max_flops),
            "calibration": calibration,
        }
        options |= {"schedules": schedules} if schedules is not None else {}
        run = _built if built else _optimized
        result, saved, note = run(model, target, measure, options)
        checked = result.report.validation
        written = not checked.short or checked.method == "identity"
        if written:
            saved.save(output)
    if plot is not None:
        _plot(result.report, plot)
    plain = {**result.report.to_dict(), "written": written}
    extra = [Text(f"written to {output}{note}")] if written else []
    show_result(plain, [*result.report.document(), *extra], as_json)
    if not written:
        raise _unproved(output, checked.because)
    if checked.equivalent is False:
        raise typer.Exit(FAILED)


def _optimized(model: Path, target: str, measure: bool, options: dict[str, Any]) -> tuple[Result, Result, str]:
    from ..driver.optimize import optimize as run

    result = run(model, target, measure=measure, **options)
    return result, result, ""


def _built(model: Path, target: str, measure: bool, options: dict[str, Any]) -> tuple[Result, Artifact, str]:
    from ..driver.deploy import deploy

    made = deploy(model, target, measure=measure, **options)
    pieces = [step["backend"] for step in made.artifact.manifest["steps"]]
    parts = [f"{pieces.count('ort')} of {len(pieces)} pieces run on onnxruntime"] if pieces else []
    parts.append(
        f"its outputs were compared on {made.checked} samples" if made.checked else "not run: built for another machine"
    )
    return made.result, made.artifact, f"; {'; '.join(parts)}"


def _plot(report: Report, path: Path) -> None:
    front = report.budget.front if report.budget is not None else None
    if front is None:
        raise UsageError(
            "there is nothing to plot", where="plot", help="give --max-error and --quantize (or --factorize)"
        )
    front.plot(path)
    if report.budget is not None and report.budget.ranks:
        from ..driver.factor import plot_ranks

        plot_ranks(report.budget.ranks, path.with_stem(f"{path.stem}-layers"))


@app.command("compile")
def compile_model(
    model: ModelFile,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="an artifact there is replaced")],
    target: TargetName = "generic",
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="passes, see `planish passes`")] = "default",
    samples: SamplesFile = None,
    validate: ValidateLevel = "final",
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="keep only what is not slower")] = True,
    tune: Tune = False,
    tune_seconds: TuneSeconds = 60.0,
    threads: Threads = None,
    cache: Cache = True,
    max_error: MaxError = None,
    metric: MetricName = "relative",
    lower_is_better: LowerIsBetter = False,
    memory: Memory = False,
    max_memory: MaxMemory = None,
    disable: Annotated[list[str] | None, typer.Option(metavar="RULE", help="a rule that must not fire")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="allowed difference beyond rounding, of the scale")] = 0.0,
    dim: Dims = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Optimize MODEL and write it with the session's settings and a manifest to FOLDER."""
    from ..backends.folder import check_folder
    from ..driver.optimize import optimize as run

    check_folder(output)
    with shown_progress() as progress:
        result = run(
            model,
            target,
            samples=samples,
            pipeline=pipeline,
            validate=validate,
            measure=measure,
            tolerance=tolerance,
            dims=parse_dims(dim),
            disabled=disable or (),
            seed=seed,
            progress=progress,
            tune=tune,
            tune_seconds=tune_seconds,
            threads=threads,
            cache=cache,
            budget=parse_budget(max_error, metric, lower_is_better),
            memory=memory,
            max_memory=parse_size(max_memory, "--max-memory") if max_memory is not None else None,
        )
        checked = result.report.validation
        if checked.short and checked.method != "identity":
            raise _unproved(output, checked.because)
        artifact = result.artifact()
        artifact.save(output)
    plain = {**result.report.to_dict(), "manifest": artifact.manifest}
    show_result(plain, [*result.report.document(), Text(f"written to {output}")], as_json)


@app.command()
def validate(
    model: ModelFile,
    optimized: Annotated[Path, typer.Argument(metavar="OPTIMIZED", help="what is compared with it")],
    samples: SamplesFile = None,
    tolerance: Annotated[float, typer.Option(min=0, help="allowed difference beyond rounding, of the scale")] = 0.0,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Compare the outputs of two models on samples."""
    from ..driver.checks.validate import validate as run

    with shown_progress():
        found = run(model, optimized, samples, tolerance=tolerance, seed=seed)
    print_result(found, as_json)
    if not found.equivalent or found.short:
        raise typer.Exit(FAILED)


@app.command()
def inspect(
    model: ModelFile,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="check every invariant")] = True,
    text: Annotated[bool, typer.Option("--text", help="print the graph itself")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="what its values take, when, and at the least")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="with --memory: a picture of it")] = None,
    dim: Dims = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in MODEL and whether it is sound."""
    if plot is not None and not memory:
        raise UsageError("--plot draws what --memory shows", where="cli", help="give --memory as well")
    if memory:
        from ..driver.memory.report import inspect_memory
        from ..driver.memory.report import memory as run_memory

        if plot is None:
            print_result(inspect_memory(model, parse_dims(dim)), as_json)
            return
        taken = run_memory(model, dims=parse_dims(dim))
        taken.plot(plot)
        print_result(taken, as_json)
        return
    from ..driver.inspect import inspect as run

    if text:
        from ..ir.onnx_reader import read_model

        sys.stdout.write(f"{read_model(model)}\n")
        return
    found = run(model, verify=verify, dims=parse_dims(dim))
    print_result(found, as_json)
    if found.problems:
        raise typer.Exit(FAILED)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A")],
    b: Annotated[Path, typer.Argument(metavar="B")],
    text: Annotated[bool, typer.Option("--text", help="add a diff of the textual forms")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="exit with 1 where they differ")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how two models differ."""
    from ..driver.diff import diff as run

    found = run(a, b, text=text)
    print_result(found, as_json)
    if exit_code and not found.equal:
        raise typer.Exit(FAILED)


@app.command()
def bench(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="ONNX files of one interface")],
    samples: SamplesFile = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="time limit")] = 3.0,
    threads: Annotated[int, typer.Option(min=0, help="0 takes all cores")] = 1,
    level: Annotated[str, typer.Option(help="the runtime's own optimization: disable, basic, extended, all")] = "all",
    dim: Dims = None,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Time models on this machine, in turns, on the same samples."""
    from ..driver.bench import bench as run

    with shown_progress() as progress:
        if progress is not None:
            progress("measuring", 0, 0)
        found = run(models, samples, seconds=seconds, threads=threads, level=level, dims=parse_dims(dim), seed=seed)
    print_result(found, as_json)


@app.command()
def passes(
    rules: Annotated[bool, typer.Option("--rules", help="list the rules of each pass (loads them)")] = False,
    as_json: AsJson = False,
) -> None:
    """List passes and pipelines."""
    from ..driver.catalogue import pass_list

    print_result(pass_list(rules=rules), as_json)


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="what is known of one")] = None,
    as_json: AsJson = False,
) -> None:
    """List targets, or explain one."""
    from ..driver.catalogue import target_list

    print_result(target_list(name), as_json)


@app.command()
def explain(
    name: Annotated[str, typer.Argument(metavar="PASS|RULE", help="as `fold-batchnorm`, or a rule's name")],
    model: ModelFile,
    before: Annotated[
        str | None, typer.Option("--before", metavar="PIPELINE", help="run this first, not what the default runs first")
    ] = None,
    target: TargetName = "generic",
    as_json: AsJson = False,
) -> None:
    """Say why a pass or a rule fires on MODEL or does not."""
    from ..driver.explain import explain as run

    print_result(run(name, model, before=before, target=target), as_json)


@app.command("new-pass")
def new_pass(
    name: Annotated[str, typer.Argument(metavar="NAME", help="verb and object, as fold-conv-bias")],
    family: Annotated[str, typer.Option(help="folder under passes/")] = "clean",
    plugin: Annotated[Path | None, typer.Option(metavar="FOLDER", help="write a package of its own there")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a pass with its test, ready to be changed."""
    from ..driver.scaffold import new_pass as run

    files = [str(path) for path in run(name, family=family, plugin=plugin)]
    show_result({"schema": 1, "files": files}, [Table("written", ("file",), [(f,) for f in files])], as_json)


def _unproved(output: Path, because: str) -> PlanishError:
    return PlanishError(
        f"{output} was not written: only the structure could be validated, because {because}",
        where="validate",
        help="accept that with --validate structure",
    )
