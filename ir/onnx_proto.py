"""Between ONNX protobuf messages and planish's types, attributes and constants.

Pure conversions, no files and no graphs: bodies and external data go through callbacks, so that the
reader, the writer and the C++ inference rules share one set. ``onnx`` loads when a message is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from .constants import DENSE_BYTES, Array, ArrayConstant, BytesConstant, Constant, SparseConstant
from .dims import Dim, SymDim, is_anonymous, symbol
from .dtypes import BY_CODE, DType
from .errors import ModelError, ReadError
from .graph import Attr, AttrRef, EmptyAttr, Graph
from .schema import (
    FLOAT,
    FLOATS,
    GRAPH,
    GRAPHS,
    INT,
    INTS,
    SPARSE,
    SPARSES,
    STRING,
    STRINGS,
    TENSOR,
    TENSORS,
    TYPE,
    TYPES,
)
from .types import MapType, OptionalType, SequenceType, TensorType, Type

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, SparseTensorProto, TensorProto, TypeProto

LoadExternal: TypeAlias = "Callable[[TensorProto, DType, tuple[int, ...]], Constant]"
"""Makes the constant for a tensor whose bytes lie in another file."""
ReadGraph: TypeAlias = "Callable[[GraphProto], Graph]"
WriteGraph: TypeAlias = "Callable[[Graph], GraphProto]"

MAX_ELEMENTS = 1 << 48
"""A tensor of more elements is taken for a damaged file."""
MAX_RANK = 64
"""Axes of a constant: as many as numpy's arrays have."""
_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
"""Where a message can hold elements."""


@cache
def _onnx() -> Any:
    import onnx

    return onnx


# -- types


def dim_to_text(d: SymDim) -> str | None:
    """The ``dim_param`` for a symbolic dimension: a symbol's plain name, else the expression; none if anonymous."""
    return None if is_anonymous(d) else d.name or str(d)


def type_to_proto(t: Type | None, spell: Callable[[Dim], int | str | None] | None = None) -> TypeProto:
    """The message for a type; unknown ranks and extents are left out.

    ``spell`` decides how a dimension is written (default: integers, and symbols by :func:`dim_to_text`).
    """
    proto = _onnx().TypeProto()
    _fill_type(proto, t, spell)
    return proto


def _fill_type(proto: TypeProto, t: Type | None, spell: Callable[[Dim], int | str | None] | None) -> None:
    if isinstance(t, TensorType):
        tensor: Any = proto.sparse_tensor_type if t.sparse else proto.tensor_type
        tensor.elem_type = 0 if t.dtype is None else t.dtype.code
        if t.shape is None:
            return
        shape = tensor.shape
        shape.SetInParent()
        for d in t.shape:
            slot = shape.dim.add()
            written = spell(d) if spell is not None else dim_to_text(d) if isinstance(d, SymDim) else d
            if isinstance(written, int):
                slot.dim_value = written
            elif written is not None:
                slot.dim_param = written
    elif isinstance(t, SequenceType):
        proto.sequence_type.SetInParent()
        _fill_type(proto.sequence_type.elem_type, t.element, spell)
    elif isinstance(t, OptionalType):
        proto.optional_type.SetInParent()
        _fill_type(proto.optional_type.elem_type, t.element, spell)
    elif isinstance(t, MapType):
        proto.map_type.key_type = t.key.code
        _fill_type(proto.map_type.value_type, t.element, spell)


def dtype_from_code(code: int, what: str = "tensor") -> DType | None:
    """The element type for an ONNX code; ``None`` for 0 (undefined). Raises ``ReadError`` for an unknown one."""
    found = BY_CODE.get(code)
    if found is None and code != 0:
        raise ReadError(
            f"{what} has element type {code}, known are 1 to {max(BY_CODE)}",
            where="read",
            help="the file is damaged or newer than this version of planish",
        )
    return found


