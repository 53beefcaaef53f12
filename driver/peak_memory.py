"""Peak memory of loading and running a model, in a process of its own: what ran before leaves no traces there.

    python -m planish.driver.peak_memory FOLDER

``FOLDER`` holds ``settings.json``, ``samples.npz`` and ``model.txt`` with the model's path; the answer is the growth
of the resident set since before the runtime loaded the model, in bytes. What the runtime's arena took from the system
is read from its log: Python reaches no other statistics of it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..backends.core import Sample
from ..backends.ort.session import Session, SessionSettings
from .sizes import Runnable

RUNS = 3
TIME_LIMIT = 60.0
"""Seconds."""
_INFO = 1
"""The runtime's severity of what its arena says when it grows."""
_GROWN = re.compile(r"Extended allocation by (\d+) bytes")


@dataclass(frozen=True)
class Peak:
    """Bytes that a model took in a process of its own."""

    resident: int
    """Growth of the resident set, at its peak: with weights, and whatever else the runtime keeps."""
    arena: int
    """What the arena took from the system for values, in steps that are powers of two; 0 without an arena. With
    the memory pattern it differs now and then, as neighbouring blocks happen to become one or not."""


def peak_bytes(model: Runnable, settings: SessionSettings, samples: Sequence[Sample]) -> int | None:
    """The resident part of :func:`peak_memory`."""
    found = peak_memory(model, settings, samples)
    return None if found is None else found.resident


def peak_memory(model: Runnable, settings: SessionSettings, samples: Sequence[Sample]) -> Peak | None:
    """How much memory the model takes at its peak, ``None`` where that cannot be told (another system, strings)."""
    if not Path("/proc/self/status").exists() or not isinstance(model, (bytes, Path)):
        return None
    if any(np.asarray(a).dtype.kind not in "fiub" for a in samples[0].values()):
        return None
    with TemporaryDirectory(prefix="planish-") as name:
        folder = Path(name)
        path = model if isinstance(model, Path) else folder / "model.onnx"
        if isinstance(model, bytes):
            path.write_bytes(model)
        (folder / "model.txt").write_text(str(path.absolute()), "utf-8")
        (folder / "settings.json").write_text(json.dumps(settings.to_dict()), "utf-8")
        np.savez(folder / "samples.npz", allow_pickle=False, **{k: np.asarray(v) for k, v in samples[0].items()})
        return _ask(folder)


def _ask(folder: Path) -> Peak | None:
    path = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-m", __name__, str(folder)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=True,
            timeout=TIME_LIMIT,
            env={**os.environ, "PYTHONPATH": path},
        )
        log = done.stderr.decode("utf-8", "replace")
        return Peak(int(done.stdout), sum(map(int, _GROWN.findall(log))))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def main(folder: Path) -> None:
    """The child: prints the number, and lets the runtime write what its arena does."""
    import onnxruntime

    log: Any = onnxruntime
    log.set_default_logger_severity(_INFO)
    settings = SessionSettings.from_dict(json.loads((folder / "settings.json").read_text("utf-8")))
    with np.load(folder / "samples.npz", allow_pickle=False) as archive:
        sample = {name: archive[name] for name in archive.files}
    before = _status("VmRSS")
    session = Session(Path((folder / "model.txt").read_text("utf-8")), settings)
    for _ in range(RUNS):
        session.run(sample)
    sys.stdout.write(str(_status("VmHWM") - before))


def _status(key: str) -> int:
    """A figure of this process, bytes. (``ru_maxrss`` would remember the parent's size.)"""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
