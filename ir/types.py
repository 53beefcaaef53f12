"""Types of values: tensors with layout and quantization, and ONNX's container types.

All are immutable and compare by content. What is unknown is said: ``shape is None`` is an unknown
rank, a ``None`` dimension an unknown extent, ``dtype is None`` an unknown element type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from .dims import Dim, Shape, dim_text, is_static, product, substitute
from .dtypes import DType


@dataclass(frozen=True, slots=True)
class Layout:
    """How the logical axes of a tensor lie in memory, by its standard name: ``NCHW``, ``NHWC``, ``NCHW8c``.

    A lower-case letter with a number is an inner block of the axis with that upper-case letter.
    """

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Quant:
    """Affine quantization of a tensor: ``real = scale * (stored - zero_point)``.

    ``scale`` and ``zero_point`` hold one number per tensor, or one per channel along ``axis``, or with
    ``block`` one per block of that many elements along ``axis`` (row-major). Source: QuantizeLinear-21.
    """

    storage: DType
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    block: int = 0

    def __str__(self) -> str:
        scale = ",".join(repr(s) for s in self.scale)
        zero = ",".join(str(z) for z in self.zero_point)
        axis = "" if self.axis is None else f" axis={self.axis}"
        block = f" block={self.block}" if self.block else ""
        return f"{self.storage.text} scale={scale} zero={zero}{axis}{block}"


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor (``sparse`` marks ONNX's sparse tensors)."""

    dtype: DType | None
    shape: Shape | None = None
    layout: Layout | None = None
    quant: Quant | None = None
    sparse: bool = False

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        return is_static(self.shape)

    @property
    def count(self) -> Dim:
        """Number of elements; ``None`` where it is unknown."""
        return None if self.shape is None else product(self.shape)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the tensor where its extent is a plain integer."""
        count = self.count
        return self.dtype.nbytes(count) if isinstance(count, int) and self.dtype is not None else None

    def with_shape(self, shape: Shape | None) -> TensorType:
        return replace(self, shape=shape)

    def with_dtype(self, dtype: DType | None) -> TensorType:
        return replace(self, dtype=dtype)

    def __str__(self) -> str:
        dtype = "?" if self.dtype is None else self.dtype.text
        shape = "*" if self.shape is None else ",".join(map(dim_text, self.shape))
        text = f"{dtype}[{shape}]"
        if self.layout is not None:
            text += f"@{self.layout}"
        if self.quant is not None:
            text += f"<{self.quant}>"
        return f"sparse<{text}>" if self.sparse else text


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A sequence of values of one type."""

    element: Type | None

    def __str__(self) -> str:
        return f"seq<{type_text(self.element)}>"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value of the element's type, or none."""

    element: Type | None

    def __str__(self) -> str:
        return f"optional<{type_text(self.element)}>"


@dataclass(frozen=True, slots=True)
class MapType:
    """A map from an integer or string key type (``ai.onnx.ml``)."""

    key: DType
    element: Type | None

    def __str__(self) -> str:
        return f"map<{self.key.text}, {type_text(self.element)}>"


Type: TypeAlias = TensorType | SequenceType | OptionalType | MapType


def type_text(t: Type | None) -> str:
    """The textual form; ``?`` for an unknown type."""
    return "?" if t is None else str(t)


def substitute_dims(t: Type | None, values: dict[str, Dim]) -> Type | None:
    """``t`` with symbols of its shape replaced."""
    if isinstance(t, TensorType) and t.shape is not None:
        return t.with_shape(tuple(substitute(d, values) for d in t.shape))
    if isinstance(t, SequenceType):
        return SequenceType(substitute_dims(t.element, values))
    if isinstance(t, OptionalType):
        return OptionalType(substitute_dims(t.element, values))
    return t
