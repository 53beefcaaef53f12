"""The graph as text: deterministic, exact, one node a line. ``parser.py`` reads it back.

    graph @main(%x: f32[N,3,8,8]) -> (%y: f32[N,4,6,6]) {
      %w: f32[4,3,3,3] = const rand<7>
      %c: f32[N,4,6,6] = Conv(%x, %w) {pads = [0, 0, 0, 0]} // "resnet/conv1"
      return %c as "y"
    }

* Names are hints: a value keeps its own unless another has it; names of the main graph's inputs and
  outputs come first. An output that has no name and no use is ``_``, and so is an omitted operand.
* Attributes are sorted; one that says what the schema says anyway is left out unless ``explicit``.
* ``-> (...)`` states what the interface declares, if it declares anything.
* Behind ``//`` stands the node's name, and behind ``from`` the names of the original nodes it comes from.
* ``known`` elements of values are not text: inference proves them again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..constants import Constant
from ..errors import UsageError
from ..graph import AttrRef, EmptyAttr, Function, Graph, Model, Node, Value
from ..ops import is_default
from ..types import MapType, OptionalType, SequenceType, TensorType, Type
from .constant_text import constant_attr_text, constant_text, resource_bytes, states_type
from .data_text import data_text, dict_text
from .lexer import MAX_DEPTH
from .literals import bare, float_text, quote, quote_bytes, word
from .type_printer import render_type

KIND_NAMES = [
    *("undefined", "float", "int", "string", "tensor", "graph"),
    *("floats", "ints", "strings", "tensors", "graphs"),
    *("sparse_tensor", "sparse_tensors", "type", "types"),
]
"""Names of ``AttributeProto.AttributeType`` codes."""


def print_model(model: Model, *, resources: dict[str, Constant] | str | None = None, explicit: bool = False) -> str:
    """The whole model. ``explicit`` prints attributes that equal their default too.

    Constants of more than 16 elements are a hash. With ``resources="inline"`` their data follows in a
    section at the end; with a dict they are collected in it, by digest, for ``parse_model``.
    """
    if isinstance(resources, str) and resources != "inline":
        raise UsageError(f"resources={resources!r}, expected 'inline', a dict, or None", where="text")
    printer = _Printer(explicit)
    parts = [printer.header(model), printer.root(model.graph, f"graph @{bare(model.graph.name)}")]
    parts += [printer.function(f) for f in model.functions.values()]
    if isinstance(resources, dict):
        resources.update(printer.resources)
    elif resources == "inline" and printer.resources:
        parts.append(_resource_section(printer.resources))
    return "\n".join(parts) + "\n"


def print_graph(graph: Graph, *, explicit: bool = False) -> str:
    """One graph with its bodies. Values of outer graphs that it captures keep their names."""
    return _Printer(explicit).root(graph, f"graph @{bare(graph.name)}") + "\n"


def print_node(node: Node) -> str:
    """One line for messages: names as they are, bodies, data of constants and origin left out."""
    printer = _Printer(explicit=False, brief=True)
    return printer.return_line(node) if node.is_return else printer.node(node, "")


def names(of: Model | Graph) -> dict[Value, str]:
    """The printed name of every value, with ``%`` and quotes; unique within a main graph or function."""
    printer = _Printer(explicit=False)
    found: dict[Value, str] = {}
    for root in of.roots() if isinstance(of, Model) else (of,):
        printer.assign_names(root)
        found.update(printer.names)
    return found


def _resource_section(resources: dict[str, Constant]) -> str:
    import base64

    lines = [f'  #{d}: "{base64.b64encode(resource_bytes(c)).decode()}"' for d, c in sorted(resources.items())]
    return "resources {\n" + "\n".join(lines) + "\n}"


class _Names(dict[Value, str]):
    """Names by value; a value that was not seen (a capture, or one of an erased node) gets one when asked for."""

    def __init__(self, reserved: set[str]) -> None:
        super().__init__()
        self.taken = reserved
        self._next: dict[str, int] = {}

    def claim(self, value: Value) -> None:
        hint = value.name
        name = hint
        if not hint or hint in self.taken:
            stem, n = (hint + "_" if hint else "v"), self._next.get(hint, 0 if not hint else 1)
            while (name := f"{stem}{n}") in self.taken:
                n += 1
            self._next[hint] = n + 1
        self.taken.add(name)
        self[value] = "%" + bare(name)

    def __missing__(self, value: Value) -> str:
        self.claim(value)
        return self[value]


class _RawNames(dict[Value, str]):
    """Names as they are, for messages."""

    def __missing__(self, value: Value) -> str:
        return "%" + bare(value.name)


class _Printer:
    def __init__(self, explicit: bool, brief: bool = False) -> None:
        self.explicit = explicit
        self.brief = brief
        self.names: dict[Value, str] = _RawNames()
        self.resources: dict[str, Constant] = {}
        self.depth = 0

    # -- names

    def assign_names(self, root: Graph) -> None:
        """Names all values of a main graph or function: interface first, then in order of definition."""
        names = _Names({port.name for port in root.ports if port.name})
        self.names = names
        for value in root.inputs:
            if value.name and value.name not in names.taken:
                names.claim(value)
        for port, value in zip(root.ports, root.ret.inputs, strict=False):
            if value is not None and port.name and value.name == port.name and value not in names:
                names[value] = "%" + bare(port.name)
        claim = names.claim
        for value in [*root.inputs, *root.constants]:
            if value not in names:
                claim(value)
        for node in root.all_nodes():
            for out in node.outputs:
                if out not in names and (out.name or out.uses):
                    claim(out)
            if node.attrs:
                for body in node.subgraphs:
                    for value in [*body.inputs, *body.constants]:
                        claim(value)

    # -- model

    def header(self, model: Model) -> str:
        entries = [
            f"{key} = {data_text(value)}"
            for key, value in (
                ("producer", model.producer[0]),
                ("producer_version", model.producer[1]),
                ("domain", model.domain),
                ("version", model.version),
                ("doc", model.doc),
                ("metadata", model.metadata),
                ("extra", model.extra),
            )
            if value
        ]
        about = " {" + ", ".join(entries) + "}" if entries else ""
        return f"model ir={model.ir_version} opset {dict_text(model.opsets)}{about}"

    def function(self, f: Function) -> str:
        overload = f"@{bare(f.overload)}" if f.overload else ""
        head = f"function @{bare(f.domain)}::{word(f.name)}{overload}"
        tail = f" opset {dict_text(f.graph.opsets)}"
        if f.graph.name != f.name:
            tail += f" graph @{bare(f.graph.name)}"
        if f.attributes:
            tail += f" attributes [{', '.join(map(word, f.attributes))}]"
        if f.defaults:
            tail += " defaults {" + ", ".join(f"{word(k)} = {self.attr(a, '')}" for k, a in f.defaults.items()) + "}"
        if f.extra:
            tail += f" about {dict_text(f.extra)}"
        return self.root(f.graph, head, tail)

    def root(self, graph: Graph, head: str, tail: str = "") -> str:
        """A main graph or function; ``head`` stands before the parameters, ``tail`` behind the results."""
        self.assign_names(graph)
        return self.graph(graph, head, "", tail)

    # -- graph

    def graph(self, graph: Graph, head: str, indent: str, tail: str = "") -> str:
        inputs = ", ".join([self._input(graph, v) for v in graph.inputs])
        results = ""
        if _states_ports(graph):
            ports = [
                f"%{bare(p.name)}{'' if p.declared is None else ': ' + render_type(p.declared)}{_extra(p.extra)}"
                for p in graph.ports
            ]
            results = f" -> ({', '.join(ports)})"
        inner = indent + "  "
        lines = [f"{head}({inputs}){results}{tail}{_extra(graph.extra)} {{"]
        for value in graph.constants:
            lines.append(f"{inner}{self._constant(value)}")
        node_text = self.node
        lines += [inner + node_text(node, inner) for node in graph]
        lines.append(inner + self.return_line(graph.ret))
        lines.append(indent + "}")
        return "\n".join(lines)

    def _input(self, graph: Graph, value: Value) -> str:
        default = graph.defaults.get(value)
        if default is None:
            return self._definition(value)
        write = constant_text if states_type(value.type) else constant_attr_text
        return f"{self._definition(value)} = {write(default, self.remember)}"

    def _constant(self, value: Value) -> str:
        data = value.data
        assert data is not None
        t = value.type if isinstance(value.type, TensorType) else data.type
        if t.dtype is not data.dtype or t.shape != data.shape:
            t = data.type
        head = f"{self.names[value]}: {render_type(t)}{_extra(value.extra)}"
        return f"{head} = const {constant_text(data, self.remember)}"

    def _definition(self, value: Value) -> str:
        text = self.names[value]
        if value.type is not None:
            text = f"{text}: {render_type(value.type)}"
        return f"{text}{_extra(value.extra)}" if value.extra else text

    def return_line(self, ret: Node) -> str:
        ports = ret.graph.ports if ret.graph is not None else []
        parts: list[str] = []
        for i, value in enumerate(ret.inputs):
            if value is None:
                parts.append("_")
                continue
            text = self.names[value]
            if i < len(ports) and _needs_port_name(ret, value, text, ports[i].name):
                text += f" as {quote(ports[i].name)}"
            parts.append(text)
        return f"return {', '.join(parts)}" if parts else "return"

    def remember(self, data: Constant) -> str:
        if self.brief:
            return "..."
        digest = data.digest()
        self.resources.setdefault(digest, data)
        return digest

    # -- node

    def node(self, node: Node, indent: str) -> str:
        names = self.names
        outs: list[str] = []
        for out in node.outputs:
            if not out.name and not out.uses:
                outs.append(("_" if out.type is None else f"_: {render_type(out.type)}") + _extra(out.extra))
            else:
                outs.append(self._definition(out))
        results = ", ".join(outs) + " = " if outs else ""
        operands = ", ".join(["_" if v is None else names[v] for v in node.inputs])
        text = f"{results}{operator_text(node)}({operands})"
        if node.attrs:
            text += self._attrs(node, indent)
        if node.extra:
            text += _extra(node.extra)
        if (node.name or node.origin) and not self.brief:
            text += _note(node)
        return text

    def _attrs(self, node: Node, indent: str) -> str:
        attrs = node.attrs
        kept = [
            f"{word(key)} = {self.attr(attrs[key], indent)}"
            for key in sorted(attrs)
            if self.explicit or not is_default(node, key, attrs[key])
        ]
        return " {" + ", ".join(kept) + "}" if kept else ""

    def attr(self, attr: Any, indent: str) -> str:
        write = _SIMPLE.get(type(attr))  # pyright: ignore[reportUnknownArgumentType]
        if write is not None:
            return write(attr)
        if isinstance(attr, EmptyAttr):
            return f"empty<{KIND_NAMES[attr.kind]}>"
        if isinstance(attr, (tuple, list)):
            return "[" + ", ".join([self.attr(a, indent) for a in attr]) + "]"  # pyright: ignore[reportUnknownVariableType]
        if isinstance(attr, Graph):
            return self._body(attr, indent)
        if isinstance(attr, Constant):
            return f"{type(attr).__name__}<{attr.type}>" if self.brief else constant_attr_text(attr, self.remember)
        return _odd_attr(attr)

    def _body(self, body: Graph, indent: str) -> str:
        head = f"graph @{bare(body.name)}"
        if self.brief or self.depth >= MAX_DEPTH:
            return f"{head}(...) {{...}}"
        self.depth += 1
        text = self.graph(body, head, indent)
        self.depth -= 1
        return text


def _needs_port_name(ret: Node, value: Value, text: str, port: str) -> bool:
    """Whether the output is called other than its value; in a body, where nothing outside sees it, on purpose only
    (or where the body's first line states the name)."""
    graph = ret.graph
    inside = graph is not None and graph.parent is not None and not _states_ports(graph)
    return value.name != port if inside else text != "%" + bare(port)


def _states_ports(graph: Graph) -> bool:
    """Whether the first line of a graph lists its outputs: only where they have types or more of their own."""
    return any(p.declared is not None or p.extra for p in graph.ports)


def operator_text(node: Node) -> str:
    """``Conv``, ``com.microsoft::Gelu``, with ``@overload`` where there is one."""
    op = word(node.op) if node.op not in ("const", "return") else quote(node.op)
    domain = f"{word(node.domain)}::" if node.domain else ""
    return f"{domain}{op}@{bare(node.overload)}" if node.overload else domain + op


def _extra(extra: dict[str, Any] | None) -> str:
    return f" extra {dict_text(extra)}" if extra else ""


def _note(node: Node) -> str:
    name = f" {quote(node.name)}" if node.name else ""
    origin = f" from {', '.join(map(quote, node.origin))}" if node.origin else ""
    return f" //{name}{origin}"


def _ref_text(ref: AttrRef) -> str:
    return f"ref<{word(ref.name)}, {KIND_NAMES[ref.kind]}>"


def _type_attr(t: Type) -> str:
    return f"type<{render_type(t)}>"


def _int_text(x: int) -> str:
    return str(int(x))


_SIMPLE: dict[type, Callable[[Any], str]] = {
    int: str,
    bool: _int_text,
    float: float_text,
    str: quote,
    bytes: quote_bytes,
    AttrRef: _ref_text,
    TensorType: _type_attr,
    SequenceType: _type_attr,
    OptionalType: _type_attr,
    MapType: _type_attr,
}


def _odd_attr(attr: Any) -> str:
    """Numbers of numpy, which passes may leave; anything else is a mistake that the verifier names."""
    import numpy as np

    if isinstance(attr, (np.integer, np.bool_)):
        return str(int(attr))  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(attr, np.floating):
        return float_text(float(attr))  # pyright: ignore[reportUnknownArgumentType]
    return quote(f"<{type(attr).__name__}>")
