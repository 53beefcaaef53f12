"""Finding the Gaussian error linear unit in all its spellings.

    0.5 x (1 + erf(x / sqrt(2)))          0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))

in every order of factors and operands, distributed or not: both sides are compared as polynomials.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...ir.graph import Node, Value
from ..rewrite.rule import NoMatch
from .polynomial import Expansion, Polynomial, equals, monomial, require_private, sole_atom

_LONGEST = 4
"""Nodes from the erf to the result: Add, and three factors."""


@dataclass(frozen=True)
class SpelledGelu:
    """A Gelu of ``x`` that ``root`` returns, spelled with ``nodes``."""

    x: Value
    root: Node
    nodes: tuple[Node, ...]
    tanh: bool
    """Whether it is the approximation by tanh."""


def gelu_around(node: Node) -> SpelledGelu:
    """The Gelu of which ``node`` (Erf or Tanh) is the middle. Raises :class:`NoMatch` where there is none."""
    operand = node.input(0)
    if operand is None:
        raise NoMatch("the operand is absent")
    inner = Expansion()
    argument = inner.of(operand)
    x = sole_atom(argument)
    if not equals(argument, _argument(node, x), node.output.dtype):
        raise NoMatch(f"the argument of {node.op} is not that of Gelu")
    root, outer = _result(node, x)
    nodes = (*inner.nodes, node, *outer)
    require_private(nodes, root)
    return SpelledGelu(x, root, nodes, node.op == "Tanh")


def _argument(node: Node, x: Value) -> Polynomial:
    """What erf or tanh must be applied to."""
    if node.op == "Erf":
        return {monomial(x): math.sqrt(0.5)}
    factor = math.sqrt(2 / math.pi)
    return {monomial(x): factor, monomial(x, x, x): factor * 0.044715}


def _result(node: Node, x: Value) -> tuple[Node, list[Node]]:
    """The node that computes 0.5 x + 0.5 x erf, and the nodes it is spelled with."""
    erf = node.output
    wanted: Polynomial = {monomial(x): 0.5, monomial(x, erf): 0.5}
    user = erf.sole_user
    for _ in range(_LONGEST):
        if user is None or user.graph is not node.graph or not user.outputs:
            break
        outer = Expansion(stop=(x, erf))
        found = outer.at(user)
        if found is None:
            break
        if equals(found, wanted, erf.dtype):
            return user, list(outer.nodes)
        user = user.output.sole_user
    raise NoMatch(f"what follows {node.op} is not 0.5 x (1 + {node.op.lower()})")
