"""Commands about quantized models: how a target runs them."""

from __future__ import annotations

from typing import Annotated

import typer

from .shared import FAILED, AsJson, ModelFile, TargetName, app, print_result


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
