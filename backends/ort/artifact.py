"""A model with its session settings in a folder: ``model.onnx``, its external data, ``manifest.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...ir.errors import BackendError, UsageError
from ...ir.graph import Model
from ...passes.target import Target
from .. import folder as folders
from ..core import Outputs, Sample
from ..measure import Measurement, measure
from .session import Session, SessionSettings

MODEL = "model.onnx"
_PACKAGES = ("planish", "onnx", "onnxruntime", "numpy")


class Artifact:
    """A model for ONNX Runtime. Made by ``OrtBackend.lower`` or loaded from a folder."""

    def __init__(self, model: Model | Path, settings: SessionSettings, manifest: dict[str, Any]) -> None:
        """``model`` is a graph, or the path of a saved one."""
        self.model = model
        self.settings = settings
        self._manifest = manifest
        self._session: Session | None = None

    @property
    def manifest(self) -> dict[str, Any]:
        """Format, pipeline, versions, target, session settings, interface; saved ones also the files' hashes."""
        return self._manifest

    @property
    def session(self) -> Session:
        """The loaded session, made when first asked for. Raises ``BackendError``."""
        if self._session is None:
            self._session = Session(self.model, self.settings)
        return self._session

    def run(self, inputs: Sample) -> Outputs:
        """All outputs for one sample. Raises ``BackendError``."""
        return self.session.run(inputs)

    def benchmark(self, samples: Sequence[Sample], *, seconds: float = 1.0) -> Measurement:
        """Time of one run, over ``samples`` in turn; wall time unless the session is single-threaded."""
        if not samples:
            raise UsageError("a benchmark needs at least one sample", where="bench")
        session = self.session
        return measure(
            lambda turn: session.run(samples[turn % len(samples)]),
            seconds=seconds,
            cpu_clock=self.settings.threads == 1,
        )

    def save(self, folder: str | Path) -> None:
        """Writes the artifact, replacing one that is there; all or nothing.

        Raises ``UsageError`` when ``folder`` holds something that is no artifact, or cannot be written.
        """
        model = self.model
        if not isinstance(model, Model):
            raise UsageError("this artifact was loaded from a folder; copy the folder instead", where="artifact")
        folders.write_folder(folder, lambda path: self._write(path, model), self._manifest)

    def _write(self, folder: Path, model: Model) -> None:
        from ...ir.onnx_writer import write_model

        write_model(model, folder / MODEL, value_info=bool(self._manifest["target"]["value_info"]))

    @classmethod
    def load(cls, folder: str | Path) -> Artifact:
        """Reads an artifact and checks its files against the manifest. Raises ``BackendError`` when they differ."""
        folder = Path(folder)
        manifest = folders.read_manifest(folder, backend="ort")
        try:
            settings = SessionSettings.from_dict(manifest["session"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            folders.damaged(folder, f"its session settings cannot be read: {type(error).__name__}: {error}")
        return cls(folder / MODEL, settings, manifest)


def make_manifest(
    model: Model, target: Target, settings: SessionSettings, *, pipeline: str = "", source: str | None = None
) -> dict[str, Any]:
    """The manifest of an unsaved artifact. ``source`` is the hash of the model that was optimized."""
    common = folders.make_manifest(model, target, "ort", _PACKAGES, pipeline=pipeline, source=source)
    return common | {"session": settings.to_dict()}


def run_file(path: Path, threads: int = 1) -> Callable[[Sample], Outputs]:
    """Runs a model file: a part of another backend's artifact that stays with ONNX Runtime.

    With less optimization where the runtime's own fails on it. Raises ``BackendError`` where it does without any, too.
    """
    settings = SessionSettings(threads=threads)
    for level in ("all", "extended", "basic"):
        try:
            return Session(path, settings.with_level(level)).run
        except BackendError:
            continue
    return Session(path, settings.with_level("disable")).run
