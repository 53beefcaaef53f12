"""Artifacts in folders: written as a whole or not at all, with a manifest that knows every file.

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
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from ..ir.errors import BackendError, UsageError
from ..ir.graph import Model
from ..ir.types import type_text
from ..passes.target import Target

FORMAT = 1
MANIFEST = "manifest.json"


def write_folder(folder: str | Path, write: Callable[[Path], None], manifest: dict[str, Any]) -> None:
    """Writes what ``write`` puts into a folder, and the manifest with the files' hashes; all or nothing.

    An artifact that is there is replaced. Raises ``UsageError`` when ``folder`` holds something that is no artifact,
    or cannot be written.
    """
    folder = check_folder(folder)
    temporary = folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.mkdir()
        write(temporary)
        written = {p.relative_to(temporary).as_posix(): p for p in sorted(temporary.rglob("*")) if p.is_file()}
        whole = manifest | {"files": {name: file_entry(path) for name, path in written.items()}}
        (temporary / MANIFEST).write_text(
            json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8"
        )
        _swap(temporary, folder)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror or error}", where="artifact") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_manifest(folder: str | Path, *, backend: str | None = None) -> dict[str, Any]:
    """The manifest, its files checked against it. Raises ``BackendError`` when they differ."""
    folder = Path(folder)
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        if manifest["format"] != FORMAT:
            damaged(folder, f"its format is {manifest['format']}, this planish knows {FORMAT}")
        if backend is not None and manifest["backend"] != backend:
            damaged(folder, f"it is for {manifest['backend']}, not for {backend}")
        for name, entry in manifest["files"].items():
            if ".." in Path(name).parts or Path(name).is_absolute():
                damaged(folder, f"it names a file outside its folder: {name!r}")
            if file_entry(folder / name) != entry:
                damaged(folder, f"{name} is not the file that was saved")
    except FileNotFoundError as error:
        damaged(folder, f"{Path(error.filename).name} is missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        damaged(folder, f"its manifest cannot be read: {type(error).__name__}: {error}")
    return manifest


def make_manifest(
    model: Model,
    target: Target,
    backend: str,
    packages: Iterable[str],
    *,
    pipeline: str = "",
    source: str | None = None,
) -> dict[str, Any]:
    """What every backend's manifest of an unsaved artifact has. ``source`` is the hash of what was optimized."""
    return {
        "format": FORMAT,
        "backend": backend,
        "pipeline": pipeline,
        "source": source,
        "target": asdict(target) | {"features": sorted(target.features)},
        "versions": {name: package_version(name) for name in packages},
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


def damaged(folder: Path, why: str) -> NoReturn:
    """Raises ``BackendError``: the artifact is not what was saved."""
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
