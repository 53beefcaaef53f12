"""What equations of operators (``decompose_*.py``) share: operands that must be there, extents, changes of layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch

Results: TypeAlias = "list[Value | None]"
"""One value for each result, ``None`` for one that nothing uses."""
Equation: TypeAlias = Callable[[Rewriter, Node], "list[Value | None]"]
"""Emits the same computation by other operators. Raises :class:`NoMatch` for the forms it does not cover."""


def operand(node: Node, i: int) -> Value:
    """Operand ``i``. Raises :class:`NoMatch` where it is absent."""
    value = node.input(i)
    if value is None:
        raise NoMatch(f"operand {i} of {node.op} is absent")
    return value


def is_used(node: Node, i: int) -> bool:
    """Whether anything uses result ``i``."""
    return i < len(node.outputs) and bool(node.outputs[i].uses)


def require(r: Rewriter, node: Node, *, opset: int = 13, absent: tuple[int, ...] = (), **attrs: Any) -> None:
    """Raises :class:`NoMatch` below ``opset``, for operands of ``absent`` that are given, and for other values of the
    attributes than those named."""
    if r.opset() < opset:
        raise NoMatch(f"{node.op} is spelled out from opset {opset} on, the model imports {r.opset()}")
    for i in absent:
        if node.input(i) is not None:
            raise NoMatch(f"{node.op} with operand {i}")
    for name, wanted in attrs.items():
        if node.attr(name, wanted) != wanted:
            raise NoMatch(f"{name} of {node.op} is {node.attr(name)}, expected {wanted}")


def extent(v: Value, axis: int) -> int:
    """The extent along ``axis``. Raises :class:`NoMatch` where it is not a known number."""
    rank_of(v)
    found = v.shape[axis] if v.shape is not None and -len(v.shape) <= axis < len(v.shape) else None
    if not isinstance(found, int):
        raise NoMatch(f"extent {axis} of %{v.name} is not a known number")
    return found


def rank_of(v: Value) -> int:
    """The rank. Raises :class:`NoMatch` where it is unknown."""
    if v.rank is None:
        raise NoMatch(f"the rank of %{v.name} is unknown")
    return v.rank


def ints(*values: int) -> np.ndarray[Any, Any]:
    """Values for operands such as shapes and axes."""
    return np.array(values, np.int64)


def widened(r: Rewriter, x: Value) -> Value:
    """The value in float32 where it is narrower: kernels of half precision compute in it."""
    if x.dtype is None:
        raise NoMatch(f"the element type of %{x.name} is unknown")
    return x if x.dtype.bits >= 32 else r.Cast(x, to=DType.F32.code)


def narrowed(r: Rewriter, y: Value, like: Value) -> Any:
    """The value in the element type of another."""
    assert like.dtype is not None
    return y if y.dtype is like.dtype else r.Cast(y, to=like.dtype.code)


def normalized(r: Rewriter, x: Value, epsilon: float, axes: tuple[int, ...] = (-1,)) -> Any:
    """x / sqrt(mean(x^2) + epsilon) along ``axes``."""
    from .emit import reduce_to_one

    return r.Div(x, r.Sqrt(r.Add(reduce_to_one(r, "ReduceMean", r.Mul(x, x), axes), epsilon)))


def activated(r: Rewriter, y: Value, name: str) -> Any:
    """An activation by the name that ONNX Runtime's attributes give it; the empty name is none."""
    match name.lower():
        case "" | "none" | "identity":
            return y
        case "silu" | "swish":
            return r.Mul(y, r.Sigmoid(y))
        case "sigmoid":
            return r.Sigmoid(y)
        case _:
            raise NoMatch(f"activation {name!r}")