def type_from_proto(proto: TypeProto, read_dim: Callable[[str], Dim] = symbol) -> Type | None:
    """The type a message states; ``None`` where it states none (or an opaque type).

    ``read_dim`` turns a ``dim_param`` into a dimension (default: the symbol of that name).
    """
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        return _tensor_type(proto.tensor_type, read_dim, sparse=False)
    if kind == "sequence_type":
        return SequenceType(type_from_proto(proto.sequence_type.elem_type, read_dim))
    if kind == "optional_type":
        return OptionalType(type_from_proto(proto.optional_type.elem_type, read_dim))
    if kind == "sparse_tensor_type":
        return _tensor_type(proto.sparse_tensor_type, read_dim, sparse=True)
    if kind == "map_type":
        key = dtype_from_code(proto.map_type.key_type, "map key")
        return None if key is None else MapType(key, type_from_proto(proto.map_type.value_type, read_dim))
    return None


def _tensor_type(tensor: Any, read_dim: Callable[[str], Dim], *, sparse: bool) -> TensorType:
    dtype = dtype_from_code(tensor.elem_type)
    if not tensor.HasField("shape"):
        return TensorType(dtype, None, sparse=sparse)
    dims: list[Dim] = []
    for d in tensor.shape.dim:
        if d.HasField("dim_value"):
            # Exporters write 0 and -1 for "unknown" as often as they mean an empty axis: -1 is never an extent.
            dims.append(d.dim_value if d.dim_value >= 0 else None)
        else:
            dims.append(read_dim(d.dim_param) if d.dim_param else None)
    return TensorType(dtype, tuple(dims), sparse=sparse)


# -- tensors


def tensor_to_proto(constant: Constant, name: str = "") -> TensorProto:
    """The message with all data inside: ``raw_data``, or ``string_data`` for strings."""
    proto = _onnx().TensorProto()
    fill_tensor(proto, constant, name)
    return proto


def fill_tensor(proto: TensorProto, constant: Constant, name: str = "") -> None:
    """Fills in an empty message: data goes in once, which counts for large tensors."""
    if name:
        proto.name = name
    proto.data_type = constant.dtype.code
    proto.dims.extend(constant.shape)
    if constant.dtype is DType.STRING:
        proto.string_data.extend(constant.numpy().reshape(-1).tolist())
    else:
        proto.raw_data = constant.tobytes()


def tensor_from_proto(
    proto: TensorProto, load_external: LoadExternal | None = None, kept: memoryview | None = None
) -> Constant:
    """The constant a message holds; ``raw_data`` stays packed until it is used. ``kept`` is that of a message without.

    Raises ``ReadError`` for an undefined element type, negative extents, or data that does not fit them.
    """
    what = f"tensor {proto.name!r}"
    dtype = dtype_from_code(proto.data_type, what)
    if dtype is None:
        raise _damaged(f"{what} has no element type")
    shape = tuple(proto.dims)
    count = math.prod(shape)
    if any(d < 0 for d in shape) or count > MAX_ELEMENTS:
        raise _damaged(f"{what} has shape {list(shape)}: an extent is negative, or over {MAX_ELEMENTS} elements")
    if len(shape) > MAX_RANK:
        raise _damaged(f"{what} has {len(shape)} axes, expected at most {MAX_RANK}")
    raw = proto.raw_data if kept is None else kept  # once: every look at it copies it
    filled = [field for field in _FIELDS if (raw if field == "raw_data" else len(getattr(proto, field)))]
    if len(filled) + (proto.data_location == 1) > 1:
        places = " and ".join(filled if proto.data_location != 1 else [*filled, "another file"])
        raise _damaged(f"{what} holds its data twice, in {places}")
    if proto.data_location == 1:
        if load_external is None:
            raise _damaged(f"{what} lies in another file, which is not allowed here")
        return load_external(proto, dtype, shape)
    if proto.HasField("segment"):
        raise _damaged(f"{what} is one segment of a larger tensor; no tool writes these")
    if dtype is DType.STRING:
        return _strings(proto, shape, count, what)
    if not raw and count:
        field = _field_of(dtype)
        if filled not in ([], [field]):
            raise _damaged(f"{what}: its data is in {filled[0]}, for {dtype.text} it belongs in {field} or raw_data")
        raw = _typed_data(proto, dtype, field, what)
    try:
        return BytesConstant(raw, dtype, shape)
    except ValueError as error:
        raise _damaged(f"{what}: {error}") from None


