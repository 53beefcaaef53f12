"""Outcomes of searches, kept in the user's cache folder under a hash of everything that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ...ir.errors import UsageError
from ...ir.safe_files import SafeFiles
from ...passes.registry import ENTRY_POINTS
from ...passes.target import Target
from ..versions import versions
from .record import Tuning

FORMAT = 1


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/planish``, or ``~/.cache/planish``."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "planish"


def cache_key(model_hash: str, target: Target, options: Mapping[str, Any]) -> str:
    """Of the model, the target, everything that was asked for, the versions, the passes' sources and the processor."""
    plain: dict[str, Any] = {
        "format": FORMAT,
        "model": model_hash,
        "target": asdict(target) | {"features": sorted(target.features)},
        "options": dict(options),
        "versions": versions(),
        "sources": sources_hash(),
        "plugins": _plugins(),
        "processor": processor_name(),
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:40]


def _plugins() -> list[str]:
    points = entry_points(group=ENTRY_POINTS)
    return sorted(f"{p.name}={p.value}@{p.dist.version if p.dist else ''}" for p in points)


def load(key: str) -> Tuning | None:
    """The outcome kept under ``key``; ``None`` where there is none or it cannot be read."""
    try:
        plain = json.loads(_path(key).read_text("utf-8"))
        found = Tuning.from_dict(plain["tuning"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found.cached = True
    return found


def store(key: str, tuning: Tuning) -> None:
    """Keeps an outcome, whole or not at all. A folder that cannot be written is no error: the cache saves time only."""
    path = _path(key)
    text = json.dumps({"format": FORMAT, "tuning": tuning.to_dict()}, indent=1, sort_keys=True) + "\n"
    with contextlib.suppress(OSError, UsageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with SafeFiles() as files:
            files.create(path).write(text.encode())


def _path(key: str) -> Path:
    return cache_folder() / "tune" / f"{key}.json"


@cache
def sources_hash() -> str:
    """Of planish's passes: a checkout's version number does not change with its rules."""
    found = hashlib.blake2b(digest_size=16)
    root = Path(__file__).parent.parent / "passes"
    for file in sorted(root.rglob("*.py")):
        found.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


@cache
def processor_name() -> str:
    """As the system calls it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "CPU part", "Hardware")):
                return f"{line.split(':', 1)[1].strip()} x{os.cpu_count()}"
    return f"{platform.processor() or platform.machine()} x{os.cpu_count()}"
