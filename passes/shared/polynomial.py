"""Scalar arithmetic in normal form: a value as a polynomial of the values it is computed from.

``0.5 * x * (1 + erf(u))`` has many spellings (orders of operands and of factors, division instead of multiplication,
distributed products); as a polynomial of the atoms ``x`` and ``erf(u)`` it has one: ``0.5 x + 0.5 x erf(u)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from ...ir.dtypes import DType
from ...ir.graph import RETURN, Node, Value
from ..rewrite.matcher import close, scalar_value
from ..rewrite.rule import NoMatch

Monomial: TypeAlias = tuple[tuple[Value, int], ...]
"""Atoms with their powers, in the order in which they were first seen."""
Polynomial: TypeAlias = dict[Monomial, float]

MAX_NODES = 16
"""Nodes that one polynomial may be made of: activation functions have fewer than ten."""
_MAX_TERMS = 16


class Expansion:
    """Expands values into polynomials and remembers the nodes it went through."""

    def __init__(self, stop: Iterable[Value] = ()) -> None:
        self.stop = set(stop)
        """Values that are atoms whatever computes them."""
        self.nodes: dict[Node, None] = {}
        self.atoms: dict[Value, int] = {}

    def of(self, value: Value) -> Polynomial:
        """``value`` as a polynomial of atoms: values with another user, or that are not sums, products or powers."""
        if value not in self.stop and len(value.uses) == 1 and value.producer is not None:
            found = self.at(value.producer)
            if found is not None:
                return found
        return self._atom(value)

    def at(self, node: Node) -> Polynomial | None:
        """The result of ``node`` as a polynomial; ``None`` where it is not elementary arithmetic."""
        if node.domain or len(self.nodes) >= MAX_NODES or node.op not in _RULES or 0 < node.version < 7:
            return None
        self.nodes[node] = None
        found = self._rule(node)
        if found is None or len(found) > _MAX_TERMS:
            del self.nodes[node]
            return None
        return found

    def _rule(self, node: Node) -> Polynomial | None:
        a = node.input(0)
        if a is None:
            return None
        if node.op == "Neg":
            return {m: -c for m, c in self.of(a).items()}
        b = node.input(1)
        if b is None:
            return None
        if node.op == "Pow":
            power = scalar_value(b, node)
            return None if power not in (1, 2, 3) else _power(self.of(a), int(power))
        if node.op == "Div":
            divisor = scalar_value(b, node)
            return None if not divisor else {m: c / divisor for m, c in self.of(a).items()}
        left, right = self._operand(a, node), self._operand(b, node)
        if node.op == "Mul":
            return _product(left, right)
        return _sum(left, right, -1.0 if node.op == "Sub" else 1.0)

    def _operand(self, value: Value, node: Node) -> Polynomial:
        number = scalar_value(value, node)
        return self.of(value) if number is None else {(): float(number)}

    def _atom(self, value: Value) -> Polynomial:
        self.atoms.setdefault(value, len(self.atoms))
        return {((value, 1),): 1.0}


_RULES = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Pow"})


def _sum(a: Polynomial, b: Polynomial, sign: float) -> Polynomial:
    total = dict(a)
    for monomial, c in b.items():
        total[monomial] = total.get(monomial, 0.0) + sign * c
    return {m: c for m, c in total.items() if c}


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for m1, c1 in a.items():
        for m2, c2 in b.items():
            powers = dict(m1)
            for atom, power in m2:
                powers[atom] = powers.get(atom, 0) + power
            monomial = _ordered(powers)
            total[monomial] = total.get(monomial, 0.0) + c1 * c2
    return total


def _ordered(powers: Mapping[Value, int]) -> Monomial:
    return tuple(sorted(powers.items(), key=lambda item: id(item[0])))


def _power(a: Polynomial, power: int) -> Polynomial:
    total: Polynomial = {(): 1.0}
    for _ in range(power):
        total = _product(total, a)
    return total


def monomial(*atoms: Value) -> Monomial:
    """The product of atoms (repeated ones are powers)."""
    powers: dict[Value, int] = {}
    for atom in atoms:
        powers[atom] = powers.get(atom, 0) + 1
    return _ordered(powers)


def equals(found: Polynomial, wanted: Polynomial, dtype: DType | None, ulps: float = 4) -> bool:
    """Whether both have the same terms with coefficients that agree up to rounding of constants to ``dtype``."""
    return found.keys() == wanted.keys() and all(close(found[m], c, ulps, dtype) for m, c in wanted.items())


def sole_atom(found: Polynomial) -> Value:
    """The only atom of a polynomial. Raises :class:`NoMatch` where there are none or several."""
    atoms = {atom for m in found for atom, _ in m}
    if len(atoms) != 1:
        raise NoMatch(f"an argument depends on {len(atoms)} values, expected 1")
    return atoms.pop()


def require_private(nodes: Iterable[Node], root: Node) -> None:
    """Raises :class:`NoMatch` where something outside ``nodes`` uses a result of one of them (the root's aside)."""
    inside = set(nodes)
    for node in inside:
        if node is root:
            continue
        if node.graph is not root.graph:
            raise NoMatch(f"{node.op} is in another graph")
        for out in node.outputs:
            for user, _ in out.uses:
                if user not in inside:
                    what = "the graph returns it" if user.op == RETURN else user.op
                    raise NoMatch(f"%{out.name} has another user: {what}")