def _strings(proto: TensorProto, shape: tuple[int, ...], count: int, what: str) -> Constant:
    items = list(proto.string_data)
    if len(items) != count:
        raise _damaged(f"{what}: {len(items)} strings found, {list(shape)} takes {count}")
    array = np.empty(count, object)
    array[:] = items
    return ArrayConstant(array.reshape(shape), DType.STRING)


def _field_of(dtype: DType) -> str:
    """The typed field that ONNX assigns to an element type."""
    if dtype in (DType.F32, DType.C64):
        return "float_data"
    if dtype in (DType.F64, DType.C128):
        return "double_data"
    if dtype in (DType.U32, DType.U64):
        return "uint64_data"
    return "int64_data" if dtype is DType.I64 else "int32_data"


def _typed_data(proto: TensorProto, dtype: DType, field: str, what: str) -> bytes:
    """File bytes from the typed field. Raises ``ReadError`` for numbers that the element type does not have."""
    store: Any = _STORED.get(field)
    numbers: Array = np.array(getattr(proto, field), store)
    if store in (np.float32, np.float64, np.int64):
        return numbers.tobytes()
    if dtype is DType.BOOL:
        return (numbers != 0).astype(np.uint8).tobytes()
    # Everything else sits in int32_data: as numbers, as the bits of 8- and 16-bit floats, or as packed bytes.
    packed = np.uint16 if dtype.bits == 16 else np.uint8
    target: Any = dtype.numpy if dtype.is_integer and dtype.bits >= 8 else packed
    limits = np.iinfo(target)
    outside = (numbers < limits.min) | (numbers > limits.max)
    if outside.any():
        raise _damaged(f"{what}: {field} holds {numbers[outside][0]}, which does not fit {dtype.text}")
    return numbers.astype(target).tobytes()


_STORED: dict[str, type] = {
    "float_data": np.float32,
    "double_data": np.float64,
    "int64_data": np.int64,
    "uint64_data": np.uint64,
    "int32_data": np.int32,
}


def _damaged(message: str) -> ReadError:
    return ReadError(message, where="read", help="the model file is damaged or was written by a faulty exporter")


def sparse_to_proto(constant: SparseConstant, name: str = "") -> SparseTensorProto:
    """The message for a sparse tensor."""
    proto = _onnx().SparseTensorProto()
    proto.values.CopyFrom(tensor_to_proto(constant.values, name))
    proto.indices.CopyFrom(tensor_to_proto(constant.indices))
    proto.dims.extend(constant.shape)
    return proto


