"""ONNX graph and function messages to :class:`Graph`: names become uses, ``Constant`` nodes constants.

What ``extra`` holds, on values, ports and nodes alike: ``doc`` (str), ``metadata`` (dict), ``denotation``
(str), ``dim_denotations`` (tuple), ``unknown_dims`` (tuple, how the file spells extents it does not know),
``declared`` (the file's type of an output whose operator planish cannot infer), ``quantization`` (dict of
ONNX's ``quantization_annotation``), ``devices`` (serialized messages).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .constants import Array, ArrayConstant, Constant
from .dims import Dim, symbol
from .errors import ReadError
from .graph import RETURN, Attr, AttrRef, Function, Graph, Node, Port, Value
from .onnx_order import sorted_nodes
from .onnx_proto import attr_from_proto, attr_kind, sparse_from_proto, tensor_from_proto, type_from_proto
from .schema import FLOAT, FLOATS, INT, INTS, STRING, STRINGS
from .type_agreement import contradiction
from .types import type_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto

    from .external_data import ExternalFiles
    from .limits import Limits

STANDARD_DOMAINS = frozenset(("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training", "ai.onnx.training"))
MODEL_HELP = "the model is at fault: it is damaged, hostile, or from a faulty exporter"


class OutOfOrder(Exception):
    """Private to the reader: a name was used before anything defined it, so the nodes need sorting."""


class GraphReader:
    """Reads the graphs of one model. ``sort`` puts nodes in order first, for files that have them otherwise.

    ``weights`` holds the data of initializers of the main graph that their messages lack, by name.
    """

    def __init__(
        self,
        external: ExternalFiles,
        limits: Limits,
        ir_version: int,
        weights: Mapping[str, memoryview],
        *,
        sort: bool,
    ) -> None:
        self.external = external
        self.weights = weights
        self.limits = limits
        self.sort = sort
        self.overridable = ir_version >= 4
        """Whether an input with an initializer is a default: before IR version 4 all initializers had to be inputs."""
        self.model_opsets: dict[str, int] = {}
        self.opsets: dict[str, int] = {}
        self.scopes: list[dict[str, Value]] = []
        self.captured: list[set[str]] = []
        self.size = 0

    # -- roots

    def read_main(self, proto: GraphProto, opsets: dict[str, int]) -> Graph:
        """The main graph."""
        self.model_opsets = self.opsets = opsets
        return self._read(proto)

    def read_function(self, proto: FunctionProto, opsets: dict[str, int]) -> Function:
        """A model-local function. Its graph's inputs and outputs are the formal parameters."""
        self.opsets = opsets
        graph = Graph(text(proto.name), opsets)
        scope: dict[str, Value] = {}
        self.scopes, self.captured = [scope], [set()]
        for name in proto.input:
            self._define(graph.add_input(name), name, scope, f"input of function {proto.name!r}")
        self._read_nodes(graph, proto.node, scope)
        ports = [Port(text(name)) for name in proto.output]
        self._set_outputs(graph, ports, scope)
        function = Function(_domain(text(proto.domain)), graph.name, graph, text(proto.overload))
        function.attributes = tuple(map(text, proto.attribute))
        load = self.external.load
        function.defaults = {a.name: attr_from_proto(a, self._read_body, load) for a in proto.attribute_proto}
        function.extra = _extra(proto)
        self.scopes, self.captured = [], []
        return function

    # -- graphs

    def _read_body(self, proto: GraphProto) -> Graph:
        if len(self.scopes) > self.limits.depth:
            _fail(f"bodies are nested over {self.limits.depth} deep, in graph {proto.name!r}")
        return self._read(proto)

    def _read(self, proto: GraphProto) -> Graph:
        graph = Graph(text(proto.name), self.opsets)
        scope: dict[str, Value] = {}
        self.scopes.append(scope)
        self.captured.append(set())
        self._read_inputs(graph, proto, scope)
        nodes: Sequence[NodeProto] = proto.node
        if self.sort:
            nodes = sorted_nodes(list(nodes), self.limits.depth)
        foreign = self._read_nodes(graph, nodes, scope)
        self._set_outputs(graph, [self._port(info, graph) for info in proto.output], scope)
        if foreign and len(proto.value_info):
            _keep_declared(proto.value_info, scope, foreign)
        for note in proto.quantization_annotation:
            if note.tensor_name in scope:
                parameters = {text(p.key): text(p.value) for p in note.quant_parameter_tensor_names}
                _note(scope[note.tensor_name], "quantization", parameters)
        graph.extra = _extra(proto)
        self.scopes.pop()
        self.captured.pop()
        return graph

    def _read_inputs(self, graph: Graph, proto: GraphProto, scope: dict[str, Value]) -> None:
        tensors: dict[str, TensorProto | SparseTensorProto] = {}
        for tensor in proto.initializer:
            self._add_initializer(tensors, tensor.name, tensor, graph)
        for sparse in proto.sparse_initializer:
            self._add_initializer(tensors, sparse.values.name, sparse, graph)
        for info in proto.input:
            name = info.name
            if not self.overridable and name in tensors:
                continue
            value = graph.add_input(name, self._type(info))
            value.extra = _info_extra(info)
            self._define(value, name, scope, f"input of graph {graph.name!r}")
            tensor = tensors.pop(name, None)
            if tensor is not None:
                data = graph.defaults[value] = self._constant(tensor, name)
                clash = contradiction(value.type, data.type)
                if clash is not None:
                    _fail(f"input {name!r} is {type_text(value.type)}, its initializer {data.type}: {clash}")
        for name, tensor in tensors.items():
            value = graph.add_constant(self._constant(tensor, name), name)
            self._define(value, name, scope, f"initializer of graph {graph.name!r}")
            value.extra = _extra(getattr(tensor, "values", tensor))

    def _add_initializer(self, tensors: dict[str, Any], name: str, tensor: Any, graph: Graph) -> None:
        if name in tensors:
            _fail(f"two initializers of graph {graph.name!r} are named {name!r}")
        tensors[name] = tensor

    def _constant(self, tensor: Any, name: str) -> Constant:
        if hasattr(tensor, "indices"):
            return sparse_from_proto(tensor, self.external.load)
        is_main = len(self.scopes) == 1
        return tensor_from_proto(tensor, self.external.load, self.weights.get(name) if is_main else None)

    def _type(self, info: ValueInfoProto) -> Any:
        kind = info.type.WhichOneof("value")
        if kind == "opaque_type":
            _fail(f"{info.name!r} has an opaque type, which planish cannot represent", "no pass could treat it")
        try:
            return None if kind is None else type_from_proto(info.type, _symbol)
        except ReadError as error:
            raise ReadError(f"{info.name!r}: {error.message}", where="read", help=error.help) from None

    def _port(self, info: ValueInfoProto, graph: Graph) -> Port:
        if not info.name:
            _fail(f"an output of graph {graph.name!r} has no name")
        return Port(text(info.name), self._type(info), _info_extra(info))

    def _set_outputs(self, graph: Graph, ports: list[Port], scope: dict[str, Value]) -> None:
        values: list[Value | None] = []
        for port in ports:
            found = scope.get(port.name)
            values.append(self._outer(port.name, f"output of graph {graph.name!r}") if found is None else found)
        if graph.parent is None and not self.scopes[1:]:
            self._check_port_names(graph, ports)
        graph.ret.set_inputs(values)
        graph.ports = ports

    def _check_port_names(self, graph: Graph, ports: list[Port]) -> None:
        """Callers ask for outputs by name. (In a body only their order counts.)"""
        names: set[str] = set()
        for port in ports:
            if port.name in names:
                _fail(f"two outputs of graph {graph.name!r} are named {port.name!r}")
            names.add(port.name)

    # -- names

    def _define(self, value: Value, name: str, scope: dict[str, Value], what: str) -> None:
        if not text(name):
            _fail(f"an {what} has no name")
        if name in scope:
            _fail(f"{what} {name!r} is defined twice")
        if name in self.captured[-1]:
            _fail(f"name {name!r} means an outer value and, further down in the same body, the {what}")
        scope[name] = value

    def _outer(self, name: str, what: str) -> Value:
        """The value of an enclosing graph by that name."""
        for level in range(len(self.scopes) - 2, -1, -1):
            found = self.scopes[level].get(name)
            if found is not None:
                for inner in self.captured[level + 1 :]:
                    inner.add(name)
                return found
        if not self.sort:
            raise OutOfOrder
        _fail(f"{what} takes {name!r}, which nothing defines")

    def _need_domain(self, domain: str, op: str) -> None:
        """A domain without import: planish takes what ONNX Runtime takes, the version of its contrib operators."""
        found = self.model_opsets.get(domain)
        if found is None and domain in STANDARD_DOMAINS:
            _fail(f"operator {op!r} is of domain {domain or 'ai.onnx'!r}, of which the model imports no version")
        self.opsets[domain] = found or 1

    # -- nodes

    def _read_nodes(self, graph: Graph, protos: Sequence[NodeProto], scope: dict[str, Value]) -> set[str]:
        """Appends the nodes; returns the names of outputs of operators outside the standard."""
        foreign: set[str] = set()
        self._count(len(protos))
        opsets, captured, ret, load = self.opsets, self.captured[-1], graph.ret, self.external.load
        get = scope.get
        for proto in protos:
            op, domain = proto.op_type, proto.domain
            if domain == "ai.onnx":
                domain = ""
            if domain not in opsets:
                self._need_domain(domain, op)
            outputs = proto.output
            attrs: dict[str, Attr] = {}
            for attribute in proto.attribute:
                name = attribute.name
                if name in attrs:
                    _fail(f"{_named(proto)} has two attributes {name!r}")
                attrs[name] = self._attr(attribute, proto, load)
            if op == "Constant" and domain == "":
                data = _constant_of(proto, attrs)
                if data is not None:
                    self._define(graph.add_constant(data, outputs[0]), outputs[0], scope, "constant")
                    continue
            try:
                "".join((op, domain, proto.name, proto.overload, *outputs, *attrs))
            except TypeError:
                _fail(f"a name in {_named(proto)} is not UTF-8")
            inputs: list[Value | None] = []
            for name in proto.input:
                value = None
                if name:
                    value = get(name)
                    if value is None:
                        value = self._outer(name, _named(proto))
                inputs.append(value)
            node = Node(op, inputs, attrs, domain=domain, outputs=outputs, name=proto.name, overload=proto.overload)
            graph.insert_before(ret, node)
            for value in node.outputs:
                name = value.name
                if name:
                    if name in scope or name in captured:
                        self._define(value, name, scope, f"output of {_named(proto)},")
                    scope[name] = value
            if proto.doc_string or proto.metadata_props or proto.device_configurations:
                node.extra = _extra(proto)
            if domain and domain not in STANDARD_DOMAINS:
                foreign.update(outputs)
            if not op or op == RETURN:
                _fail(f"{_named(proto)} has operator type {op!r}")
            self._count(len(node.outputs))
        return foreign

    def _attr(self, attribute: Any, proto: NodeProto, load: Any) -> Attr:
        try:
            attr = attr_from_proto(attribute, self._read_body, load)
            if isinstance(attr, AttrRef):
                text(attr.name)
            return attr
        except ReadError as error:
            if error.origin is None:
                error.origin = f"{_named(proto)}, attribute {attribute.name!r}"
            raise

    def _count(self, more: int) -> None:
        self.size += more
        if self.size > self.limits.nodes:
            raise ReadError(
                f"the model has over {self.limits.nodes} nodes and outputs",
                where="read",
                help="it is damaged or hostile; if it really is that large: planish --limit nodes=N, Limits(nodes=N)",
            )


