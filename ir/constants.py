"""Constant data behind one protocol, so that weights no pass touches are never copied.

Every kind knows ``dtype``, ``shape`` and ``nbytes`` without touching its data; ``numpy()`` gives an
array that callers must not write to (where it can be, it is a view and marked read-only); ``chunks()``
streams the file bytes for writers and hashes in bounded memory.
"""

from __future__ import annotations

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from .dtypes import DType, from_numpy, pack, unpack
from .errors import ExternalDataError, ModelError, ReadError
from .types import TensorType

CHUNK_BYTES = 4 << 20
DENSE_BYTES = 4 << 30
"""The largest sparse tensor that is made dense."""
FileStamp: TypeAlias = tuple[int, int, int, int]
Array = np.ndarray[Any, Any]


class Constant(ABC):
    """A tensor whose contents are known. Subclasses implement :meth:`numpy`; most also :meth:`chunks`."""

    __slots__ = ("_digest", "_sample", "dtype", "shape")

    def __init__(self, dtype: DType, shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape
        self._digest: str | None = None
        self._sample: bytes | None = None

    @abstractmethod
    def numpy(self) -> Array:
        """The elements, shape ``self.shape``, read-only by convention. Strings are objects of type ``bytes``."""

    def rows(self, start: int, stop: int) -> Array:
        """``numpy()[start:stop]`` of a tensor with axes, in the memory that these rows take where that is possible."""
        return self.numpy()[start:stop]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in a file; for strings the sum of their lengths."""
        if self.dtype is DType.STRING:
            return sum(len(s) for s in self.numpy().reshape(-1))
        return self.dtype.nbytes(self.count)

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, self.shape)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The file bytes (row-major, little-endian, packed) in pieces of at most about ``CHUNK_BYTES``."""
        array = np.ascontiguousarray(self.numpy())
        if self.dtype.is_packed:
            yield pack(array, self.dtype)
            return
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, CHUNK_BYTES):
            yield flat[start : start + CHUNK_BYTES].data

    def tobytes(self) -> bytes:
        """All file bytes at once."""
        return b"".join(self.chunks())

    def digest(self) -> str:
        """Hash of dtype, shape and contents (hex, 32 characters); equal tensors hash equal whatever holds them."""
        if self._digest is None:
            state = hashlib.blake2b(f"{self.dtype.text}{list(self.shape)}".encode(), digest_size=16)
            if self.dtype is DType.STRING:
                for item in self.numpy().reshape(-1):
                    state.update(len(item).to_bytes(8, "little") + item)
            else:
                for chunk in self.chunks():
                    state.update(chunk)
            self._digest = state.hexdigest()
        return self._digest

    def sample(self) -> bytes:
        """The first bytes, cheap to get: unequal samples prove unequal tensors, equal ones prove nothing."""
        if self._sample is None:
            # Bytes of packed elements are no elements, those of strings are addresses.
            none = self.dtype is DType.STRING or self.dtype.is_packed or not self.count
            self._sample = b"" if none else self._first(min(16, self.count))
        return self._sample

    def _first(self, count: int) -> bytes:
        """The bytes of the first elements of a tensor that is not empty, neither strings nor packed."""
        return np.ascontiguousarray(self.numpy().reshape(-1)[:count]).tobytes()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.type})"


class ArrayConstant(Constant):
    """Elements in memory."""

    __slots__ = ("_array",)

    def __init__(self, array: Array | np.generic, dtype: DType | None = None) -> None:
        array = np.asarray(array)
        dtype = dtype or from_numpy(array.dtype)
        if dtype is DType.STRING:
            array = _bytes_array(array)
        super().__init__(dtype, tuple(int(d) for d in array.shape))
        self._array = array.view()
        self._array.flags.writeable = False

    def numpy(self) -> Array:
        return self._array


