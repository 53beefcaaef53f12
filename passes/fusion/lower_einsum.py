"""Write an Einsum of two operands as the matrix product that it is.

    einsum("bqhd,bkhd->bhqk", q, k) = matmul(q^(b,h,q,d), k^(b,h,d,k))
    einsum("abc,cde->abde", x, w)   = reshape(matmul(x, reshape(w, [c, d*e])), [a, b, d, e])

Labels are sorted into those that both operands keep (the batch), those that are summed over, and those of one operand.
The operands are swapped where the result is written that way round, so that no Transpose of the result is needed.

**Why** no pass and no runtime looks into an equation: attention, linear layers and their fusions appear only after
this. Keras and JAX exporters write every projection of an attention as an Einsum.
**Needs** two operands of known rank; every label once in an operand; labels of one operand that the result keeps;
shared labels whose extents are known to be equal; where several labels become one axis, extents that a constant Reshape
can say.
**Leaves** traces, sums over one operand, outer products, broadcast batches.
**Numbers** reassociates.
**Source** Einsum-12.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...ir.dims import Dim, product, same_dim
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.targets import emit_reshape, reshape_target

_TYPES = (DType.F32, DType.F16, DType.F64, DType.BF16)


@dataclass
class LowerEinsum(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield OfTwo()


@dataclass
class _Factor:
    """One operand with its labels."""

    x: Value
    labels: str

    def extent(self, label: str) -> Dim:
        return self.x.shape[self.labels.index(label)] if self.x.shape is not None else None


class OfTwo(NodeRule):
    """An Einsum of two operands."""

    roots = ("Einsum",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        a, b, out = _equation(node)
        batch = [c for c in out if c in a.labels and c in b.labels]
        summed = [c for c in a.labels if c in b.labels and c not in out]
        if not summed:
            raise NoMatch("nothing is summed over: an outer product")
        for label in (*batch, *summed):
            if not same_dim(a.extent(label), b.extent(label)):
                raise NoMatch(f"extents {a.extent(label)} and {b.extent(label)} of label {label} may differ")
        if _comes_first(out, b, a):
            a, b = b, a
        rows, columns = _own(a, b, out), _own(b, a, out)
        # Without a batch the left factor may have any number of axes of rows: the right one is one matrix.
        row_axes = [[c] for c in rows] if rows and not batch else [rows]
        stack = [[c] for c in batch]
        left = _laid_out(r, a, [*stack, *row_axes, summed], node)
        right = _laid_out(r, b, [*stack, summed, columns], node)
        y = r.MatMul(left, right)
        made = [*batch, *rows, *columns]
        if any(len(axes) != 1 for axes in (*row_axes, columns)):
            extents = [a.extent(c) if c in a.labels else b.extent(c) for c in made]
            y = _reshaped(r, y, extents, node)
        order = tuple(made.index(c) for c in out)
        return y if order == tuple(range(len(order))) else r.Transpose(y, perm=order)


def _laid_out(r: Rewriter, factor: _Factor, axes: list[list[str]], like: Node) -> Value:
    """The operand with one axis for every list of labels."""
    order = tuple(factor.labels.index(c) for labels in axes for c in labels)
    x = factor.x if order == tuple(range(len(order))) else r.Transpose(factor.x, perm=order)
    if all(len(labels) == 1 for labels in axes):
        return x
    return _reshaped(r, x, [product(factor.extent(c) for c in labels) for labels in axes], like)


def _reshaped(r: Rewriter, x: Value, extents: Sequence[Dim], like: Node) -> Value:
    target = reshape_target(x.shape, extents, nonempty=True)
    if target is None:
        raise NoMatch(f"a Reshape to {list(extents)} that constants cannot say")
    return emit_reshape(r, x, target, like)


def _equation(node: Node) -> tuple[_Factor, _Factor, str]:
    text = str(node.attr("equation", "")).replace(" ", "")
    left, arrow, out = text.partition("->")
    terms = left.split(",")
    if len(terms) != 2 or len(node.inputs) != 2:
        raise NoMatch(f"{len(node.inputs)} operands, expected 2")
    if not arrow:
        out = "..." if "..." in left else ""
        out += "".join(sorted(c for c in set(left) - {",", "."} if left.count(c) == 1))
    terms, out = _without_ellipsis(node, terms, out)
    factors: list[_Factor] = []
    for x, labels in zip(node.inputs, terms, strict=True):
        if x is None or x.shape is None or len(x.shape) != len(labels) or x.dtype not in _TYPES:
            raise NoMatch(f"operand {labels!r} is {x.type if x is not None else None}")
        factors.append(_Factor(x, labels))
    if any(len(set(labels)) != len(labels) for labels in (*terms, out)):
        raise NoMatch(f"the equation {text!r} takes a diagonal")
    a, b = factors
    lone = [c for f, g in ((a, b), (b, a)) for c in f.labels if c not in g.labels and c not in out]
    if lone:
        raise NoMatch(f"label {lone[0]} of one operand is summed over")
    return a, b, out


def _without_ellipsis(node: Node, terms: list[str], out: str) -> tuple[list[str], str]:
    """Labels of their own for the axes that an ellipsis stands for, the last ones first shared."""
    if not any("..." in term for term in (*terms, out)):
        return terms, out
    free = [c for c in string.ascii_letters if not any(c in term for term in (*terms, out))]
    longest, found = "", list[str]()
    for x, term in zip(node.inputs, terms, strict=True):
        if x is None or x.rank is None:
            raise NoMatch("the rank of an operand is unknown")
        count = x.rank - len(term.replace("...", "")) if "..." in term else 0
        if not 0 <= count <= len(free):
            raise NoMatch(f"operand {term!r} is {x.type}")
        labels = "".join(free[:count][::-1])
        longest = max(longest, labels, key=len)
        found.append(term.replace("...", labels))
    return found, out.replace("...", longest)


def _own(factor: _Factor, other: _Factor, out: str) -> list[str]:
    """Labels of one operand alone, in the result's order."""
    return [c for c in out if c in factor.labels and c not in other.labels]


def _comes_first(out: str, f: _Factor, g: _Factor) -> bool:
    """Whether the result has the labels of ``f`` alone in front of those of ``g`` alone."""
    first, second = _own(f, g, out), _own(g, f, out)
    return bool(first and second) and out.index(first[0]) < out.index(second[0])
