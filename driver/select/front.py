"""The front of error, time and size: as a table, as a plot."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...ir.errors import UsageError
from ...ir.safe_files import SafeFiles
from ..document import Document, Table, Text, bytes_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """One selection."""

    spent: float
    """Share of the error budget."""
    time: float
    """Relative to the model without any unit."""
    saved_bytes: int
    units: int
    measured: bool
    """False: estimated."""
    chosen: bool = False


@dataclass
class Front:
    """Selections, measured and estimated, by what they spend."""

    points: list[Point]

    def best(self) -> list[Point]:
        """Those to which no other is better in error, time and size at once."""

        def beaten(p: Point, q: Point) -> bool:
            no_worse = q.spent <= p.spent and q.time <= p.time and q.saved_bytes >= p.saved_bytes
            return no_worse and (q.spent, q.time, -q.saved_bytes) != (p.spent, p.time, -p.saved_bytes)

        return [p for p in self.points if not any(beaten(p, q) for q in self.points)]

    def document(self) -> Document:
        """A table."""
        rows = [
            (
                f"{p.spent:.1%}",
                f"{p.time:.3f}",
                bytes_text(p.saved_bytes) if p.saved_bytes else "",
                str(p.units),
                "chosen" if p.chosen else "measured" if p.measured else "estimated",
            )
            for p in self.best()
        ]
        return [Table("", ("of budget>", "time>", "saves>", "units>", ""), rows)] if rows else [Text("no selections")]

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture (png, svg or pdf by the name's suffix). Raises ``UsageError``."""
        path = Path(path)
        figure, kind = new_picture(path)
        axes = figure.add_subplot()
        for measured, label, marker in ((False, "estimated", "o"), (True, "measured", "s")):
            points = [p for p in self.points if p.measured is measured]
            if points:
                axes.scatter(
                    [p.spent * 100 for p in points],
                    [p.time for p in points],
                    s=36,
                    marker=marker,
                    facecolors="C0" if measured else "none",
                    edgecolors="C0",
                    label=label,
                )
        best = sorted(self.best(), key=lambda p: p.spent)
        axes.step([p.spent * 100 for p in best], [p.time for p in best], where="post", color="C0", alpha=0.4)
        for p in self.points:
            if p.chosen:
                axes.scatter([p.spent * 100], [p.time], s=140, marker="*", color="C1", label="chosen", zorder=3)
        axes.axvline(100, color="C3", linestyle=":", label="budget")
        axes.set_xlabel("spent, % of the error budget")
        axes.set_ylabel("time, relative to the lossless result")
        axes.set_xscale("symlog", linthresh=1.0)
        axes.legend()
        with SafeFiles() as files:
            figure.savefig(files.create(path), format=kind, metadata={"Date": None} if kind == "svg" else None)


def new_picture(path: Path) -> tuple[Figure, str]:
    """An empty figure and the format that the name's suffix asks for. Raises ``UsageError`` where it cannot be."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "a plot needs matplotlib, which is not installed", where="plot", help="pip install 'planish[plot]'"
        ) from error
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".").lower()
    if kind not in formats:
        raise UsageError(
            f"{path.name} is no picture that can be written", where="plot", help=f"one of {', '.join(formats)}"
        )
    return figure, kind


__all__ = ["Front", "Point", "new_picture"]
