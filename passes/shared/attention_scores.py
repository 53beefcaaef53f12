"""From a softmax up to the product of queries and keys: scale, soft cap, masks in all their spellings.

    scores = cap tanh(scale (q k^T) / cap), then in any order: + mask, - mask, where(condition, fill, scores)

The steps may be written on [B, H, S, T] or on [B*H, S, T], with Reshapes in between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ...ir.dims import Dim, mul, same_dim, same_shape
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.matcher import scalar_value
from ..rewrite.rule import NoMatch

LONGEST = 10
"""Nodes between product and softmax."""
LARGEST_FILL = -1e4
"""A number that stands for "masked": the usual one of the smallest magnitude. Next to scores it makes exp vanish."""


@dataclass(frozen=True)
class Term:
    """One step from scores to softmax: something added, or scores replaced where a condition holds."""

    value: Value
    """What is added, or the condition."""
    rank: int
    """Rank of the scores there: a value of rank 3 on scores of rank 3 has batch and heads in one axis."""
    fill: float | None = None
    """What replaces the scores; ``None`` where ``value`` is added."""
    where: bool = True
    """The condition's element at which scores are replaced."""
    negated: bool = False
    """Whether ``value`` is subtracted."""


@dataclass
class Scores:
    """What stands between product and softmax."""

    product: Node
    scale: float = 1.0
    softcap: float = 0.0
    """0: none."""
    widened: bool = False
    """Whether scores in 16 bits are cast to float32 for the softmax."""
    terms: list[Term] = field(default_factory=list[Term])
    """Nearest to the softmax first."""
    nodes: list[Node] = field(default_factory=list[Node])
    """Private ones, the product's included."""


def scores_of(x: Value) -> Scores:
    """What computes the scores ``x`` [B, H, S, T] or [B*H, S, T]. Raises :class:`NoMatch` with what is in the way."""
    found = Scores(Node("MatMul", []))
    for _ in range(LONGEST):
        node = private(x)
        if node is None:
            raise NoMatch(f"%{x.name} is used elsewhere too, or is an input")
        found.nodes.append(node)
        if node.op == "MatMul":
            found.product = node
            return found
        x = _step(found, node)
    raise NoMatch(f"more than {LONGEST} nodes between product and softmax")


def _step(found: Scores, node: Node) -> Value:
    """Takes ``node`` in and returns the scores in front of it."""
    if node.op in ("Mul", "Div") and (factor := number(node)):
        return _scaled(found, node, factor)
    if node.op == "Tanh":
        raise NoMatch("a tanh of the scores that is not scaled back")
    if node.op in ("Add", "Sub", "Where") and (found.scale != 1.0 or found.softcap):
        raise NoMatch("the sum of scores and mask is scaled")
    rank = node.output.rank or 0
    if node.op in ("Add", "Sub"):
        x, mask = _split_mask(node)
        found.terms.append(Term(mask, rank, negated=node.op == "Sub"))
        return x
    if node.op == "Where":
        x, term = _replaced(node, rank)
        found.terms.append(term)
        return x
    if node.op == "Reshape" and regroups(node):
        return _operand(node, 0)
    if node.op == "Cast" and not found.widened and node.output.dtype is DType.F32:
        if any(term.fill is None for term in found.terms):
            raise NoMatch("a mask is added in float32 to scores of another type")
        found.widened = True
        return _operand(node, 0)
    raise NoMatch(f"{node.op} between product and softmax")


def _scaled(found: Scores, node: Node, factor: float) -> Value:
    x = other(node)
    inner = private(x)
    if inner is None or inner.op != "Tanh" or inner.domain:
        found.scale *= factor
        return x
    division = private(_operand(inner, 0))
    shrink = number(division) if division is not None and division.op in ("Mul", "Div") else 0.0
    whole = found.scale == 1.0 and math.isclose(factor * shrink, 1.0, rel_tol=1e-6) and factor > 0
    if division is None or not whole or found.softcap:
        raise NoMatch("a tanh of the scores that is not scaled back by what its argument was divided by")
    found.softcap = factor
    found.nodes += [inner, division]
    return other(division)


