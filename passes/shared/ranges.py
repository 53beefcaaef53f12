"""What is known about the numbers in a tensor without running the model."""

from __future__ import annotations

from ...ir.graph import Node, Value

_NONNEGATIVE = frozenset("Relu Sigmoid HardSigmoid Softmax Abs Exp Sqrt Softplus ReduceL1 ReduceL2".split())
_KEEPS = frozenset(
    "MaxPool AveragePool GlobalAveragePool GlobalMaxPool Identity Reshape Transpose Squeeze Unsqueeze Flatten "
    "Slice Floor Ceil".split()
)
_DEPTH = 8


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
