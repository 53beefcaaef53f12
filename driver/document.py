"""What commands show: paragraphs and tables, drawn by rich on a terminal and as plain text in a pipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypeAlias, cast

SCHEMA = 1
"""Version of the JSON forms; grows when a key changes its meaning or goes."""


@dataclass
class Text:
    """A paragraph. ``style`` is a rich style and means nothing in plain text."""

    text: str
    style: str = ""


@dataclass
class Table:
    """Rows under a title. Columns whose name ends in ``>`` are numbers, aligned to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = ()

    @property
    def names(self) -> list[str]:
        return [c.removesuffix(">") for c in self.columns]

    @property
    def right(self) -> list[bool]:
        return [c.endswith(">") for c in self.columns]


Part: TypeAlias = Text | Table
Document: TypeAlias = list[Part]


def plain(document: Iterable[Part]) -> str:
    """The document as text, without colours or frames."""
    return "\n".join(_plain_part(part) for part in document) + "\n"


def _plain_part(part: Part) -> str:
    if isinstance(part, Text):
        return part.text
    widths = [max(map(len, column)) for column in zip(part.names, *part.rows, strict=True)]
    lines = ["", part.title] if part.title else [""]
    for row in (part.names, *part.rows):
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, part.right, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def show(document: Iterable[Part], stream: IO[str]) -> None:
    """Writes the document to ``stream``: tables with frames and colours on a terminal, plain text elsewhere."""
    if not stream.isatty():
        stream.write(plain(document))
        return
    import rich.box
    import rich.console
    import rich.markup
    import rich.table

    console = rich.console.Console(file=stream, highlight=False)
    for part in document:
        if isinstance(part, Text):
            console.print(part.text, style=part.style or None, markup=False)
            continue
        table: Any = rich.table.Table(title=part.title or None, box=rich.box.SIMPLE_HEAD, title_justify="left")
        for name, right in zip(part.names, part.right, strict=True):
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in part.rows:
            table.add_row(*map(rich.markup.escape, row))
        console.print(table)


def bytes_text(size: int) -> str:
    """``812 B``, ``1.4 MB``: powers of 1000, three digits."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.3g} {unit}"


def time_text(microseconds: float) -> str:
    """``12.3 us``, ``4.56 ms``, ``1.2 s``."""
    for limit, unit in ((1e3, "us"), (1e6, "ms"), (float("inf"), "s")):
        if microseconds < limit:
            return f"{microseconds / limit * 1e3 if unit != 's' else microseconds / 1e6:.3g} {unit}"
    return ""


def count_text(number: float) -> str:
    """``1,234`` below a million, then ``1.23 M``, ``4.5 G``."""
    if number < 1e6:
        return f"{number:,.0f}"
    for limit, unit in ((1e9, "M"), (1e12, "G"), (1e15, "T")):
        if number < limit:
            return f"{number / limit * 1e3:.3g} {unit}"
    return f"{number:.3g}"


def plain_data(value: Any) -> Any:
    """For JSON: keys as text, tuples and sets as lists, numbers that JSON lacks as text."""
    if isinstance(value, dict):
        return {str(k): plain_data(v) for k, v in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(v) for v in cast("list[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
