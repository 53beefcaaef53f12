"""Commands about kernels of compiled models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .shared import AsJson, Dims, ModelFile, TargetName, app, parse_dims, print_result


@app.command("tune-kernels")
def tune_kernels(
    model: ModelFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="schedules; what is there already is kept")
    ],
    target: TargetName = "native",
    seconds: Annotated[float, typer.Option(metavar="N", min=0.1, help="for all measuring")] = 120.0,
    trials: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="schedules of MetaSchedule for each kernel without a template"),
    ] = 0,
    board: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT[/KEY]", help="measures there: a board's RPC server, or a tracker's key"),
    ] = None,
    dim: Dims = None,
    as_json: AsJson = False,
) -> None:
    """Measure schedules of MODEL's kernels for `optimize --backend tvm --schedules FILE`."""
    from ..driver.kernels import tune_kernels as run

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    found = run(model, target, output, dims=parse_dims(dim), seconds=seconds, trials=trials, board=board, progress=say)
    print_result(found, as_json)
