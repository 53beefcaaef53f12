"""Writes models as ONNX: ``write_model(model, "model.onnx")``.

The bytes depend on the model alone. Files appear whole or not at all, and a model may be written over
the file it was read from. Weights that no pass touched are copied from file to file in bounded memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NoReturn, TypeAlias

import numpy as np

from .constants import CHUNK_BYTES, Constant, FileConstant, FileStamp, RowsConstant, SparseConstant, file_stamp
from .dtypes import DType
from .errors import UsageError
from .external_data import refused_location
from .graph import Model
from .onnx_emit import Emitter, PutTensor, is_written_as_node
from .onnx_stream import Stream
from .safe_files import SafeFiles, cannot_write

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

External: TypeAlias = "Literal['auto'] | bool | str"
PROTOBUF_BYTES = (2 << 30) - 1
INLINE_BYTES = 1_900_000_000
"""Above this many bytes of weights ``auto`` stores them outside: names and nodes need room below 2 GiB too."""
_PAGE, _LINE = 4096, 64


def model_to_proto(model: Model, *, value_info: bool = False) -> ModelProto:
    """The model as one message, all weights inside.

    ``value_info`` adds the inferred types of intermediates. Raises ``UsageError`` when the weights take over
    2 GiB, and ``VerifyError`` when the graph cannot be expressed.
    """
    _check_size(model)
    return build_proto(model, None, value_info=value_info)


def model_to_bytes(model: Model, *, value_info: bool = False) -> bytes:
    """The bytes of a model file; the same model gives the same bytes. Raises as :func:`model_to_proto`."""
    _check_size(model)
    return b"".join(_pieces(model, None, value_info=value_info))


def write_model(
    model: Model,
    path: str | os.PathLike[str],
    *,
    external_data: External = "auto",
    threshold: int = 1024,
    value_info: bool = False,
) -> None:
    """Writes the model to ``path``, replacing what is there in one step.

    ``external_data`` says where weights of at least ``threshold`` bytes go: ``False`` into the model file,
    ``True`` into ``<path>.data``, a string into that file beside it, ``"auto"`` to where they were when the
    model was read, and out of the file when it would not hold them. Raises ``UsageError`` where the file
    cannot be written (then nothing has changed) and ``VerifyError`` when the graph cannot be expressed.
    """
    path = Path(os.path.abspath(path))
    data_path = _data_path(path, external_data, _wants_external(model, external_data))
    with SafeFiles() as files:
        weights: _Weights | None = None
        if data_path is not None:
            weights = _Weights(data_path.name, threshold)
            weights.plan(model)
            if weights.offsets:
                weights.write(files.create(data_path))
        if weights is None:
            _check_size(model)
        pieces = _pieces(model, weights, value_info=value_info)
        try:
            file = files.create(path)
            file.writelines(pieces)
            file.flush()
        except OSError as error:
            raise cannot_write(path, error) from None
        moving = _leave_replaced(model, path, data_path, weights)
    if weights is not None and data_path is not None:
        weights.rebind(moving, data_path)


# -- messages


def _pieces(model: Model, weights: _Weights | None, *, value_info: bool) -> Iterable[bytes | memoryview]:
    """The bytes of the model's file. Raises ``UsageError`` where protobuf holds no message of that size."""
    from google.protobuf.message import EncodeError

    stream = Stream(model)
    proto = build_proto(model, stream.put if weights is None else weights.put, value_info=value_info)
    try:
        size, pieces = stream.pieces(proto)
    except (EncodeError, ValueError):
        size, pieces = PROTOBUF_BYTES + 1, ()
    if size > PROTOBUF_BYTES:
        _too_large(size)
    return pieces


def build_proto(model: Model, put: PutTensor | None, *, value_info: bool = False) -> ModelProto:
    """The message; ``put`` may place the data of initializers elsewhere."""
    from onnx import ModelProto

    proto = ModelProto()
    emitter = Emitter(put, value_info=value_info)
    emitter.main(model.graph, proto.graph)
    for function in model.functions.values():
        emitter.function(function, proto.functions.add())
    emitter.put_opsets(proto.opset_import, model.opsets, emitter.domains)
    proto.producer_name, proto.producer_version = model.producer
    proto.domain = model.domain
    proto.model_version = model.version
    proto.doc_string = model.doc
    for key, value in model.metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    for raw in (model.extra or {}).get("devices", ()):
        proto.configuration.add().ParseFromString(raw)
        emitter.need(11)
    proto.ir_version = max(model.ir_version, emitter.ir_version)
    return proto


def _check_size(model: Model) -> None:
    size = sum(c.nbytes for c in _initializers(model))
    if size > INLINE_BYTES:
        _too_large(size)


def _too_large(size: int) -> NoReturn:
    raise UsageError(
        f"the model takes {size} bytes in one file, a protobuf file holds less than 2 GiB",
        where="write",
        help="write it with its weights outside: write_model(model, path, external_data=True)",
    )


# -- weights outside


def _initializers(model: Model) -> Iterable[Constant]:
    """Data of all initializers, defaults of inputs included, each value once (shared data several times)."""
    for graph in model.graph.all_graphs():
        yield from graph.defaults.values()
        for value in graph.constants:
            assert value.data is not None
            if not is_written_as_node(value, graph):
                yield value.data


