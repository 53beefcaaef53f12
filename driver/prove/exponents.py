"""Two fields at once, in which exp is what it is: ``exp(a + b) = exp(a) exp(b)``.

A number has an image modulo ``P``, by which numbers are told apart, and one modulo ``Q``, which is what it is as an
exponent. ``Q`` divides ``P - 1``, so that ``BASE ** x`` modulo ``P`` is defined for exponents modulo ``Q``, and turns
sums into products: the only functions of which that holds. Both primes have at most 31 bits; the two images share one
``uint64``, the exponent's in the upper half. An identity that does not hold goes unnoticed with a probability of at
most ``d / 2**30`` for degree ``d`` in one evaluation, independently in each.

Source: Wu et al., Mirage: A Multi-Level Superoptimizer for Tensor Programs, OSDI 2025, section 5 (which takes 227 and
113, and more evaluations).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from . import field
from .field import Field

Q = (1 << 30) - 35
P = 2 * Q + 1
BASE = 4
"""A square, hence of order ``Q``."""
_P, _Q = np.uint64(P), np.uint64(Q)
_LOW, _HALF = np.uint64((1 << 32) - 1), np.uint64(32)
_16, _LOW16 = np.uint64(16), np.uint64((1 << 16) - 1)
_WINDOW = 10
"""Bits of an exponent that one table answers for."""


def packed(value: Field, exponent: Field) -> Field:
    """Both images in one."""
    return value | (exponent << _HALF)


def _both(function: Callable[[Field, np.uint64], Field], a: Field) -> Field:
    return packed(function(a & _LOW, _P), function(a >> _HALF, _Q))


def value(a: Field) -> Field:
    """The image by which numbers are compared."""
    return a & _LOW


def draw(random: np.random.Generator, shape: tuple[int, ...]) -> Field:
    """Independent random elements."""
    return packed(random.integers(0, P, shape, dtype=np.uint64), random.integers(0, Q, shape, dtype=np.uint64))


def add(a: Field, b: Field) -> Field:
    return packed(((a & _LOW) + (b & _LOW)) % _P, ((a >> _HALF) + (b >> _HALF)) % _Q)


def negative(a: Field) -> Field:
    return _both(lambda x, m: (m - x) % m, a)


def multiply(a: Field, b: Field) -> Field:
    return packed((a & _LOW) * (b & _LOW) % _P, (a >> _HALF) * (b >> _HALF) % _Q)


def inverse(a: Field) -> Field:
    """``1 / a``. Raises ``ZeroDivisionError`` for a zero in either field."""
    if ((a & _LOW) == 0).any() or ((a >> _HALF) == 0).any():
        raise ZeroDivisionError("a divisor is zero in the field")
    return _both(lambda x, m: power(x, int(m) - 2, m), a)


def power(x: Field, exponent: int, modulus: np.uint64) -> Field:
    """``x ** exponent`` for elements of one field."""
    found = np.ones_like(x)
    while exponent:
        if exponent & 1:
            found = found * x % modulus
        exponent >>= 1
        x = x * x % modulus
    return found


def from_floats(x: np.ndarray[Any, Any]) -> Field:
    """The images of finite floats: each is an integer times a power of two."""
    mantissa, exponent = np.frexp(np.abs(x).astype(np.float64))
    whole = (mantissa * float(1 << 53)).astype(np.uint64)
    places = exponent.astype(np.int64) - 53 + _LOWEST
    found = packed(whole % _P * _powers_of_two(P)[places] % _P, whole % _Q * _powers_of_two(Q)[places] % _Q)
    return np.where(np.signbit(x), negative(found), found)


_LOWEST = 1200
"""Below the exponent of every float64."""


@cache
def _powers_of_two(modulus: int) -> Field:
    return np.array([pow(2, e, modulus) for e in range(-_LOWEST, _LOWEST)], np.uint64)


def from_ints(x: np.ndarray[Any, Any]) -> Field:
    """The images of integers and booleans."""
    if x.dtype.kind != "i":
        wide = x.astype(np.uint64)
        return packed(wide % _P, wide % _Q)
    signed = x.astype(np.int64)
    return packed((signed % P).astype(np.uint64), (signed % Q).astype(np.uint64))


def matmul(a: Field, b: Field) -> Field:
    """The product of (stacks of) matrices, by halves of 16 bits, sums of whose products float64 holds exactly."""
    return packed(_product(a & _LOW, b & _LOW, _P), _product(a >> _HALF, b >> _HALF, _Q))


def _product(a: Field, b: Field, modulus: np.uint64) -> Field:
    left, right = (((x & _LOW16).astype(np.float64), (x >> _16).astype(np.float64)) for x in (a, b))
    total: Field | None = None
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            part = (x @ y).astype(np.uint64) % modulus * np.uint64(1 << 16 * (i + j)) % modulus
            total = part if total is None else (total + part) % modulus
    assert total is not None
    return total


def total(a: Field, axis: int) -> Field:
    """The sum along an axis."""
    return packed((a & _LOW).sum(axis=axis, dtype=np.uint64) % _P, (a >> _HALF).sum(axis=axis, dtype=np.uint64) % _Q)


def mixed(a: Field, salt: int) -> Field:
    """A pseudo-random function of the elements' values."""
    found = field.mixed(a & _LOW, salt)
    return packed(found % _P, field.mixed(found, salt) % _Q)


logarithm = mixed
"""log, of which no more is known here than that it is a function."""


def exponential(a: Field) -> Field:
    """``BASE ** a``; as an exponent in its turn it is a pseudo-random function of itself."""
    exponent = a >> _HALF
    found = np.ones_like(a)
    for i in range(0, 30, _WINDOW):
        found = found * _powers_of_base(i)[(exponent >> np.uint64(i)) & np.uint64((1 << _WINDOW) - 1)] % _P
    return packed(found, np.where(found == 1, found, field.mixed(found, 0) % _Q))


@cache
def _powers_of_base(shift: int) -> Field:
    return np.array([pow(BASE, e << shift, P) for e in range(1 << _WINDOW)], np.uint64)
