"""Commands about memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..ir.errors import UsageError
from .shared import FAILED, AsJson, Dims, app, parse_dims, parse_size, print_result, shown_progress


@app.command()
def plan(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="CSV (id,lower,upper,size) or ONNX file", show_default=False),
    ],
    capacity: Annotated[
        str | None, typer.Option("--capacity", "-C", metavar="BYTES", help="enough if they fit: 1048576, 2MiB")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="CSV; of a model also .json, or .h for C")
    ] = None,
    alignment: Annotated[
        int | None, typer.Option(metavar="BYTES", min=1, help="of a model's values, 64 where not given")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", metavar="NAME", help="spread a model over the target's memories: stm32h743"),
    ] = None,
    dim: Dims = None,
    nodes: Annotated[int, typer.Option(metavar="N", min=0, help="how long to search")] = 20_000,
    as_json: AsJson = False,
) -> None:
    """Place buffers with lifetimes, or the values of a model, in one arena; exit with 1 where they do not fit."""
    from ..driver.memory.buffers import plan as plan_buffers
    from ..driver.memory.report import ALIGNMENT, plan_model
    from ..passes.target import get_target

    room = parse_size(capacity, "--capacity") if capacity is not None else None
    with shown_progress() as progress:
        if source.suffix == ".csv":
            if alignment is not None or dim or target:
                raise UsageError(
                    "--alignment, --target and --dim are for models",
                    where="cli",
                    help="buffers have a column 'alignment'",
                )
            found = plan_buffers(source, room, output=output, nodes=nodes, progress=progress)
        else:
            found = plan_model(
                source,
                room,
                output=output,
                dims=parse_dims(dim),
                alignment=alignment or ALIGNMENT,
                memories=get_target(target).memories if target is not None else (),
                nodes=nodes,
                progress=progress,
            )
    print_result(found, as_json)
    if not found.fits:
        raise typer.Exit(FAILED)
