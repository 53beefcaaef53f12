"""Commands about quantized models: how a target runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .shared import (
    FAILED,
    AsJson,
    Dims,
    LowerIsBetter,
    MaxError,
    MetricName,
    ModelFile,
    SamplesFile,
    Seed,
    TargetName,
    app,
    parse_budget,
    parse_dims,
    print_result,
    shown_progress,
)


@app.command()
def lint(
    model: ModelFile,
    target: TargetName = "native",
    all_nodes: Annotated[bool, typer.Option("--all", help="show nodes without a complaint too")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="exit with 1 where there are warnings or errors")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say which nodes of a quantized MODEL the target computes on integers, and why not the others."""
    from ..driver.lint import lint as run

    found = run(model, target, all_nodes=all_nodes)
    print_result(found, as_json)
    if found.report.worst == "error" or (exit_code and not found.clean):
        raise typer.Exit(FAILED)


@app.command()
def export(
    model: ModelFile,
    target: Annotated[str, typer.Option("--target", "-t", metavar="NAME", help="tensorrt, openvino, qnn, coreml")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="for the model and its reports")],
    samples: SamplesFile = None,
    max_error: MaxError = None,
    metric: MetricName = "relative",
    lower_is_better: LowerIsBetter = False,
    dim: Dims = None,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Make MODEL for another runtime, with --max-error quantized as that wants; exit with 1 where it is refused."""
    from ..driver.export import export as run

    budget = parse_budget(max_error, metric, lower_is_better)
    with shown_progress() as progress:
        found = run(
            model, target, output, samples=samples, budget=budget, dims=parse_dims(dim), seed=seed, progress=progress
        )
    print_result(found, as_json)
    if found.lint.report.worst == "error":
        raise typer.Exit(FAILED)
