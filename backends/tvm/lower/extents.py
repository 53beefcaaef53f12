"""Extents as TVM sees them: numbers, or expressions over what a caller says at every run.

Kernels take the atoms of their extents as numbers behind their tensors: symbols, and what polynomials of them cannot
say (quotients, minima), which the program computes once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from ....ir.dims import Call, Factor, SymDim, call, evaluate, symbol, symbol_of
from ..api import tirx

Extent: TypeAlias = int | SymDim
Extents: TypeAlias = tuple[Extent, ...]
USUAL = 64
"""What symbols are taken for where it matters little: which of two values is smaller, what lies where first."""


def atoms(extents: Iterable[Extent]) -> dict[str, SymDim]:
    """Symbols and opaque calls that the extents are polynomials of, by their text, sorted."""
    found = {
        str(dim): dim
        for extent in extents
        if isinstance(extent, SymDim)
        for monomial, _ in extent.terms
        for dim in map(_atom, monomial)
    }
    return dict(sorted(found.items()))


def symbols(extents: Iterable[Extent]) -> list[str]:
    """Names of all symbols, sorted."""
    return sorted({name for extent in extents if isinstance(extent, SymDim) for name in extent.symbols()})


def expr(extent: Extent) -> Any:
    """The extent in a kernel: 32 bits, as loops count."""
    return polynomial(extent, lambda text: variable(text)) if isinstance(extent, SymDim) else extent


def exprs(extents: Iterable[Extent]) -> tuple[Any, ...]:
    return tuple(map(expr, extents))


def polynomial(extent: Extent, value: Callable[[str], Any]) -> Any:
    """The extent as an expression, ``value`` giving atoms by their text."""
    if not isinstance(extent, SymDim):
        return extent
    total: Any = None
    for monomial, coefficient in extent.terms:
        term: Any = None
        for factor in monomial:
            one = value(str(_atom(factor)))
            term = one if term is None else term * one
        term = coefficient if term is None else term if coefficient == 1 else term * coefficient
        total = term if total is None else total + term
    return total


def computed(atom: SymDim, values: Mapping[str, Any]) -> Any:
    """An atom as an expression of 64 bits over the symbols' ``values``."""
    name = atom.name
    if name is not None:
        return values[name]
    (factor,) = atom.terms[0][0]
    assert isinstance(factor, Call)
    a, b = (_whole(side, values) for side in (factor.a, factor.b))
    function = {"floordiv": tirx.floordiv, "mod": tirx.floormod, "min": tirx.min, "max": tirx.max}[factor.function]
    return function(a, b)


def _whole(dim: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(dim, int):
        return tirx.const(dim, "int64")
    inner = {text: computed(atom, values) for text, atom in atoms([dim]).items()}
    return polynomial(dim, inner.__getitem__)


@lru_cache(1024)
def variable(text: str) -> Any:
    """The variable of an atom: one for each, in whatever kernel."""
    return tirx.Var("d_" + "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in text), "int32")


def usual(extent: Extent) -> int:
    """The extent where symbols have their usual value."""
    values = dict.fromkeys(symbols([extent]), USUAL)
    return max(0, evaluate(extent, values) or 0)


def count(extents: Iterable[Extent]) -> Extent:
    """The product of all."""
    total: Extent = 1
    for extent in extents:
        total = total * extent
    return total


def aligned(size: Extent, alignment: int) -> Extent:
    """The next multiple."""
    if isinstance(size, int):
        return -(-size // alignment) * alignment
    blocks = call("floordiv", size + (alignment - 1), alignment)
    assert blocks is not None
    return blocks * alignment


def _atom(factor: Factor) -> SymDim:
    return symbol_of(factor) if isinstance(factor, Call) else symbol(factor)
