"""Which schedule a kernel had best on which machine, kept in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from ....ir.errors import BackendError
from ..kernels.tile import Tile

VERSION = 1
LARGEST = 64
"""Part of a tile: more than any processor has registers or lanes."""
"""Of the form of the file and of what the templates make of a tile: entries of other versions do not count."""


@dataclass(frozen=True)
class Entry:
    """The best of the candidates that were measured."""

    tile: Tile
    time_us: float
    first_us: float
    """The time of the best guess without measuring."""


@dataclass(frozen=True)
class Searched:
    """What a search found for a function without a template."""

    trace: list[Any]
    """Decisions of the best schedule, as TVM writes them; empty: planish's own is as fast."""
    time_us: float
    own_us: float
    """The time of planish's own schedule."""
    trials: int
    """Candidates that were timed."""


@dataclass
class Database:
    """Entries by machine and kernel. Every new one is written to ``path`` at once, so that a build that is
    interrupted goes on where it was."""

    path: Path | None = None
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    functions: dict[str, Searched] = field(default_factory=dict[str, Searched])

    def record(self, key: str, entry: Entry | Searched) -> None:
        if isinstance(entry, Entry):
            self.entries[key] = entry
        else:
            self.functions[key] = entry
        if self.path is not None:
            self.save(self.path)

    def over(self, other: Database) -> Database:
        """Both, the entries of this one first; nothing is written."""
        return Database(None, other.entries | self.entries, other.functions | self.functions)

    def save(self, path: Path) -> None:
        """Writes all entries, sorted; all or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = [f'"entries": {{\n{_lines(self.entries)}\n}}']
        parts += [f'"functions": {{\n{_lines(self.functions)}\n}}'] if self.functions else []
        text = f'{{"version": {VERSION}, {", ".join(parts)}}}\n'
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(text)
        beside.replace(path)


def load_database(path: Path, *, update: bool = True) -> Database:
    """The entries of a file; none where it does not exist or is of another version. ``update``: new ones go there.

    Raises ``BackendError`` for a file that is no database.
    """
    found: dict[str, Entry] = {}
    functions: dict[str, Searched] = {}
    if path.exists():
        try:
            said: Any = json.loads(path.read_text())
            if said["version"] == VERSION:
                found = {str(key): _entry(value) for key, value in cast("dict[str, Any]", said["entries"]).items()}
                functions = {str(key): Searched(**value) for key, value in said.get("functions", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{path} is no database of schedules: {error!r}"
            raise BackendError(message, where="tvm", help="remove the file; it is made anew by measuring") from error
    return Database(path if update else None, found, functions)


def _lines(entries: Mapping[str, Entry | Searched]) -> str:
    return ",\n".join(f"  {json.dumps(key)}: {json.dumps(asdict(entries[key]))}" for key in sorted(entries))


def _entry(value: dict[str, Any]) -> Entry:
    """Raises ``ValueError`` for a tile that no template makes: it would compile for ever, or not at all."""
    tile = Tile(**value["tile"])
    if not all(type(part) is int and 1 <= part <= LARGEST for part in vars(tile).values()):
        raise ValueError(f"a tile of {value['tile']}, expected whole numbers from 1 to {LARGEST}")
    return Entry(tile, float(value["time_us"]), float(value["first_us"]))
