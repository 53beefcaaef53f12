"""Where builders get their weights: drawn from a seed by name, or read from a safetensors file.

Seeded weights keep the activations of deep networks in range, so that outputs depend on every layer.
They are not materialized until used; weights of a file are mapped, not read.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from zlib import crc32

import numpy as np

from ..ir.constants import ArrayConstant, Constant, FileConstant, LazyConstant, SeededConstant
from ..ir.dtypes import DType
from ..ir.errors import ModelError


class Weights(ABC):
    """Gives the constant that belongs under a parameter's name (PyTorch's ``state_dict`` names)."""

    @abstractmethod
    def kernel(self, name: str, shape: tuple[int, ...], *, gain: float = 1.0) -> Constant:
        """Weights [out, in, ...] of a convolution, or an embedding table [rows, size].

        Seeded: normal with deviation ``gain / sqrt(product of all dimensions but the first)``.
        """

    @abstractmethod
    def matrix(self, name: str, inner: int, outer: int, *, gain: float = 1.0) -> Constant:
        """Weights of a linear layer as MatMul wants them, [inner, outer]; files hold them transposed."""

    @abstractmethod
    def vector(self, name: str, size: int, *, mean: float = 0.0, spread: float = 0.1) -> Constant:
        """A bias, gain, mean or variance [size]. Seeded: uniform in ``mean - spread`` to ``mean + spread``."""


class SeededWeights(Weights):
    """Weights that depend on ``seed`` and the parameter's name, not on the order in which they are asked for."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def _seed_of(self, name: str) -> int:
        return (self._seed << 32) + crc32(name.encode())

    def kernel(self, name: str, shape: tuple[int, ...], *, gain: float = 1.0) -> Constant:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        return SeededConstant(self._seed_of(name), DType.F32, shape, scale=gain / fan_in**0.5)

    def matrix(self, name: str, inner: int, outer: int, *, gain: float = 1.0) -> Constant:
        return SeededConstant(self._seed_of(name), DType.F32, (inner, outer), scale=gain / inner**0.5)

    def vector(self, name: str, size: int, *, mean: float = 0.0, spread: float = 0.1) -> Constant:
        rng = np.random.Generator(np.random.PCG64(self._seed_of(name)))
        return ArrayConstant((mean + rng.uniform(-spread, spread, size)).astype(np.float32))


class FileWeights(Weights):
    """Weights of a ``.safetensors`` file: 8 bytes of header size, a JSON header, then raw little-endian data."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self._header = json.loads(file.read(size))
        self._start = 8 + size

    def tensor(self, name: str, shape: tuple[int, ...]) -> FileConstant:
        """The tensor ``name``, mapped. Raises ModelError when it is absent or not float32 of ``shape``."""
        entry = self._header.get(name)
        if entry is None:
            raise ModelError(f"{self._path.name} has no tensor {name!r}", where="weights")
        found = (entry["dtype"], tuple(entry["shape"]))
        if found != ("F32", shape):
            raise ModelError(
                f"tensor {name!r} is {found[0]}{list(found[1])}, expected F32{list(shape)}",
                where="weights",
                help=f"{self._path.name} belongs to another architecture",
            )
        return FileConstant(self._path, self._start + entry["data_offsets"][0], DType.F32, shape)

    def kernel(self, name: str, shape: tuple[int, ...], *, gain: float = 1.0) -> Constant:
        return self.tensor(name, shape)

    def matrix(self, name: str, inner: int, outer: int, *, gain: float = 1.0) -> Constant:
        stored = self.tensor(name, (outer, inner))
        return LazyConstant(lambda: np.ascontiguousarray(stored.numpy().T), DType.F32, (inner, outer))

    def vector(self, name: str, size: int, *, mean: float = 0.0, spread: float = 0.1) -> Constant:
        return self.tensor(name, (size,))
