"""Finds files inside installed packages without importing them, and the cache folder for built models."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..ir.errors import UsageError


def package_folder(module: str) -> Path | None:
    """Folder of the top-level package ``module``, or None when it is not installed. Nothing is imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def package_file(module: str, relative: str, *, install: str) -> Path:
    """Path of the file ``relative`` inside the package ``module``.

    Raises UsageError naming the command ``install`` when the package is absent, or when its installed
    version has no such file.
    """
    folder = package_folder(module)
    if folder is None:
        raise UsageError(f"package {module!r} is not installed", where="zoo", help=f"run `{install}`")
    path = folder / relative
    if not path.is_file():
        raise UsageError(
            f"package {module!r} has no file {relative!r}",
            where="zoo",
            help=f"its version differs from the one this entry was written for: run `{install} --upgrade`",
        )
    return path


def package_version(distribution: str) -> str:
    """Version of an installed distribution (its pip name), or ``unknown``."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def cache_folder() -> Path:
    """Where built models are kept: ``$XDG_CACHE_HOME/planish``, else ``~/.cache/planish`` (not created here)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "planish"


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Calls ``write(temporary)`` beside ``path`` and renames the result, so that no half file is ever seen.

    The temporary name keeps the suffix of ``path``. It is removed when ``write`` raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
