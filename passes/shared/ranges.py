"""What is known about the numbers in a tensor without running the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.constants import Constant
from ...ir.graph import Node, Value
from ..rewrite.matcher import scalar_value

_NONNEGATIVE = frozenset("Relu Sigmoid HardSigmoid Softmax Abs Exp Sqrt Softplus ReduceL1 ReduceL2".split())
_KEEPS = frozenset(
    "MaxPool AveragePool GlobalAveragePool GlobalMaxPool Identity Reshape Transpose Squeeze Unsqueeze Flatten "
    "Slice Floor Ceil".split()
)
_DEPTH = 8
MOVES = frozenset("Expand Reshape Unsqueeze Squeeze Transpose Flatten Identity Slice Tile".split())
"""Results hold elements of the operand, each once or more often, or not at all."""
_COMPARISONS = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_LONGEST = 8
_MAX_ELEMENTS = 1 << 22


def is_nonnegative(value: Value | None) -> bool:
    """Whether no element can be below zero (NaN aside). Looks at a few producers only; ``False`` means unknown."""
    for _ in range(_DEPTH):
        if value is None:
            return False
        if value.data is not None:
            return value.data.dtype.kind == "uint" or (value.data.count <= 4096 and bool((value.numpy() >= 0).all()))
        node = value.producer
        if node is None or node.domain:
            return False
        if node.op in _NONNEGATIVE:
            return True
        if node.op == "Clip":
            return _clips_at_zero(node)
        if node.op not in _KEEPS or value.index:
            return False
        value = node.input(0)
    return False


def _clips_at_zero(node: Node) -> bool:
    if node.version < 11:
        bounds = [node.attrs.get("min"), node.attrs.get("max", 1.0)]
        return all(isinstance(b, float) and b >= 0 for b in bounds)
    low, high = node.input(1), node.input(2)
    known = low is not None and low.data is not None and bool((low.numpy() >= 0).all())
    return known and (high is None or (high.data is not None and bool((high.numpy() >= 0).all())))


def everywhere(v: Value | None) -> Any:
    """The element that ``v`` has everywhere; ``None`` where that is not known. Values without elements have none."""
    for _ in range(_LONGEST):
        if v is None:
            return None
        if v.data is not None:
            return _sole_element(v)
        node = v.producer
        if node is None or node.domain:
            return None
        if node.op == "ConstantOfShape":
            filled = node.attrs.get("value")
            return _sole(filled.numpy()) if isinstance(filled, Constant) else None if "value" in node.attrs else 0.0
        if node.op in _COMPARISONS:
            return True if _is_no_less(node) else None
        if node.op == "Where":
            condition = everywhere(node.inputs[0])
            if condition is None:
                return None
            v = node.inputs[1 if condition else 2]
        elif node.op in MOVES:
            v = node.inputs[0]
        else:
            return None
    return None


def _is_no_less(node: Node) -> bool:
    """Whether a comparison asks of counted positions (0, 1, ...) if they are at least 0, or above a negative number."""
    flipped = node.op.startswith("Less")
    x, limit = (node.input(1), node.input(0)) if flipped else (node.input(0), node.input(1))
    number = scalar_value(limit, node)
    strict = not node.op.endswith("Equal")
    return number is not None and (number < 0 or (number == 0 and not strict)) and _counts(x)


def _counts(v: Value | None) -> bool:
    """Whether ``v`` is a Range that starts at 0 or above and goes up, moved about."""
    node = counted(v)
    if node is None:
        return False
    start, step = scalar_value(node.inputs[0], node), scalar_value(node.inputs[2], node)
    return start is not None and step is not None and start >= 0 and step > 0


def counted(v: Value | None) -> Node | None:
    """The Range of which ``v`` holds the elements, moved about."""
    for _ in range(_LONGEST):
        node = v.producer if v is not None else None
        if node is None or node.domain or node.op == "Range":
            return node if node is not None and not node.domain else None
        if node.op not in MOVES:
            return None
        v = node.inputs[0]
    return None


def _sole_element(v: Value) -> Any:
    data = v.data
    if data is None or not 0 < data.count <= _MAX_ELEMENTS or data.dtype.numpy == np.dtype(object):
        return None
    return _sole(data.numpy())


def _sole(array: np.ndarray[Any, Any]) -> Any:
    flat = array.reshape(-1)
    # Nearly all weights end otherwise than they begin.
    return flat[0].item() if flat[0] == flat[-1] and bool((flat == flat[0]).all()) else None