def _split_mask(node: Node) -> tuple[Value, Value]:
    """Scores and mask: the scores are what a product of this graph makes."""
    for i in (0, 1) if node.op == "Add" else (0,):
        x, mask = node.inputs[i], node.inputs[1 - i]
        if x is not None and mask is not None and _leads_to_product(x) and same_shape_or_wider(x, mask):
            return x, mask
    raise NoMatch("neither operand of the sum is a product of queries and keys")


def _replaced(node: Node, rank: int) -> tuple[Value, Term]:
    """Scores, and the condition by which a number replaces them."""
    condition = _operand(node, 0)
    for i in (1, 2):
        fill, x = scalar_value(node.inputs[i], node), node.inputs[3 - i]
        if fill is None or x is None:
            continue
        if not fill <= LARGEST_FILL:
            raise NoMatch(f"scores are replaced by {fill}, which is no mask")
        if x.rank != rank or not same_shape_or_wider(x, condition):
            raise NoMatch(f"the condition %{condition.name} is {condition.type} for scores {x.type}")
        return x, Term(condition, rank, float(fill), where=i == 1)
    raise NoMatch("Where chooses between two values that are no numbers")


def regroups(node: Node) -> bool:
    """Whether a Reshape only takes batch and heads apart, or puts them together."""
    x = node.inputs[0]
    a, b = x.shape if x is not None else None, node.output.shape
    if a is None or b is None or sorted((len(a), len(b))) != [3, 4]:
        return False
    narrow, wide = (a, b) if len(a) == 3 else (b, a)
    return same_shape(narrow[1:], wide[2:]) and same_dim(narrow[0], mul(wide[0], wide[1]))


def same_shape_or_wider(x: Value, mask: Value) -> bool:
    """Whether adding ``mask`` cannot make ``x`` larger."""
    if x.shape is None or mask.shape is None or len(mask.shape) > len(x.shape):
        return False
    offset = len(x.shape) - len(mask.shape)
    pairs = zip(mask.shape, x.shape[offset:], strict=True)
    # Two different symbols on the last axes are one extent in every run that does not fail: neither is 1 by itself.
    return all(m == 1 or same_dim(m, d) or (_is_open(m) and _is_open(d)) for m, d in pairs)


def _is_open(d: Dim) -> bool:
    return d is not None and not isinstance(d, int)


def _leads_to_product(x: Value) -> bool:
    """Whether the first way up (through what scales and masks) ends at a product."""
    stack = [x]
    for _ in range(LONGEST):
        if not stack:
            return False
        node = stack.pop().producer
        if node is None or node.domain:
            continue
        if node.op == "MatMul":
            return True
        if (node.op in ("Mul", "Div") and number(node)) or node.op in ("Tanh", "Reshape", "Sub", "Cast"):
            stack.append(other(node) if node.op in ("Mul", "Div") else _operand(node, 0))
        elif node.op in ("Add", "Where"):
            stack.extend(v for v in node.inputs[-2:] if v is not None and v.rank in (3, 4) and v.data is None)
    return False


def _operand(node: Node, i: int) -> Value:
    value = node.inputs[i]
    if value is None:
        raise NoMatch(f"operand {i} of {node.op} is absent")
    return value


def number(node: Node) -> float:
    """By what a Mul or Div scales; 0 where that is not a constant number."""
    if node.op == "Mul":
        found = next((n for v in node.inputs if (n := scalar_value(v, node)) is not None), None)
        return float(found or 0.0)
    found = scalar_value(node.inputs[1], node)
    return 1.0 / found if found else 0.0


def other(node: Node) -> Value:
    """The operand of a Mul or Div that is not its number."""
    return _operand(node, 1 if node.op == "Mul" and scalar_value(node.inputs[0], node) is not None else 0)


def private(x: Value) -> Node | None:
    """What computes ``x`` where nothing else uses it."""
    node = x.producer
    return node if node is not None and not node.domain and len(x.uses) == 1 else None


def unscaled(x: Value, nodes: list[Node]) -> tuple[Value, float]:
    """``x`` before numbers scaled it, and their product."""
    scale = 1.0
    for _ in range(LONGEST):
        node = private(x)
        if node is None or node.op not in ("Mul", "Div") or not (factor := number(node)):
            break
        scale *= factor
        nodes.append(node)
        x = other(node)
    return x, scale
