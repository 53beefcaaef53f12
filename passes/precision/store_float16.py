"""store-float16: ``w`` becomes ``Cast(float16(w))``: weights take half the room and are widened when they are loaded.

The arithmetic stays in single precision. ONNX Runtime computes the casts once, when it optimizes the model on loading,
so that runs cost what they did.

**Why**    half the bytes to store, send and read.
**Needs**  float32 weights of at least ``min-bytes``, operands of standard operators.
**Leaves** numbers above 65504; weights of which some row or column would lose more than ``max-error`` of its root mean
           square, because its numbers lie below float16's normal range (6e-5); what a graph returns, what callers may
           override; operands of operators that are not ONNX's own, whose kernels may want constants.
**Numbers** approximates: every weight moves by at most 2^-11 of itself, 3e-8 below the normal range. One unit of the
           error budget for each weight.
**Source** IEEE 754-2019, binary16; ONNX Cast-6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.dtypes import DType
from ..shared.stored_weights import StoreNarrow


@dataclass
class StoreFloat16(StoreNarrow):
    """See the module."""

    opset: ClassVar[int] = 6

    def storage(self) -> DType:
        return DType.F16
