"""A model's message as pieces of bytes, large weights straight from where they are.

The bytes are those that protobuf makes of the whole message, fields in the order of their numbers; protobuf would hold
each weight three times on the way. Source: https://protobuf.dev/programming-guides/encoding, onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .constants import Constant, SparseConstant
from .dtypes import DType
from .errors import UsageError
from .graph import Model

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

STREAM_BYTES = 1 << 16
"""Weights from this size on are streamed."""
_GRAPH, _INITIALIZER, _RAW_DATA = b"\x3a", b"\x2a", b"\x4a"
"""Tags of ``ModelProto.graph``, ``GraphProto.initializer`` and ``TensorProto.raw_data``; a length and bytes follow."""
_BEFORE_GRAPH = ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string")
_BEFORE_INITIALIZERS = ("node", "name")


class Stream:
    """Keeps large weights of the main graph out of the message, then puts them where they belong."""

    def __init__(self, model: Model) -> None:
        main = [v.data for v in model.graph.constants if v.data is not None and v.extra is None]
        self._large = {id(c): c for c in main if _is_large(c)}
        for graph in model.all_graphs():  # a constant that a body holds too is written in both places
            for data in graph.defaults.values():
                self._large.pop(id(data), None)
            for value in graph.constants if graph is not model.graph else ():
                self._large.pop(id(value.data), None)
        self._left_out: list[Constant] = []

    def put(self, constant: Constant, proto: TensorProto) -> bool:
        """Leaves the data of a large weight out (a ``PutTensor``)."""
        if id(constant) not in self._large:
            return False
        self._left_out.append(constant)
        return True

    def pieces(self, proto: ModelProto) -> tuple[int, Iterator[bytes | memoryview]]:
        """Size in bytes, and the pieces. Takes the message apart: it is of no use afterwards."""
        graph, left_out = proto.graph, iter(self._left_out)
        tensors: list[tuple[bytes, Constant | None]] = []
        size = 0
        for tensor in graph.initializer:
            data = None
            body = tensor.SerializeToString(deterministic=True)
            length = len(body)
            held = tensor.HasField("raw_data") or tensor.data_location == tensor.EXTERNAL
            if tensor.data_type != DType.STRING.code and not held:
                data = next(left_out)
                body += _RAW_DATA + _varint(data.nbytes)
                length = len(body) + data.nbytes
            head = _INITIALIZER + _varint(length) + body
            size += len(head) + (data.nbytes if data is not None else 0)
            tensors.append((head, data))
        del graph.initializer[:]
        graph_head, graph_tail = _around(graph, _BEFORE_INITIALIZERS)
        size += len(graph_head) + len(graph_tail)
        proto.ClearField("graph")
        head, tail = _around(proto, _BEFORE_GRAPH)
        start = head + _GRAPH + _varint(size) + graph_head
        end = graph_tail + tail
        return len(start) + size - len(graph_head) - len(graph_tail) + len(end), _joined(start, tensors, end)


def _is_large(data: Constant) -> bool:
    return data.dtype is not DType.STRING and not isinstance(data, SparseConstant) and data.nbytes >= STREAM_BYTES


def _joined(start: bytes, tensors: list[tuple[bytes, Constant | None]], end: bytes) -> Iterator[bytes | memoryview]:
    yield start
    for head, data in tensors:
        yield head
        if data is None:
            continue
        left = data.nbytes
        for chunk in data.chunks():
            left -= len(chunk)
            yield chunk
        if left:
            raise UsageError(f"{data!r} gave other than the {data.nbytes} bytes it announced", where="write")
    yield end


def _around(message: Any, before: tuple[str, ...]) -> tuple[bytes, bytes]:
    """The message's bytes in two parts: those of the fields ``before``, and the rest. Clears the former."""
    whole: bytes = message.SerializeToString(deterministic=True)
    for name in before:
        message.ClearField(name)
    rest: bytes = message.SerializeToString(deterministic=True)
    return whole[: len(whole) - len(rest)], rest


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