# -- Constant nodes


def _constant_of(proto: NodeProto, attrs: dict[str, Attr]) -> Constant | None:
    """The data of a ``Constant`` node; ``None`` where a caller's attribute determines it."""
    if len(attrs) != 1 or len(proto.output) != 1 or len(proto.input):
        _fail(
            f"{_named(proto)} has attributes {sorted(attrs)}, {len(proto.input)} inputs and "
            f"{len(proto.output)} outputs, expected one attribute, no input and one output"
        )
    ((name, attr),) = attrs.items()
    if isinstance(attr, AttrRef):
        return None
    if name in ("value", "sparse_value") and isinstance(attr, Constant):
        return attr
    kind, dtype = _VALUES.get(name, (0, None))
    if dtype is None or attr_kind(attr) != kind:
        _fail(f"{_named(proto)} has attribute {name!r} of kind {attr_kind(attr)}, which is no value of a constant")
    elements: Array = np.empty(len(attr) if isinstance(attr, tuple) else (), dtype)
    elements[...] = attr
    return ArrayConstant(elements)


_VALUES: dict[str, tuple[int, type]] = {
    "value_float": (FLOAT, np.float32),
    "value_floats": (FLOATS, np.float32),
    "value_int": (INT, np.int64),
    "value_ints": (INTS, np.int64),
    "value_string": (STRING, object),
    "value_strings": (STRINGS, object),
}


