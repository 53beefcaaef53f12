"""Reads the textual form (see ``printer.py``) back into models and graphs.

Everything that is wrong is a ``TextError`` with line, column and a caret. Bodies, types and lists nest at
most ``lexer.MAX_DEPTH`` deep, and no tensor is allocated beyond the elements that the text spells out.

A line without types gets them from inference. Types that are written are kept as written, and are
refused where inference proves that they cannot be.

    text      = ["model" "ir" "=" INT "opset" DICT [DICT]] "graph" "@"NAME graph {function} [resources]
    graph     = "(" {"%"NAME typed ["=" constant]} ")" ["->" "(" {"%"NAME typed} ")"] ["extra" DICT] body
    function  = "function" "@"DOMAIN "::" NAME ["@"OVERLOAD] "(" ... ")" ["->" ...] "opset" DICT ["graph" "@"NAME]
                ["attributes" "[" NAMES "]"] ["defaults" attributes] ["about" DICT] ["extra" DICT] body
    body      = "{" {line} "return" {("%"NAME) ["as" STRING]} "}"
    line      = "%"NAME typed "=" "const" constant
              | [results "="] [DOMAIN "::"] OP ["@"OVERLOAD] "(" {"%"NAME | "_"} ")" [attributes] ["extra" DICT] [note]
    results   = ("%"NAME | "_") typed {"," ...}           typed = [":" type] ["extra" DICT]
    note      = "//" [STRING] ["from" STRING {"," STRING}]
    attribute = INT | FLOAT | STRING | "[" ... "]" | constant with its type inside | "graph" "@"NAME graph
              | "type" "<" type ">" | "ref" "<" NAME "," KIND ">" | "empty" "<" KIND ">"
    type      = DTYPE "[" ("*" | {dim}) "]" ["@"LAYOUT] ["<" quantization ">"] | "?"
              | ("seq" | "optional" | "sparse") "<" type ">" | "map" "<" DTYPE "," type ">"
    resources = "resources" "{" {"#"DIGEST ":" STRING} "}"

Items in braces are separated by commas, except lines, functions and resources; every form is shown in
``tests/ir/showcase.ir``.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from ..constants import Constant
from ..graph import Attr, AttrRef, EmptyAttr, Function, Graph, Model, Node, Port, Value
from ..types import TensorType, Type
from .checks import Written, settle_types
from .constant_text import Resources, parse_constant, states_type
from .data_text import parse_data, parse_dict
from .lexer import Lexer
from .literals import float_attribute, unquote
from .printer import KIND_NAMES
from .type_parser import MAX_EXTENT, parse_type

DEFAULT_OPSET = 21
OTHER_OPSETS = {"ai.onnx.ml": 5}
"""Versions of other domains where the text states no imports; 1 for all that are not here."""

_SECTION = re.compile(r"^resources\s*\{", re.M)
_STRING = r'"(?:[^"\\]|\\.)*"'
_QUOTED = re.compile(_STRING)
_NOTE = re.compile(rf"//\s*(?P<name>{_STRING})?\s*(?:from\s+(?P<origin>{_STRING}(?:\s*,\s*{_STRING})*))?\s*\Z")
_ABOUT = {
    "producer": str,
    "producer_version": str,
    "domain": str,
    "version": int,
    "doc": str,
    "metadata": dict,
    "extra": dict,
}
_CONSTANTS = ("dense", "splat", "repeat", "rand", "sparse", "resource")


def parse_model(
    text: str,
    *,
    resources: dict[str, Constant] | None = None,
    opset: int | dict[str, int] = DEFAULT_OPSET,
    check: bool = True,
) -> Model:
    """The model that ``text`` describes.

    ``resources`` gives constants of which the text holds only the digest. ``opset`` counts where the text
    has no ``model`` line. ``check=False`` takes written types unseen (faster; lines without types still get
    theirs). Raises ``TextError``.
    """
    return _Parser(text, resources, opset).model(check)


def parse_graph(
    text: str,
    *,
    opset: int | dict[str, int] = DEFAULT_OPSET,
    resources: dict[str, Constant] | None = None,
    check: bool = True,
) -> Graph:
    """The main graph of ``text``; its ``model`` holds the rest. Raises ``TextError``."""
    return parse_model(text, resources=resources, opset=opset, check=check).graph


def _newest() -> tuple[int, int]:
    """The newest IR version and version of the standard's operators that the installed onnx knows."""
    from onnx import IR_VERSION
    from onnx.defs import onnx_opset_version

    return IR_VERSION, onnx_opset_version()


