"""Files that appear whole or not at all: written under temporary names beside their targets, then renamed.

Whatever stops the writing, an error, a full disk or Ctrl-C, leaves the targets as they were and no
temporary files. A symbolic link at a target is replaced, never followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from .errors import UsageError


class _Pending:
    """One file on its way."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
        self.backup = self.temporary.with_suffix(".old")
        self.file: BinaryIO | None = None
        self.existed = os.path.lexists(target)

    def replace(self) -> None:
        """Puts the file in place; what was there keeps a second name until all files are in place."""
        with contextlib.suppress(OSError):
            os.link(self.target, self.backup, follow_symlinks=False)
        os.replace(self.temporary, self.target)

    def restore(self) -> None:
        """Undoes :meth:`replace`, done or not."""
        with contextlib.suppress(OSError):
            if os.path.lexists(self.backup):
                os.replace(self.backup, self.target)
            elif not self.existed and not self.temporary.exists():
                self.target.unlink()

    def clean(self) -> None:
        """Removes what should not stay."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.close()
        for path in (self.temporary, self.backup):
            with contextlib.suppress(OSError):
                path.unlink()


class SafeFiles:
    """A set of files that is put in place together: ``with SafeFiles() as files: files.create(path)``.

    Leaving the block without an exception commits. The last file created is renamed last, so that a file
    that refers to others (a model to its weights) never appears before them.
    """

    def __init__(self) -> None:
        self._pending: list[_Pending] = []

    def __enter__(self) -> SafeFiles:
        return self

    def create(self, target: Path) -> BinaryIO:
        """A new file that becomes ``target``. Raises ``UsageError`` where it cannot be made."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        new = _Pending(target)
        self._pending.append(new)
        try:
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            file = new.file = open(os.open(new.temporary, flags, 0o666), "w+b")  # noqa: SIM115 (closed by clean)
            found = os.lstat(target) if new.existed else None
            if found is not None and stat.S_ISREG(found.st_mode):
                os.chmod(new.temporary, stat.S_IMODE(found.st_mode))
        except OSError as error:
            raise cannot_write(target, error) from None
        return file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for new in self._pending:
                new.clean()

    def _commit(self) -> None:
        at = Path()
        try:
            for new in self._pending:
                at = new.target
                if new.file is not None:
                    new.file.flush()
                    os.fsync(new.file.fileno())
            for new in self._pending:
                at = new.target
                new.replace()
        except BaseException as error:
            for new in reversed(self._pending):
                new.restore()
            if isinstance(error, OSError):
                raise cannot_write(at, error) from None
            raise
        for folder in {new.target.parent for new in self._pending}:
            _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cannot_write(target: Path, error: OSError) -> UsageError:
    """The error for a file that cannot be written."""
    return UsageError(
        f"cannot write {target}: {error.strerror or error}",
        where="write",
        help="nothing was changed; check the folder, its permissions and the free space",
    )


def output_path(path: str | os.PathLike[str]) -> Path:
    """The path as one that can be written. Raises ``UsageError`` for a folder, or a path in a missing one."""
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder", where="output", help="give the name of a file, as out/model.onnx")
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"folder {path.parent} does not exist", where="output", help=f"make it: mkdir -p {path.parent}"
        )
    return path
