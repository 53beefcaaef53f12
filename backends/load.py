"""Artifacts of any backend, by their manifest. Backends load when an artifact of theirs is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..ir.errors import BackendError
from .core import Artifact, Outputs, Sample
from .folder import read_manifest

ARTIFACTS = {"ort": "ort.artifact", "tvm": "tvm.artifact"}
"""Module of each backend's ``Artifact``. By name: a backend may be missing a package that only it needs."""


def load_artifact(folder: str | Path) -> Artifact:
    """The artifact that lies in a folder, whatever runs it; its files are checked against the manifest.

    Raises ``BackendError`` where it is damaged, of an unknown backend, or where the backend's runtime is missing.
    """
    backend = str(read_manifest(folder).get("backend"))
    return _module(backend).Artifact.load(folder)


def runner(backend: str, model: Path) -> Callable[[Sample], Outputs]:
    """Runs a part of an artifact that belongs to another backend, one thread as the part's owner wants it."""
    return _module(backend).run_file(model)


def _module(backend: str) -> Any:
    name = ARTIFACTS.get(backend)
    if name is None:
        raise BackendError(
            f"there is no backend {backend!r}",
            where="artifact",
            help=f"this planish knows {', '.join(ARTIFACTS)}; was it written by a newer one?",
        )
    try:
        return importlib.import_module(f".{name}", __package__)
    except ImportError as error:
        raise BackendError(
            f"the runtime of {backend} is not installed: {error}",
            where="artifact",
            help=f'pip install "planish[{backend}]"',
        ) from None