class _Parser:
    def __init__(self, text: str, resources: dict[str, Constant] | None, opset: int | dict[str, int]) -> None:
        self.resources = Resources(resources)
        section = _SECTION.search(text)
        if section is not None:
            # Strings end on their line, so a line that starts so can only be the section.
            tail = Lexer(text, section.start())
            tail.advance()
            self.resources.read_section(tail)
            if tail.kind != "end":
                raise tail.error("the end of the text behind the resources")
        self.lx = Lexer(text if section is None else text[: section.start()])
        self.opset = opset
        self.stated_opsets = False
        self.opsets: dict[str, int] = {}
        self.visible: dict[str, Value] = {}
        self.written: list[Written] = []

    # -- model

    def model(self, check: bool) -> Model:
        lx = self.lx
        about: dict[str, Any] = {}
        ir_version = 10
        if lx.take_word("model"):
            at = lx.start
            ir_version, newest = self._field("ir"), _newest()[0]
            if not 1 <= ir_version <= newest:
                raise lx.error(f"an IR version from 1 to {newest}", str(ir_version), at)
            self.opsets = self._opset()
            self.stated_opsets = True
            if lx.at_punct("{"):
                about = parse_dict(lx)
        else:
            self.opsets = {"": self.opset} if isinstance(self.opset, int) else dict(self.opset)
        at = lx.start
        if not lx.take_word("graph"):
            raise lx.error("'graph' or 'model'")
        graph = self.root(lx.sigiled("at", "'@' and the graph's name"))
        model = Model(graph, ir_version=ir_version)
        self._about(model, about, at)
        while lx.take_word("function"):
            self._function(model)
        if lx.kind != "end":
            raise lx.error("'function', 'resources' or the end of the text")
        settle_types(lx, self.written, check)
        return model

    def _field(self, key: str) -> int:
        if not self.lx.take_word(key):
            raise self.lx.error(f"'{key}='")
        self.lx.expect("=")
        return self.lx.integer()

    def _opset(self) -> dict[str, int]:
        lx = self.lx
        if not lx.take_word("opset"):
            raise lx.error("'opset {...}'")
        at = lx.start
        found = parse_dict(lx)
        for domain, version in found.items():
            newest = _newest()[1] if domain == "" else MAX_EXTENT
            if type(version) is not int or not 1 <= version <= newest:
                raise lx.error(f"a version number from 1 to {newest} for domain {domain!r}", repr(version), at)
        return found

    def _about(self, model: Model, about: dict[str, Any], at: int) -> None:
        for key, value in about.items():
            if key not in _ABOUT or type(value) is not _ABOUT[key]:
                raise self.lx.fault(f"the model line has {key} = {value!r}, expected one of {', '.join(_ABOUT)}", at)
        model.producer = (about.get("producer", ""), about.get("producer_version", ""))
        model.domain, model.version = about.get("domain", ""), about.get("version", 0)
        model.doc, model.metadata = about.get("doc", ""), about.get("metadata", {})
        model.extra = about.get("extra")

    def _function(self, model: Model) -> None:
        lx = self.lx
        at = lx.start
        domain = lx.sigiled("at", "'@' and the function's domain")
        lx.expect("::")
        name = lx.word("the function's name")
        overload = lx.sigiled("at", "an overload") if lx.kind == "at" else ""
        self.stated_opsets, self.opsets = False, dict(model.opsets)
        function = Function(domain, name, Graph(name))
        self.visible = {}
        graph = self._graph_head(Graph(name, self.opsets))
        if lx.at_word("opset"):
            graph.opsets = self.opsets = self._opset()
            self.stated_opsets = True
        if lx.take_word("graph"):
            graph.name = lx.sigiled("at", "the graph's name")
        function = Function(domain, name, graph, overload)
        if lx.take_word("attributes"):
            function.attributes = tuple(self._list("[", "]", lambda: lx.word("an attribute's name")))
        if lx.take_word("defaults"):
            function.defaults = self.attrs()
        if lx.take_word("about"):
            function.extra = parse_dict(lx)
        if function.key in model.functions:
            raise lx.error("each function once", f"{domain}::{name} again", at)
        self._graph_body(graph)
        model.add_function(function)

    # -- graph

    def root(self, name: str) -> Graph:
        """A main graph behind its name; nothing outside is visible in it."""
        self.visible = {}
        return self._graph_body(self._graph_head(Graph(name, self.opsets)))

    def _graph_head(self, graph: Graph) -> Graph:
        lx = self.lx
        self._list("(", ")", lambda: self._input(graph))
        if lx.take("->"):
            self._list("(", ")", lambda: self._port(graph))
        return graph

    def _graph_body(self, graph: Graph) -> Graph:
        lx = self.lx
        if lx.take_word("extra"):
            graph.extra = parse_dict(lx)
        lx.expect("{", "'{' and the graph's nodes")
        while not lx.at_word("return"):
            self._statement(graph)
        self._return(graph)
        lx.expect("}", "'}' after the return")
        return graph

    def _list(self, opening: str, closing: str, item: Any) -> list[Any]:
        lx = self.lx
        lx.expect(opening)
        items: list[Any] = []
        if not lx.at_punct(closing):
            items.append(item())
            while lx.take(","):
                items.append(item())
        lx.expect(closing, f"',' or {closing!r}")
        return items

    def _input(self, graph: Graph) -> None:
        lx = self.lx
        at = lx.start
        value = graph.add_input(lx.sigiled("value", "'%' and an input's name"))
        self._define(value, at)
        self._typed(value)
        if lx.take("="):
            # The type stands inside where the input's own leaves an extent open.
            stated = value.type if states_type(value.type) else None
            graph.defaults[value] = parse_constant(lx, stated, self.resources)

    def _port(self, graph: Graph) -> None:
        lx = self.lx
        port = Port(lx.sigiled("value", "'%' and an output's name"))
        if lx.take(":"):
            port.declared = parse_type(lx)
        if lx.take_word("extra"):
            port.extra = parse_dict(lx)
        graph.ports.append(port)

    def _typed(self, value: Value) -> None:
        """``: type`` and ``extra {...}`` behind a defined name, both optional."""
        lx = self.lx
        if lx.take(":"):
            value.type = parse_type(lx)
        if lx.take_word("extra"):
            value.extra = parse_dict(lx)

    def _define(self, value: Value, at: int) -> None:
        if value.name in self.visible:
            raise self.lx.error("each name defined once", f"%{value.name} again", at)
        self.visible[value.name] = value

    def _use(self) -> Value | None:
        lx = self.lx
        if lx.take_word("_"):
            return None
        at = lx.start
        name = lx.sigiled("value", "a value or '_'")
        found = self.visible.get(name)
        if found is None:
            near = difflib.get_close_matches(name, list(self.visible)[-2000:], 1)
            hint = f"did you mean %{near[0]}?" if near else "values must be defined above their use"
            raise lx.fault(f"%{name} is not defined here", at, hint)
        return found

    def _return(self, graph: Graph) -> None:
        lx = self.lx
        at = lx.start
        lx.advance()
        values: list[Value] = []
        names: list[str] = []
        while not lx.at_punct("}"):
            value = self._use()
            if value is None:
                raise lx.error("a value to return", "'_'", at)
            values.append(value)
            names.append(lx.string("the output's name as a string") if lx.take_word("as") else value.name)
            if not lx.take(","):
                break
        declared = graph.ports
        graph.set_outputs(values, names)
        if declared:
            if [p.name for p in declared] != names:
                raise lx.fault(
                    f"the graph returns {', '.join(names) or 'nothing'}, its first line declares "
                    f"{', '.join(p.name for p in declared)}",
                    at,
                )
            graph.ports = declared

    # -- statements

    def _statement(self, graph: Graph) -> None:
        """A node or a constant. Results are kept apart until their producer exists."""
        lx = self.lx
        at = lx.start
        results = self._results() if lx.kind == "value" or lx.at_word("_") else []
        if results and lx.at_word("const"):
            self._constant_line(graph, results)
            return
        if lx.kind not in ("ident", "string"):
            raise lx.error("an operator, 'const', a value to define, or 'return'")
        node = self._node(graph, [r.name for r, _ in results])
        for out, (result, name_at) in zip(node.outputs, results, strict=True):
            out.type, out.extra = result.type, result.extra
            if out.name:
                self._define(out, name_at)
        self.written.append((node, [r.type for r, _ in results], at))

    def _results(self) -> list[tuple[Value, int]]:
        lx = self.lx
        results: list[tuple[Value, int]] = []
        while True:
            at = lx.start
            result = Value("" if lx.take_word("_") else lx.sigiled("value", "a value to define or '_'"))
            self._typed(result)
            results.append((result, at))
            if not lx.take(","):
                break
        lx.expect("=", "':', ',' or '='")
        return results

    def _constant_line(self, graph: Graph, results: list[tuple[Value, int]]) -> None:
        result, at = results[0]
        if len(results) != 1 or not result.name:
            raise self.lx.fault("a constant is one named value: %name: f32[2,3] = const ...", at)
        self.lx.advance()
        value = graph.add_constant(self._constant(result.type, at), result.name)
        value.type, value.extra = result.type, result.extra
        self._define(value, at)

    def _constant(self, t: Type | None, at: int) -> Constant:
        if not isinstance(t, TensorType):
            raise self.lx.fault("a constant needs its type: %name: f32[2,3] = const ...", at)
        return parse_constant(self.lx, t, self.resources)

    def _node(self, graph: Graph, results: list[str]) -> Node:
        lx = self.lx
        op = lx.word("an operator")
        domain = ""
        if lx.take("::"):
            domain, op = op, lx.word("an operator")
        overload = lx.sigiled("at", "an overload") if lx.kind == "at" else ""
        inputs = self._list("(", ")", self._use)
        attrs = self.attrs() if lx.at_punct("{") else None
        node = Node(op, inputs, attrs, domain=domain, outputs=results, overload=overload)
        if lx.take_word("extra"):
            node.extra = parse_dict(lx)
        if lx.note is not None:
            self._note(node, lx.note)
        if not self.stated_opsets and domain not in self.opsets:
            self.opsets[domain] = OTHER_OPSETS.get(domain, 1)
        graph.append(node)
        return node

    def _note(self, node: Node, note: str) -> None:
        found = _NOTE.match(note)
        if found is None:
            return  # a comment of its author
        try:
            node.name = unquote(found["name"]) if found["name"] else ""
            node.origin = tuple(unquote(q) for q in _QUOTED.findall(found["origin"] or ""))
        except (ValueError, OverflowError):
            return

    # -- attributes

    def attrs(self) -> dict[str, Attr]:
        """``{name = attribute, ...}``."""
        lx = self.lx
        lx.expect("{")
        found: dict[str, Attr] = {}
        while not lx.at_punct("}"):
            at = lx.start
            key = lx.word("an attribute's name or '}'")
            if key in found:
                raise lx.error("each attribute once", f"{key} again", at)
            lx.expect("=")
            found[key] = self._attr()
            if not lx.take(","):
                break
        lx.expect("}", "',' or '}'")
        return found

    def _attr(self) -> Attr:
        lx = self.lx
        kind = lx.kind
        if kind == "number" or kind == "nan" or lx.at_punct("-"):
            return self._number()
        if kind == "string":
            return lx.string()
        if kind == "bytes":
            return parse_data(lx)
        if lx.at_punct("["):
            lx.enter()
            items = tuple(self._list("[", "]", self._attr))
            lx.leave()
            return items
        if kind == "ident":
            return self._word_attr()
        raise lx.error("a number, a string, [...], dense<...>, graph @name, type<...>, ref<...> or empty<...>")

    def _number(self) -> int | float:
        lx = self.lx
        at = lx.start
        text = lx.number()
        try:
            if text.lstrip("-").isdigit():
                value = int(text)
                if not -(1 << 63) <= value < 1 << 63:
                    raise ValueError(f"{text} is beyond 64 bits")
                return value
            return float_attribute(text)
        except ValueError as error:
            raise lx.fault(str(error), at) from None

    def _word_attr(self) -> Attr:
        lx = self.lx
        name = lx.token
        if name in ("inf", "nan"):
            return self._number()
        if name in _CONSTANTS:
            return parse_constant(lx, None, self.resources)
        lx.advance()
        if name == "graph":
            return self._body()
        lx.enter()
        lx.expect("<", "an attribute")
        made = self._angle_attr(name)
        lx.expect(">")
        lx.leave()
        return made

    def _angle_attr(self, name: str) -> Attr:
        lx = self.lx
        if name == "type":
            t = parse_type(lx)
            return TensorType(None) if t is None else t
        if name == "empty":
            return EmptyAttr(self._kind())
        if name == "ref":
            ref = lx.word("an attribute's name")
            lx.expect(",")
            return AttrRef(ref, self._kind())
        raise lx.error("type<...>, empty<...>, ref<...> or a constant", f"{name}<")

    def _kind(self) -> int:
        lx = self.lx
        if lx.token not in KIND_NAMES or lx.kind != "ident":
            raise lx.error(f"a kind of attribute: {', '.join(KIND_NAMES[1:])}")
        return KIND_NAMES.index(lx.advance())

    def _body(self) -> Graph:
        lx = self.lx
        lx.enter()
        before = len(self.visible)
        graph = self._graph_head(Graph(lx.sigiled("at", "'@' and the body's name"), self.opsets))
        self._graph_body(graph)
        while len(self.visible) > before:
            self.visible.popitem()  # what the body defined: a dict keeps the order of definition
        lx.leave()
        return graph