# -- what planish does not interpret


def _extra(proto: Any) -> dict[str, Any] | None:
    """Doc string, metadata and device configurations of a message, where it has any."""
    extra: dict[str, Any] = {}
    if proto.doc_string:
        extra["doc"] = remark(proto.doc_string)
    if proto.metadata_props:
        extra["metadata"] = {remark(p.key): remark(p.value) for p in proto.metadata_props}
    devices = getattr(proto, "device_configurations", None)
    if devices:
        extra["devices"] = [d.SerializeToString(deterministic=True) for d in devices]
    return extra or None


def _info_extra(info: ValueInfoProto) -> dict[str, Any] | None:
    extra = _extra(info) or {}
    if info.type.denotation:
        extra["denotation"] = remark(info.type.denotation)
    if info.type.HasField("tensor_type"):
        dims = info.type.tensor_type.shape.dim
        denotations = tuple([remark(d.denotation) for d in dims])
        if any(denotations):
            extra["dim_denotations"] = denotations
        unknown = tuple([_spelling(d) for d in dims])
        if any(unknown):
            extra["unknown_dims"] = unknown
    return extra or None


def _spelling(dim: Any) -> str:
    """How the file says that it does not know an extent: ``?``, ``-1``, ``=-1`` for the number, empty for nothing."""
    if dim.dim_value < 0:
        return f"={dim.dim_value}"
    return dim.dim_param if dim.dim_param in ("?", "-1") else ""


