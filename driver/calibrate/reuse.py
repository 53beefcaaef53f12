"""Statistics that one optimization keeps for the next."""

from __future__ import annotations

import os
from pathlib import Path

from ...ir.errors import UsageError
from ...ir.graph import Model
from .content import model_digest
from .file import CalibrationFile, read_calibration, write_calibration
from .observe import Observer
from .stream import sample_digest


class Kept:
    """A calibration file that an observer starts from and adds to."""

    def __init__(self, path: str | os.PathLike[str], model: Model, observer: Observer, origin: str) -> None:
        """Statistics of other samples than the observer's are not looked at. Raises ``UsageError`` where the file is of
        another model, or none at all."""
        self.path, self.observer, self.digest = Path(path), observer, ""
        for sample in observer.samples:
            self.digest = sample_digest(self.digest, sample)
        self.content = CalibrationFile(model_digest(model), origin)
        if self.path.exists():
            found = read_calibration(self.path)
            if found.model != self.content.model:
                raise UsageError(
                    f"{self.path.name} holds statistics of another model",
                    where="calibrate",
                    help="the model has changed since, or the file is that of another one: name another file",
                )
            observer.remember(found, self.digest)
            self.content = found
        self._before = self._extent()

    def save(self) -> None:
        """Writes what was observed besides, if anything was. Raises ``UsageError``."""
        known = self.observer.known(self.digest)
        if self._extent() != self._before:
            self.content.stages.update(known)
            write_calibration(self.path, self.content)

    def _extent(self) -> int:
        stages = self.observer.known(self.digest).values()
        return sum(len(stage.wants) + sum(w.kinds.value for w in stage.wants) for stage in stages)
