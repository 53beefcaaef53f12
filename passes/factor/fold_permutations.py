"""fold-permutations: a Gather that only puts channels in another order goes into a weight in front of it or behind it.

    Gather(f(x W + b), order) = f(x W[:, order] + b[order])
    f(Gather(x, order)) W     = f(x) W[inverse, :]               f elementwise

**Why**    the compact form of a factorized weight (``factorize-matmul``) keeps chosen channels in front where rounding
           asks for it; the copy that puts them there costs as much as a tenth of a small product.
**Needs**  a constant permutation of the last axis; between Gather and product only elementwise operators of one
           operand, and no other user.
**Leaves** selections that are no permutation, other axes, weights with other users that are large, convolutions (whose
           channels are copied in blocks).
**Numbers** reassociates: kernels may sum in another order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.graph import Node, Value
from ...ir.ops import UNARY
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.activations import CONTRIB, qualified
from ..shared.attributes import require_own_attributes
from ..shared.emit import again
from ..shared.linear import SHARED_BYTES, Linear, linear_at, linear_of, require_cheap_copy, with_outputs

Array = np.ndarray[Any, Any]
_LONGEST = 8
"""Elementwise operators in a row that are looked through."""


@dataclass
class FoldPermutations(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield PermutationBehindProduct()
        yield PermutationInFrontOfProduct()


class PermutationBehindProduct(NodeRule):
    """The outputs of the product are written in the order that is wanted."""

    roots = ("Gather",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        order = _permutation(node)
        value, between = _operand(node), list[Node]()
        while _passes(value.producer) and len(between) < _LONGEST:
            between.append(_sole_maker(value))
            value = _operand(between[-1])
        linear = linear_at(value, "the permuted value")
        if linear.channels != len(order) or linear.side == 0:
            raise NoMatch(f"the product has {linear.channels} outputs, {len(order)} are permuted")
        r.begin(node, origin_of([linear.node, node]))
        y = with_outputs(r, linear, order)
        for step in reversed(between):
            y = again(r, step, y, *step.inputs[1:])
        return y


class PermutationInFrontOfProduct(NodeRule):
    """The weight reads what is there in the order in which it comes."""

    roots = ("Gather",)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        order = _permutation(node)
        value, user = node.output, node.output.sole_user
        for _ in range(_LONGEST):
            if user is None or not _passes(user):
                break
            value, user = user.output, user.output.sole_user
        if user is None or user.op not in ("MatMul", "Gemm") or user.domain or user.inputs[0] is not value:
            raise NoMatch(f"%{value.name} is not read by one product alone")
        linear = _reader(user, len(order))
        assert linear.weight.data is not None
        data = linear.weight.data
        axis = 1 if user.op == "Gemm" and user.attr("transB") else 0
        made = ArrayConstant(np.take(data.numpy(), np.argsort(order), axis), data.dtype)
        r.begin(user)
        r.set_input(user, 1, r.const(made, name=linear.weight.name))
        return _operand(node)


def _reader(user: Node, count: int) -> Linear:
    """The product that reads the permuted value. Raises :class:`NoMatch`."""
    linear = linear_of(user)
    data = linear.weight.data
    if data is None or len(data.shape) != 2 or linear.side == 0 or user.attr("transA", 0):
        raise NoMatch("it is no product of rows with a matrix")
    if count != data.shape[1 if user.op == "Gemm" and user.attr("transB") else 0]:
        raise NoMatch(f"the weight has shape {list(data.shape)}, {count} channels are permuted")
    require_cheap_copy(linear.weight, SHARED_BYTES)
    return linear


def _permutation(node: Node) -> Array:
    """The order of the last axis. Raises :class:`NoMatch` where it is none."""
    require_own_attributes(node)
    x, indices = _operand(node), node.inputs[1]
    axis, rank = int(node.attr("axis", 0)), x.rank
    if axis != -1 and (rank is None or axis != rank - 1):
        raise NoMatch(f"axis {axis} of rank {rank or 'unknown'} is not the last")
    if indices is None or indices.data is None or len(indices.data.shape) != 1:
        raise NoMatch("the indices are no constant list")
    extent = x.shape[-1] if x.shape else None
    order = indices.data.numpy()
    if not isinstance(extent, int) or len(order) != extent:
        raise NoMatch(f"{len(order)} of {extent or 'an unknown number of'} channels are taken")
    order = np.where(order < 0, order + extent, order)
    if not np.array_equal(np.sort(order), np.arange(extent)):
        raise NoMatch("some channels are taken more than once")
    return order


def _operand(node: Node) -> Value:
    x = node.inputs[0]
    assert x is not None
    return x


def _passes(node: Node | None) -> bool:
    """Whether it computes each number from that number alone."""
    if node is None or not node.inputs or ((node.domain, node.op) not in UNARY and qualified(node) not in CONTRIB):
        return False
    return all(v is None or v.data is not None for v in node.inputs[1:])


def _sole_maker(value: Value) -> Node:
    node = value.producer
    if node is None or len(value.uses) != 1:
        raise NoMatch(f"%{value.name} has another user")
    return node
