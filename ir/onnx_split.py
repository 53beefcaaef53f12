"""Takes the large weights out of a model's bytes before protobuf reads them.

Protobuf copies every weight into its message and copies it again for whoever looks at it. What is left here is a
message without them, which is small, and one copy of each. Anything laid out in another way than writers do it
(fields that come twice, groups, lengths that do not fit) is left to protobuf, and with it what is to be said of it.
Source: https://protobuf.dev/programming-guides/encoding, onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

LARGE_BYTES = 1 << 16
"""Weights from this size on are taken out."""
_GRAPH, _INITIALIZER = 7, 5
"""Numbers of the fields ``ModelProto.graph`` and ``GraphProto.initializer``."""
_NAME, _RAW_DATA = 8, 9
"""Those of ``TensorProto.name`` and ``TensorProto.raw_data``."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types."""


class _Field(NamedTuple):
    number: int
    wire: int
    start: int
    """Where its tag is."""
    content: int
    """Where its content is, behind tag and length."""
    end: int


class _Unusual(Exception):
    """Nothing that a writer of models would write."""


def split_weights(data: memoryview) -> tuple[bytes | memoryview, dict[str, memoryview]]:
    """The message without the large ``raw_data`` of initializers of the main graph, and those by tensor name.

    The message is ``data`` itself where nothing was taken out.
    """
    try:
        graphs = [f for f in _fields(data, 0, len(data)) if f.number == _GRAPH]
        if len(graphs) != 1 or graphs[0].wire != _BYTES:
            return data, {}
        weights: dict[str, memoryview] = {}
        graph = b"".join(_without_weights(data, graphs[0], weights))
    except _Unusual:
        return data, {}
    if not weights:
        return data, {}
    return b"".join((data[: graphs[0].start], _head(_GRAPH, len(graph)), graph, data[graphs[0].end :])), weights


def _without_weights(data: memoryview, graph: _Field, weights: dict[str, memoryview]) -> Iterator[bytes | memoryview]:
    """The fields of a graph; fills in ``weights``."""
    for field in _fields(data, graph.content, graph.end):
        if field.number != _INITIALIZER or field.wire != _BYTES or field.end - field.content < LARGE_BYTES:
            yield data[field.start : field.end]
            continue
        parts = list(_fields(data, field.content, field.end))
        raw = [f for f in parts if f.number == _RAW_DATA]
        if len(raw) != 1 or raw[0].wire != _BYTES or raw[0].end - raw[0].content < LARGE_BYTES:
            yield data[field.start : field.end]
            continue
        name = _name(data, parts)
        if name in weights:
            raise _Unusual
        # Into an array of its own, where it is aligned for any element type.
        weights[name] = np.frombuffer(data[raw[0].content : raw[0].end], np.uint8).copy().data.toreadonly()
        rest = [data[f.start : f.end] for f in parts if f is not raw[0]]
        yield _head(_INITIALIZER, sum(map(len, rest)))
        yield from rest


def _name(data: memoryview, parts: list[_Field]) -> str:
    names = [f for f in parts if f.number == _NAME]
    if len(names) != 1 or names[0].wire != _BYTES:
        raise _Unusual
    try:
        return str(data[names[0].content : names[0].end], "utf-8")
    except UnicodeDecodeError:
        raise _Unusual from None


def _fields(data: memoryview, start: int, end: int) -> Iterator[_Field]:
    """The fields of a message that lies in ``data[start:end]``. Raises :class:`_Unusual` where they do not fill it."""
    at = start
    while at < end:
        tag, content = _varint(data, at, end)
        wire, stop = tag & 7, content
        if wire == _BYTES:
            length, content = _varint(data, content, end)
            stop = content + length
        elif wire == _VARINT:
            _, stop = _varint(data, content, end)
        elif wire in (_FIXED32, _FIXED64):
            stop += 4 if wire == _FIXED32 else 8
        else:
            raise _Unusual
        if tag < 8 or stop > end:
            raise _Unusual
        yield _Field(tag >> 3, wire, at, content, stop)
        at = stop


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """A number of at most 64 bits, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _Unusual
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise _Unusual


def _head(number: int, length: int) -> bytes:
    """Tag and length of a field of bytes."""
    out = bytearray([number << 3 | _BYTES])
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)
