"""The two fields of ``exponents.py``, with numbers compared as exponents: there log turns products into sums.

The image of ``log(x)`` as an exponent is the ``k`` with ``BASE ** k = x`` or ``-x`` modulo ``P`` (one of them is a
square, hence a power of ``BASE``): the logarithm of ``|x|``. So ``log(a b) = log(a) + log(b)`` and ``log(exp(x)) = x``.
Who uses this sees to it that no logarithm is taken of a negative number: beside the image stands the number itself,
whose logarithm would be NaN. Modulo ``P``, ``log(x)`` is a pseudo-random function of ``x``.

Source: Shanks, Class Number, a Theory of Factorization, and Genera, 1971 (baby steps and giant steps).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from . import exponents as E
from .exponents import (
    add,
    draw,
    exponential,
    from_floats,
    from_ints,
    inverse,
    matmul,
    mixed,
    multiply,
    negative,
    total,
)
from .field import Field

__all__ = [
    "add",
    "draw",
    "exponential",
    "from_floats",
    "from_ints",
    "inverse",
    "logarithm",
    "matmul",
    "mixed",
    "multiply",
    "negative",
    "total",
    "value",
]

_P = np.uint64(E.P)
_STEPS = 20
"""The powers of ``BASE`` below ``2 ** _STEPS`` are in a table, the others that many apart."""
MAX_ELEMENTS = 1 << 12
"""Different elements whose logarithms are looked for at once: about a second."""


def value(a: Field) -> Field:
    """The image by which numbers are compared: what they are as exponents."""
    return a >> np.uint64(32)


def logarithm(a: Field, salt: int) -> Field:
    """See the module; 0 is taken for 1. Raises ``ValueError`` for more than ``MAX_ELEMENTS`` elements."""
    elements, places = np.unique(E.value(a), return_inverse=True)
    if elements.size > MAX_ELEMENTS:
        raise ValueError(f"logarithms of {elements.size} elements, the limit is {MAX_ELEMENTS}")
    found = discrete_logarithm(np.where(elements == 0, np.uint64(1), elements))[places].reshape(a.shape)
    return E.packed(E.value(mixed(a, salt)), found)


def discrete_logarithm(x: Field) -> Field:
    """The ``k`` below ``Q`` with ``BASE ** k = x`` or ``-x`` modulo ``P``, for elements that are not 0."""
    powers, order = _table()
    rest = np.where(E.power(x, E.Q, _P) == 1, x, _P - x)
    found, left = np.zeros_like(x), np.arange(x.size)
    back = np.uint64(pow(E.BASE, E.Q - (1 << _STEPS), E.P))
    for step in range((E.Q >> _STEPS) + 1):
        places = np.minimum(np.searchsorted(powers, rest), powers.size - 1)
        hit = powers[places] == rest
        found[left[hit]] = order[places[hit]] + np.uint64(step << _STEPS)
        left, rest = left[~hit], rest[~hit] * back % _P
        if not left.size:
            break
    return found


@cache
def _table() -> tuple[Field, Field]:
    """The first powers of ``BASE`` in order, and of which exponents they are."""
    powers = np.ones(1, np.uint64)
    for i in range(_STEPS):
        powers = np.concatenate([powers, powers * np.uint64(pow(E.BASE, 1 << i, E.P)) % _P])
    order = np.argsort(powers)
    return powers[order], order.astype(np.uint64)
