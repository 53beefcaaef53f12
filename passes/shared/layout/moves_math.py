"""Layout behaviour of operators that compute: elementwise, along an axis, over windows, matrix products.

QuantizeLinear and DequantizeLinear have no rule: runtimes look for them right beside what they compute on integers, and
a Transpose that came between would leave it in floats.
"""

from __future__ import annotations

import numpy as np

from ....ir.graph import Node, Value
from ....ir.ops import BINARY, UNARY, VARIADIC
from ...rewrite.rewriter import Rewriter
from ..emit import unsqueeze
from ..operands import has_list, int_list, normalized
from .moves import Move, Operands, axis_attr, emitted, main, register
from .orders import Order, inverse, plain, with_axes, without

_UNARY = " ".join(sorted(op for _, op in UNARY))
_NARY = " ".join(sorted(op for _, op in BINARY | VARIADIC))
_BROADCASTS_SINCE = 7


def rank_of(value: Value | None) -> int:
    """Its rank; 0 where it is unknown (rules see only values of known rank)."""
    return (value.rank or 0) if value is not None else 0


@register(_UNARY)
@register("Gelu FastGelu QuickGelu", domain="com.microsoft")
def unary(node: Node, order: Order) -> Move | None:
    """One operand, and parameters that are scalars."""
    if any(v is not None and rank_of(v) for v in node.inputs[1:]):
        return None
    takes = (order, *(None for _ in node.inputs[1:]))
    return Move(takes, (order,), lambda r, operands: emitted(r, node, *operands))


@register(_NARY)
def elementwise(node: Node, order: Order) -> Move | None:
    """Several operands that broadcast."""
    rank = rank_of(node.output)
    if len(order) != rank or (len(node.inputs) > 1 and node.version < _BROADCASTS_SINCE):
        return None
    takes: list[Order | None] = []
    for value in node.inputs:
        wanted = _broadcast_order(value, order)
        if wanted is False:
            return None
        takes.append(wanted)  # type: ignore[arg-type]

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        placed = [v if t is not None else _aligned(r, v, order) for v, t in zip(operands, takes, strict=True)]
        return emitted(r, node, *placed)

    return Move(tuple(takes), (order,), build)


def _broadcast_order(value: Value | None, order: Order) -> Order | bool | None:
    """The order of an operand under the result's; ``None`` where it is aligned while building, ``False`` where the
    operand cannot follow."""
    if value is None or value.data is not None or rank_of(value) == 0:
        return None
    rank, short = len(order), len(order) - rank_of(value)
    if short == 0:
        return order
    if set(order[short:]) == set(range(short, rank)):
        return tuple(a - short for a in order[short:])
    return None if sum(d != 1 for d in value.shape or ()) <= 1 else False


def _aligned(r: Rewriter, value: Value | None, order: Order) -> Value | None:
    """A constant, or a value with one extent above 1, as the operand of a result stored in ``order``."""
    if value is None or rank_of(value) == 0 or all(d == 1 for d in value.shape or ()):
        return value
    short = len(order) - rank_of(value)
    if value.data is not None:
        array = value.numpy()
        array = array.reshape((1,) * short + array.shape).transpose(order)
        lead = next((i for i, d in enumerate(array.shape) if d != 1), 0)
        return r.const(np.ascontiguousarray(array.reshape(array.shape[lead:])), name=value.name)
    if rank_of(value) == 1:  # no axis moves: those of extent 1 come in behind it
        return unsqueeze(r, value, range(1, len(order) - order.index(len(order) - 1)))
    return r.Transpose(unsqueeze(r, value, range(short)), perm=order)


@register("Softmax LogSoftmax Hardmax")
def along_axis(node: Node, order: Order) -> Move | None:
    """A function along one axis (as of opset 13: before, axes behind it counted too)."""
    axis = axis_attr(node, len(order), -1)
    if axis is None or node.version < 13:
        return None
    at = order.index(axis)
    return Move((order,), (order,), lambda r, operands: emitted(r, node, *operands, axis=at), at)


@register("LayerNormalization RMSNormalization")
def last_axis(node: Node, order: Order) -> Move | None:
    """Norms of the last axis alone: the others may come in any order."""
    rank = len(order)
    if axis_attr(node, rank, -1) != rank - 1 or order[-1] != rank - 1 or len(node.outputs) != 1:
        return None
    takes = (order, *(None for _ in node.inputs[1:]))
    return Move(takes, (order,), lambda r, operands: emitted(r, node, *operands))


def _kept(node: Node) -> bool:
    return bool(node.attr("keepdims", 1))


def _reduced_axes(node: Node, rank: int) -> list[int] | None:
    if node.op in ("ArgMax", "ArgMin"):
        axis = axis_attr(node, rank, 0)
        return None if axis is None else [axis]
    if not has_list(node, "axes", 1):
        return None
    axes = int_list(node, "axes", 1)
    return normalized(axes, rank) if axes else None


def _before_reduction(node: Node, order: Order) -> Order | None:
    rank = rank_of(node.inputs[0])
    axes = _reduced_axes(node, rank)
    return None if axes is None else order if _kept(node) else with_axes(order, axes)


