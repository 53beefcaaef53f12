"""Extents that inference leaves unknown because two open ones may differ: operands that broadcast are taken to agree.

Images of any size meet again behind strides (feature pyramids) at extents that are equal for the sizes the model is
for. Kernels check what is assumed here when they run; an axis of extent 1 that would be spread is refused then, too.
Numbers counted up to an extent that was made a float (grids of anchors) are as many as the extent says.
"""

from __future__ import annotations

from ....ir.dims import Dim, Shape
from ....ir.graph import Graph, Node, Value
from ....ir.infer.engine import infer_node
from ....ir.types import TensorType
from ..rules.core import kind_of


def settle_extents(graph: Graph) -> None:
    """Fills in unknown extents of element by element operators, concatenations and ranges, and infers what follows."""
    settled: set[Value] = set()
    """Values of which more is known than before."""
    for node in graph:
        if all(_known(v.shape) for v in node.outputs if v.uses) and settled.isdisjoint(node.inputs):
            continue
        before = [(v.type, v.known) for v in node.outputs]
        infer_node(node)
        _settle(node)
        settled.update(v for v, old in zip(node.outputs, before, strict=True) if (v.type, v.known) != old)


def _settle(node: Node) -> None:
    own = node.outputs[0].type
    if len(node.outputs) > 1 or not isinstance(own, TensorType) or own.shape is None or _known(own.shape):
        return
    shapes = [v.shape for v in node.inputs if v is not None]
    if kind_of(node).is_elementwise or node.op == "Concat":
        agreed = tuple(_agreed(node, own.shape, shapes, i) for i in range(len(own.shape)))
        node.outputs[0].type = own.with_shape(agreed)
    elif node.op == "Range" and not node.domain:
        node.outputs[0].type = own.with_shape((_counted(node),))


def _agreed(node: Node, own: Shape, shapes: list[Shape | None], axis: int) -> Dim:
    """The extent of an axis of the result: the first operand's that is not 1."""
    if own[axis] is not None:
        return own[axis]
    found = [s[axis - len(own)] for s in shapes if s is not None and len(s) >= len(own) - axis]
    if node.op == "Concat" and int(node.attr("axis", 0)) % len(own) == axis:
        return None
    return next((dim for dim in found if dim is not None and dim != 1), None)


def _counted(node: Node) -> Dim:
    """How many numbers a range gives whose bounds are whole numbers as floats, one apart."""
    start, limit, delta = (None if v is None else _whole(v) for v in node.inputs)
    return limit - start if start is not None and limit is not None and delta == 1 else None


def _whole(value: Value) -> Dim:
    """The number that a scalar is: a constant, or an extent in another type."""
    while value.producer is not None and value.producer.op == "Cast" and value.known is None:
        source = value.producer.inputs[0]
        if source is None:
            return None
        value = source
    if value.known is not None:
        return value.known[0] if len(value.known) == 1 else None
    if value.data is None or value.data.count != 1:
        return None
    number = float(value.data.numpy().reshape(-1)[0])
    return int(number) if number.is_integer() else None


def _known(shape: Shape | None) -> bool:
    return shape is not None and None not in shape
