"""store-bfloat16: ``w`` becomes ``Cast(bfloat16(w))``: weights take half the room and are widened when they are loaded.

Of the two types of 16 bits bfloat16 has float32's range and three bits less of precision than float16: for weights
that float16 cannot hold, and for runtimes that compute in bfloat16.

**Why**    half the bytes to store, send and read.
**Needs**  float32 weights of at least ``min-bytes``, operands of standard operators; opset 13.
**Leaves** weights of which some row or column would lose more than ``max-error`` of its root mean square; what a graph
           returns, what callers may override; operands of operators that are not ONNX's own.
**Numbers** approximates: every weight moves by at most 2^-8 of itself. One unit of the error budget for each weight.
**Source** ONNX Cast-13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.dtypes import DType
from ..shared.stored_weights import StoreNarrow


@dataclass
class StoreBfloat16(StoreNarrow):
    """See the module."""

    opset: ClassVar[int] = 13

    max_error: float = 2.0**-7
    """Root mean square error of a weight, and of each of its slices along an axis, relative to the slice's own."""

    def storage(self) -> DType:
        return DType.BF16