def _keep_declared(infos: Sequence[ValueInfoProto], scope: dict[str, Value], foreign: set[str]) -> None:
    """Runtimes rely on the file's word for outputs of operators that have no inference."""
    for info in infos:
        if info.name in foreign and info.name in scope and info.type.WhichOneof("value") not in (None, "opaque_type"):
            _note(scope[info.name], "declared", type_from_proto(info.type))


def _note(value: Value, key: str, what: Any) -> None:
    if value.extra is None:
        value.extra = {}
    value.extra[key] = what


def text(name: str | bytes) -> str:
    """A name. Protobuf hands out bytes where a string is not UTF-8; no runtime agrees with another on such names."""
    if not isinstance(name, str):
        _fail(f"name {name!r} is not UTF-8")
    return name


def remark(words: str | bytes) -> str:
    """A doc string or metadata: what is not UTF-8 in it is replaced, since nothing depends on it."""
    return words if isinstance(words, str) else words.decode(errors="replace")


def _symbol(name: str | bytes) -> Dim:
    return symbol(text(name))


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _named(proto: NodeProto) -> str:
    return f"node {proto.op_type} {proto.name or ', '.join(map(str, proto.output))!r}"


def _fail(message: str, help: str = MODEL_HELP) -> NoReturn:
    raise ReadError(message, where="read", help=help)
