"""The bridge to onnx-graphsurgeon, so that existing GraphSurgeon scripts run as passes.

``graph = to_surgeon(model); script(graph); model = from_surgeon(graph)``. Weights that the script does not
look at stay where they are (on disk, lazy, seeded): GraphSurgeon sees them as its own lazy values. What
GraphSurgeon has no place for (metadata, inputs with defaults) waits beside the graph and is put back; what it
would drop without a word (attributes of rare kinds, function overloads) is refused before the script runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .constants import Array, Constant, same_data
from .dtypes import DType
from .errors import PassError, ReadError, UsageError
from .external_data import ExternalFiles
from .graph import AttrRef, EmptyAttr, Graph, Model, Value
from .limits import Limits
from .onnx_proto import attr_kind, fill_tensor
from .onnx_reader import read_in_any_order
from .onnx_writer import build_proto
from .schema import GRAPHS, SPARSE, SPARSES, TENSORS, TYPE, TYPES
from .types import SequenceType, TensorType, Type

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from onnx import TensorProto

_DROPPED = {
    SPARSE: "sparse tensor",
    SPARSES: "sparse tensors",
    TENSORS: "tensors",
    GRAPHS: "graphs",
    TYPE: "type",
    TYPES: "types",
}
_STUB = "planish:"
_KEY = "_planish"


@dataclass
class _Kept:
    """What GraphSurgeon has no place for. Travels as an attribute of the GraphSurgeon graph."""

    model: Model
    """For what belongs to the whole model."""
    inputs: list[tuple[str, Type | None, dict[str, Any] | None, Constant | None]]
    """Name, type, extra and default of the main graph's inputs."""


def to_surgeon(model: Model) -> gs.Graph:
    """A GraphSurgeon graph of the model, which stays as it is.

    Raises ``UsageError`` where the model has something that GraphSurgeon would lose.
    """
    import onnx_graphsurgeon as gs

    _refuse_losses(model)
    stubs: list[Constant] = []

    def put(constant: Constant, proto: TensorProto) -> bool:
        if constant.dtype is DType.STRING:
            return False
        _fill_stub(proto, len(stubs))
        stubs.append(constant)
        return True

    graph = gs.import_onnx(build_proto(model, put))
    lazy_class = _lazy_values()
    for tensor in _constants(graph):
        number = _stub_number(getattr(tensor._values, "tensor", None))
        if number is not None:
            tensor._values = lazy_class(stubs[number], tensor._values)
            tensor.data_location = None
    inputs = [(v.name, v.type, v.extra, model.graph.defaults.get(v)) for v in model.graph.inputs]
    setattr(graph, _KEY, _Kept(model, inputs))
    return graph


def from_surgeon(graph: gs.Graph) -> Model:
    """The model that a GraphSurgeon graph describes; all types are inferred anew.

    Raises ``PassError`` where the script left a graph that cannot be exported or read.
    """
    import onnx_graphsurgeon as gs

    lazy_class = _lazy_values()
    lazy = [t._values for t in _constants(graph) if isinstance(t._values, lazy_class)]
    stubs = _Stubs([values.constant for values in lazy])
    for number, values in enumerate(lazy):
        values.number = number
    try:
        proto = gs.export_onnx(graph, do_type_check=False)
        model = read_in_any_order(proto, stubs, Limits())
    except ReadError as error:
        raise PassError(
            f"the GraphSurgeon script left an unsound graph: {error.message}", where="surgeon", help=_SCRIPT
        ) from error
    except Exception as error:  # GraphSurgeon raises whatever its inputs make it stumble over
        raise PassError(f"GraphSurgeon cannot export its graph: {error}", where="surgeon", help=_SCRIPT) from error
    finally:
        for values in lazy:
            values.number = None
    _merge_captured_constants(model.graph)
    kept = graph.__dict__.get(_KEY)
    if isinstance(kept, _Kept):
        _put_back(model, kept)
    from .infer import infer_model

    infer_model(model)
    return model


_SCRIPT = "the author of the script is at fault: names must be unique, operands defined, attributes of ONNX's kinds"


def _refuse_losses(model: Model) -> None:
    for key in model.functions:
        if key[2]:
            _refuse(f"function {key[1]!r} has overload {key[2]!r}")
    for node in model.all_nodes():
        for name, attr in node.attrs.items():
            if isinstance(attr, AttrRef):
                continue
            if isinstance(attr, EmptyAttr):
                _refuse(f"node {node.op} {node.name!r} has an empty list as attribute {name!r}")
            kind = attr_kind(attr)
            if kind in _DROPPED:
                _refuse(f"node {node.op} {node.name!r} has attribute {name!r} of kind {_DROPPED[kind]}")
    for value in (*model.graph.inputs, *model.graph.outputs):
        t = value.type
        if isinstance(t, SequenceType):
            t = t.element
        if t is not None and not isinstance(t, TensorType):
            _refuse(f"%{value.name} of the interface has type {value.type}")


