"""Affine quantization as ONNX defines it: ``real = scale * (stored - zero_point)``.

Arithmetic is that of ONNX Runtime: division in float32, ties to the even integer, results clamped to the type.
Stored numbers may be float8 as well: symmetric, scaled so that the largest is the type's largest.
Source: QuantizeLinear-21 and DequantizeLinear-21.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.dtypes import DType
from ....ir.types import Quant

Array = np.ndarray[Any, Any]

_EXACT_BITS = 16
"""Stored numbers of so many bits, and their differences, are exact in float32."""
LARGEST_FLOAT8 = {DType.F8E4M3FN: 448.0, DType.F8E5M2: 57344.0}
"""The largest finite number of each type of float8 that may be stored."""
SMALLEST_SCALE = 2.0**-63
"""The product of two scales, which is the scale of an int32 bias, stays a normal float32."""


@dataclass(frozen=True)
class Scheme:
    """How numbers of one kind are to be stored."""

    storage: DType
    symmetric: bool
    """The zero point is 0, in the middle of the type where that is unsigned."""
    reduced: bool = False
    """One bit less than the type has, for kernels that add products in 16 bits."""
    smallest_range: float = 0.0
    """Least real width of a range."""

    @property
    def qmin(self) -> int:
        """Least stored number. Symmetric ranges leave out the number that has no counterpart."""
        if self.storage in LARGEST_FLOAT8:
            return -self.qmax
        half = 1 << (self.storage.bits - self.reduced - 1)
        if self.symmetric:
            return self.middle - half + (not self.reduced)
        return 0 if self.storage.kind == "uint" else -half

    @property
    def qmax(self) -> int:
        """Greatest stored number. Where reduced and symmetric it is 64: twice 64 * 255 still fits 16 bits."""
        if self.storage in LARGEST_FLOAT8:
            return int(LARGEST_FLOAT8[self.storage])
        half = 1 << (self.storage.bits - self.reduced - 1)
        if self.symmetric:
            return self.middle + half - (not self.reduced)
        return 2 * half - 1 if self.storage.kind == "uint" else half - (not self.reduced)

    @property
    def middle(self) -> int:
        """The zero point of symmetric ranges."""
        return 1 << (self.storage.bits - 1) if self.storage.kind == "uint" else 0


def quant_from_range(low: Any, high: Any, scheme: Scheme) -> tuple[Array, Array]:
    """Scale (float32) and zero point (int64) under which ``[low, high]`` and 0 can be stored, 0 exactly.

    ``low`` and ``high`` are numbers or arrays of one shape, and so are the results. A range without width gets scale 1.
    Raises ``ValueError`` where an end is NaN or infinite.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError("a range ends at NaN or infinity")
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    least, greatest = scheme.qmin, scheme.qmax
    if scheme.symmetric:
        reach = np.maximum(np.maximum(-low, high), scheme.smallest_range / 2)
        scale = reach / (greatest - scheme.middle)
        return _usable(scale, reach), np.full(scale.shape, scheme.middle, np.int64)
    width = np.maximum(high - low, scheme.smallest_range)
    scale = _usable(width / (greatest - least), width)
    zero = np.clip(np.rint(least - low / scale.astype(np.float64)), least, greatest)
    return scale, zero.astype(np.int64)


def _usable(scale: Array, width: Array) -> Array:
    return np.where(width > 0, np.maximum(scale, SMALLEST_SCALE), 1.0).astype(np.float32)


def quantize(array: Array, scale: Any, zero_point: Any, dtype: DType, axis: int | None = None, block: int = 0) -> Array:
    """The stored numbers, numpy type of ``dtype`` and the shape of ``array``.

    ``scale`` and ``zero_point`` are one number, one for each index of ``axis``, or with ``block`` arrays of the rank of
    ``array`` with one number for each block along ``axis``. Not a number becomes the zero point; float8 keeps it.
    """
    whole = Scheme(dtype, symmetric=False)
    if dtype in LARGEST_FLOAT8:
        scaled = np.asarray(array, np.float32) / spread(scale, array.shape, axis, block, np.float32)
        return np.clip(scaled, whole.qmin, whole.qmax).astype(dtype.numpy)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(np.asarray(array, np.float32) / spread(scale, array.shape, axis, block, np.float32))
    if np.isnan(steps).any():
        steps = np.where(np.isnan(steps), np.float32(0), steps)
    # Clamped before the zero point is added: sums beyond 2^24 would be rounded in float32.
    if dtype.bits <= _EXACT_BITS:
        offset = spread(zero_point, array.shape, axis, block, np.float32)
        sums = np.clip(steps, -(2.0**20), 2.0**20) + offset
        return np.clip(sums, whole.qmin, whole.qmax).astype(dtype.numpy)
    zero = spread(zero_point, array.shape, axis, block, np.int64)
    wide = np.clip(steps, -(2.0**31), 2.0**31).astype(np.int64) + zero
    return np.clip(wide, whole.qmin, whole.qmax).astype(dtype.numpy)


def dequantize(stored: Array, scale: Any, zero_point: Any, axis: int | None = None, block: int = 0) -> Array:
    """The real numbers (float32) of stored ones; operands as in :func:`quantize`."""
    exact: Any = np.float32 if stored.dtype.itemsize * 8 <= _EXACT_BITS else np.int64
    steps = stored.astype(exact) - spread(zero_point, stored.shape, axis, block, exact)
    return steps.astype(np.float32, copy=False) * spread(scale, stored.shape, axis, block, np.float32)


def spread(parameter: Any, shape: tuple[int, ...], axis: int | None, block: int, dtype: Any) -> Array:
    """``parameter`` (see :func:`quantize`) in a form that broadcasts against ``shape``."""
    found = np.asarray(parameter).astype(dtype)
    if axis is None or found.size == 1:
        return found.reshape(())
    if block:
        return np.repeat(found, block, axis=axis).take(np.arange(shape[axis]), axis=axis)
    return found.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


def make_quant(scheme: Scheme, scale: Any, zero_point: Any, axis: int | None = None, block: int = 0) -> Quant:
    """The annotation of a type that says so; ``axis`` counts from the front."""
    scales = tuple(float(s) for s in np.asarray(scale, np.float32).reshape(-1))
    zeros = tuple(int(z) for z in np.asarray(zero_point).reshape(-1))
    return Quant(scheme.storage, scales, zeros, axis, block)


def parameters(quant: Quant, shape: tuple[int, ...] | None = None) -> tuple[Array, Array]:
    """Scale (float32) and zero point (the storage type) as QuantizeLinear takes them: scalars, vectors, or with blocks
    arrays of the rank of ``shape``."""
    scale, zero = np.array(quant.scale, np.float32), np.array(quant.zero_point, np.int64)
    if quant.block and shape is not None and quant.axis is not None:
        whole = list(shape)
        whole[quant.axis] = -(-shape[quant.axis] // quant.block)
        scale, zero = scale.reshape(whole), zero.reshape(whole)
    elif quant.axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    return scale, zero.astype(quant.storage.numpy)


def stored(array: Array, quant: Quant) -> Array:
    """``array`` in the integers that ``quant`` says."""
    scale, zero = parameters(quant, array.shape)
    return quantize(array, scale, zero.astype(np.int64), quant.storage, quant.axis, quant.block)


def rounded(array: Array, quant: Quant) -> Array:
    """``array`` as it comes back from the integers that ``quant`` says, float32."""
    scale, zero = parameters(quant, array.shape)
    return dequantize(stored(array, quant), scale, zero.astype(np.int64), quant.axis, quant.block)
