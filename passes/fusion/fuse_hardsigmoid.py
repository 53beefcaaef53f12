"""Fuse a clamped affine function into HardSigmoid.

    clamp(a x + b; 0, c) / c        = HardSigmoid(x; alpha = a/c, beta = b/c) = max(0, min(1, alpha x + beta))
    z clamp(a x + b; 0, c) / c      = z HardSigmoid(x)                          (HardSwish where z = x)

in all spellings: Clip, Relu6, Max and Min; division by c or multiplication by 1/c, inside or behind the product.

**Why** one node for three or four; it stays in the blocked layout of convolutions on ONNX Runtime, which has no kernel
for HardSwish alone (it expands into these two nodes).
**Needs** scalar constants; f32 or f16; no other user in between.
**Leaves** c = 1 without any affine part (that is a Clip), other lower bounds than zero, per-channel constants.
**Numbers** reassociates.
**Source** HardSigmoid-1, -6, -22; A. Howard et al., Searching for MobileNetV3, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter
from ..rewrite.matcher import close, scalar_value
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.clamps import Clamp, clamp_chain
from ..shared.polynomial import Expansion, Polynomial, monomial, require_private, sole_atom


@dataclass
class FuseHardsigmoid(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield ClampedAffine()


class ClampedAffine(NodeRule):
    """Anchored at the clamp, because clamps are rare."""

    roots = ("Clip", "Max", "Min")

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        clamp = clamp_chain(node)
        if clamp.low != 0 or not math.isfinite(clamp.high) or clamp.high <= 0:
            raise NoMatch(f"the clamp is [{clamp.low}, {clamp.high}], expected [0, c]")
        if node.output.dtype not in (DType.F32, DType.F16):
            raise NoMatch(f"HardSigmoid of {node.output.dtype!r} is not widely implemented")
        x, slope, shift, inner = _affine(clamp)
        root, between, other = _scaled_by(node, clamp.high)
        nodes = (*clamp.nodes, *inner, *between, root)
        require_private(nodes, root)
        r.begin(root, origin_of(reversed(nodes)))
        gate = r.HardSigmoid(x, alpha=slope / clamp.high, beta=shift / clamp.high)
        if root is node:
            return gate
        r.replace(root, gate if other is None else r.Mul(other, gate))
        return MODIFIED


def _affine(clamp: Clamp) -> tuple[Value, float, float, list[Node]]:
    """Argument, slope, shift and nodes of the affine function that is clamped. Raises :class:`NoMatch`."""
    expansion = Expansion()
    found: Polynomial = expansion.of(clamp.x)
    if not expansion.nodes:
        raise NoMatch("nothing is added to or multiplied with the clamped value")
    x = sole_atom(found)
    one = monomial(x)
    if one not in found or not found.keys() <= {one, ()}:
        raise NoMatch("the clamped value is not an affine function of one value")
    return x, found[one], found.get((), 0.0), list(expansion.nodes)


def _scaled_by(node: Node, high: float) -> tuple[Node, list[Node], Value | None]:
    """The node at which ``1/high`` has been multiplied in, those before it, and the other factor if there is one."""
    user = node.output.sole_user
    if user is not None and _divides(user, node.output, high):
        return user, [], None
    if user is not None and user.op == "Mul" and user.graph is node.graph and not _is_number(user, node.output):
        other = user.inputs[1] if user.inputs[0] is node.output else user.inputs[0]
        after = user.output.sole_user
        if after is not None and _divides(after, user.output, high):
            return after, [user], other
        scaled = other.producer if other is not None and len(other.uses) == 1 else None
        if scaled is not None:
            for i in (0, 1):
                operand = scaled.input(i)
                if operand is not None and operand.data is None and _divides(scaled, operand, high):
                    return user, [scaled], operand
    if high == 1:
        return node, [], None
    raise NoMatch(f"the clamp's result is not divided by {high}")


def _is_number(node: Node, value: Value) -> bool:
    return any(v is not value and scalar_value(v, node) is not None for v in node.inputs)


def _divides(node: Node, value: Value, high: float) -> bool:
    """Whether ``node`` computes ``value / high``."""
    if node.domain or node.op not in ("Div", "Mul") or 0 < node.version < 7 or len(node.inputs) != 2:
        return False
    number = scalar_value(node.inputs[1] if node.inputs[0] is value else node.inputs[0], node)
    if number is None or node.output.dtype is None:
        return False
    if node.op == "Div":
        return node.inputs[0] is value and close(number, high, 4, node.output.dtype)
    return close(number, 1 / high, 4, node.output.dtype)