def _bytes_array(array: Array) -> Array:
    """Strings as objects of type ``bytes``: ONNX strings are bytes that are usually, not always, UTF-8."""
    out = np.empty(array.shape, object)
    flat, source = out.reshape(-1), array.reshape(-1)
    for i in range(flat.size):
        item = source[i]
        flat[i] = item if isinstance(item, bytes) else str(item).encode()
    return out


class BytesConstant(Constant):
    """File bytes in memory (a view into the parsed file), unpacked when asked for."""

    __slots__ = ("_array", "_raw")

    def __init__(self, raw: bytes | memoryview, dtype: DType, shape: tuple[int, ...]) -> None:
        """Raises ``ValueError`` when the number of bytes does not fit dtype and shape."""
        super().__init__(dtype, shape)
        expected = dtype.nbytes(self.count)
        if len(raw) != expected:
            raise ValueError(f"{len(raw)} bytes of data found, {self.type} takes {expected}")
        self._raw = raw
        self._array: Array | None = None
        """The elements where they are a view of the bytes, once they were asked for."""

    def numpy(self) -> Array:
        if self._array is not None:
            return self._array
        array = unpack(self._raw, self.dtype, self.count).reshape(self.shape)
        array.flags.writeable = False
        if not self.dtype.is_packed:
            self._array = array
        return array

    def tobytes(self) -> bytes:
        return bytes(self._raw)

    def chunks(self) -> Iterator[bytes | memoryview]:
        view = memoryview(self._raw)
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]


class FileConstant(Constant):
    """Bytes ``[offset, offset + nbytes)`` of a file, mapped when asked for and read in chunks when streamed.

    The reader checks the path and the bounds once (see ``external_data.py``); the file must not change
    while the model lives.
    """

    __slots__ = ("_held", "offset", "path", "stamp")

    def __init__(
        self, path: Path, offset: int, dtype: DType, shape: tuple[int, ...], stamp: FileStamp | None = None
    ) -> None:
        super().__init__(dtype, shape)
        self.path = path
        self.offset = offset
        self.stamp = stamp
        """What the file was when it was checked; another file at the same path is refused."""
        self._held: bytes | None = None

    def hold(self) -> None:
        """Reads the bytes into memory, because the file is about to go."""
        self._held = b"".join(self.chunks())

    def moved(self, path: Path, offset: int, stamp: FileStamp) -> None:
        """The same bytes now lie elsewhere (a writer replaced the file by one that holds them too)."""
        self.path, self.offset, self.stamp = path, offset, stamp

    def _open(self) -> BinaryIO:
        """The file, if it still is the one that was checked."""
        try:
            file = open(self.path, "rb", opener=_open_plain)  # noqa: SIM115 (the caller closes it)
        except OSError as error:
            raise self._changed(str(error)) from error
        if self.stamp is not None and file_stamp(file.fileno()) != self.stamp:
            file.close()
            raise self._changed("it is not the file that was there when the model was read")
        return file

    def _changed(self, reason: str) -> ExternalDataError:
        return ExternalDataError(
            f"cannot read {self.dtype.nbytes(self.count)} bytes at {self.offset} of {self.path.name}: {reason}",
            where="read",
            help="the file of weights changed or vanished after the model was read; read the model again",
        )

    def numpy(self) -> Array:
        size = self.dtype.nbytes(self.count)
        if size == 0:
            return np.empty(self.shape, self.dtype.numpy)
        if self._held is not None:
            return unpack(self._held, self.dtype, self.count).reshape(self.shape)
        with self._open() as file:
            try:
                raw = np.memmap(file, np.uint8, "r", self.offset, (size,))
            except (OSError, ValueError) as error:
                raise self._changed(str(error)) from error
        if self.dtype.is_packed:
            return unpack(raw.tobytes(), self.dtype, self.count).reshape(self.shape)
        # frombuffer and not view: the file offset need not be aligned for the element type.
        return np.frombuffer(raw, self.dtype.numpy).reshape(self.shape)

    def rows(self, start: int, stop: int) -> Array:
        row = math.prod(self.shape[1:]) * self.dtype.bits // 8
        if self._held is not None or self.dtype.is_packed or not row:
            return super().rows(start, stop)
        with self._open() as file:
            file.seek(self.offset + start * row)
            raw = file.read((stop - start) * row)
        return np.frombuffer(raw, self.dtype.numpy).reshape(stop - start, *self.shape[1:])

    def chunks(self) -> Iterator[bytes | memoryview]:
        if self._held is not None:
            yield self._held
            return
        left = self.dtype.nbytes(self.count)
        with self._open() as file:
            file.seek(self.offset)
            while left:
                chunk = file.read(min(left, CHUNK_BYTES))
                if not chunk:
                    raise self._changed(f"it ends {left} bytes early")
                left -= len(chunk)
                yield chunk

    def _first(self, count: int) -> bytes:
        if self._held is not None:
            return super()._first(count)
        with self._open() as file:
            file.seek(self.offset)
            return file.read(self.dtype.nbytes(count))


