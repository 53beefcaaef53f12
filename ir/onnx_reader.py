"""Reads ONNX models: ``read_model("model.onnx")``.

A model file is untrusted input. Every declared size is checked against the bytes that are there before
anything is allocated by it, limits are stated in :class:`Limits`, and whatever is wrong raises a
``ReadError`` that names the tensor or node. Declared shapes and types of outputs and intermediates are
hints, not facts: only inputs keep theirs, the rest is inferred.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from .collector import collector_paused
from .dims import Dim, SymDim, anonymous
from .errors import ReadError
from .external_data import ExternalFiles
from .graph import Function, Graph, Model
from .limits import Limits, current_limits
from .onnx_read_graph import MODEL_HELP, GraphReader, OutOfOrder, remark, text
from .onnx_split import split_weights

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Limits", "read_model"]

Source: TypeAlias = "str | os.PathLike[str] | bytes | ModelProto"
_MAP_ABOVE = 64 << 20
_SPLIT_ABOVE = 16 << 20
"""Smaller files take protobuf no time worth saving."""
_NEWER = "the model is damaged, or newer than the installed onnx package"
_ALIENS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself; run `git lfs pull`"),
    (b"PK\x03\x04", "a ZIP archive (a PyTorch checkpoint or a packed model), not an ONNX file"),
    (b"GGUF", "a GGUF file, not an ONNX file"),
    (b"\x89HDF", "an HDF5 file (Keras), not an ONNX file"),
    (b"<", "a web page or XML, not an ONNX file; the download failed?"),
)


def read_model(
    source: Source, *, limits: Limits | None = None, infer: bool = True, folder: str | os.PathLike[str] | None = None
) -> Model:
    """The model in a file, in bytes, or in a ``ModelProto`` (which is left as it is).

    ``folder`` is where external weights lie when ``source`` is not a path. ``infer`` finds the types of all
    values. Raises ``ReadError`` for anything that is not a sound model within ``limits`` (default: those in force).
    """
    limits = current_limits.get() if limits is None else limits
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    try:
        proto, weights = _parse(source, path, limits)
        where = Path(folder) if folder is not None else path.parent if path is not None else None
        external = ExternalFiles(where, path, limits)
        with collector_paused():
            model = read_in_any_order(proto, external, limits, weights)
    except ReadError as error:
        if path is not None and error.at is None:
            error.at = str(path)
        raise
    if infer:
        from .infer import infer_model

        _name_open_dims(model)
        infer_model(model)
    return model


def _name_open_dims(model: Model) -> None:
    """Gives every extent that the inputs leave open a symbol, so that shape arithmetic can follow it.

    Paddle's exporter names every open extent ``?``, which by the standard would make them all equal; they
    are not. How the file spells them stays in ``extra["unknown_dims"]`` and is written back.
    """
    for value in model.graph.inputs:
        t = value.tensor
        if t is None or t.shape is None:
            continue
        dims = tuple(anonymous(f"{value.name}.{i}") if _is_open(d) else d for i, d in enumerate(t.shape))
        if dims != t.shape:
            value.type = t.with_shape(dims)


def _is_open(d: Dim) -> bool:
    return d is None or (isinstance(d, SymDim) and d.name in ("?", "-1"))


# -- bytes


def _parse(source: Source, path: Path | None, limits: Limits) -> tuple[ModelProto, dict[str, memoryview]]:
    """The message, and data of initializers that was kept out of it."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    if isinstance(source, ModelProto):
        return source, {}
    proto = ModelProto()
    if path is None and not isinstance(source, (bytes, memoryview, bytearray)):
        _fail(f"cannot read a model from {type(source).__name__}", "give a path, bytes, or an onnx.ModelProto")
    data: Any = source if path is None else _load(path, limits)
    size = len(data)
    if not size:
        raise _not_a_model(path, "it is empty")
    if size > limits.file_bytes:
        _too_large(size, limits)
    for magic, what in _ALIENS:
        if data[: len(magic)] == magic:
            raise _not_a_model(path, f"it is {what}")
    view = memoryview(data)
    try:
        message, weights = split_weights(view) if size >= _SPLIT_ABOVE else (view, {})
        proto.ParseFromString(message)  # pyright: ignore[reportArgumentType]
    except (DecodeError, RecursionError) as error:
        raise _not_a_model(path, f"protobuf says {str(error)!r}") from None
    finally:
        view.release()
        if isinstance(data, mmap.mmap):
            data.close()
    return proto, weights


