"""What selections learned of units' times, in the user's cache folder: a file for each machine, runtime and target.

A file that cannot be read counts as none, and one that cannot be written is no error: it saves time only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..backends.ort.session import SessionSettings
from ..ir.errors import UsageError
from ..ir.safe_files import SafeFiles
from ..passes.target import Target
from .select import Known, Learned
from .tuning.cache import cache_folder, processor_name
from .versions import versions

FORMAT = 1
MOST = 4096
"""Kinds of units that a file keeps; the oldest go first."""


class TimesFile:
    """Times of units on this machine, by runtime, target and settings of sessions."""

    def __init__(self, target: Target, settings: SessionSettings, backend: str = "") -> None:
        """``backend``: who measures, where it is not ONNX Runtime."""
        about = {
            "format": FORMAT,
            "processor": processor_name(),
            "versions": versions(),
            "target": asdict(target) | {"features": sorted(target.features)},
            "settings": settings.to_dict(),
        }
        if backend:
            about["backend"] = backend
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:40]
        self.path: Path = cache_folder() / "times" / f"{digest}.json"

    def read(self) -> Known:
        """What is kept; nothing where there is none."""
        try:
            plain = json.loads(self.path.read_text("utf-8"))
            kinds = {kind: _learned(row) for kind, row in plain["kinds"].items()}
            return Known(kinds, _learned(plain["border"]) if plain["border"] is not None else None)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Known()

    def write(self, known: Known) -> None:
        """Keeps it, whole or not at all."""
        newest = sorted(known.kinds.items(), key=lambda item: item[1].day, reverse=True)[:MOST]
        border = None if known.border is None else _row(known.border)
        plain = {"format": FORMAT, "border": border, "kinds": {kind: _row(found) for kind, found in newest}}
        with contextlib.suppress(OSError, UsageError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with SafeFiles() as files:
                files.create(self.path).write((json.dumps(plain, indent=1, sort_keys=True) + "\n").encode())


def _row(found: Learned) -> list[Any]:
    return [float(f"{found.ns:.5g}"), float(f"{found.spread_ns:.5g}"), found.day]


def _learned(row: list[Any]) -> Learned:
    """Raises ``ValueError``, ``TypeError`` for what is no such row."""
    ns, spread, day = row
    return Learned(float(ns), float(spread), str(day))
