"""Reading operands that opset versions spell differently: attributes that became operands, axes, permutations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value

INT_LIMIT = 1 << 12
"""Longest integer operand that is read."""


def constant_ints(value: Value | None) -> list[int] | None:
    """The elements of a constant integer tensor of rank 0 or 1, or of a value known to have such elements."""
    if value is None:
        return None
    data = value.data
    if data is not None:
        if data.dtype not in (DType.I64, DType.I32) or len(data.shape) > 1 or data.count > INT_LIMIT:
            return None
        return [int(v) for v in data.numpy().reshape(-1).tolist()]
    if value.known is not None and value.dtype in (DType.I64, DType.I32):
        found = [d for d in value.known if isinstance(d, int)]
        return found if len(found) == len(value.known) else None
    return None


def int_operand(node: Node, i: int) -> list[int] | None:
    """Operand ``i`` as integers; ``None`` where it is absent or not known."""
    return constant_ints(node.input(i))


def int_list(node: Node, attr: str, i: int) -> list[int] | None:
    """A list that old versions give as attribute ``attr`` and new ones as operand ``i``."""
    given = node.attrs.get(attr)
    if given is None:
        return int_operand(node, i)
    return list(given) if isinstance(given, tuple) and all(isinstance(v, int) for v in given) else None  # type: ignore[arg-type]


def has_list(node: Node, attr: str, i: int) -> bool:
    """Whether the list is given at all."""
    return attr in node.attrs or node.input(i) is not None


def normalized(axes: list[int], rank: int) -> list[int] | None:
    """Axes counted from the front; ``None`` where one is out of range or comes twice."""
    out = [a + rank if a < 0 else a for a in axes]
    return out if all(0 <= a < rank for a in out) and len(set(out)) == len(out) else None


def perm_of(node: Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose; ``None`` where it is the default one of an unknown rank."""
    perm = node.attrs.get("perm")
    if perm is not None:
        return perm if isinstance(perm, tuple) else None  # type: ignore[return-value]  (a function's caller may give it)
    rank = node.inputs[0].rank if node.inputs[0] is not None else None
    return None if rank is None else tuple(range(rank - 1, -1, -1))


def producer_of(node: Node, i: int, *ops: str) -> Node | None:
    """The standard node of one of these operators that computes operand ``i``, in the same graph or around it."""
    value = node.input(i)
    inner = value.producer if value is not None else None
    return inner if inner is not None and inner.domain == "" and inner.op in ops else None


def constant_of(values: list[int], dtype: DType = DType.I64) -> np.ndarray[Any, Any]:
    """A list of integers as the operand that opset versions since 10 or so take."""
    return np.array(values, dtype.numpy)
