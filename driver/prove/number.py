"""Real numbers as the exact check sees them: a point in a finite field, beside it the number itself, and an error unit.

* ``field`` is the image modulo ``P``. Free numbers are drawn there at random, constants are mapped exactly, and what
  is no rational function (exp, erf, sqrt, ...) is a pseudo-random function of its argument's image. Equal images of
  two expressions mean that they are equal as functions, whatever those functions are.
* ``near`` is the number in float64, with which the real functions are computed. It decides comparisons: which branch of
  Relu, Max, Where a number takes. Where it is too close to call, the check gives up.
* ``unit`` bounds, to first order, how far the number moves when every constant and every result on the way to it is
  changed by a relative 1: times the roundoff of a type, it is how far rounding them moves it (running error analysis;
  Higham, Accuracy and Stability of Numerical Algorithms, 3.3). It bounds what rounding folded constants does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from ...ir.dtypes import DType, from_numpy
from .field import Field
from .ring import ring, same

Array = np.ndarray[Any, Any]
CLOSE = 1e-9
"""Numbers of different images are not put in order when they differ by less than this, relative to their size."""
_FITS = {
    DType.F16: (DType.F16, DType.F32, DType.F64),
    DType.BF16: (DType.BF16, DType.F32, DType.F64),
    DType.F32: (DType.F32, DType.F64),
    DType.F64: (DType.F64,),
}


Outcome: TypeAlias = "int | tuple[int, float, float]"
"""How numbers compare: -1, 0, 1, with the two numbers where both are known and the same everywhere."""
DECISIONS: ContextVar[list[frozenset[Outcome]] | None] = ContextVar("DECISIONS", default=None)
"""Where set, receives the results of each comparison: which branches were taken."""


class Undecided(Exception):
    """The exact check cannot say anything, and why (lower case)."""


class Number:
    """An array of real numbers. See the module."""

    __slots__ = ("dtype", "field", "grid", "near", "unit")

    def __init__(self, field: Field, near: Array, unit: Array, grid: DType | None = None) -> None:
        infinite = np.isinf(near)
        if infinite.any():  # whatever is added to an infinity, it stays the same one
            field = np.where(infinite, np.where(near > 0, _salted("infinity"), _salted("-infinity")), field)
        self.field, self.near, self.unit = field, near, unit
        self.dtype: DType | None = None
        """The type in which a model computes them."""
        self.grid = grid
        """A type that holds all elements exactly, where that is known: a cast to it changes nothing."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.near.shape

    @property
    def parts(self) -> tuple[Array, Array, Array]:
        """Field, near and unit."""
        return self.field, self.near, self.unit

    @staticmethod
    def of(parts: Iterable[Array], grid: DType | None = None) -> Number:
        """The number with these three parts."""
        field, near, unit = parts
        return Number(field, near, unit, grid)

    def map(self, function: Callable[[Array], Array]) -> Number:
        """Applies a function that moves elements to all three parts."""
        return Number.of(map(function, self.parts), self.grid)

    def fits(self, dtype: DType) -> bool:
        """Whether a cast to ``dtype`` changes no element."""
        return self.grid is not None and dtype in _FITS[self.grid]


def holds(dtype: DType, given: DType | None) -> bool:
    """Whether ``dtype`` holds every number of the type ``given``."""
    return given in _FITS and dtype in _FITS[given]


