"""What two types have in common, and what they say together."""

from __future__ import annotations

from ..dims import Dim, Shape
from ..types import MapType, OptionalType, SequenceType, TensorType, Type


def join(a: Type | None, b: Type | None) -> Type | None:
    """What holds for a value that has the one type or the other: unequal extents become unknown."""
    if a is None or b is None:
        return None
    if a == b:
        return a
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        dtype = a.dtype if a.dtype is b.dtype else None
        return TensorType(dtype, join_shapes(a.shape, b.shape), sparse=a.sparse) if a.sparse == b.sparse else None
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return SequenceType(join(a.element, b.element))
    if isinstance(a, OptionalType) and isinstance(b, OptionalType):
        return OptionalType(join(a.element, b.element))
    if isinstance(a, MapType) and isinstance(b, MapType) and a.key is b.key:
        return MapType(a.key, join(a.element, b.element))
    return None


def join_shapes(a: Shape | None, b: Shape | None) -> Shape | None:
    """What holds for the one shape and for the other."""
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple([x if x == y else None for x, y in zip(a, b, strict=True)])


def join_elements(a: tuple[Dim, ...] | None, b: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
    """Elements that both know and agree on."""
    joined = join_shapes(a, b)
    return joined if joined is not None and any(d is not None for d in joined) else None


def refine(a: Type | None, b: Type | None) -> Type | None:
    """All that two types say of one and the same value; where they contradict each other the first wins.

    For rewriters: a replacement computes the same value, so what was known of the old one holds for it.
    """
    if not isinstance(a, TensorType) or not isinstance(b, TensorType):
        return a if a is not None else b
    shape = b.shape if a.shape is None else a.shape
    if a.shape is not None and b.shape is not None and len(a.shape) == len(b.shape):
        shape = tuple([_refine_dim(x, y) for x, y in zip(a.shape, b.shape, strict=True)])
    return TensorType(a.dtype or b.dtype, shape, a.layout or b.layout, a.quant or b.quant, a.sparse)


def _refine_dim(a: Dim, b: Dim) -> Dim:
    if a is None or (type(b) is int and type(a) is not int):
        return b
    return a
