"""Structure-aware edits of protobuf messages, for a fuzzer that would otherwise break every length prefix."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto

NUMBERS = (0, 1, -1, 2, 3, 4, 7, 8, 10, 21, 64, 255, 1 << 15, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 40, 1 << 62)
EXTREMES = ((1 << 63) - 1, -(1 << 63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, float("inf"), float("-inf"), float("nan"))
NAMES = ("", "x", "y", "w", "main", "axis", "value", "value_ints", "then_branch", "body", "ai.onnx", "com.microsoft")
OPERATORS = (
    "Add MatMul Conv Reshape Slice Pad Gather Constant ConstantOfShape Range Expand Tile Concat Resize OneHot If Loop "
    "Scan Cast TopK Split Squeeze Unsqueeze Transpose Shape QuantizeLinear DequantizeLinear Einsum Gemm Softmax LSTM "
    "SequenceEmpty SequenceAt Optional MaxPool ReduceSum Upsample Identity NonZero Where"
).split()
MAX_DEPTH = 8


def mutate(data: bytes, seed: int) -> bytes:
    """``data`` with one to four edits; a message that does not parse, or whose strings do not, comes back as it is."""
    draw = random.Random(seed)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        return data
    try:
        for _ in range(draw.randint(1, 4)):
            _edit(_somewhere(model, draw), draw)
    except UnicodeDecodeError:  # protobuf parses any bytes as a string, and then does not hand them out
        return data
    return model.SerializeToString()


def _somewhere(message: Any, draw: random.Random) -> Any:
    """A message inside ``message``, or itself."""
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for field, value in message.ListFields():
            if field.message_type is not None:
                inner.extend(value if field.is_repeated else [value])
        if not inner or draw.random() < 0.15:
            return message
        message = draw.choice(inner)
    return message


def _edit(message: Any, draw: random.Random) -> None:
    fields = message.DESCRIPTOR.fields
    present = [field for field, _ in message.ListFields()]
    field = draw.choice(present) if present and draw.random() < 0.75 else draw.choice(fields)
    if field.is_repeated:
        _edit_list(message, field, draw)
    elif draw.random() < 0.1:
        message.ClearField(field.name)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    else:
        _assign(message, field, _scalar(field, draw))


def _edit_list(message: Any, field: FieldDescriptor, draw: random.Random) -> None:
    items = getattr(message, field.name)
    kind = draw.randrange(5)
    if items and kind == 0:
        del items[draw.randrange(len(items))]
    elif items and kind == 1 and len(items) < 64:
        items.append(items[draw.randrange(len(items))])
    elif items and kind == 2 and field.message_type is not None:
        items[draw.randrange(len(items))].CopyFrom(items[draw.randrange(len(items))])
    elif field.message_type is not None:
        items.add()
    elif items and kind == 3:
        items[draw.randrange(len(items))] = _scalar(field, draw)
    else:
        items.append(_scalar(field, draw))


def _assign(message: Any, field: FieldDescriptor, value: Any) -> None:
    setattr(message, field.name, value)


def _scalar(field: FieldDescriptor, draw: random.Random) -> Any:
    kind = field.type
    if kind in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return draw.choice(FLOATS)
    if kind == FieldDescriptor.TYPE_STRING:
        return draw.choice(OPERATORS if field.name == "op_type" else NAMES)
    if kind == FieldDescriptor.TYPE_BYTES:
        return bytes(draw.randrange(256) for _ in range(draw.choice((0, 1, 3, 4, 8, 16))))
    if kind == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        return draw.choice([v.number for v in field.enum_type.values])
    value = draw.choice(EXTREMES) if draw.random() < 0.1 else draw.choice(NUMBERS)
    if kind == FieldDescriptor.TYPE_INT32:
        return max(-(1 << 31), min((1 << 31) - 1, value))
    return value % (1 << 64) if kind == FieldDescriptor.TYPE_UINT64 else value
