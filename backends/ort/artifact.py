"""A model with its session settings in a folder: ``model.onnx``, its external data, ``manifest.json``.

The manifest says what the model is and where it comes from, without times, absolute paths or anything else
that two runs of one command could disagree about: same command, same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from ...ir.errors import BackendError, UsageError
from ...ir.graph import Model
from ...ir.types import type_text
from ...passes.target import Target
from ..core import Outputs, Sample
from ..measure import Measurement, measure
from .session import Session, SessionSettings

FORMAT = 1
MODEL, MANIFEST = "model.onnx", "manifest.json"
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
        folder = check_folder(folder)
        if not isinstance(self.model, Model):
            raise UsageError("this artifact was loaded from a folder; copy the folder instead", where="artifact")
        temporary = folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(6)}.tmp")
        try:
            temporary.mkdir()
            self._write(temporary, self.model)
            _swap(temporary, folder)
        except OSError as error:
            raise UsageError(f"cannot write {folder}: {error.strerror or error}", where="artifact") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write(self, folder: Path, model: Model) -> None:
        from ...ir.onnx_writer import write_model

        write_model(model, folder / MODEL, value_info=bool(self._manifest["target"]["value_info"]))
        written = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
        manifest = self._manifest | {"files": {name: file_entry(path) for name, path in written.items()}}
        (folder / MANIFEST).write_text(
            json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8"
        )

    @classmethod
    def load(cls, folder: str | Path) -> Artifact:
        """Reads an artifact and checks its files against the manifest. Raises ``BackendError`` when they differ."""
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            if manifest["format"] != FORMAT:
                _damaged(folder, f"its format is {manifest['format']}, this planish knows {FORMAT}")
            settings = SessionSettings.from_dict(manifest["session"])
            for name, entry in manifest["files"].items():
                if ".." in Path(name).parts or Path(name).is_absolute():
                    _damaged(folder, f"it names a file outside its folder: {name!r}")
                if file_entry(folder / name) != entry:
                    _damaged(folder, f"{name} is not the file that was saved")
        except FileNotFoundError as error:
            _damaged(folder, f"{Path(error.filename).name} is missing")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _damaged(folder, f"its manifest cannot be read: {type(error).__name__}: {error}")
        return cls(folder / MODEL, settings, manifest)


def make_manifest(
    model: Model, target: Target, settings: SessionSettings, *, pipeline: str = "", source: str | None = None
) -> dict[str, Any]:
    """The manifest of an unsaved artifact. ``source`` is the hash of the model that was optimized."""
    plain_target = asdict(target) | {"features": sorted(target.features)}
    return {
        "format": FORMAT,
        "backend": "ort",
        "pipeline": pipeline,
        "source": source,
        "target": plain_target,
        "session": settings.to_dict(),
        "versions": {name: package_version(name) for name in _PACKAGES},
        "inputs": [{"name": v.name, "type": type_text(v.type)} for v in model.graph.inputs],
        "outputs": [
            {"name": p.name, "type": type_text(v.type)}
            for p, v in zip(model.graph.ports, model.graph.outputs, strict=True)
        ],
    }


def package_version(name: str) -> str:
    """The installed version; ``checkout`` for planish itself when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "checkout" if name == "planish" else "missing"


def file_entry(path: Path) -> dict[str, Any]:
    """Size and hash of a file, read in bounded memory."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _damaged(folder: Path, why: str) -> NoReturn:
    raise BackendError(f"{folder} is not a sound artifact: {why}", where="artifact", help="save the artifact again")


def check_folder(folder: str | Path) -> Path:
    """The path of an artifact to be written. Raises ``UsageError`` where something else is in the way."""
    folder = Path(os.path.abspath(folder))
    if not folder.parent.is_dir():
        raise UsageError(
            f"cannot write {folder}: {folder.parent} does not exist", where="artifact", help="make the folder first"
        )
    if folder.is_dir() and not folder.is_symlink():
        contents = sorted(p.name for p in folder.iterdir())
        if contents and MANIFEST not in contents:
            raise UsageError(
                f"{folder} holds files that are no artifact ({', '.join(contents[:3])})",
                where="artifact",
                help="give another folder",
            )
    elif os.path.lexists(folder):
        raise UsageError(f"{folder} is not a folder", where="artifact", help="give another name")
    return folder


def _swap(new: Path, folder: Path) -> None:
    """Puts ``new`` in the place of ``folder``; a failure leaves what was there."""
    if not folder.exists():
        os.rename(new, folder)
        return
    old = new.with_suffix(".old")
    os.rename(folder, old)
    try:
        os.rename(new, folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
