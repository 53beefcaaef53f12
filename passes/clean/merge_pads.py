"""merge-pads: ``pad(pad(x, p), q) = pad(x, p + q)`` for the same fill.

**Why**    each Pad copies the tensor.
**Needs**  mode ``constant`` in both, constant pads without negative ones, the same constant fill to the bit.
**Leaves** other modes, whose border depends on the padded tensor; negative pads, which crop; an inner Pad
           that others use.
**Numbers** exact.
**Source** ONNX Pad, versions 2 to 25.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch, Replacement
from ..shared.attributes import require_own_attributes
from ..shared.operands import constant_of, int_list, int_operand, producer_of


@dataclass
class MergePads(RewritePass):
    """Adds up the pads of chains of Pad."""

    def rules(self) -> Iterable[NodeRule]:
        return [PadOfPad()]


class PadOfPad(NodeRule):
    """Adds the pads."""

    roots = ("Pad",)

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Pad") is not None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        inner = producer_of(node, 0, "Pad")
        if inner is None:
            raise NoMatch("the operand is not computed by Pad")
        if inner.output.sole_user is not node:
            raise NoMatch(f"%{inner.output.name} has another user")
        x = inner.inputs[0]
        if x is None or x.rank is None or node.version < 2:
            raise NoMatch("the rank is unknown")
        fill = fill_of(inner)
        if fill.tobytes() != fill_of(node).tobytes():
            raise NoMatch("the two Pads fill with different values")
        pads = [a + b for a, b in zip(pads_of(inner, x.rank), pads_of(node, x.rank), strict=True)]
        if node.version < 11:
            return r.Pad(x, pads=tuple(pads), value=node.attrs.get("value"))
        return r.Pad(x, constant_of(pads), fill_operand(node))


def fill_operand(node: Node) -> Value | None:
    """The operand that says what to fill with."""
    return node.input(2)


def fill_of(node: Node) -> np.ndarray[Any, Any]:
    """What a Pad fills with; declines other modes."""
    require_own_attributes(node)
    mode = node.attr("mode", "constant")
    if mode != "constant":
        raise NoMatch(f"mode is {mode}")
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
    if dtype is None:
        raise NoMatch("the element type is unknown")
    if node.version < 11:
        return np.asarray(node.attr("value", 0.0)).astype(dtype.numpy)
    given = fill_operand(node)
    if given is None:
        return np.zeros((), dtype.numpy)
    if given.data is None or given.data.count != 1:
        raise NoMatch("the fill is not constant")
    return given.data.numpy().reshape(())


def pads_of(node: Node, rank: int) -> list[int]:
    """Pads for every axis: all before, then all behind."""
    given = int_list(node, "pads", 1)
    if given is None or min(given, default=0) < 0:
        raise NoMatch("pads are not constant, or negative")
    if node.input(3) is None:
        axes: list[int] | None = list(range(rank))
    else:
        axes = int_operand(node, 3)
    if axes is None or len(given) != 2 * len(axes):
        raise NoMatch("axes are not constant")
    pads = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        pads[axis % rank], pads[axis % rank + rank] = given[i], given[i + len(axes)]
    return pads
