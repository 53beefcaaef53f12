"""Whether two types can both be true of one value."""

from __future__ import annotations

from .dims import Dim, sub
from .types import MapType, TensorType, Type, type_text


def contradiction(a: Type | None, b: Type | None) -> str | None:
    """What is true of no value that has both types, as ``"rank 2 and rank 3"``; ``None`` where they may agree.

    What either leaves open agrees with everything; symbols agree with whatever they could stand for.
    Layout and quantization are annotations and not compared.
    """
    # Containers nest a few levels in practice; the loop needs no bound since both types are finite trees.
    while a is not None and b is not None and a != b:
        if isinstance(a, TensorType) and isinstance(b, TensorType):
            return _tensors(a, b)
        if type(a) is not type(b):
            return f"{type_text(a)} and {type_text(b)}"
        if isinstance(a, MapType) and isinstance(b, MapType) and a.key is not b.key:
            return f"{type_text(a)} and {type_text(b)}"
        assert not isinstance(a, TensorType)
        assert not isinstance(b, TensorType)
        a, b = a.element, b.element
    return None


def replaces(inferred: Type | None, declared: Type) -> bool:
    """Whether a body's output is said to be what inference finds, even if that is less than the file says.

    Exporters declare scalars that become vectors in a loop; runtimes take a body's word, and fail.
    """
    if isinstance(inferred, TensorType) and isinstance(declared, TensorType):
        return inferred.dtype is not None
    return contradiction(declared, inferred) is not None


def _tensors(a: TensorType, b: TensorType) -> str | None:
    if a.dtype is not b.dtype and a.dtype is not None and b.dtype is not None:
        return f"element types {a.dtype} and {b.dtype}"
    if a.sparse != b.sparse:
        return "a sparse and a dense tensor"
    if a.shape is None or b.shape is None:
        return None
    if len(a.shape) != len(b.shape):
        return f"ranks {len(a.shape)} and {len(b.shape)}"
    for i, (x, y) in enumerate(zip(a.shape, b.shape, strict=True)):
        if differs(x, y):
            return f"extents {x} and {y} of axis {i}"
    return None


def differs(a: Dim, b: Dim) -> bool:
    """Whether two extents are unequal for every value of the symbols, as far as subtraction can tell."""
    if a is b or a is None or b is None or a == b:
        return False
    gap = sub(a, b)
    return isinstance(gap, int) and gap != 0
