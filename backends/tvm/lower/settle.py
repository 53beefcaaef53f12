"""Extents that inference leaves unknown because two open ones may differ: operands that broadcast are taken to agree.

Images of any size meet again behind strides (feature pyramids) at extents that are equal for the sizes the model is
for. Kernels check what is assumed here when they run; an axis of extent 1 that would be spread is refused then, too.
"""

from __future__ import annotations

from ....ir.dims import Dim, Shape
from ....ir.graph import Graph, Node
from ....ir.infer.engine import infer_node
from ....ir.types import TensorType
from ..rules.core import kind_of


def settle_extents(graph: Graph) -> None:
    """Fills in unknown extents of element by element operators and concatenations, and infers what follows."""
    for node in graph:
        if all(_known(v.shape) for v in node.outputs if v.uses):
            continue
        infer_node(node)
        own = node.outputs[0].type
        if len(node.outputs) > 1 or not isinstance(own, TensorType) or own.shape is None or _known(own.shape):
            continue
        shapes = [v.shape for v in node.inputs if v is not None]
        if kind_of(node).is_elementwise or node.op == "Concat":
            agreed = tuple(_agreed(node, own.shape, shapes, i) for i in range(len(own.shape)))
            node.outputs[0].type = own.with_shape(agreed)


def _agreed(node: Node, own: Shape, shapes: list[Shape | None], axis: int) -> Dim:
    """The extent of an axis of the result: the first operand's that is not 1."""
    if own[axis] is not None:
        return own[axis]
    found = [s[axis - len(own)] for s in shapes if s is not None and len(s) >= len(own) - axis]
    if node.op == "Concat" and int(node.attr("axis", 0)) % len(own) == axis:
        return None
    return next((dim for dim in found if dim is not None and dim != 1), None)


def _known(shape: Shape | None) -> bool:
    return shape is not None and None not in shape
