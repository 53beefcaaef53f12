"""Graphs to ONNX messages. Uses become names; what ONNX cannot say directly gets an ``Identity``.

Passes need not care about three things that the writer settles: names are made unique (per model, and
per function); an output that is an input, a capture, a constant of another name, or an earlier output is
copied by an ``Identity``; constants of functions, which have no initializers, become ``Constant`` nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from .constants import ArrayConstant, Constant, SparseConstant, SplatConstant
from .dims import is_anonymous, is_static
from .errors import VerifyError
from .graph import Function, Graph, Node, Value
from .onnx_proto import attr_to_proto, fill_attr, fill_tensor, sparse_to_proto, type_to_proto
from .repetition import RepeatedConstant, is_stored_as_node
from .type_agreement import replaces
from .types import OptionalType, SequenceType, TensorType, Type

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

PutTensor: TypeAlias = "Callable[[Constant, TensorProto], bool]"
"""Fills in where the data of an initializer lies; ``False`` when they belong into the message."""

_IR_OF_DTYPE = {
    "bf16": 4,
    "f8e4m3fn": 9,
    "f8e4m3fnuz": 9,
    "f8e5m2": 9,
    "f8e5m2fnuz": 9,
    "u4": 10,
    "i4": 10,
    "f4e2m1": 11,
    "f8e8m0": 12,
    "u2": 13,
    "i2": 13,
    "f6e2m3": 14,
    "f6e3m2": 14,
}


class Names:
    """Unique names of values in one name space. A hint that nobody else has is kept."""

    def __init__(self, graphs: Iterable[Graph]) -> None:
        self.of: dict[Value, str] = {}
        self.used: set[str] = set()
        self.hints: set[str] = set()
        """All names that some value would like to have: a made-up name takes none of them."""
        self._next: dict[str, int] = {}
        for graph in graphs:
            hints = self.hints
            hints.update([value.name for value in graph.inputs])
            hints.update([value.name for value in graph.constants])
            hints.update([port.name for port in graph.ports])
            for node in graph:
                for value in node.outputs:
                    hints.add(value.name)

    def claim(self, value: Value, name: str) -> str:
        """Gives ``value`` exactly this name."""
        self.of[value] = name
        self.used.add(name)
        return name

    def give(self, value: Value, stem: str) -> str:
        """The name of a value that is defined here: its own where it is free."""
        name = value.name
        if not name or name in self.used:
            name = self.fresh(name or stem)
        self.used.add(name)
        self.of[value] = name
        return name

    def fresh(self, stem: str) -> str:
        """A name that no value has or wants."""
        n = self._next.get(stem, 0)
        while True:
            n += 1
            name = f"{stem}_{n}"
            if name not in self.used and name not in self.hints:
                break
        self._next[stem] = n
        self.used.add(name)
        return name


class Emitter:
    """Writes graphs into messages and notes what the model as a whole must declare."""

    def __init__(self, put_tensor: PutTensor | None = None, *, value_info: bool = False) -> None:
        import onnx

        self._onnx = onnx
        self.put_tensor = put_tensor
        self.value_info = value_info
        self.ir_version = 3  # the first that may import operator sets
        self.domains: dict[str, None] = {}
        self.names = Names(())
        self.extents: dict[str, str] = {}
        """Names given to open extents, by expression."""

    # -- roots

    def main(self, graph: Graph, proto: GraphProto) -> None:
        """Fills in the main graph. Names of its inputs and outputs are kept to the letter."""
        self.names = Names(graph.all_graphs())
        for value in graph.inputs:
            self._claim_interface(value, value.name)
        for port, value in zip(graph.ports, graph.outputs, strict=True):
            if value not in self.names.of and _takes_name(value, port.name, graph):
                self._claim_interface(value, port.name)
            self.names.used.add(port.name)
        self._graph(graph, proto, main=True)

    def _claim_interface(self, value: Value, name: str) -> None:
        if not name or name in self.names.used:
            self._refuse_interface(name)
        self.names.claim(value, name)

    def _refuse_interface(self, name: str) -> NoReturn:
        raise VerifyError(
            f"the main graph's interface has name {name!r} for two values, or a value without name",
            where="write",
            help="names of inputs and outputs are the caller's; the pass that set them is at fault",
        )

    def function(self, function: Function, proto: FunctionProto) -> None:
        """Fills in a function. Names of its formal inputs and outputs are kept."""
        outer, self.domains = self.domains, {}
        graph = function.graph
        self.names = names = Names(graph.all_graphs())
        proto.domain, proto.name = function.domain, function.name
        if function.overload:
            proto.overload = function.overload
            self.need(10)
        for value in graph.inputs:
            proto.input.append(names.claim(value, value.name or names.fresh("input")))
        for port, value in zip(graph.ports, graph.outputs, strict=True):
            if value not in names.of and _takes_name(value, port.name, graph):
                names.claim(value, port.name)
            proto.output.append(port.name)
            names.used.add(port.name)
        shapes: dict[tuple[int, ...], str] = {}
        for value in graph.constants:
            self._function_constant(value, names.of.get(value) or names.give(value, "const"), graph, proto, shapes)
        self._nodes(graph, proto.node)
        for port, value in zip(graph.ports, graph.outputs, strict=True):
            if names.of.get(value) != port.name:
                self._copy(value, port.name, proto.node)
        proto.attribute.extend(function.attributes)
        for name, attr in function.defaults.items():
            proto.attribute_proto.append(attr_to_proto(name, attr, self._body))
            self.need(9)
        self.put_extra(proto, function.extra)
        self.put_opsets(proto.opset_import, graph.opsets, self.domains)
        self.domains = outer
        self.domains.setdefault(function.domain)
        self.need(8)

    def _function_constant(
        self, value: Value, name: str, graph: Graph, proto: FunctionProto, shapes: dict[tuple[int, ...], str]
    ) -> None:
        """A Constant node: functions have no initializers."""

        def put(data: Constant, name: str) -> None:
            node = proto.node.add()
            node.op_type = "Constant"
            node.output.append(name)
            key = "sparse_value" if isinstance(data, SparseConstant) else "value"
            node.attribute.append(attr_to_proto(key, data))
            self._need_dtype(data.dtype.text)

        data = value.data
        assert data is not None
        if isinstance(data, (SplatConstant, RepeatedConstant)) and is_written_as_node(value, graph):
            self._as_node(data, name, proto.node, put, shapes)
        else:
            put(data, name)

    def put_opsets(self, target: Any, opsets: dict[str, int], used: Iterable[str]) -> None:
        """Writes imports; a used domain that nobody imported is imported in version 1."""
        for domain, version in {**opsets, **{d: 1 for d in used if d not in opsets}}.items():
            entry = target.add()
            entry.domain, entry.version = domain, version

    # -- graphs

    def _body(self, graph: Graph) -> GraphProto:
        proto = self._onnx.GraphProto()
        self._graph(graph, proto, main=False)
        return proto

    def _graph(self, graph: Graph, proto: GraphProto, *, main: bool) -> None:
        names = self.names
        proto.name = graph.name
        for value in graph.inputs:
            name = names.of.get(value) or names.give(value, "input")
            self._info(proto.input.add(), name, value.type, value.extra)
            default = graph.defaults.get(value)
            if default is not None:
                self._tensor(default, name, None, proto)
                self.need(4)
        shapes: dict[tuple[int, ...], str] = {}
        for value in graph.constants:
            data = value.data
            assert data is not None
            name = names.of.get(value) or names.give(value, "const")
            if isinstance(data, (SplatConstant, RepeatedConstant)) and is_written_as_node(value, graph):
                self._as_node(data, name, proto.node, lambda d, n: self._tensor(d, n, None, proto), shapes)
            else:
                self._tensor(data, name, value.extra, proto)
            self.need(4)
        self._nodes(graph, proto.node)
        self._outputs(graph, proto, main=main)
        self._value_infos(graph, proto)
        self._quantization(graph, proto)
        self.put_extra(proto, graph.extra)

    def _outputs(self, graph: Graph, proto: GraphProto, *, main: bool) -> None:
        names = self.names
        seen: set[str] = set()
        inputs = {value.name for value in graph.inputs} if main else seen
        for port, value in zip(graph.ports, graph.outputs, strict=True):
            name = names.of.get(value, "")
            direct = bool(name) and value.owner is graph
            if main:
                direct = direct and name == port.name
                name = port.name
            else:
                direct = direct and name not in seen
                if not direct:
                    name = port.name
                    if not name or name in names.used:
                        name = names.fresh(name or "output")
            if not direct:
                if main and (name in seen or name in inputs):
                    self._refuse_interface(name)
                self._copy(value, name, proto.node)
                names.used.add(name)
            seen.add(name)
            declared = port.declared
            if declared is None or (not main and replaces(value.type, declared)):
                declared = value.type  # what a body returns is no interface: passes may have changed it
            self._info(proto.output.add(), name, declared, port.extra)

    def _copy(self, value: Value, name: str, nodes: Any) -> None:
        self.domains[""] = None
        node: NodeProto = nodes.add()
        node.op_type = "Identity"
        node.input.append(self._name_of(value, None))
        node.output.append(name)

    def _name_of(self, value: Value, user: Node | None) -> str:
        name = self.names.of.get(value)
        if name is None:
            who = f"node {user.op} {user.name!r}" if user is not None else "an output"
            raise VerifyError(
                f"{who} uses %{value.name}, which is not defined before it in its graph or an outer one",
                where="write",
                help="the pass that made this use is at fault; verify after each pass to find it",
            )
        return name

    # -- nodes

    def _nodes(self, graph: Graph, target: Any) -> None:
        names, domains = self.names, self.domains
        of, used = names.of, names.used
        add = target.add
        taken: dict[str, int] = {}
        for node in graph:
            proto: NodeProto = add()
            proto.op_type = op = node.op
            domain = node.domain
            if domain:
                proto.domain = domain
            domains[domain] = None
            if node.name:
                proto.name = _unlike(node.name, taken)
            if node.overload:
                proto.overload = node.overload
                self.need(10)
            if node.inputs:
                try:
                    proto.input.extend(["" if value is None else of[value] for value in node.inputs])
                except KeyError:
                    proto.input.extend(["" if v is None else self._name_of(v, node) for v in node.inputs])
            if node.attrs:
                for key, attr in node.attrs.items():
                    fill_attr(proto.attribute.add(), key, attr, self._body)
            written: list[str] = []
            for value in node.outputs:
                name = of.get(value)
                if name is None:
                    name = value.name
                    if name and name not in used:
                        used.add(name)
                        of[value] = name
                    elif name or value.uses:
                        name = names.give(value, op)
                written.append(name)
            if written and not written[-1]:
                written = self._trimmed(node, written)
            proto.output.extend(written)
            if node.extra is not None:
                self.put_extra(proto, node.extra)

    def _trimmed(self, node: Node, written: list[str]) -> list[str]:
        """Without omitted outputs at the end; a node keeps one output, since no operator has none."""
        while len(written) > 1 and not written[-1]:
            written.pop()
        return written if written[-1] else [self.names.give(node.outputs[0], node.op)]

    # -- tensors and types

    def _tensor(self, data: Constant, name: str, extra: dict[str, Any] | None, graph: GraphProto) -> None:
        self._need_dtype(data.dtype.text)
        proto = graph.initializer.add()
        if self.put_tensor is not None and self.put_tensor(data, proto):
            proto.name = name
            proto.data_type = data.dtype.code
            proto.dims.extend(data.shape)
        elif isinstance(data, SparseConstant):
            del graph.initializer[-1]
            graph.sparse_initializer.append(sparse_to_proto(data, name))
            self.need(6)
            return
        else:
            fill_tensor(proto, data, name)
        if extra is not None:
            self.put_extra(proto, extra)

    def _as_node(
        self,
        data: SplatConstant | RepeatedConstant,
        name: str,
        nodes: Any,
        put: Callable[[Constant, str], None],
        shapes: dict[tuple[int, ...], str],
    ) -> None:
        """A ConstantOfShape or Expand node, so that the file holds each element once.

        ``put`` writes a plain constant; ``shapes`` are those that the graph has already.
        """
        if data.shape not in shapes:
            shapes[data.shape] = self.names.fresh("shape")
            put(ArrayConstant(np.array(data.shape, np.int64)), shapes[data.shape])
        base = ""
        if isinstance(data, RepeatedConstant):
            base = self.names.fresh(f"{name}/base")
            put(data.base, base)
        node = nodes.add()
        node.output.append(name)
        node.op_type = "Expand" if base else "ConstantOfShape"
        node.input.extend([base, shapes[data.shape]] if base else [shapes[data.shape]])
        if isinstance(data, SplatConstant):
            fill_attr(node.attribute.add(), "value", SplatConstant(data.value, data.dtype, (1,)), self._body)
        self.domains[""] = None

    def _info(self, proto: Any, name: str, t: Type | None, extra: dict[str, Any] | None) -> None:
        proto.name = name
        if t is not None:
            proto.type.CopyFrom(type_to_proto(t))
            self._need_type(t)
        if extra is None:
            return
        self.put_extra(proto, extra)
        if "denotation" in extra:
            proto.type.denotation = extra["denotation"]
        dims = proto.type.tensor_type.shape.dim if t is not None else ()
        for dim, text in zip(dims, extra.get("dim_denotations", ()), strict=False):
            if text:
                dim.denotation = text
        for dim, text in zip(dims, extra.get("unknown_dims", ()), strict=False):
            if text and dim.WhichOneof("value") is None:
                _spell_unknown(dim, text)

    def _value_infos(self, graph: Graph, proto: GraphProto) -> None:
        """Types of intermediates: all known ones on request, else only those that no rule could infer again."""
        stated = {info.name for info in proto.output}
        for node in graph:
            told = self.value_info or _is_inferred_wrongly(node)
            if not told and not node.domain:
                continue
            for value in node.outputs:
                t = value.type if told else None
                if t is None:
                    t = None if value.extra is None else value.extra.get("declared")
                name = self.names.of.get(value, "")
                if t is not None and name and name not in stated:
                    info = proto.value_info.add()
                    self._info(info, name, t, None)
                    if told:
                        self._name_extents(info, t)

    def _name_extents(self, info: ValueInfoProto, t: Type) -> None:
        """Names for extents that the interface leaves open: equal names say which ones are the same.

        ONNX Runtime keeps a sum of two tensors in the blocked layout only where names or numbers prove equal shapes.
        """
        if not isinstance(t, TensorType) or t.sparse or t.shape is None:
            return
        for slot, d in zip(info.type.tensor_type.shape.dim, t.shape, strict=True):
            if is_anonymous(d):
                slot.dim_param = self.extents.setdefault(str(d), f"_extent_{len(self.extents)}")

    def _quantization(self, graph: Graph, proto: GraphProto) -> None:
        values = (*graph.inputs, *graph.constants, *(v for node in graph for v in node.outputs if v.extra))
        notes = [(v, v.extra["quantization"]) for v in values if v.extra and "quantization" in v.extra]
        if not notes:
            return
        self.need(5)
        for value, parameters in notes:
            note = proto.quantization_annotation.add()
            note.tensor_name = self.names.of[value]
            for key, name in parameters.items():
                entry = note.quant_parameter_tensor_names.add()
                entry.key, entry.value = key, name

    # -- what the model must declare

    def need(self, ir_version: int) -> None:
        """Some construct exists only from this IR version on."""
        self.ir_version = max(self.ir_version, ir_version)

    def _need_dtype(self, dtype: str) -> None:
        self.need(_IR_OF_DTYPE.get(dtype, 1))

    def _need_type(self, t: Type | None) -> None:
        while isinstance(t, (SequenceType, OptionalType)):
            if isinstance(t, OptionalType):
                self.need(8)
            t = t.element
        if isinstance(t, TensorType):
            if t.sparse:
                self.need(8)
            if t.dtype is not None:
                self._need_dtype(t.dtype.text)

    def put_extra(self, proto: Any, extra: dict[str, Any] | None) -> None:
        """Doc string, metadata and device configurations."""
        if not extra:
            return
        if "doc" in extra:
            proto.doc_string = extra["doc"]
        if "metadata" in extra:
            for key, value in extra["metadata"].items():
                entry = proto.metadata_props.add()
                entry.key, entry.value = key, value
            self.need(10)
        if "devices" in extra:
            for raw in extra["devices"]:
                proto.device_configurations.add().ParseFromString(raw)
            self.need(11)


def is_written_as_node(value: Value, graph: Graph) -> bool:
    """Whether a file holds this constant as one element and a shape (ConstantOfShape-9)."""
    return value.extra is None and is_stored_as_node(value.data, graph.opsets.get("", 0))


def _spell_unknown(dim: Any, text: str) -> None:
    """Writes an unknown extent as the file had it: runtimes show the interface's words to their callers."""
    if text.startswith("="):
        dim.dim_value = int(text[1:])
    else:
        dim.dim_param = text


def _unlike(name: str, taken: dict[str, int]) -> str:
    """``name`` where no node before has it, else one like it: ONNX Runtime refuses two nodes of one name in a graph.

    ``taken`` has how often each name was asked for.
    """
    found = name
    while found in taken:
        taken[name] += 1
        found = f"{name}_{taken[name]}"
    taken[found] = 1
    return found


def _takes_name(value: Value, name: str, graph: Graph) -> bool:
    """Whether an output of ``graph`` can be written under the interface's name without a copy."""
    if value.producer is not None:
        return value.producer.graph is graph
    return value.data is not None and value.graph is graph and value.name in ("", name)


def _is_inferred_wrongly(node: Node) -> bool:
    """Slice in opset 10: onnx's rule gives the result the operand's symbols. ONNX Runtime believes it, lets results of
    other sizes share a buffer, and then fails ("Shape mismatch attempting to re-use buffer")."""
    return node.op == "Slice" and not node.domain and node.version == 10 and not is_static(node.output.shape)
