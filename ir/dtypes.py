"""Element types: all of ONNX's (IR version 14), with their storage in numpy.

Source: ``TensorProto.DataType`` in onnx 1.23. The names are the ones of the textual form. Types
narrower than a byte are unpacked in numpy (one element per byte, ``ml_dtypes``) and packed in files,
first element in the low bits. Hosts are little-endian, as every target of ours is.
"""

from __future__ import annotations

from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np


class DType(Enum):
    """An element type. The value is ``(name, ONNX code, bits per element, numpy type name, kind)``."""

    F32 = ("f32", 1, 32, "float32", "float")
    U8 = ("u8", 2, 8, "uint8", "uint")
    I8 = ("i8", 3, 8, "int8", "int")
    U16 = ("u16", 4, 16, "uint16", "uint")
    I16 = ("i16", 5, 16, "int16", "int")
    I32 = ("i32", 6, 32, "int32", "int")
    I64 = ("i64", 7, 64, "int64", "int")
    STRING = ("string", 8, 0, "object", "string")
    BOOL = ("bool", 9, 8, "bool", "bool")
    F16 = ("f16", 10, 16, "float16", "float")
    F64 = ("f64", 11, 64, "float64", "float")
    U32 = ("u32", 12, 32, "uint32", "uint")
    U64 = ("u64", 13, 64, "uint64", "uint")
    C64 = ("c64", 14, 64, "complex64", "complex")
    C128 = ("c128", 15, 128, "complex128", "complex")
    BF16 = ("bf16", 16, 16, "bfloat16", "float")
    F8E4M3FN = ("f8e4m3fn", 17, 8, "float8_e4m3fn", "float")
    F8E4M3FNUZ = ("f8e4m3fnuz", 18, 8, "float8_e4m3fnuz", "float")
    F8E5M2 = ("f8e5m2", 19, 8, "float8_e5m2", "float")
    F8E5M2FNUZ = ("f8e5m2fnuz", 20, 8, "float8_e5m2fnuz", "float")
    U4 = ("u4", 21, 4, "uint4", "uint")
    I4 = ("i4", 22, 4, "int4", "int")
    F4E2M1 = ("f4e2m1", 23, 4, "float4_e2m1fn", "float")
    F8E8M0 = ("f8e8m0", 24, 8, "float8_e8m0fnu", "float")
    U2 = ("u2", 25, 2, "uint2", "uint")
    I2 = ("i2", 26, 2, "int2", "int")
    F6E2M3 = ("f6e2m3", 27, 6, "float6_e2m3fn", "float")
    F6E3M2 = ("f6e3m2", 28, 6, "float6_e3m2fn", "float")

    # Members are singletons; identity hashing is what the many dictionaries keyed by dtype want.
    __hash__ = object.__hash__

    def __init__(self, text: str, code: int, bits: int, numpy_name: str, kind: str) -> None:
        self.text = text
        self.code = code
        self.bits = bits
        self.numpy_name = numpy_name
        self.kind = kind

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type that holds one element; ``ml_dtypes`` loads only when one of its types is asked for."""
        try:
            return np.dtype(self.numpy_name)
        except TypeError:
            import ml_dtypes

            return np.dtype(getattr(ml_dtypes, self.numpy_name))

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_packed(self) -> bool:
        """Whether files hold several elements in one byte."""
        return 0 < self.bits < 8

    def nbytes(self, count: int) -> int:
        """Bytes that ``count`` elements take in a file (strings: 0, their size is not fixed)."""
        return (count * self.bits + 7) // 8

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


BY_CODE: dict[int, DType] = {d.code: d for d in DType}
BY_TEXT: dict[str, DType] = {d.text: d for d in DType}
_BY_NUMPY: dict[np.dtype[Any], DType] = {}


def from_numpy(dtype: np.dtype[Any]) -> DType:
    """The element type for a numpy type. Raises ``TypeError`` where ONNX has none."""
    found = _BY_NUMPY.get(dtype)
    if found is None:
        if dtype.kind in "OUST":
            found = DType.STRING
        else:
            name = dtype.newbyteorder("=").name
            found = next((d for d in DType if d.numpy_name == name), None)
            if found is None:
                raise TypeError(f"numpy type {dtype} has no ONNX element type")
        _BY_NUMPY[dtype] = found
    return found


def unpack(raw: bytes | memoryview, dtype: DType, count: int) -> np.ndarray[Any, Any]:
    """``count`` elements (flat) from little-endian file bytes; a view where the layout allows it.

    Raises ``ValueError`` when ``raw`` does not have exactly the bytes that ``count`` elements take.
    """
    expected = dtype.nbytes(count)
    if len(raw) != expected:
        raise ValueError(f"{len(raw)} bytes found, {count} elements of {dtype.text} take {expected}")
    if not dtype.is_packed:
        return np.frombuffer(raw, dtype.numpy)
    packed = np.frombuffer(raw, np.uint8)
    if 8 % dtype.bits:
        bits = np.unpackbits(packed, bitorder="little", count=count * dtype.bits).reshape(count, dtype.bits)
        return np.packbits(bits, axis=1, bitorder="little").reshape(-1).view(dtype.numpy)
    per_byte = 8 // dtype.bits
    mask = (1 << dtype.bits) - 1
    fields = np.empty((packed.size, per_byte), np.uint8)
    for i in range(per_byte):
        fields[:, i] = (packed >> (i * dtype.bits)) & mask
    flat = fields.reshape(-1)[:count]
    if dtype is DType.U4 or dtype is DType.U2:
        return flat.astype(dtype.numpy)
    if dtype.kind == "int":
        sign = 1 << (dtype.bits - 1)
        return ((flat ^ sign).astype(np.int8) - np.int8(sign)).astype(dtype.numpy)
    return flat.view(dtype.numpy)


def pack(array: np.ndarray[Any, Any], dtype: DType) -> bytes:
    """File bytes of ``array``: little-endian, row-major, types narrower than a byte packed."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if not dtype.is_packed:
        return flat.tobytes()
    mask = (1 << dtype.bits) - 1
    per_byte = 8 // dtype.bits
    bytes_ = flat.astype(np.int8).view(np.uint8) if dtype.kind in ("int", "uint") else flat.view(np.uint8)
    fields: np.ndarray[Any, np.dtype[np.uint8]] = np.bitwise_and(bytes_, np.uint8(mask))
    if 8 % dtype.bits:
        bits = np.unpackbits(fields[:, None], axis=1, bitorder="little", count=dtype.bits)
        return np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    padded = np.zeros(-(-fields.size // per_byte) * per_byte, np.uint8)
    padded[: fields.size] = fields
    packed = np.zeros(padded.size // per_byte, np.uint8)
    for i in range(per_byte):
        packed |= padded[i::per_byte] << (i * dtype.bits)
    return packed.tobytes()
