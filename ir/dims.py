"""Symbolic dimensions: integers, named symbols, and integer polynomials of them.

``Dim = int | SymDim | None``. ``None`` is a dimension about which nothing is known; two unknown
dimensions are never equal, so compare shapes with :func:`same_shape`, not with ``==``.

A :class:`SymDim` is a sum of products with integer coefficients; the factors are symbols or opaque
calls (``floordiv``, ``mod``, ``min``, ``max``) of other dims. Equal polynomials are equal objects after
normalization, so equality is decided for sums and products; two different-looking opaque calls may
still be equal at run time and compare unequal, which is the safe direction.

All symbols stand for non-negative integers (a dimension of a tensor).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TypeAlias, Union

Dim: TypeAlias = Union[int, "SymDim", None]
Shape: TypeAlias = tuple[Dim, ...]
Factor: TypeAlias = Union[str, "Call"]
Monomial: TypeAlias = tuple[Factor, ...]

_FUNCTIONS = ("floordiv", "mod", "min", "max")
MAX_TEXT = 1 << 14
"""Characters of the longest expression: what would be longer is unknown. (Squaring doubles a hostile one each time.)"""
MAX_NUMBER = (1 << 63) - 1
"""The largest number in an expression, that of the largest extent: with a larger one the dimension is unknown."""


class Call:
    """An operation that polynomials cannot express, applied to two dims: an opaque factor."""

    __slots__ = ("_key", "a", "b", "function")

    def __init__(self, function: str, a: Dim, b: Dim) -> None:
        self.function, self.a, self.b = function, a, b
        self._key = f"{function}({dim_text(a)}, {dim_text(b)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        return self._key


class SymDim:
    """A dimension that is not a plain integer. Immutable; arithmetic returns ``int`` where the result is one."""

    __slots__ = ("_key", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        """Sorted pairs of monomial and non-zero coefficient; the empty monomial carries the constant."""
        self._key = _text(terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SymDim) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        return self._key

    __repr__ = __str__

    def __add__(self, other: SymDim | int) -> SymDim | int:
        total = dict(self.terms)
        for monomial, coefficient in _terms(other):
            total[monomial] = total.get(monomial, 0) + coefficient
        return _normal(total)

    __radd__ = __add__

    def __neg__(self) -> SymDim | int:
        return self * -1

    def __sub__(self, other: SymDim | int) -> SymDim | int:
        return self + (other * -1)

    def __rsub__(self, other: int) -> SymDim | int:
        return self * -1 + other

    def __mul__(self, other: SymDim | int) -> SymDim | int:
        total: dict[Monomial, int] = {}
        for ma, ca in self.terms:
            for mb, cb in _terms(other):
                monomial = tuple(sorted(ma + mb, key=str))
                total[monomial] = total.get(monomial, 0) + ca * cb
        return _normal(total)

    __rmul__ = __mul__

    def __floordiv__(self, other: SymDim | int) -> Dim:
        return floordiv(self, other)

    def symbols(self) -> set[str]:
        """Names of all symbols in it, those inside opaque calls included."""
        found: set[str] = set()
        for monomial, _ in self.terms:
            for factor in monomial:
                if isinstance(factor, str):
                    found.add(factor)
                else:
                    for arg in (factor.a, factor.b):
                        if isinstance(arg, SymDim):
                            found |= arg.symbols()
        return found

    @property
    def name(self) -> str | None:
        """The symbol's name where this is one bare symbol."""
        if len(self.terms) == 1:
            monomial, coefficient = self.terms[0]
            if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], str):
                return monomial[0]
        return None


def symbol(name: str) -> SymDim:
    """The named dimension."""
    return SymDim((((name,), 1),))


def anonymous(name: str) -> SymDim:
    """A dimension without a name of its own: some fixed extent that the interface leaves open.

    Its symbol starts with ``?``, and files get an unset dimension for it, as they had.
    """
    return symbol("?" + name)


def is_anonymous(d: Dim) -> bool:
    """Whether ``d`` mentions a symbol that :func:`anonymous` made."""
    return isinstance(d, SymDim) and any(s.startswith("?") for s in d.symbols())


def _terms(d: SymDim | int) -> Iterable[tuple[Monomial, int]]:
    return d.terms if isinstance(d, SymDim) else (((), d),)


def _normal(total: Mapping[Monomial, int]) -> SymDim | int:
    terms = [(m, c) for m, c in total.items() if c]
    if not terms:
        return 0
    if len(terms) == 1 and terms[0][0] == ():
        return terms[0][1]
    terms.sort(key=lambda t: (-len(t[0]), [str(f) for f in t[0]]))
    return SymDim(tuple(terms))


