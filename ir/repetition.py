"""Tensors that repeat a few elements: one value everywhere, or the same along some axes.

They take no memory, and files hold them as one ConstantOfShape or Expand node.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .constants import CHUNK_BYTES, Array, ArrayConstant, Constant, SplatConstant
from .dtypes import DType

SPLAT_BYTES = 1024
"""Tensors of one value up to this size are written element by element: runtimes treat initializers better."""
SPLAT_OPSET = 9
"""Since then files can hold a splat as a ConstantOfShape node."""
SPLAT_DTYPES = frozenset(
    (
        DType.F16,
        DType.F32,
        DType.F64,
        DType.BOOL,
        DType.I8,
        DType.I16,
        DType.I32,
        DType.I64,
        DType.U8,
        DType.U16,
        DType.U32,
    )
)


class RepeatedConstant(Constant):
    """``base`` broadcast to ``shape``: the same along every axis on which its extent is 1 (both have the same rank).

    Made by :func:`repeated` where it takes much less room than the elements; ``numpy()`` is a view of the base.
    """

    __slots__ = ("base",)

    def __init__(self, base: Constant, shape: tuple[int, ...]) -> None:
        super().__init__(base.dtype, shape)
        self.base = base

    def numpy(self) -> Array:
        return np.broadcast_to(self.base.numpy(), self.shape)

    def chunks(self) -> Iterator[bytes | memoryview]:
        whole = self.numpy()
        rows = max(1, CHUNK_BYTES * len(whole) // max(1, whole.nbytes))
        for start in range(0, len(whole), rows):
            yield np.ascontiguousarray(whole[start : start + rows]).tobytes()


def is_stored_as_node(data: Constant | None, opset: int) -> bool:
    """Whether a file of this opset holds the tensor as fewer elements and a shape (ConstantOfShape-9, Expand-8)."""
    if not isinstance(data, (SplatConstant, RepeatedConstant)) or opset < SPLAT_OPSET or data.dtype not in SPLAT_DTYPES:
        return False
    return data.nbytes > SPLAT_BYTES


def stored_bytes(data: Constant, opset: int) -> int:
    """Bytes that a file of this standard opset needs for the elements."""
    if not is_stored_as_node(data, opset):
        return data.nbytes
    return data.base.nbytes if isinstance(data, RepeatedConstant) else data.dtype.nbytes(1)


def repeated(base: Array, dtype: DType, shape: tuple[int, ...]) -> Constant:
    """``base`` broadcast to ``shape`` (of the same rank) in the kind of constant that takes least room."""
    whole = np.broadcast_to(base, shape)
    size = dtype.nbytes(whole.size)
    if dtype not in SPLAT_DTYPES or size <= SPLAT_BYTES:
        return ArrayConstant(np.ascontiguousarray(whole), dtype)
    small = _without_repetition(base)
    if small.size == 1:
        return SplatConstant(small.reshape(())[()], dtype, shape)
    if not _worth_a_node(dtype.nbytes(small.size), size):
        return ArrayConstant(np.ascontiguousarray(whole), dtype)
    return RepeatedConstant(ArrayConstant(np.ascontiguousarray(small), dtype), shape)


def _worth_a_node(base_bytes: int, size_bytes: int) -> bool:
    """Whether a repetition takes less than half the room; 128 bytes go into the node, its names and the shape."""
    return 2 * (base_bytes + 128) < size_bytes


def compacted(data: ArrayConstant) -> Constant:
    """The same tensor, as a splat or a repetition where its elements have the same bits along axes."""
    if data.dtype not in SPLAT_DTYPES or data.nbytes <= SPLAT_BYTES:
        return data
    array = data.numpy()
    small = _without_repetition(array)
    return repeated(small, data.dtype, data.shape) if _worth_a_node(small.nbytes, data.nbytes) else data


def _without_repetition(array: Array) -> Array:
    """One slice along each axis on which all slices have the same bits."""
    for axis, extent in enumerate(array.shape):
        if extent < 2:
            continue
        bits = array.view(f"u{array.itemsize}")
        # Nearly all weights differ in their first two elements already.
        if bits[(0,) * bits.ndim] != bits[(0,) * axis + (1,) + (0,) * (bits.ndim - axis - 1)]:
            continue
        first = bits[(slice(None),) * axis + (slice(1),)]
        # Most others differ in a few; the whole is read only where these agree.
        few = tuple(slice(None, 3) if i != axis else slice(None) for i in range(bits.ndim))
        if bool((bits[few] == first[few]).all()) and _all_equal(bits, first):
            array = array[(slice(None),) * axis + (slice(1),)]
    return array


def _all_equal(bits: Array, first: Array) -> bool:
    """``(bits == first).all()``, broadcasting, in bounded memory."""
    rows = max(1, CHUNK_BYTES * len(bits) // bits.size)
    if len(first) == 1:
        return all(bool((bits[i : i + rows] == first).all()) for i in range(0, len(bits), rows))
    return all(bool((bits[i : i + rows] == first[i : i + rows]).all()) for i in range(0, len(bits), rows))
