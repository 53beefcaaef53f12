"""Type rules of reductions, searches and orderings along axes."""

from __future__ import annotations

from ..dims import Dim, Shape
from ..dtypes import DType
from ..graph import Node
from ..types import TensorType
from .rules import (
    Types,
    attr_or_operand,
    axes_of,
    axis_of,
    dtype_of,
    elements,
    fail,
    given,
    int_attr,
    length,
    row,
    shape_of,
)


def reduced(shape: Shape, axes: list[int], keep: bool) -> Shape:
    """The shape with the axes gone, or kept as 1."""
    gone = set(axes)
    if keep:
        return tuple([1 if i in gone else d for i, d in enumerate(shape)])
    return tuple([d for i, d in enumerate(shape) if i not in gone])


_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"


@row(*[f"Reduce{kind}" for kind in _REDUCTIONS.split()])
def reduction(node: Node) -> Types:
    """Axes are an attribute before version 18 (ReduceSum: 13), an operand since."""
    dtype, shape = dtype_of(node, 0), shape_of(node, 0)
    if shape is None:
        return [TensorType(dtype)]
    keep = bool(node.attrs.get("keepdims", 1))
    nothing = bool(node.attrs.get("noop_with_empty_axes", 0))
    if not given(node, "axes", 1):
        return [TensorType(dtype, shape if nothing else reduced(shape, list(range(len(shape))), keep))]
    axes = axes_of(node, attr_or_operand(node, "axes", 1), len(shape))
    if axes is None:
        count = length(node, 1)
        if keep:
            return [TensorType(dtype, (None,) * len(shape))]
        return [TensorType(dtype, (None,) * (len(shape) - count) if count else None)]
    if not axes:
        axes = [] if nothing else list(range(len(shape)))
    return [TensorType(dtype, reduced(shape, axes, keep))]


@row("ArgMax", "ArgMin")
def arg_extreme(node: Node) -> Types:
    shape = shape_of(node, 0)
    if shape is None:
        return [TensorType(DType.I64)]
    axis = int_attr(node, "axis", 0)
    at = axis_of(node, axis, len(shape)) if shape else 0
    return [TensorType(DType.I64, reduced(shape, [at], bool(node.attrs.get("keepdims", 1))))]


@row("TopK")
def top_k(node: Node) -> Types:
    """``k`` is an attribute in version 1."""
    shape, dtype = shape_of(node, 0), dtype_of(node, 0)
    if shape is None:
        return [TensorType(dtype), TensorType(DType.I64)]
    axis = int_attr(node, "axis", -1)
    at = axis_of(node, axis, len(shape))
    k = attr_or_operand(node, "k", 1)
    count: Dim = k[0] if k is not None and len(k) == 1 else None
    extent = shape[at]
    if type(count) is int and type(extent) is int and not 0 <= count <= extent:
        fail(node, f"k is {count}, expected 0 to {extent}")
    out = (*shape[:at], count, *shape[at + 1 :])
    return [TensorType(dtype, out), TensorType(DType.I64, out)]


@row("NonZero")
def non_zero(node: Node) -> Types:
    """Positions, one column each; how many depends on the data."""
    shape = shape_of(node, 0)
    return [TensorType(DType.I64, (None if not shape else len(shape), None))]


@row("OneHot")
def one_hot(node: Node) -> Types:
    shape, dtype = shape_of(node, 0), dtype_of(node, 2)
    if shape is None:
        return [TensorType(dtype)]
    axis = int_attr(node, "axis", -1)
    at = axis_of(node, axis, len(shape) + 1)
    return [TensorType(dtype, (*shape[:at], _depth(node), *shape[at:]))]


def _depth(node: Node) -> Dim:
    found = elements(node, 1)
    if found is not None:
        return found[0] if len(found) == 1 else None
    value = node.inputs[1]
    data = value.data if value is not None else None
    # Depth may come as a float.
    return int(data.numpy().reshape(-1)[0]) if data is not None and data.count == 1 else None


@row("Compress")
def compress(node: Node) -> Types:
    shape, dtype = shape_of(node, 0), dtype_of(node, 0)
    axis = node.attrs.get("axis")
    if not isinstance(axis, int):
        return [TensorType(dtype, (None,))]
    if shape is None:
        return [TensorType(dtype)]
    at = axis_of(node, axis, len(shape))
    return [TensorType(dtype, (*shape[:at], None, *shape[at + 1 :]))]
