"""What images of numbers are calculated with: the field of ``field.py``, where exp matters those of ``exponents.py``,
and where log does as well those of ``logarithms.py``."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np

from . import exponents, field, logarithms
from .field import Field


class Ring(Protocol):
    """Images of numbers, ``uint64`` each, and arithmetic on arrays of them."""

    def draw(self, random: np.random.Generator, shape: tuple[int, ...], /) -> Field: ...
    def value(self, a: Field, /) -> Field: ...
    def add(self, a: Field, b: Field, /) -> Field: ...
    def negative(self, a: Field, /) -> Field: ...
    def multiply(self, a: Field, b: Field, /) -> Field: ...
    def inverse(self, a: Field, /) -> Field: ...
    def matmul(self, a: Field, b: Field, /) -> Field: ...
    def total(self, a: Field, axis: int, /) -> Field: ...
    def mixed(self, a: Field, salt: int, /) -> Field: ...
    def exponential(self, a: Field, /) -> Field: ...
    def logarithm(self, a: Field, salt: int, /) -> Field: ...
    def from_floats(self, x: np.ndarray[Any, Any], /) -> Field: ...
    def from_ints(self, x: np.ndarray[Any, Any], /) -> Field: ...


_RING: ContextVar[Ring] = ContextVar("RING", default=field)


def ring() -> Ring:
    """What is calculated with."""
    return _RING.get()


def same(a: Field, b: Field) -> np.ndarray[Any, Any]:
    """Where two images are those of one number."""
    value = ring().value
    return value(a) == value(b)


@contextmanager
def with_exponents(*, compared: bool = False) -> Generator[None]:
    """Calculates in ``exponents.py`` for the while; ``compared``: in ``logarithms.py``, which compares exponents."""
    token = _RING.set(logarithms if compared else exponents)
    try:
        yield
    finally:
        _RING.reset(token)
