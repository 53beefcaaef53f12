"""Weights stored beside a model file: found safely, checked once, mapped only when used.

A model file is untrusted input, and the location of its weights is a path that its author chose. Known
attacks (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, CVE-2026-34445, -34446, -34447) read files
outside the model's folder through ``..``, absolute paths, symbolic or hard links, or ask for absurd
sizes. So: the location is a plain relative path; what it resolves to lies within the model's folder
(or within the folder of the file that the model itself links to, the way model caches lay files out);
it is a regular file with one name; and the bytes asked for are those that element type and shape take,
inside the file. The same rules hold for initializers, attributes, bodies, functions and sparse tensors,
since all come through :meth:`ExternalFiles.load`.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .constants import FileConstant, FileStamp, file_stamp
from .dtypes import DType
from .errors import ExternalDataError
from .limits import Limits

if TYPE_CHECKING:
    from onnx import TensorProto

MAX_LOCATION = 4096
_NUMBER = re.compile(r"[0-9]{1,18}")
_HELP = "the model is damaged or hostile; weights must be named by a plain path inside the model's folder"


class ExternalFiles:
    """The files of weights that one model may name. Each is checked once, however many tensors it holds."""

    def __init__(self, folder: Path | None, model_file: Path | None = None, limits: Limits | None = None) -> None:
        """``folder`` is where locations start (``None``: there is none, external tensors are refused)."""
        self.folder = folder
        self.limits = Limits() if limits is None else limits
        self.bytes = 0
        """Of all tensors so far."""
        self.roots: list[str] = []
        """Canonical folders in which a file of weights may lie."""
        if folder is not None:
            self.roots.append(os.path.realpath(folder))
        if model_file is not None and model_file.is_symlink():
            self.roots.append(os.path.dirname(os.path.realpath(model_file)))
        self.used = False
        self._files: dict[str, tuple[Path, FileStamp]] = {}

    def load(self, proto: TensorProto, dtype: DType, shape: tuple[int, ...]) -> FileConstant:
        """The constant for a tensor of ``dtype`` and ``shape`` whose message names another file.

        Reads no data. Raises ``ExternalDataError`` naming the tensor, the location, and what is wrong.
        """
        what = f"tensor {proto.name!r}"
        keys = _entries(proto, what)
        location = keys.get("location", "")
        if dtype is DType.STRING:
            _refuse(f"{what} holds strings, which cannot lie in another file", location)
        if self.folder is None:
            raise ExternalDataError(
                f"{what} lies in file {location!r}, but the model came without a folder to look in",
                where="read",
                help="read the model from its path, or say where its weights are: read_model(..., folder=...)",
            )
        found = self._files.get(location)
        if found is None:
            found = self._files[location] = self._check(what, location)
        path, stamp = found
        offset = _number(keys, "offset", what, location, 0)
        need = dtype.nbytes(_count(shape))
        length = _number(keys, "length", what, location, need)
        if length != need:
            _refuse(f"{what} states length {length}, {dtype.text}{list(shape)} takes {need} bytes", location)
        if offset + need > stamp[2]:
            _refuse(f"{what} needs bytes {offset} to {offset + need} of a file of {stamp[2]} bytes", location)
        self.bytes += need
        if self.bytes > self.limits.external_bytes:
            limit = self.limits.external_bytes
            _refuse(f"{what} makes {self.bytes} bytes of weights in other files, the limit is {limit}", location)
        self.used = True
        return FileConstant(path, offset, dtype, shape, stamp)

    def _check(self, what: str, location: str) -> tuple[Path, FileStamp]:
        reason = refused_location(location)
        if reason is not None:
            _refuse(f"{what}: {reason}", location)
        assert self.folder is not None
        try:
            real = os.path.realpath(self.folder / location, strict=True)
        except (OSError, ValueError) as error:
            raise ExternalDataError(
                f"{what}: cannot find its file {location!r}: {getattr(error, 'strerror', None) or error}",
                where="read",
                help=f"the file of weights belongs beside the model, in {self.folder}; was it left behind?",
            ) from None
        root = next((r for r in self.roots if real.startswith(r.rstrip(os.sep) + os.sep)), None)
        if root is None:
            _refuse(f"{what}: a link leads out of the model's folder", location)
        try:
            descriptor = _open_below(root, os.path.relpath(real, root))
        except OSError as error:
            _refuse(f"{what}: cannot open the file: {error.strerror}", location)
        try:
            self._check_kind(os.fstat(descriptor), what, location)
            return Path(real), file_stamp(descriptor)
        finally:
            os.close(descriptor)

    def _check_kind(self, found: os.stat_result, what: str, location: str) -> None:
        if not stat.S_ISREG(found.st_mode):
            _refuse(f"{what}: this is a folder, device or pipe, expected a plain file", location)
        if found.st_nlink != 1 and not self.limits.allow_hard_links:
            raise ExternalDataError(
                f"{what}: file {location!r} has {found.st_nlink} names (hard links), expected 1",
                where="read",
                help="a hard link can expose a file from elsewhere; copy the file, "
                "or allow it with Limits(allow_hard_links=True) if you trust the folder",
            )


def _entries(proto: TensorProto, what: str) -> dict[str, str]:
    """The entries planish understands; others (``checksum``, anything injected) mean nothing to it."""
    keys: dict[str, str] = {}
    for entry in proto.external_data:
        key: str | bytes = entry.key  # bytes where it is not UTF-8
        if not isinstance(entry.value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            _refuse(f"{what} states {key!r} in another encoding than UTF-8", "")
        if key in ("location", "offset", "length"):
            if key in keys:
                _refuse(f"{what} states {key} twice", keys.get("location", ""))
            keys[key] = entry.value
    return keys


def refused_location(location: str) -> str | None:
    """Why a location is not a plain relative path; ``None`` when it is one."""
    if not location:
        return "it names no file"
    if len(location) > MAX_LOCATION or "\0" in location:
        return f"its location is over {MAX_LOCATION} characters or has a null character"
    if location.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", location):
        return "its location is an absolute path"
    if location.startswith("~"):
        return "its location starts in a home folder"
    if "://" in location:
        return "its location is a URL"
    if "_ORT_MEM_ADDR_" in location:
        return "its location is a memory address, which only a running ONNX Runtime may use"
    parts = location.replace("\\", "/").split("/")
    if ".." in parts:
        return "its location leaves the folder by '..'"
    if location.endswith("/"):
        return "its location is a folder"
    if "\\" in location:
        return "its location is written with backslashes; use '/'"
    return None


def _number(keys: dict[str, str], key: str, what: str, location: str, default: int) -> int:
    text = keys.get(key)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        _refuse(f"{what} states {key} {text[:40]!r}, expected a whole number of bytes from 0", location)
    return int(text)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for d in shape:
        count *= d
    return count


def _open_below(root: str, relative: str) -> int:
    """Opens a file under ``root`` one component at a time and follows no link on the way (no race to win)."""
    follow_no_link = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    if os.open not in os.supports_dir_fd:
        return os.open(os.path.join(root, relative), os.O_RDONLY | follow_no_link)
    *folders, name = relative.split(os.sep)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in folders:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | follow_no_link, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return os.open(name, os.O_RDONLY | os.O_NONBLOCK | follow_no_link, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _refuse(message: str, location: str) -> NoReturn:
    raise ExternalDataError(f"{message} (location {location[:80]!r})", where="read", help=_HELP)
