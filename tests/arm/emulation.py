"""Running things on the emulated ARM machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parents[2] / "scripts" / "arm.py"
ILLEGAL_INSTRUCTION = 128 + 4


def script(*words: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """``scripts/arm`` with those words."""
    command = [sys.executable, "-P", str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)


@dataclass(frozen=True)
class Emulation:
    """Where ``scripts/arm`` keeps things."""

    compilers: str
    runner: str

    @classmethod
    def described(cls) -> Emulation:
        found = json.loads(script("env").stdout)
        return cls(found["compilers"], found["runner"])

    def model(self, processor: str, folder: Path, inputs: list[np.ndarray]) -> tuple[int, str, list[np.ndarray]]:
        """Exit status, what was said, and outputs of the C++ loader on a model's folder."""
        work = Path(tempfile.mkdtemp(dir=folder.parent))
        files: list[Path] = []
        for i, array in enumerate(inputs):
            files.append(work / f"in{i}.npy")
            np.save(files[-1], array)
        done = script("run", processor, self.runner, folder, *files, "-o", f"{work}/out")
        found = sorted(work.glob("out*.npy"), key=lambda p: int(p.stem[3:]))
        return done.returncode, done.stdout + done.stderr, [np.load(p) for p in found]