def _open_plain(path: str, flags: int) -> int:
    """Opens without following a link and without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def file_stamp(descriptor: int) -> FileStamp:
    """What identifies an open file and its contents: device, inode, size, time of the last change (ns)."""
    found = os.fstat(descriptor)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class SplatConstant(Constant):
    """One element everywhere; ``numpy()`` is a broadcast view that takes no memory."""

    __slots__ = ("_item",)

    def __init__(self, value: Any, dtype: DType, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        self._item = np.asarray(value).astype(dtype.numpy)

    @property
    def value(self) -> Any:
        """The element as a numpy scalar."""
        return self._item[()]

    def numpy(self) -> Array:
        return np.broadcast_to(self._item, self.shape)

    def chunks(self) -> Iterator[bytes | memoryview]:
        per_chunk = max(1, CHUNK_BYTES // max(1, self.dtype.numpy.itemsize)) & ~7 or 8
        left = self.count
        while left:
            size = min(left, per_chunk)
            yield pack(np.broadcast_to(self._item, (size,)), self.dtype)
            left -= size

    def _first(self, count: int) -> bytes:
        return np.broadcast_to(self._item, (count,)).tobytes()


class SeededConstant(Constant):
    """Random elements that a seed determines: weights of any size that cost nothing until used.

    ``kind`` is ``normal`` (mean 0, standard deviation ``scale``) or ``uniform`` (in ``[-scale, scale)``;
    unsigned integers and booleans over their lower half ``[0, scale)``). Each draw uses numpy's PCG64,
    whose stream numpy keeps stable; float types are drawn in float32 and rounded.
    """

    __slots__ = ("kind", "scale", "seed")

    def __init__(self, seed: int, dtype: DType, shape: tuple[int, ...], kind: str = "normal", scale: float = 1.0):
        super().__init__(dtype, shape)
        if kind not in ("normal", "uniform"):
            raise ValueError(f"unknown kind {kind!r}, expected 'normal' or 'uniform'")
        self.seed, self.kind, self.scale = seed, kind, scale

    def numpy(self) -> Array:
        if self.nbytes > DENSE_BYTES:
            raise ModelError(
                f"a random constant {self.type} takes {self.nbytes} bytes, at most {DENSE_BYTES} are drawn",
                help="the text of the model states it; smaller shapes, or data in a file, can be used",
            )
        draw = np.random.Generator(np.random.PCG64(self.seed))
        if self.kind == "normal":
            array = draw.standard_normal(self.shape, np.float32) * np.float32(self.scale)
        else:
            low = 0.0 if self.dtype.kind in ("uint", "bool") else -1.0
            array = draw.random(self.shape, np.float32) * np.float32(1 - low) + np.float32(low)
            array = array * np.float32(self.scale)
        return array.astype(self.dtype.numpy)


class SparseConstant(Constant):
    """A dense tensor stored sparsely: ``values`` at ``indices`` (int64), zero elsewhere.

    ``indices`` is ``[n]`` (row-major positions) or ``[n, rank]`` (coordinates). The reader checks them.
    """

    __slots__ = ("indices", "values")

    def __init__(self, values: Constant, indices: Constant, shape: tuple[int, ...]) -> None:
        super().__init__(values.dtype, shape)
        self.values = values
        self.indices = indices

    def _positions(self) -> Array:
        at = self.indices.numpy()
        return at if at.ndim == 1 else np.asarray(np.ravel_multi_index(tuple(at.T), self.shape))

    def numpy(self) -> Array:
        """The dense tensor. Raises ``ReadError`` where it takes more than ``DENSE_BYTES``."""
        if self.nbytes > DENSE_BYTES:
            raise ReadError(
                f"sparse tensor {self.type} takes {self.nbytes} bytes when dense, the limit is {DENSE_BYTES}",
                where="read",
                help="the model asks for a tensor that no machine of the usual size holds",
            )
        dense = np.zeros(self.count, self.dtype.numpy)
        dense[self._positions()] = self.values.numpy()
        return dense.reshape(self.shape)


class LazyConstant(Constant):
    """Elements that a function computes when asked for, each time anew (nothing is kept)."""

    __slots__ = ("_compute",)

    def __init__(self, compute: Callable[[], Array], dtype: DType, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        self._compute = compute

    def numpy(self) -> Array:
        array = self._compute()
        if array.shape != self.shape or array.dtype != self.dtype.numpy:
            raise ValueError(f"lazy constant gave {array.dtype}{list(array.shape)}, declared {self.type}")
        return array


class RowsConstant(Constant):
    """What a function computes from the rows of a constant in a file, a few at a time and each time anew.

    ``compute(rows, start)`` gets ``source.rows(start, ...)`` and gives as many rows of the same shape and type. So
    weights that a pass changes take no memory either.
    """

    __slots__ = ("_compute", "_source")

    def __init__(self, source: FileConstant | RowsConstant, compute: Callable[[Array, int], Array]) -> None:
        super().__init__(source.dtype, source.shape)
        self._source: Constant = source
        self._compute: Callable[[Array, int], Array] | None = compute

    @property
    def path(self) -> Path | None:
        """The file that the source lies in."""
        return self._source.path if isinstance(self._source, (FileConstant, RowsConstant)) else None

    def hold(self) -> None:
        """Computes all rows into memory, because the file is about to go."""
        self._source, self._compute = ArrayConstant(self.numpy(), self.dtype), None

    def moved(self, path: Path, offset: int, stamp: FileStamp) -> None:
        """A writer has stored the rows: they are read from there from now on."""
        self._source, self._compute = FileConstant(path, offset, self.dtype, self.shape, stamp), None

    def rows(self, start: int, stop: int) -> Array:
        found = self._source.rows(start, stop)
        return found if self._compute is None else self._compute(found, start)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """All rows, about ``CHUNK_BYTES`` at a time, each block with the number of its first row."""
        step = max(1, CHUNK_BYTES * self.shape[0] // max(1, self.nbytes))
        for start in range(0, self.shape[0], step):
            yield start, self.rows(start, min(start + step, self.shape[0]))

    def numpy(self) -> Array:
        if self._compute is None:
            return self._source.numpy()
        out = np.empty(self.shape, self.dtype.numpy)
        for start, block in self.blocks():
            out[start : start + len(block)] = block
        return out

    def chunks(self) -> Iterator[bytes | memoryview]:
        for _, block in self.blocks():
            yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data

    def _first(self, count: int) -> bytes:
        rows = -(-count // math.prod(self.shape[1:]))
        return np.ascontiguousarray(self.rows(0, rows).reshape(-1)[:count]).tobytes()


def same_data(a: Constant, b: Constant) -> bool:
    """Whether both hold the same bits (NaN payloads and signed zeros distinguished). Reads as little as it can."""
    if a is b:
        return True
    if a.dtype is not b.dtype or a.shape != b.shape or a.sample() != b.sample():
        return False
    return a.digest() == b.digest()
