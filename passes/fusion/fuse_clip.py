"""Fuse chains of Clip, Relu, and Max and Min with a number into one Clip or Relu.

    clamp(clamp(x; a, b); c, d) = clamp(x; clamp(a; c, d), clamp(b; c, d))        clamp(x; a, b) = min(max(x, a), b)

**Why** one pass over the tensor for each node less; runtimes fuse Relu and Clip into the convolution in front, Max and
Min never.
**Needs** constant bounds of one element that do not raise the operand's rank; no other user in between.
**Leaves** computed bounds, a single Max or Min that is no Relu, element types that the opset's Clip does not take.
**Numbers** exact for finite elements; a zero may change its sign. NaN stays NaN by the standard, before and after
(runtimes differ).
**Source** Clip-6, -11, -12, -13.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.clamps import CLAMPS, clamp_chain, emit_clamp


@dataclass
class FuseClip(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.EXACT

    def rules(self) -> Iterable[NodeRule]:
        yield OneClamp()


class OneClamp(NodeRule):
    """A clamp of clamps, or one with a shorter spelling."""

    roots = CLAMPS

    def apply(self, r: Rewriter, node: Node) -> Value:
        producer = node.inputs[0].producer if node.inputs and node.inputs[0] is not None else None
        if node.op == "Relu" and (producer is None or producer.op not in CLAMPS):
            raise NoMatch("one Relu is as short as it gets")
        clamp = clamp_chain(node)
        if len(clamp.nodes) == 1 and not (node.op != "Relu" and clamp.low == 0 and clamp.high == math.inf):
            raise NoMatch(f"one {node.op} is as short as it gets")
        if len(clamp.nodes) == 1 and clamp.x.dtype is not None and not clamp.x.dtype.is_float:
            raise NoMatch(f"one {node.op} of {clamp.x.dtype!r} is as short as it gets")
        return emit_clamp(r, clamp)