def _name_text(factor: Factor) -> str:
    if isinstance(factor, Call):
        return str(factor)
    if factor.isascii() and factor.isidentifier() and factor not in _FUNCTIONS:
        return factor
    escaped = factor.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _text(terms: tuple[tuple[Monomial, int], ...]) -> str:
    out: list[str] = []
    for monomial, coefficient in terms:
        factors = [_name_text(f) for f in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        sign = "-" if coefficient < 0 else ("+" if out else "")
        out.append(sign + "*".join(factors))
    return "".join(out)


def dim_text(d: Dim) -> str:
    """The textual form: ``3``, ``N``, ``2*H+1``, ``'odd name'``, ``floordiv(H, 2)``, ``?``."""
    return "?" if d is None else str(d)


def floordiv(a: Dim, b: Dim) -> Dim:
    """``a // b``; exact polynomial division by an integer or a single monomial where it works, else opaque."""
    if a is None or b is None or _long(a, b):
        return None
    if isinstance(b, int):
        if b == 1:
            return a
        if b == 0:
            return None
        if isinstance(a, int):
            return a // b
        if all(c % b == 0 for _, c in a.terms):
            return _normal({m: c // b for m, c in a.terms})
        return symbol_of(Call("floordiv", a, b))
    if a == b:
        return 1  # a symbol may be 0, and 0/0 raises at run time: any value is right then
    if isinstance(a, SymDim) and len(b.terms) == 1:
        divided = _divide(a, b.terms[0])
        if divided is not None:
            return divided
    return symbol_of(Call("floordiv", a, b))


def _divide(a: SymDim, by: tuple[Monomial, int]) -> SymDim | int | None:
    monomial, coefficient = by
    total: dict[Monomial, int] = {}
    for m, c in a.terms:
        rest = list(m)
        for factor in monomial:
            if factor not in rest:
                return None
            rest.remove(factor)
        if c % coefficient:
            return None
        total[tuple(rest)] = c // coefficient
    return _normal(total)


def call(function: str, a: Dim, b: Dim) -> Dim:
    """``mod``, ``min``, ``max`` or ``floordiv`` of two dims."""
    if function == "floordiv":
        return floordiv(a, b)
    if a is None or b is None or (function == "mod" and b == 0) or _long(a, b):
        return None
    if isinstance(a, int) and isinstance(b, int):
        if function == "mod":
            return a % b
        return min(a, b) if function == "min" else max(a, b)
    if a == b:
        return 0 if function == "mod" else a
    if function == "mod" and isinstance(b, int) and isinstance(a, SymDim) and all(c % b == 0 for _, c in a.terms):
        return 0
    return symbol_of(Call(function, a, b))


def symbol_of(factor: Call) -> SymDim:
    """An opaque call as a dimension."""
    return SymDim((((factor,), 1),))


def add(a: Dim, b: Dim) -> Dim:
    return None if a is None or b is None or _long(a, b) else _counted(a + b)


def sub(a: Dim, b: Dim) -> Dim:
    return None if a is None or b is None or _long(a, b) else _counted(a - b)


def mul(a: Dim, b: Dim) -> Dim:
    """``a * b``; zero times unknown is zero."""
    if a == 0 or b == 0:
        return 0
    if a is None or b is None:
        return None
    return a * b if isinstance(a, int) and isinstance(b, int) else _multiplied(a, b)


@lru_cache(1024)  # each layer of a model multiplies the same extents again
def _multiplied(a: SymDim | int, b: SymDim | int) -> Dim:
    return None if _long(a, b, multiplied=True) else _counted(a * b)


def _counted(d: SymDim | int) -> Dim:
    """``None`` where a coefficient is no int64; extents that are numbers are for inference to refuse."""
    return None if isinstance(d, SymDim) and any(abs(c) > MAX_NUMBER for _, c in d.terms) else d


def _long(a: SymDim | int, b: SymDim | int, *, multiplied: bool = False) -> bool:
    """Whether what two dims make could take more than ``MAX_TEXT`` characters, or mentions more than ``MAX_NUMBER``."""
    if not isinstance(a, SymDim) or not isinstance(b, SymDim):
        numbers = [d for d in (a, b) if not isinstance(d, SymDim)]
        return len(numbers) == 1 and abs(numbers[0]) > MAX_NUMBER
    size_a, size_b = len(str(a)), len(str(b))
    if multiplied:
        size_a, size_b = size_a * len(b.terms), size_b * len(a.terms)
    return size_a + size_b > MAX_TEXT


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all; ``None`` where one is unknown and none is zero."""
    total: Dim = 1
    unknown = False
    for d in dims:
        if d == 0:
            return 0
        if d is None:
            unknown = True
        elif not unknown:
            total = mul(total, d)
    return None if unknown else total


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether both are known and equal for every value of the symbols."""
    return a is not None and a == b


def same_shape(a: Shape | None, b: Shape | None) -> bool:
    """Whether both shapes are known in full and equal for every value of the symbols."""
    if a is None or b is None or len(a) != len(b):
        return False
    # Tuples compare without a call for each pair; an unknown extent equals nothing, itself included.
    return a == b and None not in a


def is_static(shape: Shape | None) -> bool:
    """Whether every dimension is a plain integer."""
    return shape is not None and all(type(d) is int for d in shape)


def evaluate(d: Dim, values: Mapping[str, int]) -> int | None:
    """The integer that ``d`` takes for the given symbol values; ``None`` where one is missing."""
    if d is None or isinstance(d, int):
        return d
    total = 0
    for monomial, coefficient in d.terms:
        part = coefficient
        for factor in monomial:
            if isinstance(factor, str):
                value = values.get(factor)
            else:
                a, b = evaluate(factor.a, values), evaluate(factor.b, values)
                value = None if a is None or b is None else call(factor.function, a, b)
            if not isinstance(value, int):
                return None
            part *= value
        total += part
    return total


def substitute(d: Dim, values: Mapping[str, Dim]) -> Dim:
    """``d`` with symbols replaced by other dims."""
    if not isinstance(d, SymDim):
        return d
    total: Dim = 0
    for monomial, coefficient in d.terms:
        part: Dim = coefficient
        for factor in monomial:
            if isinstance(factor, str):
                value = values.get(factor, symbol(factor))
            else:
                value = call(factor.function, substitute(factor.a, values), substitute(factor.b, values))
            part = mul(part, value)
        total = add(total, part)
    return total
