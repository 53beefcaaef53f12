"""The table of kernels: what a node computes, on numpy arrays, for nodes whose operands are all constant.

A kernel takes the node and its operands (``None`` where omitted) and returns the outputs. It computes what
the specification says, in the operators' own arithmetic where that is exact (movement, integers,
comparisons, single IEEE operations), else in float64 rounded once. It raises :class:`NoKernel` where the
specification leaves the result open (integer division by zero, casts out of range, NaN in Max) or where
runtimes are known to differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ...ir.graph import Node

Array: TypeAlias = "np.ndarray[Any, Any]"
Operands: TypeAlias = "list[Array | None]"
Kernel: TypeAlias = Callable[[Node, Operands], "list[Array]"]

KERNELS: dict[str, Kernel] = {}


class NoKernel(Exception):
    """The node cannot be evaluated, and why (lower case)."""


def kernel(*ops: str) -> Callable[[Kernel], Kernel]:
    """Registers the kernel of standard ONNX operators."""

    def register(function: Kernel) -> Kernel:
        for op in ops:
            KERNELS[op] = function
        return function

    return register


def present(operands: Operands, i: int) -> Array:
    """Operand ``i``, which must be there."""
    found = operands[i] if i < len(operands) else None
    if found is None:
        raise NoKernel(f"operand {i} is absent")
    return found


def optional(operands: Operands, i: int) -> Array | None:
    """Operand ``i`` where it is given."""
    return operands[i] if i < len(operands) else None


def ints(operands: Operands, i: int) -> list[int] | None:
    """Operand ``i`` as a list of integers where it is given."""
    found = optional(operands, i)
    return None if found is None else [int(v) for v in found.reshape(-1).tolist()]


def axis_attr(node: Node, rank: int, default: int) -> int:
    """Attribute ``axis`` counted from the front."""
    axis = int(node.attr("axis", default))
    if not -rank <= axis < rank:
        raise NoKernel(f"axis {axis} is out of range for rank {rank}")
    return axis % rank if rank else 0
