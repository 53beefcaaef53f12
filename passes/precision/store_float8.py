"""store-float8: ``w`` becomes ``Mul(Cast(float8(w / s)), s)``: a quarter of the room, widened when it is loaded.

``s`` scales each output channel (each row, column or kernel that makes one output) so that its largest weight is the
type's largest number. Eight bits as integers lose less on weights of usual shape (``quantize-weights``); float8 keeps
small weights beside large ones, and is what newer accelerators multiply.

**Why**    a quarter of the bytes to store, send and read.
**Needs**  float32 weights of at least ``min-bytes``, operands of standard operators; opset 19.
**Leaves** weights of which some slice would lose more than ``max-error`` of its root mean square; NaN and infinities;
           what a graph returns, what callers may override; operands of operators that are not ONNX's own.
**Numbers** approximates: E4M3FN moves a weight by at most 2^-4 of itself, E5M2 by 2^-3. One unit of the error budget
           for each weight.
**Source** Micikevicius et al., FP8 Formats for Deep Learning, 2022; ONNX Cast-19.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.dtypes import DType
from ...ir.errors import PipelineError
from ...ir.graph import Value
from ..rewrite.rule import NoMatch
from ..shared.stored_weights import LARGEST, StoreNarrow, row_pieces
from ..shared.weight_uses import uses_of

Array = np.ndarray[Any, Any]
_TYPES = {"e4m3fn": DType.F8E4M3FN, "e5m2": DType.F8E5M2}


@dataclass
class StoreFloat8(StoreNarrow):
    """See the module."""

    opset: ClassVar[int] = 19

    max_error: float = 0.1
    """Root mean square error of a weight, and of each of its slices along an axis, relative to the slice's own."""
    type: str = "e4m3fn"
    """e4m3fn: three bits of mantissa; e5m2: two, and more range."""

    def storage(self) -> DType:
        """Raises ``PipelineError``."""
        if self.type not in _TYPES:
            raise PipelineError(f"option type is {self.type}", where=self.name, help=f"expected: {', '.join(_TYPES)}")
        return _TYPES[self.type]

    def scale_of(self, value: Value) -> Array:
        assert value.data is not None
        axis, rank = _output_axis(value), len(value.data.shape)
        others = tuple(i for i in range(rank) if i != axis)
        largest: Array | None = None
        for _, wide in row_pieces(value.data):
            if not np.isfinite(wide).all():
                raise NoMatch("holds NaN or infinities, which cannot be scaled")
            found = np.max(np.abs(wide), axis=others, keepdims=True, initial=0.0)
            if largest is None:
                largest = found
            else:
                largest = np.concatenate([largest, found]) if axis == 0 else np.maximum(largest, found)
        if largest is None:
            raise NoMatch("is empty")
        return np.asarray(np.maximum(largest, 1e-30) / LARGEST[self.storage()], np.float32)


def _output_axis(value: Value) -> int | None:
    """The axis that counts outputs; ``None``, one scale for all, where uses differ or are no products."""
    try:
        return uses_of(value)[0].axis
    except NoMatch:
        return None