def _refuse(what: str) -> None:
    raise UsageError(
        f"{what}, which onnx-graphsurgeon cannot carry",
        where="surgeon",
        help="run the script on another model, or write the change as a planish pass",
    )


def _put_back(model: Model, kept: _Kept) -> None:
    old = kept.model
    model.domain, model.version, model.doc = old.domain, old.version, old.doc
    model.metadata = dict(old.metadata)
    if old.extra is not None:
        model.extra = dict(old.extra)
    _put_back_inputs(model.graph, kept)
    declared = {port.name: port for port in old.graph.ports}
    for port in model.graph.ports:
        before = declared.get(port.name)
        if before is not None and port.declared in (None, TensorType(None)):
            port.declared, port.extra = before.declared, before.extra


def _put_back_inputs(graph: Graph, kept: _Kept) -> None:
    """Inputs with a default, which GraphSurgeon turns into constants, become inputs again, at their places."""
    constants = {value.name: value for value in graph.constants}
    present = {value.name: value for value in graph.inputs}
    order: list[Value] = []
    for name, t, extra, default in kept.inputs:
        value = present.pop(name, None)
        if value is None and default is not None:
            value = constants.get(name) or Value(name)
            if value.data is not None:
                graph.constants.pop(value)
                value.data, default = None, value.data
            value.graph, value.type = graph, t
            graph.defaults[value] = default
        if value is not None:
            value.extra = extra
            order.append(value)
    graph.inputs[:] = [*order, *present.values()]
    for i, value in enumerate(graph.inputs):
        value.index = i


def _merge_captured_constants(main: Graph) -> None:
    """GraphSurgeon exports a constant once for each body that captures it: one in the main graph is enough."""
    first: dict[str, Value] = {}
    for graph in main.all_graphs():
        for value in list(graph.constants):
            same = first.setdefault(value.name, value)
            if same is value or not same_data(_data(same), _data(value)):
                continue
            if same.graph is not None and same.graph is not main:
                del same.graph.constants[same]
                main.constants[same] = None
                same.graph = main
            value.replace_uses(same)
            graph.remove_constant(value)


def _data(value: Value) -> Constant:
    assert value.data is not None
    return value.data


# -- weights


def _constants(graph: Any) -> list[Any]:
    """Every GraphSurgeon constant of the graph, its bodies and its functions, once."""
    import onnx_graphsurgeon as gs

    found: dict[int, Any] = {}
    graphs: list[Any] = [graph, *graph.functions]
    while graphs:
        one = graphs.pop()
        graphs.extend(one.subgraphs())
        tensors = [t for node in one.nodes for t in (*node.inputs, *node.outputs)]
        for tensor in (*tensors, *one.inputs, *one.outputs):
            if isinstance(tensor, gs.Constant):
                found[id(tensor)] = tensor
    return list(found.values())


def _fill_stub(proto: TensorProto, number: int) -> None:
    proto.data_location = proto.EXTERNAL
    entry = proto.external_data.add()
    entry.key, entry.value = "location", f"{_STUB}{number}"


def _stub_number(proto: Any) -> int | None:
    """The number of the constant that a stub stands for; ``None`` for a tensor with data."""
    entries = getattr(proto, "external_data", None)
    text = entries[0].value if entries else ""
    return int(text[len(_STUB) :]) if text.startswith(_STUB) else None


class _Stubs(ExternalFiles):
    """Resolves stubs to the constants they stand for, and nothing else."""

    def __init__(self, constants: list[Constant]) -> None:
        super().__init__(None)
        self._constants = constants

    def load(self, proto: TensorProto, dtype: DType, shape: tuple[int, ...]) -> Any:
        number = _stub_number(proto)
        return super().load(proto, dtype, shape) if number is None else self._constants[number]


@cache
def _lazy_values() -> Any:
    """GraphSurgeon's class of lazy values, over one of our constants; made when the package is first needed."""
    from onnx_graphsurgeon.ir.tensor import LazyValues

    class ConstantValues(LazyValues):  # pyright: ignore[reportUntypedBaseClass]
        """Shape and type now, elements when the script looks at them, messages when it exports."""

        def __init__(self, constant: Constant, like: Any) -> None:
            self.constant = constant
            self.number: int | None = None
            self.shape, self.dtype, self.nbytes = like.shape, like.dtype, like.nbytes

        def load(self) -> Array:
            return np.array(self.constant.numpy())

        @property
        def tensor(self) -> TensorProto:
            """The message: a stub on the way back to planish, otherwise with all data."""
            from onnx import TensorProto

            proto = TensorProto()
            if self.number is None:
                fill_tensor(proto, self.constant)
                return proto
            proto.data_type = self.constant.dtype.code
            proto.dims.extend(self.constant.shape)
            _fill_stub(proto, self.number)
            return proto

    return ConstantValues
