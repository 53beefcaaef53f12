"""Arithmetic modulo the prime ``P = 2**61 - 1`` on arrays of ``uint64``: exact, and as fast as numpy is.

A rational number whose denominator ``P`` does not divide has one image, and the map keeps sums, products and
quotients. Two different polynomials of degree ``d`` agree at a random point with probability at most ``d / P``
(Schwartz and Zippel), so that one evaluation tells an identity from what is none, short of ``d * 4.4e-19``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Field: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"
"""Elements below ``P``."""

BITS = 61
P = (1 << BITS) - 1
_P = np.uint64(P)
_BITS = np.uint64(BITS)
_LOW31, _LOW30 = np.uint64((1 << 31) - 1), np.uint64((1 << 30) - 1)
_30, _31 = np.uint64(30), np.uint64(31)
LIMB = 21
"""Bits of the parts in which products of matrices are taken: sums of ``TERMS`` of them are exact in float64."""
TERMS = 1 << (53 - 2 * LIMB)


def reduced(x: Field) -> Field:
    """``x`` modulo ``P``, for any ``uint64``."""
    x = (x & _P) + (x >> _BITS)
    return np.where(x >= _P, x - _P, x)


def add(a: Field, b: Field) -> Field:
    return reduced(a + b)


def negative(a: Field) -> Field:
    return np.where(a == 0, a, _P - a)


def multiply(a: Field, b: Field) -> Field:
    """The product, by halves of 30 and 31 bits."""
    a_high, a_low = a >> _31, a & _LOW31
    b_high, b_low = b >> _31, b & _LOW31
    middle = a_low * b_high + a_high * b_low
    # 2**62 = 2 and 2**61 = 1 modulo P; the sum stays below 2**64.
    high = a_high * b_high * np.uint64(2) + (middle >> _30)
    return reduced(high + ((middle & _LOW30) << _31) + a_low * b_low)


def power(a: Field, exponent: int) -> Field:
    """``a ** exponent`` for an exponent of at least 0."""
    result = np.ones_like(a)
    while exponent:
        if exponent & 1:
            result = multiply(result, a)
        exponent >>= 1
        if exponent:
            a = multiply(a, a)
    return result


def inverse(a: Field) -> Field:
    """``1 / a``. Raises ``ZeroDivisionError`` for a zero."""
    if (a == 0).any():
        raise ZeroDivisionError("a divisor is zero in the field")
    return power(a, P - 2)


def shifted(a: Field, bits: Any) -> Field:
    """``a * 2 ** bits``: the bits turn around, since ``2 ** 61`` is 1."""
    turn = np.asarray(bits % BITS).astype(np.uint64)
    return reduced(((a << turn) & _P) | (a >> (_BITS - turn)))


def from_floats(x: np.ndarray[Any, Any]) -> Field:
    """The images of finite floats: each is an integer times a power of two."""
    mantissa, exponent = np.frexp(np.abs(x).astype(np.float64))
    whole = (mantissa * float(1 << 53)).astype(np.uint64)
    found = shifted(whole, exponent.astype(np.int64) - 53)
    return np.where(np.signbit(x), negative(found), found)


def from_ints(x: np.ndarray[Any, Any]) -> Field:
    """The images of integers."""
    if x.dtype.kind != "i":
        return reduced(x.astype(np.uint64))
    wide = x.astype(np.int64)
    size = reduced(np.where(wide < 0, np.uint64(0) - wide.astype(np.uint64), wide.astype(np.uint64)))
    return np.where(wide < 0, negative(size), size)


def matmul(a: Field, b: Field) -> Field:
    """The product of (stacks of) matrices, by limbs whose products float64 holds exactly."""
    terms = a.shape[-1]
    total: Field | None = None
    for start in range(0, max(terms, 1), TERMS):
        part = _short_matmul(a[..., start : start + TERMS], b[..., start : start + TERMS, :])
        total = part if total is None else add(total, part)
    assert total is not None
    return total


def _short_matmul(a: Field, b: Field) -> Field:
    left, right = _limbs(a), _limbs(b)
    total: Field | None = None
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            part = shifted(reduced((x @ y).astype(np.uint64)), LIMB * (i + j))
            total = part if total is None else add(total, part)
    assert total is not None
    return total


def _limbs(a: Field) -> list[np.ndarray[Any, Any]]:
    mask = np.uint64((1 << LIMB) - 1)
    return [((a >> np.uint64(LIMB * i)) & mask).astype(np.float64) for i in range(3)]


def total(a: Field, axis: int) -> Field:
    """The sum along an axis, by halves that ``uint64`` holds for up to ``2 ** 33`` terms."""
    low = (a & _LOW31).sum(axis=axis, dtype=np.uint64)
    high = (a >> _31).sum(axis=axis, dtype=np.uint64)
    return add(reduced(low), shifted(reduced(high), 31))


def value(a: Field) -> Field:
    """The image by which numbers are compared: all of it."""
    return a


def draw(random: np.random.Generator, shape: tuple[int, ...]) -> Field:
    """Independent random elements."""
    return np.asarray(random.integers(0, P, shape, dtype=np.uint64))


def exponential(a: Field) -> Field:
    """exp, of which no more is known here than that it is a function."""
    return mixed(a, 0x657870)


def mixed(a: Field, salt: int) -> Field:
    """A pseudo-random function of the elements: other elements and other salts give unrelated values (SplitMix64)."""
    z = a + np.uint64(salt & ((1 << 64) - 1))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return reduced(z ^ (z >> np.uint64(31)))


logarithm = mixed
"""log, of which no more is known here than that it is a function."""
