"""What an operator becomes when its operands are stored in another order of axes: the table of layout behaviour.

A rule says, for the order in which a node's *main* operand is stored, which orders its other operands must have, which
its results get, and how it is built then. Operators without a rule take and give everything in the order in which it is
written; so do those with one where it declines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....ir.graph import Node, Value
from ....ir.ops import BINARY, VARIADIC
from ...rewrite.rewriter import Rewriter
from ..emit import again
from .orders import Order

Operands = list[Value | None]
Build = Callable[[Rewriter, Operands], list[Value]]


@dataclass(frozen=True)
class Move:
    """A node under one order of its main operand."""

    takes: tuple[Order | None, ...]
    """For each operand; ``None``: as it is written, whatever that is (a scalar, a list of axes, a constant)."""
    gives: tuple[Order, ...]
    """For each result."""
    build: Build
    """Emits it, given its operands in the orders of ``takes``."""
    cut: int | None = None
    """Position in memory, in the result, of the innermost axis along which elements are cut, joined or reduced."""


Forward = Callable[[Node, Order], Move | None]
Backward = Callable[[Node, Order], Order | None]


@dataclass(frozen=True)
class Rule:
    """How an operator follows its main operand."""

    forward: Forward
    backward: Backward
    """The order of the main operand that makes a result come in a given order, where there is one."""


RULES: dict[tuple[str, str], Rule] = {}


def register(names: str, backward: Backward | None = None, domain: str = "") -> Callable[[Forward], Forward]:
    """Enters a rule for several operators."""

    def enter(rule: Forward) -> Forward:
        for name in names.split():
            RULES[domain, name] = Rule(rule, backward or (lambda _, order: order))
        return rule

    return enter


_ANY_OPERAND = frozenset(op for _, op in BINARY | VARIADIC) | {"Concat"}


def main(node: Node) -> int | None:
    """The operand that the others follow, a computed one: of operators whose operands are alike the first one of the
    result's rank, else the first operand of all."""
    if node.op not in _ANY_OPERAND:
        return 0 if node.inputs and node.inputs[0] is not None and node.inputs[0].data is None else None
    rank = node.outputs[0].rank
    return next((i for i, v in enumerate(node.inputs) if v is not None and v.data is None and v.rank == rank), None)


def emitted(r: Rewriter, node: Node, *operands: Value | None, **changed: Any) -> list[Value]:
    """The node's operator on other operands, some attributes changed; all its results."""
    found = again(r, node, *operands, _outputs=len(node.outputs), **changed)
    return [found] if len(node.outputs) == 1 else found


def axis_attr(node: Node, rank: int, default: int | None = None) -> int | None:
    """The attribute ``axis``, counted from the front."""
    axis = node.attr("axis", default)
    return axis % rank if isinstance(axis, int) and -rank <= axis < rank else None