def sparse_from_proto(proto: SparseTensorProto, load_external: LoadExternal | None = None) -> SparseConstant:
    """The constant for a sparse tensor. Raises ``ReadError`` where indices leave the shape."""
    values = tensor_from_proto(proto.values, load_external)
    indices = tensor_from_proto(proto.indices, load_external)
    shape = tuple(proto.dims)
    what = f"sparse tensor {proto.values.name!r}"
    if values.dtype is DType.STRING or indices.dtype is not DType.I64:
        raise _damaged(f"{what} has {values.dtype.text} at indices of {indices.dtype.text}, expected numbers at i64")
    if any(d < 0 for d in shape) or values.dtype.nbytes(math.prod(shape)) > DENSE_BYTES:
        raise _damaged(f"{what} has shape {list(shape)}: negative, or over {DENSE_BYTES} bytes when dense")
    if len(shape) > MAX_RANK:
        raise _damaged(f"{what} has {len(shape)} axes, expected at most {MAX_RANK}")
    at = indices.numpy()
    bound = math.prod(shape) if at.ndim == 1 else np.array(shape)
    fits = (at.ndim == 1 or (at.ndim == 2 and at.shape[1] == len(shape))) and at.shape[0] == values.count
    if not fits or bool(((at < 0) | (at >= bound)).any()):
        raise _damaged(f"{what} has indices outside its shape {list(shape)}, or not one for each value")
    if at.shape[0] > 1 and len(np.unique(at, axis=0)) != at.shape[0]:
        raise _damaged(f"{what} has an index twice")
    return SparseConstant(values, indices, shape)


# -- attributes


def attr_from_proto(
    proto: AttributeProto, read_graph: ReadGraph | None = None, load_external: LoadExternal | None = None
) -> Attr:
    """The attribute a message holds; one that refers to a caller's attribute becomes an ``AttrRef``.

    Strings that are not UTF-8 stay ``bytes``. Raises ``ReadError`` for an unknown kind.
    """
    kind = proto.type or _guess_kind(proto)
    if proto.ref_attr_name:
        return AttrRef(proto.ref_attr_name, kind)
    if kind == INT:
        return proto.i
    if kind == FLOAT:
        return proto.f
    if kind == STRING:
        return _text(proto.s)
    if kind == INTS:
        return tuple(proto.ints) or EmptyAttr(kind)
    if kind == FLOATS:
        return tuple(proto.floats) or EmptyAttr(kind)
    if kind == STRINGS:
        return tuple([_text(s) for s in proto.strings]) or EmptyAttr(kind)
    if kind == TENSOR:
        return tensor_from_proto(proto.t, load_external)
    if kind == TENSORS:
        return tuple([tensor_from_proto(t, load_external) for t in proto.tensors]) or EmptyAttr(kind)
    if kind in (GRAPH, GRAPHS) and read_graph is not None:
        if kind == GRAPH:
            return read_graph(proto.g)
        return tuple([read_graph(g) for g in proto.graphs]) or EmptyAttr(kind)
    if kind == SPARSE:
        return sparse_from_proto(proto.sparse_tensor, load_external)
    if kind == SPARSES:
        return tuple([sparse_from_proto(s, load_external) for s in proto.sparse_tensors]) or EmptyAttr(kind)
    if kind == TYPE:
        return _attr_type(proto.tp)
    if kind == TYPES:
        return tuple([_attr_type(t) for t in proto.type_protos]) or EmptyAttr(kind)
    raise _damaged(f"attribute {proto.name!r} has kind {kind}, known are 1 to 14")


def _attr_type(proto: TypeProto) -> Type:
    found = type_from_proto(proto)
    return TensorType(None) if found is None else found


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


_GUESS = (
    ("floats", FLOATS),
    ("ints", INTS),
    ("strings", STRINGS),
    ("tensors", TENSORS),
    ("graphs", GRAPHS),
)


def _guess_kind(proto: AttributeProto) -> int:
    """Files of IR version 1 state no kind: the field that is set tells."""
    for field, kind in (("f", FLOAT), ("i", INT), ("s", STRING), ("t", TENSOR), ("g", GRAPH)):
        if proto.HasField(field):
            return kind
    return next((kind for field, kind in _GUESS if getattr(proto, field)), 0)


