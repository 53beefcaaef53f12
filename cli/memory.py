"""Commands about memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .shared import FAILED, AsJson, app, parse_size, print_result, shown_progress


@app.command()
def plan(
    buffers: Annotated[Path, typer.Argument(metavar="BUFFERS", help="CSV: id,lower,upper,size", show_default=False)],
    capacity: Annotated[
        str | None, typer.Option("--capacity", "-C", metavar="BYTES", help="enough if they fit: 1048576, 2MiB")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="the CSV with offsets")] = None,
    nodes: Annotated[int, typer.Option(metavar="N", min=0, help="how long to search")] = 20_000,
    as_json: AsJson = False,
) -> None:
    """Place buffers with lifetimes in one arena; exit with 1 where they do not fit."""
    from ..driver.plan import plan as run

    with shown_progress() as progress:
        found = run(
            buffers,
            parse_size(capacity, "--capacity") if capacity is not None else None,
            output=output,
            nodes=nodes,
            progress=progress,
        )
    print_result(found, as_json)
    if not found.fits:
        raise typer.Exit(FAILED)
