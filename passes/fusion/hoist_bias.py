"""Add a bias before the last axis is split into heads, not behind.

    reshape(x, [.., H, D]) + b [H, D] = reshape(x + reshape(b, [H*D]), [.., H, D])

**Why** the sum stands beside the product, where every runtime computes it in one go, and the Reshape beside the
Transpose for heads, where attention is looked for. Keras adds its biases behind.
**Needs** a Reshape that only splits the last axis, with extents that are known numbers, and no other user; a constant
that does not differ along the axes in front.
**Leaves** constants that widen the result, or that are one number (they are scales and shifts of other passes).
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.dims import same_shape
from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..shared.emit import again
from ..shared.operands import producer_of

_OPSET = 7


@dataclass
class HoistBias(RewritePass):
    """See the module."""

    def rules(self) -> Iterable[NodeRule]:
        yield BeforeSplit()


class BeforeSplit(NodeRule):
    """The sum."""

    roots = ("Add",)

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Reshape") is not None or producer_of(node, 1, "Reshape") is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        at = 0 if producer_of(node, 0, "Reshape") is not None else 1
        view, bias = producer_of(node, at, "Reshape"), node.inputs[1 - at]
        if view is None or bias is None or bias.data is None or r.opset() < _OPSET:
            raise NoMatch("no sum of a Reshape and a constant")
        if view.graph is not node.graph or len(view.output.uses) != 1:
            raise NoMatch(f"%{view.output.name} has another user")
        x, inner = view.inputs[0], _inner_extents(view)
        rank = view.output.rank or 0
        if x is None or len(bias.data.shape) > rank or bias.data.count == 1:
            raise NoMatch(f"the constant is {bias.type}")
        front = len(bias.data.shape) - len(inner)
        if any(d != 1 for d in bias.data.shape[: max(front, 0)]):
            raise NoMatch(f"the constant is {bias.type}, which differs along axes in front of {list(inner)}")
        array = bias.numpy().reshape(bias.data.shape[max(front, 0) :])
        wide = np.ascontiguousarray(np.broadcast_to(array, inner)).reshape(-1)
        r.begin(node, origin_of([view, node]))
        total = r.Add(x, r.const(ArrayConstant(wide, bias.data.dtype), name=bias.name))
        return again(r, view, total, *view.inputs[1:])


def _inner_extents(view: Node) -> tuple[int, ...]:
    """Extents that the last axis is split into. Raises :class:`NoMatch` where the Reshape does something else."""
    x = view.inputs[0].shape if view.inputs[0] is not None else None
    y = view.output.shape
    if x is None or y is None or len(y) <= len(x) or not x:
        raise NoMatch("the Reshape does not split an axis")
    inner = tuple(d for d in y[len(x) - 1 :] if isinstance(d, int))
    if not same_shape(x[:-1], y[: len(x) - 1]) or len(inner) != len(y) - len(x) + 1 or x[-1] != int(np.prod(inner)):
        raise NoMatch("the Reshape does not split the last axis alone")
    return inner
