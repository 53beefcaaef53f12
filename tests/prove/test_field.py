"""Arithmetic modulo 2**61 - 1 against Python's integers and fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from planish.driver.prove import field as F
from planish.driver.prove import number as N

P = F.P


def draw(*shape: int, seed: int = 0) -> F.Field:
    random = np.random.default_rng(seed)
    found = random.integers(0, P, shape, dtype=np.uint64)
    found.reshape(-1)[:3] = [0, 1, P - 1]
    return found


def test_sums_products_and_quotients() -> None:
    a, b = draw(500), draw(500, seed=1)[::-1].copy()
    assert F.add(a, b).tolist() == [(int(x) + int(y)) % P for x, y in zip(a, b, strict=True)]
    assert F.multiply(a, b).tolist() == [int(x) * int(y) % P for x, y in zip(a, b, strict=True)]
    assert F.negative(a).tolist() == [-int(x) % P for x in a]
    assert F.inverse(a[1:]).tolist() == [pow(int(x), -1, P) for x in a[1:]]
    assert F.power(a, 5).tolist() == [pow(int(x), 5, P) for x in a]
    with pytest.raises(ZeroDivisionError):
        F.inverse(a)


def test_products_of_matrices_longer_than_float64_sums_exactly() -> None:
    a, b = draw(2, 3, F.TERMS + 700), draw(F.TERMS + 700, 2, seed=1)
    wanted = [
        [[sum(int(x) * int(y) for x, y in zip(row, column, strict=True)) % P for column in b.T] for row in stack]
        for stack in a
    ]
    assert F.matmul(a, b).tolist() == wanted
    assert F.total(a, 2).tolist() == [[sum(map(int, row)) % P for row in stack] for stack in a]


def test_images_of_floats_and_integers() -> None:
    random = np.random.default_rng(0)
    x = np.array([*(random.standard_normal(200) * 10.0 ** random.integers(-300, 300, 200)), 0.0, -0.0, 5e-324, 1e308])
    wanted = [Fraction(v).numerator * pow(Fraction(v).denominator, -1, P) % P for v in x.tolist()]
    assert F.from_floats(x).tolist() == wanted
    small = x[np.abs(x) < 1e38].astype(np.float32)
    assert F.from_floats(small).tolist() == [
        Fraction(v).numerator * pow(Fraction(v).denominator, -1, P) % P for v in small.tolist()
    ]
    for whole in (np.array([-(2**63), -1, 0, 7, 2**63 - 1]), np.array([0, 2**64 - 1], np.uint64), np.array([True])):
        assert F.from_ints(whole).tolist() == [int(v) % P for v in whole.tolist()]


def test_the_random_function_depends_on_element_and_name() -> None:
    a = draw(1000)
    first, second = F.mixed(a, N.salt("exp")), F.mixed(a, N.salt("erf"))
    assert len(set(first.tolist()) | set(second.tolist())) == 2000
    assert first.tolist() == F.mixed(a.copy(), N.salt("exp")).tolist()
    assert int(first.max()) < P