@cache
def salt(text: str) -> int:
    """A number of 64 bits for a name."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _salted(text: str) -> Field:
    return ring().mixed(np.zeros((), np.uint64), salt(text))


def constant(array: Array) -> Number:
    """A constant of a floating-point type, taken as the rational numbers that it holds."""
    dtype = from_numpy(array.dtype)
    if dtype not in _FITS:
        raise Undecided(f"no numbers of type {dtype.text}")
    near = array.astype(np.float64)
    if np.isnan(near).any():
        raise Undecided("a constant is NaN")
    image = ring().from_floats(np.where(np.isinf(near), 0.0, near))
    return Number(image, near, np.abs(near), dtype)


def from_ints(array: Array) -> Number:
    """Integers or booleans as numbers."""
    near = array.astype(np.float64)
    small = bool((np.abs(near) <= 256).all())
    return Number(ring().from_ints(array), near, np.zeros(near.shape), DType.BF16 if small else None)


def number(x: float, like: DType | None = None) -> Number:
    """A scalar; with ``like`` rounded to that type, as attributes are."""
    array = np.asarray(x, np.float64)
    return constant(array if like is None else array.astype(like.numpy))


def free(random: np.random.Generator, shape: tuple[int, ...], dtype: DType, scale: float) -> Number:
    """Unknown numbers: independent in the field and beside it."""
    image = ring().draw(random, shape)
    near = random.standard_normal(shape) * scale
    return Number(np.asarray(image), np.asarray(near), np.zeros(shape), dtype if dtype in _FITS else None)


# -- arithmetic


def add(a: Number, b: Number) -> Number:
    with np.errstate(all="ignore"):
        near = a.near + b.near
        return _checked(ring().add(a.field, b.field), near, a.unit + b.unit + np.abs(near))


def negative(a: Number) -> Number:
    return Number(ring().negative(a.field), -a.near, a.unit, a.grid)


def subtract(a: Number, b: Number) -> Number:
    return add(a, negative(b))


def multiply(a: Number, b: Number) -> Number:
    with np.errstate(all="ignore"):
        near = a.near * b.near
        unit = np.abs(a.near) * b.unit + np.abs(b.near) * a.unit + np.abs(near)
        return _checked(ring().multiply(*np.broadcast_arrays(a.field, b.field)), near, unit)


def divide(a: Number, b: Number) -> Number:
    return multiply(a, reciprocal(b))


def reciprocal(a: Number) -> Number:
    if (a.near == 0).any():
        raise Undecided("division by zero")
    try:
        image = ring().inverse(a.field)
    except ZeroDivisionError as error:
        raise Undecided("division by what is zero in the field") from error
    infinite = np.isinf(a.near)
    near = 1 / a.near
    with np.errstate(all="ignore"):
        unit = np.where(infinite, 0.0, a.unit * near * near + np.abs(near))
    return Number(np.where(infinite, np.uint64(0), image), near, unit)


def _checked(image: Field, near: Array, unit: Array) -> Number:
    if np.isnan(near).any():
        raise Undecided("a result is NaN")
    return Number(np.asarray(image), np.asarray(near), np.asarray(unit))


def matmul(a: Number, b: Number) -> Number:
    """The product of matrices, or stacks of them; both at least of rank 2."""
    with np.errstate(all="ignore"):
        near = a.near @ b.near
        unit = np.abs(a.near) @ b.unit + a.unit @ np.abs(b.near) + np.abs(near)
        return _checked(ring().matmul(a.field, b.field), near, unit)


def total(a: Number, axis: int) -> Number:
    """The sum along an axis."""
    with np.errstate(all="ignore"):
        near = a.near.sum(axis=axis)
        return _checked(ring().total(a.field, axis), near, a.unit.sum(axis=axis) + np.abs(near))


def function(
    name: str,
    a: Number,
    real: Callable[[Array], Array],
    slope: Callable[[Array], Array] | None,
    image: Callable[[Field, int], Field] | None = None,
) -> Number:
    """A function of one number of which only ``real`` knows more than its name; without ``slope`` nothing bounds it.

    ``image``: what becomes of the image, given a number for the name; some pseudo-random function by default.
    """
    with np.errstate(all="ignore"):
        near = np.asarray(real(a.near))
        unit = np.abs(slope(a.near)) * a.unit + np.abs(near) if slope is not None else np.full(near.shape, np.inf)
    return _checked((image or ring().mixed)(a.field, salt(name)), near, unit)


# -- order


def order(a: Number, b: Number) -> Array:
    """-1, 0 or 1 for each element. Raises :class:`Undecided` where two different numbers are too close."""
    x, y = np.broadcast_arrays(a.near, b.near)
    near = close(a, b)
    if (near & ~same(a.field, b.field)).any():
        raise Undecided("two numbers are too close to order")
    found = np.where(near, 0, np.where(x < y, -1, 1))
    seen = DECISIONS.get()
    if seen is not None:
        known = _uniform(a) and _uniform(b)
        fixed: Outcome = (int(found.flat[0]), float(a.near.flat[0]), float(b.near.flat[0])) if known else 0
        seen.append(frozenset([fixed] if known else np.unique(found).tolist()))
    return found


def _uniform(a: Number) -> bool:
    """Whether all elements are one number about which nothing is free."""
    return bool(a.near.size) and bool((a.near == a.near.flat[0]).all()) and _is_known(a)


def close(a: Number, b: Number) -> Array:
    """Where both are the same number, as far as float64 can tell."""
    x, y = np.broadcast_arrays(a.near, b.near)
    with np.errstate(all="ignore"):
        finite = np.isfinite(x) & np.isfinite(y)
        return (x == y) | (finite & (np.abs(x - y) <= CLOSE * (np.abs(x) + np.abs(y))))


def choose(mask: Array, a: Number, b: Number) -> Number:
    """``a`` where ``mask`` holds, else ``b``."""
    grid = b.grid if b.grid and a.fits(b.grid) else a.grid if a.grid and b.fits(a.grid) else None
    return Number.of((np.where(mask, x, y) for x, y in zip(a.parts, b.parts, strict=True)), grid)


def largest(a: Number, b: Number) -> Number:
    return choose(order(a, b) >= 0, a, b)


def smallest(a: Number, b: Number) -> Number:
    return choose(order(a, b) <= 0, a, b)


def concrete(a: Number) -> Array:
    """The numbers themselves, where nothing about them is free. Raises :class:`Undecided`."""
    if not _is_known(a):
        raise Undecided("a number that must be known is free")
    return a.near


def _is_known(a: Number) -> bool:
    return bool(np.isfinite(a.near).all()) and bool(same(ring().from_floats(a.near), a.field).all())
