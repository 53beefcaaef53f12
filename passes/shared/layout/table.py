"""The rules of all operators, and nodes under them."""

from __future__ import annotations

from ....ir.graph import Node, Value
from ....ir.types import TensorType
from ...rewrite.rewriter import Rewriter
from . import moves_data, moves_math
from .moves import RULES, Move, Operands, Rule, emitted, main
from .orders import plain

SOURCES = (moves_math, moves_data)
"""Modules that enter rules when they are imported."""


def rule_of(node: Node) -> Rule | None:
    """The rule of a node, if it has one and all its values are plain tensors of known rank."""
    rule = RULES.get((node.domain, node.op))
    if rule is None or (node.attrs and node.subgraphs):
        return None
    for value in (*node.inputs, *node.outputs):
        if value is not None and not is_plain(value):
            return None
    return rule


def is_plain(value: Value) -> bool:
    """Whether it is a dense tensor of known rank that nobody annotated."""
    t = value.type
    return isinstance(t, TensorType) and t.shape is not None and not t.sparse and t.quant is None


def unmoved(node: Node) -> Move:
    """The node as it is written."""
    takes = tuple(None if v is None or v.rank is None or v.data is not None else plain(v.rank) for v in node.inputs)
    gives = tuple(plain(v.rank or 0) for v in node.outputs)
    at, rule = main(node), rule_of(node)
    rank = node.inputs[at].rank if at is not None else None  # type: ignore[union-attr]
    followed = rule.forward(node, plain(rank)) if rule is not None and rank is not None else None

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        return emitted(r, node, *operands)

    return Move(takes, gives, build, None if followed is None else followed.cut)
