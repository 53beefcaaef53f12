"""One run over calibration samples: saved on the way, interrupted between samples, gone on with later."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ...backends.core import Sample
from ...backends.ort.session import SessionSettings
from ...ir.errors import BackendError, UsageError
from ...ir.graph import Model
from ...passes.shared.quant.statistics import Statistics, Want
from ..checks.trial import Trial, too_large
from .content import model_digest
from .file import CalibrationFile, Stage, read_calibration, write_calibration
from .observe import Observation
from .stream import SampleStream, sample_digest

SAVE_EVERY = 50
"""Samples between two saves."""
SAVE_SECONDS = 10.0
"""Seconds that pass between two saves at least: large statistics take time to write."""


@dataclass(frozen=True)
class Settings:
    """How it runs."""

    session: SessionSettings
    max_memory_bytes: int
    progress: Callable[[str, int, int], None] | None = None


class Interruption:
    """Ctrl-C as a wish that is granted between samples; a second one is not waited for."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Run:
    """The samples from where an earlier run stopped to their end."""

    def __init__(
        self,
        original: Model,
        staged: Model,
        wants: list[Want],
        samples: SampleStream,
        path: Path | None,
        settings: Settings,
    ) -> None:
        """``staged`` is what runs: ``original``, or what a pipeline made of it."""
        self.original, self.staged, self.wants, self.samples, self.path = original, staged, wants, samples, path
        self.settings = settings
        self.trial: Trial | None = None
        """Where set, the first sample runs there first."""
        self.key = model_digest(staged)
        self.file = CalibrationFile(model_digest(original) if staged is not original else self.key, samples.origin)
        self.stage = Stage(Statistics(self.key), wants, complete=False)
        self.resumed = 0
        self._saved = time.monotonic()

    def resume(self, path: Path) -> None:
        """Goes on with a file. Raises ``UsageError`` where it is of another model."""
        found = read_calibration(path)
        if found.model != self.file.model:
            raise UsageError(
                f"{path.name} holds statistics of another model",
                where="calibrate",
                help="the model has changed since, or the file is that of another one: --restart observes anew",
            )
        stage = found.stages.get(self.key)
        if stage is not None and stage.wants == self.wants:
            self.stage, self.resumed = stage, stage.statistics.samples
        found.origin = self.file.origin
        self.file = found

    def go(self) -> None:
        """Raises ``UsageError``, ``BackendError``, and ``KeyboardInterrupt`` after it has saved."""
        observation: Observation | None = None
        digest, seen = "", 0
        self.file.stages[self.key] = self.stage
        with Interruption() as interruption:
            for sample in self.samples:
                digest, seen = sample_digest(digest, sample), seen + 1
                if seen <= self.resumed:
                    self._check_prefix(digest, seen)
                    if interruption.asked:
                        raise KeyboardInterrupt(f"{self.resumed} samples are observed")
                    continue
                if observation is None:
                    self._admit(sample)
                    observation = self._observation()
                self._tell(seen)
                observation.add(sample)
                due = seen % SAVE_EVERY == 0 and time.monotonic() - self._saved > SAVE_SECONDS
                if due or interruption.asked:
                    self._save(observation, digest, complete=False)
                if interruption.asked:
                    raise KeyboardInterrupt(f"{seen} samples are observed")
        if seen < max(self.resumed, 1):
            raise UsageError(
                f"{self.samples.origin} holds {seen} samples" + (f", {self.resumed} were looked at" if seen else ""),
                where="calibrate",
                help="--restart observes anew" if seen else "give at least one",
            )
        if observation is not None or not self.stage.complete:
            self._save(observation, digest, complete=True)

    def _check_prefix(self, digest: str, seen: int) -> None:
        if seen == self.resumed and digest != self.stage.digest:
            raise UsageError(
                f"the first {seen} samples are not those that the file's statistics come from",
                where="calibrate",
                help="--restart observes anew",
            )

    def _admit(self, sample: Sample) -> None:
        """The first run of a model that may take any time or memory happens in a process of its own."""
        reason = too_large(self.original, sample)
        if reason is not None:
            raise BackendError(reason, where="calibrate", help="smaller inputs, or --limit value_bytes=N")
        if self.trial is not None:
            self.trial.run(sample)

    def _observation(self) -> Observation:
        start = self.stage.statistics if self.resumed else None
        how = self.settings
        return Observation(self.staged, self.wants, how.session, how.max_memory_bytes, start=start)

    def _tell(self, seen: int) -> None:
        progress = self.settings.progress
        if progress is not None:
            progress("observing values", seen, self.samples.limit or 0)

    def _save(self, observation: Observation | None, digest: str, *, complete: bool) -> None:
        found = observation.finish() if observation is not None else self.stage.statistics
        found.model = self.key
        self.stage = self.file.stages[self.key] = Stage(found, self.wants, digest, complete)
        if self.path is not None:
            write_calibration(self.path, self.file)
        self._saved = time.monotonic()