_REDUCTIONS = "Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare"


@register(" ".join(f"Reduce{name}" for name in _REDUCTIONS.split()) + " ArgMax ArgMin", _before_reduction)
def reduction(node: Node, order: Order) -> Move | None:
    """Over axes that are known."""
    rank = len(order)
    axes = _reduced_axes(node, rank)
    if axes is None:
        return None
    moved = sorted(order.index(a) for a in axes)
    takes = (order, *(None for _ in node.inputs[1:]))

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        if node.op in ("ArgMax", "ArgMin"):
            return emitted(r, node, operands[0], axis=moved[0])
        if node.input(1) is None:
            return emitted(r, node, operands[0], axes=tuple(moved))
        return emitted(r, node, operands[0], r.const(np.array(moved, np.int64)))

    return Move(takes, (order if _kept(node) else without(order, axes),), build, moved[-1] if _kept(node) else None)


@register("CumSum")
def cumulative(node: Node, order: Order) -> Move | None:
    """Along a constant axis."""
    axes = int_list(node, "axis", 1)
    found = normalized(axes, len(order)) if axes is not None and len(axes) == 1 else None
    if found is None:
        return None
    at = order.index(found[0])

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        return emitted(r, node, operands[0], r.const(np.array(at, np.int64)))

    return Move((order, None), (order,), build, at)


@register("BatchNormalization")
def channelwise(node: Node, order: Order) -> Move | None:
    """Where axis 1 stays the channels, or where all channels are treated alike and any axis can be taken for them."""
    if len(order) < 2 or len(node.outputs) != 1:
        return None
    takes = (order, *(None for _ in node.inputs[1:]))
    if order[1] == 1:
        return Move(takes, (order,), lambda r, operands: emitted(r, node, *operands))
    alike = [_one_number(v) for v in node.inputs[1:5]]
    extent = node.output.shape[order[1]] if node.output.shape is not None else None
    if node.attr("training_mode", 0) or not isinstance(extent, int) or None in alike:
        return None

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        spread = [r.const(np.broadcast_to(a, (extent,)).copy()) for a in alike if a is not None]
        return emitted(r, node, operands[0], *spread)

    return Move(takes, (order,), build)


def _one_number(value: Value | None) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    """The element of a constant that holds one number everywhere."""
    if value is None or value.data is None or not value.data.count:
        return None
    flat = value.numpy().reshape(-1)
    return flat[:1] if bool((flat == flat[0]).all()) else None


@register("MatMul")
def product(node: Node, order: Order) -> Move | None:
    """Axes in front of the matrices', and rows of the left one where the right one is a plain matrix."""
    a, b = node.inputs
    rank = len(order)
    if rank < 2 or rank_of(a) != rank or main(node) != 0 or order[-1] != rank - 1:
        return None
    if rank_of(b) == 2 and b is not None and b.data is not None:
        return Move((order, None), (order,), lambda r, operands: emitted(r, node, *operands))
    if rank_of(b) != rank or order[-2] != rank - 2 or (b is not None and b.data is not None):
        return None
    return Move((order, order), (order,), lambda r, operands: emitted(r, node, *operands))


def spatial(order: Order) -> bool:
    """Whether batch and channels stay in front."""
    return order[:2] == (0, 1)


def windows(node: Node, order: Order) -> dict[str, tuple[int, ...]]:
    """Attributes of a convolution or pooling whose spatial axes are stored in another order; raises ``KeyError``
    for one whose attributes do not fit its rank."""
    axes = [a - 2 for a in order[2:]]
    changed: dict[str, tuple[int, ...]] = {}
    for name in ("kernel_shape", "strides", "dilations", "output_padding", "output_shape"):
        found = node.attrs.get(name)
        if isinstance(found, tuple):
            changed[name] = tuple(int(found[a]) for a in axes)  # type: ignore[arg-type]
    pads = node.attrs.get("pads")
    if isinstance(pads, tuple):
        n = len(axes)
        changed["pads"] = tuple(int(pads[a + side]) for side in (0, n) for a in axes)  # type: ignore[arg-type]
    return changed


@register("MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool")
def pooling(node: Node, order: Order) -> Move | None:
    """Spatial axes in any order."""
    if not spatial(order) or len(node.outputs) != 1:
        return None
    changed = windows(node, order)
    return Move((order,), (order,), lambda r, operands: emitted(r, node, *operands, **changed))


@register("InstanceNormalization")
def instance(node: Node, order: Order) -> Move | None:
    """Spatial axes in any order."""
    if not spatial(order):
        return None
    return Move((order, None, None), (order,), lambda r, operands: emitted(r, node, *operands))


def _as_written(node: Node, order: Order) -> Order | None:
    """The order of a shape is always the written one; that says nothing of the operand's."""
    return None


@register("Shape", _as_written)
def shape(node: Node, order: Order) -> Move | None:
    """Extents, put back into the written order."""
    if node.attrs:
        return None
    back = np.array(inverse(order), np.int64)

    def build(r: Rewriter, operands: Operands) -> list[Value]:
        return [r.Gather(r.Shape(operands[0]), r.const(back))]

    return Move((order,), (plain(1),), build)
