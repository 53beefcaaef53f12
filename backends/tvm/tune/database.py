"""Which schedule a kernel had best on which machine, kept in a file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from ....ir.errors import BackendError
from ..kernels.tile import Tile

VERSION = 1
"""Of the form of the file and of what the templates make of a tile: entries of other versions do not count."""


@dataclass(frozen=True)
class Entry:
    """The best of the candidates that were measured."""

    tile: Tile
    time_us: float
    first_us: float
    """The time of the best guess without measuring."""


@dataclass
class Database:
    """Entries by machine and kernel. Every new one is written to ``path`` at once, so that a build that is
    interrupted goes on where it was."""

    path: Path | None = None
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])

    def record(self, key: str, entry: Entry) -> None:
        self.entries[key] = entry
        if self.path is not None:
            self.save(self.path)

    def save(self, path: Path) -> None:
        """Writes all entries, sorted; all or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {key: asdict(self.entries[key]) for key in sorted(self.entries)}
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in kept.items()]
        text = '{"version": %d, "entries": {\n%s\n}}\n' % (VERSION, ",\n".join(lines))  # noqa: UP031
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(text)
        beside.replace(path)


def load_database(path: Path, *, update: bool = True) -> Database:
    """The entries of a file; none where it does not exist or is of another version. ``update``: new ones go there.

    Raises ``BackendError`` for a file that is no database.
    """
    found: dict[str, Entry] = {}
    if path.exists():
        try:
            said: Any = json.loads(path.read_text())
            if said["version"] == VERSION:
                found = {str(key): _entry(value) for key, value in cast("dict[str, Any]", said["entries"]).items()}
        except (ValueError, KeyError, TypeError) as error:
            message = f"{path} is no database of schedules: {error!r}"
            raise BackendError(message, where="tvm", help="remove the file; it is made anew by measuring") from error
    return Database(path if update else None, found)


def _entry(value: dict[str, Any]) -> Entry:
    return Entry(Tile(**value["tile"]), float(value["time_us"]), float(value["first_us"]))
