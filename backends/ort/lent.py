"""Large weights that a session takes from where they are, arrays or mapped files, with no copy and no file in between.

Source: ``OrtApi::AddExternalInitializers`` of ONNX Runtime: tensors that a message says lie elsewhere are replaced by
values of the caller's, by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...ir.constants import Constant
from ...ir.graph import Model
from ...ir.onnx_writer import build_proto

if TYPE_CHECKING:
    from onnx import TensorProto

LEAST_BYTES = 1 << 20
"""Smaller weights go into the message."""
_PLACE = "weights-of-the-caller"


@dataclass
class Lent:
    """A model whose large weights are not in its message."""

    model: bytes
    weights: dict[str, Any] = field(default_factory=dict[str, Any])
    """The runtime's values by the names of tensors. Whoever makes a session of them keeps them as long as it."""
    bytes: int = 0
    """What they take."""


def lend(model: Model) -> Lent:
    """The model's message and the weights that are left out: those of the main graph in numpy's own types."""
    import onnxruntime

    ort: Any = onnxruntime
    inner = {id(v.data) for graph in model.all_graphs() if graph is not model.graph for v in graph.constants}
    own = {id(v.data) for v in model.graph.constants} - inner
    taken: list[Constant] = []

    def put(constant: Constant, proto: TensorProto) -> bool:
        if id(constant) not in own or constant.nbytes < LEAST_BYTES or constant.dtype.numpy.kind not in "fiu":
            return False
        proto.data_location = proto.EXTERNAL
        for key, value in (("location", _PLACE), ("offset", len(taken)), ("length", constant.nbytes)):
            entry = proto.external_data.add()
            entry.key, entry.value = key, str(value)
        taken.append(constant)
        return True

    proto = build_proto(model, put)
    outside = [t for t in proto.graph.initializer if t.data_location == t.EXTERNAL]
    weights = {t.name: ort.OrtValue.ortvalue_from_numpy(c.numpy()) for t, c in zip(outside, taken, strict=True)}
    return Lent(proto.SerializeToString(), weights, sum(c.nbytes for c in taken))
