"""Commands about trust: compare, replay, find the rewrite at fault, fuzz."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..ir.errors import UsageError
from .shared import (
    FAILED,
    AsJson,
    ModelFile,
    SamplesFile,
    Seed,
    TargetName,
    app,
    print_result,
    shown_progress,
)

Tolerance = Annotated[float, typer.Option(min=0, help="allowed difference beyond rounding, of the scale")]
Models = Annotated[int | None, typer.Option(metavar="N", min=1, help="stop after N models, not by the clock")]
Near = Annotated[
    Path | None,
    typer.Option("--from", metavar="PATH", help="models to vary: a file or folder of .onnx, .ir, golden .md"),
]
Keep = Annotated[Path | None, typer.Option("--repro-dir", metavar="FOLDER", help="where reproducers go")]


@app.command()
def bisect(
    model: ModelFile,
    other: Annotated[
        str, typer.Argument(metavar="[AFTER|PIPELINE]", help="another model, or passes", show_default=False)
    ] = "",
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="passes, see `planish passes`")] = "default",
    runtime: Annotated[bool, typer.Option("--runtime", help="suspect onnxruntime's own optimizer")] = False,
    command: Annotated[
        str, typer.Option(metavar="CMD", help="suspect another tool, as in 'onnxslim {before} {after}'")
    ] = "",
    samples: SamplesFile = None,
    target: TargetName = "generic",
    tolerance: Tolerance = 0.0,
    slower: Annotated[float | None, typer.Option(metavar="RATIO", min=1, help="taking longer is a fault too")] = None,
    shrink: Annotated[bool, typer.Option("--shrink/--no-shrink", help="look for a small model that shows it")] = True,
    repro_dir: Keep = None,
    seconds: Annotated[float, typer.Option(min=0, help="time limit")] = 600.0,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Find the rewrite that makes MODEL wrong, or where another tool's result departs from it; exit with 1 then."""
    from ..driver.bisect import align, bisect_runtime, bisect_tool
    from ..driver.bisect import bisect as search

    is_file = bool(other) and (Path(other).exists() or Path(other).suffix == ".onnx")
    if sum((runtime, bool(command), bool(other))) > 1:
        raise UsageError(
            "--runtime and --command take one model and exclude each other", where="cli", help="name one suspect"
        )
    with shown_progress() as progress:
        if runtime:
            found = bisect_runtime(
                model, samples, tolerance=tolerance, seconds=seconds, seed=seed, reduce=shrink, progress=progress
            )
            wrong = found.fault is not None
        elif command:
            found = bisect_tool(
                model, command, samples, tolerance=tolerance, seconds=seconds, seed=seed, reduce=shrink,
                progress=progress,
            )  # fmt: skip
            wrong = found.fault is not None
        elif is_file:
            found = align(model, Path(other), samples, tolerance=tolerance, seed=seed)
            wrong = not found.equal
        else:
            found = search(
                model,
                other or pipeline,
                samples,
                target=target,
                tolerance=tolerance,
                seconds=seconds,
                seed=seed,
                slower=slower,
                reduce=shrink,
                repro_dir=repro_dir,
                progress=progress,
            )
            wrong = found.guilty is not None
    print_result(found, as_json)
    if wrong:
        raise typer.Exit(FAILED)


@app.command("run")
def run_reproducer(
    repro: Annotated[Path, typer.Argument(metavar="REPRO.ir", help="written by `optimize --repro-dir`")],
    as_json: AsJson = False,
) -> None:
    """Replay a reproducer; exit with 1 where it still fails."""
    from ..driver.reproduce import replay

    found = replay(repro)
    print_result(found, as_json)
    if found.reproduced:
        raise typer.Exit(FAILED)


@app.command()
def fuzz(
    minutes: Annotated[float, typer.Option(metavar="N", min=0, help="time limit")] = 1.0,
    pipeline: Annotated[
        list[str] | None, typer.Option("--pipeline", "-p", help="a pass or pipeline; all of them where none is given")
    ] = None,
    models: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="stop after N models, not by the clock")
    ] = None,
    source: Near = None,
    repro_dir: Keep = None,
    shrink: Annotated[bool, typer.Option("--shrink/--no-shrink", help="shrink what fails")] = True,
    as_json: AsJson = False,
    seed: Annotated[int, typer.Option(help="the first model's; others follow")] = 0,
) -> None:
    """Run random models through passes and compare; exit with 1 where one fails."""
    from ..driver.fuzz import fuzz as run

    with shown_progress() as progress:
        found = run(
            minutes,
            pipelines=pipeline,
            seed=seed,
            models=models,
            source=source,
            keep=repro_dir,
            shrink=shrink,
            progress=progress,
        )
    print_result(found, as_json)
    if found.found:
        raise typer.Exit(FAILED)


@app.command("check-pass")
def check_pass(
    name: Annotated[str, typer.Argument(metavar="PASS", help="a registered pass, with options as in a pipeline")],
    minutes: Annotated[float, typer.Option(metavar="N", min=0, help="time limit")] = 1.0,
    models: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="stop after N models, not by the clock")
    ] = None,
    source: Near = None,
    repro_dir: Keep = None,
    as_json: AsJson = False,
    seed: Annotated[int, typer.Option(help="the first model's; others follow")] = 0,
) -> None:
    """Point the fuzzer at one pass, alone and among others; exit with 1 where it breaks a model."""
    from ..driver.fuzz import check_pass as run

    with shown_progress() as progress:
        found = run(name, minutes, seed=seed, models=models, source=source, keep=repro_dir, progress=progress)
    print_result(found, as_json)
    if not found.passed:
        raise typer.Exit(FAILED)
