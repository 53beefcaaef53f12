"""``.npz`` files read one element of the first axis at a time, whatever their size."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, Any]


class NpzStream:
    """The arrays of an ``.npz`` file: names and shapes, and their elements in turn.

    Raises ``ValueError``, ``OSError``, ``zipfile.BadZipFile`` and ``EOFError`` for what cannot be read.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        """``max_bytes``: the most that all arrays together may take for one index."""
        self.path, self.max_bytes = path, max_bytes
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            self._members: dict[str, str] = {name.removesuffix(".npy"): name for name in names}
            self.shapes: dict[str, tuple[int, ...]] = {}
            for name, member in self._members.items():
                with archive.open(member) as file:
                    self.shapes[name] = _header(file)[0]

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """The arrays at index 0, 1, ... of the first axis, as far as the shortest goes."""
        count = min((shape[0] for shape in self.shapes.values()), default=0)
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self.path))
            members = {n: _Member(stack.enter_context(archive.open(m))) for n, m in self._members.items()}
            step_bytes = sum(m.step_bytes for m in members.values())
            if step_bytes > self.max_bytes:
                raise ValueError(f"one sample takes {step_bytes} bytes, the limit is {self.max_bytes}")
            for _ in range(count):
                yield {name: member.next() for name, member in members.items()}


def unpacked_bytes(path: Path) -> int:
    """What the file holds, uncompressed. Raises as :class:`NpzStream` does."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


class _Member:
    """One array of the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        shape, turned, self.dtype = _header(file)
        if self.dtype.hasobject:
            raise ValueError("it holds pickled objects")
        self.shape = shape[1:]
        if turned and len(shape) > 1:
            raise ValueError("an array is stored column by column; write it with numpy.ascontiguousarray")
        self.step_bytes = math.prod(self.shape) * self.dtype.itemsize

    def next(self) -> Array:
        data = self.file.read(self.step_bytes)
        if len(data) < self.step_bytes:
            raise EOFError("the file ends within an array")
        return np.frombuffer(data, self.dtype).reshape(self.shape).copy() if self.step_bytes else self._empty()

    def _empty(self) -> Array:
        return np.zeros(self.shape, self.dtype)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is stored column by column, and type."""
    version = np.lib.format.read_magic(file)
    read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)
