"""What keeps the blocked layout of convolutions (channels in groups of one vector) on ONNX Runtime for x86.

Measured on ONNX Runtime 1.31.1: an operator of these takes and gives blocked tensors, any other one between two
convolutions costs a reordering on each side.
"""

from __future__ import annotations

from ...ir.graph import Node, Value
from ..rewrite.matcher import scalar_value
from ..target import Target

_WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_POINTWISE = frozenset("Relu Sigmoid Tanh HardSigmoid LeakyRelu Clip Gelu HardSwish QuickGelu".split())
_DEPTH = 4


def lanes_of(target: Target | None) -> int:
    """Channels in a block: ONNX Runtime has kernels for 8 (SSE to AVX2) and 16 (AVX-512)."""
    return 16 if target is not None and target.arch == "x86_64" and target.vector_bits >= 512 else 8


def is_window(node: Node) -> bool:
    """A convolution with constant weights, or a pooling, of one spatial axis (it can be raised) or two."""
    if node.domain or node.op not in _WINDOWS or node.output.rank not in (3, 4):
        return False
    weight = node.input(1)
    return node.op != "Conv" or (weight is not None and weight.data is not None)


def is_blocked_producer(value: Value) -> bool:
    """Whether ``value`` comes out of a window operation, directly or through activations and sums."""
    for _ in range(_DEPTH):
        node = value.producer
        if node is None:
            return False
        if is_window(node) or node.op == "BatchNormalization":
            return True
        if node.op not in _POINTWISE and not _joins(node):
            return False
        operand = node.input(0)
        if operand is None:
            return False
        value = operand
    return False


def is_blocked_user(node: Node) -> bool:
    """Whether ``node`` is a window operation, or an activation in front of one."""
    for _ in range(_DEPTH):
        if is_window(node) or node.op == "BatchNormalization":
            return True
        if (node.op not in _POINTWISE and not _joins(node)) or not node.output.uses:
            return False
        node = next(node.output.users)
    return False


def _joins(node: Node) -> bool:
    """A sum or product of two computed tensors of one shape, or a concatenation of channels."""
    if node.op == "Concat":
        return node.attrs.get("axis") == 1
    if node.op not in ("Add", "Mul", "Sum") or len(node.inputs) != 2:
        return False
    a, b = node.inputs
    if a is None or b is None or a.shape is None or b.shape is None or scalar_value(a, node) is not None:
        return False
    return a.data is None and b.data is None and a.shape[2:] == b.shape[2:]
