"""Running with element types that numpy lacks: bfloat16, 8-bit floats, 4-bit integers.

The runtime's Python interface converts to and from numpy's own types only. Such tensors go in and out as raw
memory instead, and are ``ml_dtypes`` arrays on our side.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from ...ir.dtypes import BY_CODE, from_numpy, unpack

if TYPE_CHECKING:
    from ..core import Outputs, Sample

_FOREIGN = (
    "tensor(bfloat16)",
    "tensor(float8",
    "tensor(float4",
    "tensor(int4",
    "tensor(uint4",
    "tensor(int2)",
    "tensor(uint2)",
)


def is_foreign(type_text: str) -> bool:
    """Whether a type, as the runtime spells it, has elements that numpy lacks."""
    return type_text.startswith(_FOREIGN)


def run_foreign(session: Any, inputs: Sample) -> Outputs:
    """``session.run`` for such types. The session is an ``onnxruntime.InferenceSession``."""
    import onnxruntime

    make: Any = onnxruntime.OrtValue
    values: dict[str, Any] = {}
    for name, array in inputs.items():
        code = from_numpy(array.dtype).code
        odd = array.dtype.isbuiltin != 1 and array.dtype.kind != "O"
        values[name] = make.ortvalue_from_numpy_with_onnx_type(array, code) if odd else make.ortvalue_from_numpy(array)
    return [_output(value) for value in session.run_with_ort_values(None, values)]


def _output(value: Any) -> Any:
    if not value.is_tensor() or not is_foreign(value.data_type()):
        return value.numpy() if value.is_tensor() else value
    dtype = BY_CODE[value.element_type()]
    shape = tuple(value.shape())
    count = 1
    for d in shape:
        count *= d
    raw = ctypes.string_at(value.data_ptr(), dtype.nbytes(count)) if count else b""
    return unpack(raw, dtype, count).reshape(shape)