def _wants_external(model: Model, external_data: External) -> bool:
    if external_data != "auto":
        return external_data is not False
    if model.extra is not None and model.extra.get("external_data"):
        return True
    constants = list(_initializers(model))
    return (
        any(isinstance(c, (FileConstant, RowsConstant)) for c in constants)
        or sum(c.nbytes for c in constants) > INLINE_BYTES
    )


def _data_path(path: Path, external_data: External, wanted: bool) -> Path | None:
    if not wanted:
        return None
    name = external_data if isinstance(external_data, str) and external_data != "auto" else f"{path.name}.data"
    reason = refused_location(name)
    if reason is not None or "/" in name or name == path.name:
        raise UsageError(
            f"cannot store weights in {name!r}: {reason or 'it is the model file, or in another folder'}",
            where="write",
            help="give a plain file name; the file goes beside the model",
        )
    return path.with_name(name)


class _Weights:
    """The file of weights: which constants go there, and where in it they lie."""

    def __init__(self, location: str, threshold: int) -> None:
        self.location = location
        self.threshold = threshold
        self.offsets: dict[int, tuple[int, int]] = {}
        """Offset and length by identity of the constant; shared data is stored once."""
        self.constants: list[Constant] = []
        self.size = 0
        self.stamp: FileStamp | None = None
        """Identifies the new file once it is written."""

    def plan(self, model: Model) -> None:
        """Lays out the constants in the order of the model, large ones on pages, so that they can be mapped."""
        for constant in _initializers(model):
            if constant.dtype is DType.STRING or isinstance(constant, SparseConstant) or id(constant) in self.offsets:
                continue
            size = constant.nbytes
            if size < max(self.threshold, 1):
                continue
            step = _PAGE if size >= 1 << 20 else _LINE
            offset = -(-self.size // step) * step
            self.offsets[id(constant)] = (offset, size)
            self.constants.append(constant)
            self.size = offset + size

    def write(self, file: BinaryIO) -> None:
        """Streams all data; stretches of zeros become holes of the file."""
        try:
            for constant in self.constants:
                at, size = self.offsets[id(constant)]
                end = at + size
                for chunk in constant.chunks():
                    length = len(chunk)
                    if at + length > end:
                        break
                    if not _is_zero(chunk):
                        file.seek(at)
                        file.write(chunk)
                    at += length
                if at != end:
                    raise UsageError(f"{constant!r} gave other than the {size} bytes it announced", where="write")
            file.truncate(self.size)
            file.flush()
            self.stamp = file_stamp(file.fileno())
        except OSError as error:
            raise cannot_write(Path(self.location), error) from None

    def put(self, constant: Constant, proto: TensorProto) -> bool:
        """Says in the message where the data lies."""
        found = self.offsets.get(id(constant))
        if found is None:
            return False
        proto.data_location = proto.EXTERNAL
        for key, value in (("location", self.location), ("offset", found[0]), ("length", found[1])):
            entry = proto.external_data.add()
            entry.key, entry.value = key, str(value)
        return True

    def rebind(self, constants: list[FileConstant | RowsConstant], path: Path) -> None:
        """Points constants whose file was replaced at the same bytes in the new one."""
        for constant in constants:
            assert self.stamp is not None
            constant.moved(path, self.offsets[id(constant)][0], self.stamp)


_ZEROS = bytes(CHUNK_BYTES)


def _is_zero(chunk: bytes | memoryview) -> bool:
    """Whether the chunk is all zeros; nearly free for data that is not."""
    if np.frombuffer(chunk[:4096], np.uint8).any():
        return False
    for start in range(0, len(chunk), CHUNK_BYTES):
        part = bytes(chunk[start : start + CHUNK_BYTES])
        if part != _ZEROS[: len(part)]:
            return False
    return True


def _leave_replaced(
    model: Model, path: Path, data_path: Path | None, weights: _Weights | None
) -> list[FileConstant | RowsConstant]:
    """Frees the model of files that are about to be replaced.

    Constants that are in the new file of weights are returned, to be pointed there; others go into memory.
    """
    offsets = weights.offsets if weights is not None else {}
    replaced = {_real(path)}
    if data_path is not None and offsets:
        replaced.add(_real(data_path))
    moving: list[FileConstant | RowsConstant] = []
    for constant in _file_constants(model):
        if str(constant.path) in replaced:
            if id(constant) in offsets:
                moving.append(constant)
            else:
                constant.hold()
    return moving


def _real(path: Path) -> str:
    """The path with links in its folder resolved, as constants know it; a link at the path itself is replaced."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def _file_constants(model: Model) -> Iterable[FileConstant | RowsConstant]:
    """Every mapped constant of the model: initializers, constants of functions, attributes, parts of sparse ones."""
    stack: list[object] = []
    for graph in model.all_graphs():
        stack.extend(graph.defaults.values())
        stack.extend(value.data for value in graph.constants)
        for node in graph:
            stack.extend(node.attrs.values())
    while stack:
        item = stack.pop()
        if isinstance(item, (FileConstant, RowsConstant)):
            yield item
        elif isinstance(item, SparseConstant):
            stack += (item.values, item.indices)
        elif isinstance(item, tuple):
            stack.extend(i for i in item if isinstance(i, Constant))  # pyright: ignore[reportUnknownVariableType]
