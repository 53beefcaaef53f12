"""Which rows of its operands a node needs for some rows of its result. Rows: the axis before the last.

Elementwise operators need the same rows; convolutions and poolings of images those under their windows, with a halo of
kernel minus stride rows; a product of matrices the same rows of its left factor and all of its right one.
"""

from __future__ import annotations

from collections.abc import Callable

from ....ir.graph import Attr, Node, Value
from ....ir.ops import ELEMENTWISE
from ...rewrite.rule import NoMatch
from ..windows import Pads, steps, window, window_pads

Rows = tuple[int, int]
"""First, and one behind the last."""
_WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool"})
_SCALED = frozenset({"QuantizeLinear", "DequantizeLinear"})
_LAST_AXIS = {"Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1, "RMSNormalization": -1}
"""Operators that mix what lies along their axis, with its default."""


def height(value: Value) -> int:
    """How many rows a value has. Raises ``NoMatch`` where it has none or they are unknown."""
    shape = value.shape
    if shape is None or len(shape) < 2 or not isinstance(shape[-2], int):
        raise NoMatch(f"%{value.name} has no known number of rows")
    return shape[-2]


def row_wise(node: Node) -> bool:
    """Whether the node's only result can be made a few rows at a time."""
    try:
        _needs(node)
    except NoMatch:
        return False
    return True


def operand_rows(node: Node, i: int, rows: Rows) -> Rows | None:
    """Rows of an operand that are needed for ``rows`` of the result; ``None``: it is needed as a whole."""
    value = node.input(i)
    if value is None or value.shape is None or len(value.shape) < 2:
        return None
    return _needs(node)(i, value, rows)


def part_attributes(node: Node, rows: Rows) -> dict[str, Attr]:
    """Attributes of the node that makes ``rows`` of the result from what ``operand_rows`` says."""
    attrs = dict(node.attrs)
    if node.op not in _WINDOWS:
        return attrs
    x = node.inputs[0]
    assert x is not None
    begin, end = _under(node, rows)
    pads = window_pads(node, 2)
    attrs.pop("auto_pad", None)
    attrs["pads"] = (max(-begin, 0), pads[1], max(end - height(x), 0), pads[3])
    return attrs


def _needs(node: Node) -> Callable[[int, Value, Rows], Rows | None]:
    if node.domain != "" or node.subgraphs or len([v for v in node.outputs if v.uses]) != 1 or not node.outputs[0].uses:
        raise NoMatch("not one result of a standard operator")
    tall = height(node.output)
    if node.op in _WINDOWS:
        _check_window(node)
        return lambda i, value, rows: _clipped(node, value, rows) if i == 0 else None
    if node.op == "MatMul":
        left = node.inputs[0]
        if left is None or left.shape is None or len(left.shape) < 2 or height(left) != tall:
            raise NoMatch("the left factor has no rows")
        return lambda i, value, rows: rows if i == 0 else None
    if node.op in _SCALED:
        _check_scale(node)
        return lambda i, value, rows: rows if i == 0 else None
    if node.op in _LAST_AXIS or node.op == "Concat":
        _check_axis(node)
    elif ("", node.op) not in ELEMENTWISE and node.op != "BatchNormalization":
        raise NoMatch(f"{node.op} is not row by row")
    if node.op == "BatchNormalization" and (node.attr("training_mode", 0) or len(node.output.shape or ()) < 4):
        raise NoMatch("a normalization over rows")
    return lambda i, value, rows: rows if height(value) == tall and tall > 1 else None


def _check_axis(node: Node) -> None:
    """Rows must not be mixed, nor put behind each other."""
    rank = len(node.output.shape or ())
    axis = node.attr("axis", _LAST_AXIS.get(node.op, 0))
    if not isinstance(axis, int):
        raise NoMatch("the axis is unknown")
    axis %= rank
    last = node.op != "Concat"
    if (last and axis != rank - 1) or (not last and axis == rank - 2) or (last and node.version < 13):
        raise NoMatch("the axis is that of the rows")


def _check_scale(node: Node) -> None:
    """One scale, or one for each index of an axis that is not that of the rows."""
    x, scale = node.inputs[0], node.inputs[1]
    if x is None or x.data is not None or scale is None or scale.shape is None or node.attr("block_size", 0):
        raise NoMatch("scales by blocks, or of a constant")
    rank, axis = len(node.output.shape or ()), node.attr("axis", 1)
    if len(scale.shape) and scale.shape != (1,) and (not isinstance(axis, int) or axis % rank == rank - 2):
        raise NoMatch("a scale for each row")


def _check_window(node: Node) -> None:
    x = node.inputs[0]
    if x is None or x.shape is None or len(x.shape) != 4 or not isinstance(x.shape[2], int):
        raise NoMatch("not over an image of known height")
    if node.attr("ceil_mode", 0) or node.attr("storage_order", 0):
        raise NoMatch("windows beyond the end")
    window(node)
    window_pads(node, 2)


def _under(node: Node, rows: Rows) -> Rows:
    """Rows of the operand under the windows, padding included: negative, and beyond the height."""
    pads: Pads = window_pads(node, 2)
    stride, dilation = steps(node, "strides", 2)[0], steps(node, "dilations", 2)[0]
    begin = rows[0] * stride - pads[0]
    return begin, (rows[1] - 1) * stride - pads[0] + (window(node)[0] - 1) * dilation + 1


def _clipped(node: Node, value: Value, rows: Rows) -> Rows:
    begin, end = _under(node, rows)
    found = max(begin, 0), min(end, height(value))
    if found[0] >= found[1]:
        raise NoMatch("windows in the padding alone")
    return found
