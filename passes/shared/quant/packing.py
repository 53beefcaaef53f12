"""Codes of a few bits as the bytes that operators take."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.dtypes import DType
from .blocks import Blocked

Array = np.ndarray[Any, Any]
SIGNED = {2: DType.I2, 4: DType.I4, 8: DType.I8}
UNSIGNED = {2: DType.U2, 4: DType.U4, 8: DType.U8}


def packed_rows(codes: Array, bits: int) -> Array:
    """[R, C] codes as [R, ceil(C * bits / 8)] bytes, the first code in the lowest bits; unused fields are 0."""
    per_byte = 8 // bits
    rows, columns = codes.shape
    fields = np.pad(codes, ((0, 0), (0, -columns % per_byte))).reshape(rows, -1, per_byte)
    out = np.zeros(fields.shape[:2], np.uint8)
    for i in range(per_byte):
        out |= fields[:, :, i] << np.uint8(i * bits)
    return out


def nbits_operands(found: Blocked, block: int) -> tuple[Array, Array, Array | None]:
    """Weight [N, blocks, bytes], scales [N, blocks] and packed zero points [N, bytes] of MatMulNBits.

    Zero points of symmetric schemes are left out. ``block`` is the operator's, which may exceed a short row.
    """
    n, k = found.codes.shape
    bits, count = found.scheme.bits, -(-k // block)
    codes = np.pad(found.codes, ((0, 0), (0, count * block - k)))
    weight = packed_rows(codes.reshape(n * count, block), bits).reshape(n, count, -1)
    return weight, found.scale, None if found.scheme.symmetric else packed_rows(found.zero, bits)


def linear_operands(found: Blocked) -> tuple[Array, Array, Array | None, DType]:
    """Elements [N, K], scales [N, blocks] and zero points as DequantizeLinear takes them, with the element type.

    Symmetric schemes become signed numbers without a zero point.
    """
    if not found.scheme.symmetric:
        dtype = UNSIGNED[found.scheme.bits]
        return found.codes.astype(dtype.numpy), found.scale, found.zero.astype(dtype.numpy), dtype
    dtype = SIGNED[found.scheme.bits]
    return (found.codes.astype(np.int16) - found.scheme.middle).astype(dtype.numpy), found.scale, None, dtype