def _load(path: Path, limits: Limits) -> bytes | mmap.mmap:
    """The bytes of a plain file; large ones mapped, so that they are in memory once and not twice."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise _not_a_model(path, "it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not a plain file")
            if found.st_size > limits.file_bytes:
                _too_large(found.st_size, limits)
            if found.st_size > _MAP_ABOVE:
                return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(limits.file_bytes + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        help = "check the path and its permissions"
        raise ReadError(f"cannot open the model: {reason}", where="read", help=help) from None


def _too_large(size: int, limits: Limits) -> NoReturn:
    _fail(
        f"the model file has {size} bytes, the limit is {limits.file_bytes}",
        "protobuf ends at 2 GiB: larger models keep their weights as external data",
    )


def _not_a_model(path: Path | None, why: str) -> ReadError:
    return ReadError(
        f"this is not an ONNX model: {why}",
        where="read",
        at=str(path) if path is not None else None,
        help="the file is of another kind, truncated, or damaged",
    )


# -- messages


def read_in_any_order(
    proto: ModelProto, external: ExternalFiles, limits: Limits, weights: Mapping[str, memoryview] | None = None
) -> Model:
    """The model in a message, without inference; its nodes are sorted where they need it.

    ``weights`` holds the data of initializers of the main graph that the message lacks, by name.
    """
    try:
        return _read(proto, external, limits, weights or {}, sort=False)
    except OutOfOrder:
        return _read(proto, external, limits, weights or {}, sort=True)


def _read(
    proto: ModelProto, external: ExternalFiles, limits: Limits, weights: Mapping[str, memoryview], *, sort: bool
) -> Model:
    from onnx import IR_VERSION

    if not proto.HasField("graph"):
        raise _not_a_model(None, "it has no graph")
    ir_version = proto.ir_version
    if not 1 <= ir_version <= IR_VERSION:
        _fail(f"the model has IR version {ir_version}, known are 1 to {IR_VERSION}", _NEWER)
    if proto.training_info:
        _fail(
            "the model carries training_info (a training algorithm), which optimizing would invalidate",
            "planish optimizes inference: remove it with `del model.training_info[:]`",
        )
    opsets = _opsets(proto.opset_import)
    if not opsets and ir_version < 3:
        opsets[""] = 1  # before IR version 3 models did not say
    if not opsets:
        _fail("the model imports no operator set")
    reader = GraphReader(external, limits, ir_version, weights, sort=sort)
    model = Model(reader.read_main(proto.graph, opsets), ir_version=ir_version)
    model.producer = (remark(proto.producer_name), remark(proto.producer_version))
    model.domain = remark(proto.domain)
    model.version = proto.model_version
    model.doc = remark(proto.doc_string)
    model.metadata = {remark(p.key): remark(p.value) for p in proto.metadata_props}
    for function in proto.functions:
        read = reader.read_function(function, _opsets(function.opset_import))
        if not read.name or read.key in model.functions:
            _fail(f"function {read.domain}::{read.name!r} has no name or is defined twice")
        model.add_function(read)
    if model.functions:
        _check_calls(model, limits)
    extra: dict[str, Any] = {}
    if proto.configuration:
        extra["devices"] = [c.SerializeToString(deterministic=True) for c in proto.configuration]
    if external.used:
        extra["external_data"] = True
    model.extra = extra or None
    return model


def _opsets(imports: Any) -> dict[str, int]:
    """Imported versions by domain, ``ai.onnx`` under its short name ``""``."""
    from onnx.defs import onnx_opset_version

    opsets: dict[str, int] = {}
    for entry in imports:
        domain = "" if entry.domain == "ai.onnx" else text(entry.domain)
        version = entry.version
        if opsets.get(domain, version) != version:
            _fail(f"domain {domain or 'ai.onnx'!r} is imported in versions {opsets[domain]} and {version}")
        newest = onnx_opset_version()
        if version < 1 or (domain == "" and version > newest):
            _fail(
                f"the model imports version {version} of domain {domain or 'ai.onnx'!r}, known are 1 to {newest}",
                _NEWER,
            )
        opsets[domain] = version
    return opsets


# -- functions


def _check_calls(model: Model, limits: Limits) -> None:
    """Refuses functions that call themselves, call chains that are too deep, and those that expand too far."""
    expanded: dict[tuple[str, str, str], int] = {}
    depths: dict[tuple[str, str, str], int] = {}
    for root in model.functions.values():
        path: list[Function] = []
        stack = [(root, _callees(root.graph, model))]
        while stack:
            function, calls = stack[-1]
            if not path or path[-1] is not function:
                path.append(function)
            callee = next((c for c in calls if c.key not in expanded), None)
            if callee is None:
                expanded[function.key] = _node_count(function.graph) + sum(expanded[c.key] for c in calls)
                depths[function.key] = 1 + max((depths[c.key] for c in calls), default=0)
                stack.pop()
                path.pop()
            elif callee in path:
                chain = " -> ".join(f.name for f in (*path[path.index(callee) :], callee))
                _fail(f"functions call each other in a circle: {chain}")
            elif len(stack) >= limits.depth:
                _fail(f"functions call functions over {limits.depth} deep, down to {callee.name!r}")
            else:
                stack.append((callee, _callees(callee.graph, model)))
    total = _node_count(model.graph) + sum(expanded[c.key] for c in _callees(model.graph, model))
    if total > limits.nodes:
        _fail(f"with all function calls expanded the model has {total} nodes, the limit is {limits.nodes}")


def _node_count(graph: Graph) -> int:
    return sum(1 for _ in graph.all_nodes())


def _callees(graph: Graph, model: Model) -> list[Function]:
    """The functions called in a graph, once per call."""
    functions = model.functions
    found = (functions.get((n.domain, n.op, n.overload)) for n in graph.all_nodes())
    return [f for f in found if f is not None]


def _fail(message: str, help: str = MODEL_HELP) -> NoReturn:
    raise ReadError(message, where="read", help=help)
