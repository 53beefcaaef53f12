"""Parts of a graph that the runtime runs: a stretch of its nodes, with the values that are wanted as outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from ...backends.ort.session import Session, SessionSettings
from ...ir.clone import clone_graph
from ...ir.dtypes import DType, from_numpy
from ...ir.errors import BackendError
from ...ir.graph import Function, Graph, Model, Node, Value
from ...ir.ops import function_of
from ...ir.types import SequenceType, TensorType, Type

Environment = dict[Value, Any]
"""Arrays (lists of them for sequences) by the values that they are of."""


def operands(node: Node) -> Iterator[Value]:
    """What a node takes, captures of its bodies included, constants not."""
    yield from (v for v in node.inputs if v is not None and v.data is None)
    if node.attrs and (bodies := node.subgraphs):
        own = {graph for body in bodies for graph in body.all_graphs()}
        for graph in own:
            for inner in (*graph, graph.ret):
                for value in inner.inputs:
                    if value is not None and value.data is None and value.owner not in own:
                        yield value


class Segment:
    """Nodes of one graph that run together. The session is made when the first operands are there."""

    def __init__(
        self,
        graph: Graph,
        nodes: Sequence[Node],
        outputs: Sequence[Value],
        settings: SessionSettings,
        *,
        shapes: bool = False,
    ) -> None:
        """``shapes``: the outputs' shapes alone, which take no memory."""
        self.graph, self.nodes, self.outputs, self.settings = graph, list(nodes), list(outputs), settings
        self.shapes = shapes
        made = {v for node in self.nodes for v in node.outputs}
        self.inputs: list[Value] = list(dict.fromkeys(v for n in self.nodes for v in operands(n) if v not in made))
        self._session: Session | None = None

    def run(self, environment: Mapping[Value, Any]) -> Environment:
        """The outputs. Raises ``BackendError``."""
        if self._session is None:
            self._session = self._load(environment)
        given = {f"x{i}": environment[v] for i, v in enumerate(self.inputs)}
        return dict(zip(self.outputs, self._session.run(given), strict=True))

    def _load(self, environment: Mapping[Value, Any]) -> Session:
        model = self._model(environment)
        try:
            return Session(model, self.settings)
        except BackendError:  # the runtime's optimizer fails on some models that run without it
            return Session(model, self.settings.with_level("disable"))

    def _model(self, environment: Mapping[Value, Any]) -> Model:
        graph = Graph("segment", dict(self.graph.opsets))
        copies: dict[Value, Value] = {}
        for i, value in enumerate(self.inputs):
            copies[value] = graph.add_input(f"x{i}", _interface_type(value, environment[value]))
        for node in self.nodes:
            _copy_node(node, graph, copies)
        returned = [self._returned(copies[v], graph) for v in self.outputs]
        graph.set_outputs(returned, [f"y{i}" for i in range(len(returned))])
        for port, value in zip(graph.ports, returned, strict=True):
            port.declared = _element_type(value.type)
        owner = self.graph.model
        model = Model(graph, ir_version=owner.ir_version if owner is not None else 10)
        if owner is not None and any(function_of(n) is not None for part in self.nodes for n in _with_bodies(part)):
            _copy_functions(owner, model)
        return model

    def _returned(self, value: Value, graph: Graph) -> Value:
        if not self.shapes:
            return value
        shape = graph.append(Node("Shape", (value,))).output
        shape.type = TensorType(DType.I64, (value.rank,))
        return shape


def _copy_node(node: Node, graph: Graph, copies: dict[Value, Value]) -> None:
    for value in _constants(node):
        if value not in copies and value.data is not None:
            copies[value] = graph.add_constant(value.data, value.name)
    attrs: dict[str, Any] = {}
    for key, attr in node.attrs.items():
        if isinstance(attr, Graph):
            attrs[key] = clone_graph(attr, copies)
        elif isinstance(attr, tuple) and any(isinstance(a, Graph) for a in attr):
            attrs[key] = tuple(clone_graph(a, copies) if isinstance(a, Graph) else a for a in attr)
        else:
            attrs[key] = attr
    inputs = [None if v is None else copies[v] for v in node.inputs]
    names = [v.name for v in node.outputs]
    made = Node(node.op, inputs, attrs, domain=node.domain, outputs=names, name=node.name, overload=node.overload)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.type = old.type
        copies[old] = new
    graph.append(made)


def _constants(node: Node) -> Iterable[Value]:
    """Constants that a node takes, those of outer graphs that its bodies capture included."""
    yield from (v for v in node.inputs if v is not None and v.data is not None)
    if node.attrs and (bodies := node.subgraphs):
        own = {graph for body in bodies for graph in body.all_graphs()}
        for graph in own:
            for inner in (*graph, graph.ret):
                yield from (v for v in inner.inputs if v is not None and v.data is not None and v.graph not in own)


def _with_bodies(node: Node) -> Iterator[Node]:
    yield node
    for body in node.subgraphs:
        yield from body.all_nodes()


def _copy_functions(owner: Model, model: Model) -> None:
    for function in owner.functions.values():
        made = Function(function.domain, function.name, clone_graph(function.graph), function.overload)
        made.attributes, made.defaults = function.attributes, dict(function.defaults)
        model.add_function(made)


def _interface_type(value: Value, found: Any) -> Type:
    """The type of an input. Extents only for those of the model: others may change from round to round of a loop."""
    declared = value.type
    if isinstance(found, (list, tuple)):
        if isinstance(declared, SequenceType):
            return declared
        arrays = [np.asarray(item) for item in cast("list[Any]", found)]
        return SequenceType(TensorType(from_numpy(arrays[0].dtype) if arrays else DType.F32))
    if found is None:
        raise BackendError(f"%{value.name} is an empty optional", where="calibrate", help="it stays inside the runtime")
    if isinstance(declared, TensorType) and declared.dtype is not None and _is_model_input(value):
        return replace(declared, quant=None, layout=None)
    array = np.asarray(found)
    dtype = declared.dtype if isinstance(declared, TensorType) else None
    return TensorType(dtype or from_numpy(array.dtype), (None,) * array.ndim)


def _is_model_input(value: Value) -> bool:
    graph = value.graph
    return graph is not None and graph.model is not None and graph.model.graph is graph


def _element_type(declared: Type | None) -> Type | None:
    """Without extents and without how it is to be stored."""
    return TensorType(declared.dtype) if isinstance(declared, TensorType) else declared
