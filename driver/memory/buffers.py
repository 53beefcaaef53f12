"""``plan``: buffers with lifetimes in, offsets out, for people who only have buffers.

The files are those of google/minimalloc: CSV with ``id,lower,upper,size`` (and ``alignment``, where there is such a
column); ``offset`` is added.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ir.errors import ReadError, UsageError
from ...ir.safe_files import output_path
from ...passes.shared.arena.buffers import Buffer
from ...passes.shared.arena.place import NODES, Placement, Progress, place
from ..document import SCHEMA, Document, Text

_NEEDED = ("id", "lower", "upper", "size")
_MOST_BYTES = 1 << 28
_MOST = 1 << 56


@dataclass(frozen=True)
class Plan:
    """A placement of the buffers of a file."""

    columns: list[str]
    rows: list[dict[str, str]]
    placement: Placement
    capacity: int | None

    @property
    def fits(self) -> bool:
        return self.capacity is None or self.placement.height <= self.capacity

    def csv(self) -> str:
        """The file with offsets."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [*(c for c in self.columns if c != "offset"), "offset"], lineterminator="\n")
        writer.writeheader()
        for row, offset in zip(self.rows, self.placement.offsets, strict=True):
            writer.writerow({**row, "offset": str(offset)})
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        p = self.placement
        return {
            "schema": SCHEMA,
            "buffers": len(self.rows),
            "height_bytes": p.height,
            "bound_bytes": p.bound,
            "greedy_bytes": p.greedy,
            "capacity_bytes": self.capacity,
            "fits": self.fits,
            "nodes": p.nodes,
            "offsets": {row["id"]: offset for row, offset in zip(self.rows, p.offsets, strict=True)},
        }

    def document(self) -> Document:
        p = self.placement
        proof = "which is the least possible" if p.height == p.bound else f"{p.gap:.2%} above what is proved necessary"
        lines: Document = [
            Text(f"{len(self.rows):,} buffers in {p.height:,} bytes, {proof} ({p.bound:,})"),
            Text(f"greedy placements take {p.greedy:,} bytes; {p.nodes:,} nodes searched"),
        ]
        if not self.fits:
            why = "that is impossible" if p.bound > (self.capacity or 0) else "none was found; --nodes searches longer"
            lines.append(Text(f"no placement in {self.capacity:,} bytes: {why}", "bold red"))
        return lines


def plan(
    buffers: str | os.PathLike[str],
    capacity: int | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    nodes: int = NODES,
    progress: Progress | None = None,
) -> Plan:
    """Places the buffers of a CSV file below ``capacity`` bytes, or as low as it can; writes ``output`` if they fit.

    Raises ``ReadError`` for a file that is not of the format, ``UsageError`` for other arguments.
    """
    if capacity is not None and capacity <= 0:
        raise UsageError(f"the capacity is {capacity} bytes", where="plan", help="give a positive number of bytes")
    path = output_path(output) if output is not None else None
    columns, rows = _read(Path(buffers))
    made = place([_buffer(row, number, buffers) for number, row in rows], capacity, nodes=nodes, progress=progress)
    found = Plan(columns, [row for _, row in rows], made, capacity)
    if path is not None and found.fits:
        path.write_text(found.csv(), encoding="utf-8")
    return found


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Columns, and rows with the number of their line."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ReadError(f"{path} has {path.stat().st_size:,} bytes", where=str(path), help="at most 256 MiB")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ReadError(f"cannot read {path}: {error}", where=str(path), help="give a CSV file in UTF-8") from error
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    try:
        columns = [c.strip() for c in reader.fieldnames or ()]
        reader.fieldnames = columns
        missing = [c for c in _NEEDED if c not in columns]
        if missing or len(set(columns)) != len(columns):
            what = f"has no column {', '.join(missing)}" if missing else "has a column twice"
            raise ReadError(f"{path} {what}", where=str(path), help=f"the first line names {','.join(_NEEDED)}")
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ReadError(f"{path} is not CSV: {error}", where=f"{path}:{reader.line_num}") from error
    _check_rows(rows, path)
    return columns, rows


def _check_rows(rows: Sequence[tuple[int, dict[Any, Any]]], path: Path) -> None:
    seen: dict[str, int] = {}
    for number, row in rows:
        if None in row or None in row.values():
            raise ReadError("a row has another number of fields than the first line", where=f"{path}:{number}")
        if row["id"] in seen:
            raise ReadError(
                f"buffer {row['id']!r} is there twice",
                where=f"{path}:{number}",
                help=f"it was in line {seen[row['id']]}",
            )
        seen[row["id"]] = number


def _buffer(row: dict[str, str], number: int, path: str | os.PathLike[str]) -> Buffer:
    lower, upper, size = (_integer(row, name, number, path) for name in _NEEDED[1:])
    alignment = _integer(row, "alignment", number, path) if row.get("alignment", "").strip() else 1
    where = f"{os.fspath(path)}:{number}"
    if upper < lower:
        raise ReadError(f"buffer {row['id']!r} ends at {upper}, before it begins at {lower}", where=where)
    if size < 0:
        raise ReadError(f"buffer {row['id']!r} has {size} bytes", where=where)
    if alignment < 1:
        raise ReadError(f"buffer {row['id']!r} is aligned to {alignment} bytes", where=where, help="1 or more")
    return Buffer(lower, upper, size, alignment)


def _integer(row: dict[str, str], name: str, number: int, path: str | os.PathLike[str]) -> int:
    try:
        value = int(row[name])
    except ValueError:
        value = _MOST
    if abs(value) >= _MOST:
        raise ReadError(
            f"{name} of buffer {row['id']!r} is {row[name]!r}",
            where=f"{os.fspath(path)}:{number}",
            help="an integer below 2^56",
        )
    return value
