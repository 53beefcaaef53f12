"""Remove replacements of NaN where no NaN can be.

    Where(IsNaN(s), c, s) = s            s finite in every run

Bounds are followed from the inputs: integers are bounded, embeddings are constants, a normalization and a softmax give
bounded results. In a text encoder everything is finite, whatever the text.

    where(isnan(p), 0, p) V = p V          p = softmax(q K^T), and q, K, V linear in one normalization

is the other case, for inputs of floats. A normalization gives bounded rows and rows with NaN; a product with a matrix
of weights makes NaN of every element of such a row. If the row of a query has NaN so has that of its value; if that of
a key has, so has that of its value. Then 0 V is NaN as well: with the guard and without it the result is the same.

**Why** PyTorch's second exporter guards every softmax: two passes over the scores, and no runtime's attention fusion
sees through them.
**Needs** a bound for everything that s is computed from (see ``shared/bounds.py``); a mask that is finite, not -inf.
**Leaves** other guards in models with floating-point inputs, which may hold NaN or infinity themselves, and masks of
-inf, with which a softmax of nothing is NaN: there the guard does something.
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from ...ir.dims import same_shape
from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.attention_scores import scores_of
from ..shared.bounds import Bounds
from ..shared.operands import perm_of, producer_of

_LONGEST = 12
"""Nodes between a product with weights and the product of matrices."""


@dataclass
class RemoveNanGuard(RewritePass):
    """See the module."""

    def rules(self) -> Iterable[NodeRule]:
        yield DeadGuard()


class DeadGuard(NodeRule):
    """A Where that asks whether its own operand is NaN or infinite."""

    roots = ("Where",)

    def __init__(self) -> None:
        self.bounds = Bounds()

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "IsNaN", "IsInf") is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        question = producer_of(node, 0, "IsNaN", "IsInf")
        kept = node.inputs[2]
        if question is None or kept is None:
            raise NoMatch("the condition does not ask for NaN or infinity")
        tested = question.inputs[0]
        # What concerns one layer first: bounds read the weights of all layers in front.
        if not _is_idle(node, tested) and self.bounds.of(tested) is None:
            raise NoMatch(f"%{tested.name if tested is not None else '?'} is not known to be finite")
        if kept.shape is None or node.output.shape is None or kept.shape != node.output.shape or None in kept.shape:
            raise NoMatch("the replacement widens the value")
        return kept


@dataclass
class _Rows:
    """How a stack of matrices is made of the rows of a normalization."""

    source: Value
    """[.., S, W]"""
    moves: list[tuple[str, object]]
    """What moves its elements, nearest to the product with weights first."""


def _is_idle(guard: Node, tested: Value | None) -> bool:
    """Whether NaN in the probabilities ``tested`` comes with NaN in the values they are multiplied with."""
    softmax, product = tested.producer if tested is not None else None, guard.output.sole_user
    if tested is None or softmax is None or softmax.op != "Softmax" or softmax.domain or guard.inputs[2] is not tested:
        return False
    if product is None or product.op != "MatMul" or product.domain or product.inputs[0] is not guard.output:
        return False
    try:
        scores = scores_of(softmax.inputs[0]) if softmax.inputs[0] is not None else None
    except NoMatch:
        return False
    if scores is None or scores.terms or softmax.attr("axis", -1) not in (-1, (tested.rank or 0) - 1):
        return False
    parts = [_rows(v) for v in (scores.product.inputs[0], scores.product.inputs[1], product.inputs[1])]
    q, k, v = parts
    if q is None or k is None or v is None or not (q.source is k.source is v.source):
        return False
    bounds = Bounds()
    return (
        q.moves == v.moves == _turned(k.moves)
        and bounds.of_rows(v.source) is not None
        and bounds.of(softmax.inputs[0]) is not None
    )


def _rows(value: Value | None) -> _Rows | None:
    """Back from ``value`` over movement, constant factors and biases to a product of a normalization with weights."""
    moves: list[tuple[str, object]] = []
    for _ in range(_LONGEST):
        node = value.producer if value is not None else None
        if value is None or node is None or node.domain:
            return None
        x = node.inputs[0]
        if node.op == "Reshape":
            moves.append((node.op, tuple(map(str, value.shape or ("?",)))))
        elif node.op == "Transpose":
            moves.append((node.op, perm_of(node)))
        elif node.op in ("Mul", "Div", "Add"):
            constant = next((v for v in node.inputs[::-1] if v is not None and v.data is not None), None)
            x = next((v for v in node.inputs if v is not constant), None)
            inverse = node.op == "Div" and x is not node.inputs[0]
            if constant is None or x is None or inverse or not same_shape(x.shape, value.shape):
                return None
        elif node.op in ("MatMul", "Gemm"):
            w = node.inputs[1]
            linear = w is not None and w.data is not None and w.rank == 2 and not node.attr("transA", 0)
            norm = x.producer if x is not None else None
            fits = norm is not None and norm.op == "LayerNormalization" and not norm.domain
            return _Rows(x, moves[::-1]) if linear and fits and x is not None and _is_last(norm, x) else None
        else:
            return None
        value = x
    return None


def _is_last(norm: Node | None, x: Value) -> bool:
    return norm is not None and norm.attr("axis", -1) in (-1, (x.rank or 0) - 1) and norm.outputs[0] is x


def _turned(moves: list[tuple[str, object]]) -> list[tuple[str, object]] | None:
    """The moves of keys as they would be without the last Transpose, which swaps the last two axes."""
    if not moves or moves[-1][0] != "Transpose" or not isinstance(moves[-1][1], tuple):
        return None
    perm = list(cast("tuple[int, ...]", moves[-1][1]))
    perm[-2:] = perm[:-3:-1]
    return moves[:-1] if perm == sorted(perm) else [*moves[:-1], ("Transpose", tuple(perm))]
