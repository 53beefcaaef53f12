"""The command that gathers statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .shared import AsJson, Interrupted, ModelFile, TargetName, app, parse_size, print_result, shown_progress


@app.command()
def calibrate(
    model: ModelFile,
    samples: Annotated[
        Path,
        typer.Option("--samples", "-s", metavar="FILE", help=".npz with an array per input, or a folder of such files"),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="calibration.npz; gone on with")],
    method: Annotated[
        str, typer.Option(metavar="NAME", help="of the ranges shown: min-max, moving-average, percentile, entropy, mse")
    ] = "mse",
    count: Annotated[int | None, typer.Option(metavar="N", min=1, help="samples at most")] = None,
    max_memory: Annotated[
        str, typer.Option("--max-memory", metavar="BYTES", help="for values and statistics: 500MB, 2GiB")
    ] = "1GiB",
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="passes to run first")] = "",
    target: TargetName = "generic",
    threads: Annotated[int, typer.Option(metavar="N", min=0, help="0 takes all cores")] = 1,
    restart: Annotated[bool, typer.Option("--restart", help="do not go on with what the file holds")] = False,
    rows: Annotated[int, typer.Option(metavar="N", min=0, help="of the table; 0 shows all")] = 40,
    as_json: AsJson = False,
) -> None:
    """Observe what MODEL's values are like on samples, for quantization; Ctrl-C leaves a file to go on with."""
    from ..driver.calibrate import calibrate as run

    try:
        with shown_progress() as progress:
            found = run(
                model,
                samples,
                output,
                method=method,
                count=count,
                max_memory_bytes=parse_size(max_memory, "--max-memory"),
                pipeline=pipeline,
                target=target,
                threads=threads,
                restart=restart,
                progress=progress,
            )
    except KeyboardInterrupt as stopped:
        if not str(stopped):  # twice, or before anything was observed
            raise
        raise Interrupted(f"{stopped}, the same command goes on from there") from None
    found.shown = rows
    print_result(found, as_json)