def attr_kind(attr: Any) -> int:
    """``AttributeProto.AttributeType`` of an attribute; a list with a float in it is one of floats.

    ``ANY_LIST`` for an empty list that does not remember its kind, ``NOT_AN_ATTRIBUTE`` for what ONNX cannot hold.
    """
    kind = _KIND_OF.get(type(attr))  # pyright: ignore[reportUnknownArgumentType]
    if kind is not None:
        return kind
    if isinstance(attr, (AttrRef, EmptyAttr)):
        return attr.kind
    if isinstance(attr, tuple):
        items = cast("tuple[Any, ...]", attr)
        kinds = {attr_kind(items[0])} if len(set(map(type, items))) == 1 else {attr_kind(a) for a in items}
        if not kinds:
            return ANY_LIST
        if kinds == {INT, FLOAT}:
            return FLOATS
        return _LIST_OF.get(kinds.pop(), NOT_AN_ATTRIBUTE) if len(kinds) == 1 else NOT_AN_ATTRIBUTE
    if isinstance(attr, Constant):
        return SPARSE if isinstance(attr, SparseConstant) else TENSOR
    if isinstance(attr, (TensorType, SequenceType, OptionalType, MapType)):
        return TYPE
    if isinstance(attr, np.integer):
        return INT
    return FLOAT if isinstance(attr, np.floating) else NOT_AN_ATTRIBUTE


NOT_AN_ATTRIBUTE, ANY_LIST = -1, -2
_KIND_OF: dict[type, int] = {int: INT, float: FLOAT, str: STRING, bool: INT, bytes: STRING, Graph: GRAPH}
_LIST_OF = {FLOAT: FLOATS, INT: INTS, STRING: STRINGS, TENSOR: TENSORS, GRAPH: GRAPHS, SPARSE: SPARSES, TYPE: TYPES}


def attr_to_proto(name: str, attr: Attr, write_graph: WriteGraph | None = None) -> AttributeProto:
    """The message for an attribute; bodies need ``write_graph``."""
    proto = _onnx().AttributeProto()
    fill_attr(proto, name, attr, write_graph)
    return proto


def fill_attr(proto: AttributeProto, name: str, attr: Attr, write_graph: WriteGraph | None = None) -> None:
    """Fills in an empty message in place."""
    proto.name = name
    kind = attr_kind(attr)
    if kind < 0:
        raise ModelError(
            f"attribute {name!r} is {attr!r}, which ONNX cannot hold: it mixes kinds, is none of them, or is an empty "
            "list without a kind (EmptyAttr)"
        )
    proto.type = kind  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(attr, AttrRef):
        proto.ref_attr_name = attr.name
        return
    if isinstance(attr, EmptyAttr):
        return
    value: Any = attr
    if kind == INT:
        proto.i = int(value)
    elif kind == FLOAT:
        proto.f = float(value)
    elif kind == STRING:
        proto.s = _bytes(value)
    elif kind == INTS:
        proto.ints.extend([int(v) for v in value])
    elif kind == FLOATS:
        proto.floats.extend([float(v) for v in value])
    elif kind == STRINGS:
        proto.strings.extend([_bytes(v) for v in value])
    else:
        _fill_messages(proto, kind, value if isinstance(attr, tuple) else (value,), write_graph)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _fill_messages(proto: Any, kind: int, items: tuple[Any, ...], write_graph: WriteGraph | None) -> None:
    def message(item: Any) -> Any:
        if isinstance(item, Graph):
            if write_graph is None:
                raise ModelError(f"attribute {proto.name!r} is a body, which cannot be written here")
            return write_graph(item)
        if isinstance(item, SparseConstant):
            return sparse_to_proto(item)
        return tensor_to_proto(item) if isinstance(item, Constant) else type_to_proto(item)

    single = {GRAPH: "g", SPARSE: "sparse_tensor", TYPE: "tp"}.get(kind)
    if kind == TENSOR:
        fill_tensor(proto.t, items[0])
        return
    if single is not None:
        getattr(proto, single).CopyFrom(message(items[0]))
        return
    plural = {TENSORS: "tensors", GRAPHS: "graphs", SPARSES: "sparse_tensors", TYPES: "type_protos"}[kind]
    getattr(proto, plural).extend([message(item) for item in items])
