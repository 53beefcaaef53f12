"""canonicalize-operands: ``c + x = x + c``.

The constant operand of a commutative operator goes to the right, where patterns and later passes look.

**Why**    one spelling instead of two; equal expressions become equal nodes.
**Needs**  an operator that commutes to the bit, one constant operand and one that is not.
**Leaves** Max and Min of floats: which of -0.0 and +0.0 they return depends on the order; operators before
           opset 7, where only the second operand broadcasts.
**Numbers** exact.
**Source** IEEE 754: addition and multiplication commute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.graph import Node
from ...ir.ops import commutes
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import MODIFIED, NodeRule, NoMatch, Replacement

_OPS = ("Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Max", "Min", "Sum")


@dataclass
class CanonicalizeOperands(RewritePass):
    """Puts constants to the right of commutative operators."""

    def rules(self) -> Iterable[NodeRule]:
        return [ConstantToTheRight()]


class ConstantToTheRight(NodeRule):
    """Swaps the operands."""

    roots = _OPS

    def promising(self, node: Node) -> bool:
        first = node.inputs[0] if node.inputs else None
        return first is not None and first.data is not None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        if not self.promising(node):
            raise NoMatch("the first operand is not constant")
        if not commutes(node) or node.inputs[1] is None or node.inputs[1].data is not None:
            raise NoMatch("both operands are constant, or there are not two")
        if node.version < 7:
            raise NoMatch("before opset 7 only the second operand broadcasts")
        dtype = node.inputs[1].dtype
        if node.op in ("Max", "Min") and (dtype is None or not dtype.is_integer):
            raise NoMatch(f"{node.op} of floats returns one of two zeros by their order")
        r.set_inputs(node, [node.inputs[1], node.inputs[0]])
        return MODIFIED
