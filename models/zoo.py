"""Real models that arrive inside PyPI packages, each with inputs it was made for and a measure of its quality.

    python -m planish.models.zoo list
    python -m planish.models.zoo export ppocr_rec FOLDER

``export`` writes ``FOLDER/model.onnx`` and ``FOLDER/samples.npz``: one array per graph input, whose first
axis counts the samples and is no axis of the input.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import PlanishError, UsageError
from . import zoo_basic_pitch, zoo_light, zoo_magika, zoo_minilm, zoo_nudenet, zoo_ocr, zoo_silero
from .packages import write_atomically
from .zoo_model import Metric, Runner, Sample, ZooModel

__all__ = ["ZOO", "Metric", "Runner", "Sample", "ZooModel", "available", "export", "get"]

_SOURCES = (zoo_ocr, zoo_magika, zoo_minilm, zoo_nudenet, zoo_silero, zoo_basic_pitch, zoo_light)

ZOO: dict[str, ZooModel] = {entry.name: entry for source in _SOURCES for entry in source.ENTRIES}
"""All entries by name, installed or not."""


def get(name: str) -> ZooModel:
    """The entry called ``name``. Raises UsageError with the nearest names when there is none."""
    if name in ZOO:
        return ZOO[name]
    nearest = get_close_matches(name, ZOO, n=3, cutoff=0.4) or sorted(ZOO)
    raise UsageError(f"no model is called {name!r}", where="zoo", help=f"did you mean {', '.join(nearest)}?")


def available() -> list[str]:
    """Names of the entries whose packages are installed. Nothing is imported to find out."""
    return [name for name, entry in ZOO.items() if entry.installed]


def export(name: str, folder: Path, count: int = 8, seed: int = 0) -> tuple[Path, Path]:
    """Writes ``model.onnx`` and ``samples.npz`` into ``folder``; existing ones are replaced as a whole."""
    entry = get(name)
    source, samples = entry.path(), entry.samples(count, seed, uniform=True)
    arrays: dict[str, Any] = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    model = write_atomically(folder / "model.onnx", lambda path: shutil.copyfile(source, path))
    return model, write_atomically(folder / "samples.npz", lambda path: np.savez(path, **arrays))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m planish.models.zoo", description="Models inside PyPI packages.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all entries, and how to install what is missing")
    exporting = commands.add_parser("export", help="write model.onnx and samples.npz")
    exporting.add_argument("name")
    exporting.add_argument("folder", type=Path)
    exporting.add_argument("--count", type=int, default=8, help="number of samples (default 8)")
    exporting.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "list":
            lines = list(_listing())
        else:
            lines = [str(path) for path in export(options.name, options.folder, options.count, options.seed)]
    except PlanishError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _listing() -> Iterator[str]:
    """A line for each entry."""
    width = max(map(len, ZOO))
    for name, entry in ZOO.items():
        kind = f"{entry.family:6}  {'trained' if entry.trained else 'untrained':9}"
        note = "" if entry.installed else f"  [{entry.install_command}]"
        yield f"{name:{width}}  {kind}  {entry.description}{note}"


if __name__ == "__main__":
    sys.exit(main())
