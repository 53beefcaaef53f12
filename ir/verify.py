"""The verifier: every invariant of the graph, in one walk of about 10 us a node. It runs after every pass.

What holds (and what a message names when it does not):

* links of the node list agree both ways, no erased node is in it, ``count`` is right;
* a value is defined before it is used: earlier in the same graph, or in an outer graph before the node
  that runs the body; functions capture nothing;
* an operand and its entry in ``uses`` imply each other; producer, index and owner of values are right;
* a body has one parent, shares opsets and model with it, and nests at most ``MAX_DEPTH`` deep;
* ports are parallel to outputs; names of the main graph's interface are there and unique;
* constants agree with their type, defaults with their input, ``known`` elements with both;
* nodes are what their schema says (``check_node``);
* functions do not call themselves, directly or around.
"""

from __future__ import annotations

from contextlib import suppress

from .constants import Constant
from .dims import Dim, evaluate
from .errors import ModelError, VerifyError
from .function_check import call_cycles
from .graph import RETURN, AttrRef, Function, Graph, Model, Node, Value
from .infer import infer_node
from .node_check import check_node
from .type_agreement import contradiction, differs
from .types import TensorType, type_text

__all__ = ["MAX_DEPTH", "check_node", "problems", "verify"]

MAX_DEPTH = 64
"""How deep bodies may nest."""
KNOWN_LIMIT = 1024
"""Constants of up to this many elements are compared with their ``known`` elements."""

STRUCTURE = "the graph was changed around its methods: the pass that ran last is at fault, or planish itself"
SCHEMA = "the model declares operator sets in which this node does not exist so: its exporter is at fault, or a pass"


def verify(model: Model, *, types: bool = False) -> None:
    """Raises ``VerifyError`` for the first broken invariant.

    ``types`` also infers every node anew and compares with the recorded types (5 to 80 us a node).
    """
    found = problems(model, types=types, limit=1)
    if found:
        raise found[0]


def problems(model: Model, *, types: bool = False, limit: int = 100) -> list[VerifyError]:
    """The broken invariants, at most ``limit``. The model is not changed."""
    walk = _Walk(model, types, limit)
    with suppress(_Enough):
        walk.model()
    return walk.found


class _Enough(Exception):
    """The limit of problems is reached."""


class _Frame:
    """A graph being walked."""

    __slots__ = ("bodies", "defined", "graph", "link", "node", "steps")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.link: Node | None = graph.ret
        """The node whose successor is next; ``None`` where the list is broken."""
        self.steps = 0
        self.node: Node | None = None
        """A node whose bodies are being walked: its results are defined behind them."""
        self.bodies: list[Graph] = []
        """Those still to walk, last first. Each is entered alone: siblings do not see each other's values."""
        self.defined: list[Value] = []


class _Walk:
    def __init__(self, model: Model, types: bool, limit: int) -> None:
        self.of = model
        self.types = types
        self.limit = limit
        self.found: list[VerifyError] = []
        self.graphs: set[Graph] = set()
        self.visible: set[Value] = set()
        self.values: list[Value] = []
        """All values of the main graph or function."""
        self.uses = 0
        """Operands seen in it."""
        self.stack: list[_Frame] = []
        self.function: Function | None = None
        self.calls: dict[tuple[str, str, str], Node] = {}

    def report(self, message: str, node: Node | None = None, help: str = STRUCTURE) -> None:
        at = _line(node) if node is not None else None
        origin = (node.name or ", ".join(node.origin)) if node is not None else ""
        self.found.append(VerifyError(message, where="verify", at=at, origin=origin or None, help=help))
        if len(self.found) >= self.limit:
            raise _Enough

    # -- model

    def model(self) -> None:
        model = self.of
        self.root(model.graph)
        self.interface(model.graph)
        calls: dict[tuple[str, str, str], dict[tuple[str, str, str], Node]] = {}
        for key, function in model.functions.items():
            if key != function.key:
                self.report(f"function {function.key} is filed under {key}")
            self.function, self.calls = function, {}
            self.root(function.graph)
            calls[key] = self.calls
        for cycle, node in call_cycles(calls):
            names = " -> ".join(f"{domain}::{name}" for domain, name, _ in cycle)
            self.report(f"function calls itself: {names}", node, "recursion has no end: the model is at fault")

    def interface(self, graph: Graph) -> None:
        inputs: dict[str, Value] = {}
        for value in graph.inputs:
            if not value.name or value.name in inputs:
                self.report(f"input {value.index} is named {value.name!r}, expected a name that no other input has")
            inputs[value.name] = value
        seen: set[str] = set()
        for i, (port, value) in enumerate(zip(graph.ports, graph.ret.inputs, strict=False)):
            if not port.name or port.name in seen:
                self.report(f"output {i} is named {port.name!r}, expected a name that no other output has", graph.ret)
            elif inputs.get(port.name, value) is not value:
                self.report(f"output {i} has the name {port.name!r} of an input", graph.ret)
            seen.add(port.name)

    # -- one main graph or function

    def root(self, graph: Graph) -> None:
        self.visible, self.values, self.uses = set(), [], 0
        if graph.parent is not None:
            self.report(f"graph {graph.name!r} of {self.owner()} has a parent node", graph.parent)
        self.enter(graph, None)
        while self.stack:
            frame = self.stack[-1]
            if frame.node is not None:
                if frame.bodies:
                    self.enter(frame.bodies.pop(), frame.node)
                    continue
                self.define(frame, frame.node)
                frame.node = None
            node = self.next_node(frame)
            if node is None:
                self.leave(frame)
            else:
                self.node(frame, node)
        if self.uses != sum([len(v.uses) for v in self.values]):
            self.stale_uses()

    def owner(self) -> str:
        return "the model" if self.function is None else f"function {self.function.domain}::{self.function.name}"

    def enter(self, graph: Graph, parent: Node | None) -> None:
        if graph in self.graphs:
            self.report(f"body {graph.name!r} is owned twice, expected one node to run it", parent)
            return
        self.graphs.add(graph)
        frame = _Frame(graph)
        self.stack.append(frame)
        outer = parent.graph if parent is not None else None
        if graph.model is not self.of:
            self.report(f"graph {graph.name!r} does not belong to the model that holds it", parent)
        if parent is not None and graph.parent is not parent:
            self.report(f"body {graph.name!r} has another parent than the node that runs it", parent)
        if outer is not None and graph.opsets is not outer.opsets:
            self.report(f"body {graph.name!r} has opsets of its own, expected those of the graph around it", parent)
        for i, value in enumerate(graph.inputs):
            self.input(graph, value, i)
        for value in graph.constants:
            self.constant(graph, value)
        for value, data in graph.defaults.items():
            self.default(graph, value, data)
        new = [*graph.inputs, *graph.constants]
        for value in new:
            if value in self.visible:
                self.report(f"%{value.name} is defined twice in graph {graph.name!r}")
            self.visible.add(value)
        frame.defined += new
        self.values += new

    def leave(self, frame: _Frame) -> None:
        graph = frame.graph
        if frame.link is not None:
            if frame.steps != graph.count:
                self.report(f"graph {graph.name!r} counts {graph.count} nodes, its list has {frame.steps}")
            self.return_node(graph)
        if len(self.stack) > 1:
            self.visible.difference_update(frame.defined)
        self.stack.pop()

    def next_node(self, frame: _Frame) -> Node | None:
        before = frame.link
        if before is None:
            return None
        node = before.next_link
        if node is None or node.prev_link is not before:
            self.report("the node's link to the next one is not answered by a link back", before)
            frame.link = None
            return None
        frame.link = node
        if node is frame.graph.ret:
            return None
        frame.steps += 1
        return node

    # -- values

    def input(self, graph: Graph, value: Value, i: int) -> None:
        if value.graph is not graph or value.index != i or value.producer is not None or value.data is not None:
            self.report(f"input %{value.name} of graph {graph.name!r} does not say that it is input {i} of it")
        self.type_of(value, None)

    def constant(self, graph: Graph, value: Value) -> None:
        data = value.data
        if data is None or value.graph is not graph or value.producer is not None:
            self.report(f"constant %{value.name} of graph {graph.name!r} has no data, another owner, or a producer")
            return
        t = value.type
        if type(t) is not TensorType or t.dtype is not data.dtype or t.shape != data.shape:
            self.report(f"constant %{value.name} has type {type_text(t)}, its data {data.type}")
        if value.known is not None and not _same_elements(value, data):
            self.report(f"constant %{value.name} has known elements {list(value.known)}, its data others")
        self.type_of(value, None)

    def default(self, graph: Graph, value: Value, data: Constant) -> None:
        if value.graph is not graph or value not in graph.inputs:
            self.report(f"graph {graph.name!r} has a default for %{value.name}, which is not an input of it")
        clash = contradiction(value.type, data.type)
        if clash is not None:
            self.report(f"input %{value.name} is {type_text(value.type)}, its default {data.type}: {clash}")

    def type_of(self, value: Value, node: Node | None) -> None:
        """Extents are not negative, ``known`` elements as many as the type says."""
        t = value.type
        if type(t) is TensorType and t.shape is not None:
            for d in t.shape:
                if type(d) is int and d < 0:
                    self.report(f"%{value.name} has type {t}: a negative extent", node)
        known = value.known
        if known is None:
            return
        count = t.count if isinstance(t, TensorType) else None
        misfit = isinstance(count, int) and count != len(known)
        if misfit or not (t is None or isinstance(t, TensorType)):
            self.report(f"%{value.name} has {len(known)} known elements, its type is {type_text(t)}", node)

    def define(self, frame: _Frame, node: Node) -> None:
        """Results become visible."""
        for i, out in enumerate(node.outputs):
            if out.producer is not node or out.index != i or out.data is not None:
                self.report(f"result {i}, %{out.name}, does not say that it is result {i} of this node", node)
            if out in self.visible:
                self.report(f"result {i}, %{out.name}, is defined twice", node)
            self.visible.add(out)
            frame.defined.append(out)
            self.values.append(out)
            self.type_of(out, node)

    # -- nodes

    def node(self, frame: _Frame, node: Node) -> None:
        sound = not node.erased and node.graph is frame.graph
        if not sound:
            state = "is erased" if node.erased else "says that it is in another graph"
            self.report(f"a node in the list of graph {frame.graph.name!r} {state}", node)
        sound = self.operands(node) and sound
        bodies = self.attributes(node) if node.attrs else None
        if self.of.functions:
            key = (node.domain, node.op, node.overload)
            if key in self.of.functions:
                self.calls.setdefault(key, node)
        if sound:
            problem = check_node(node)
            if problem is not None:
                self.report(f"{node.op}: {problem}", node, SCHEMA)
            if self.types:
                self.inferred(node)
        if not bodies:
            self.define(frame, node)
            return
        frame.node = node
        if len(self.stack) > MAX_DEPTH:
            self.report(
                f"bodies nest deeper than {MAX_DEPTH}", node, "the model is at fault, or a pass that nests without end"
            )
            return
        for body in reversed(bodies):
            self.enter(body, node)

    def operands(self, node: Node) -> bool:
        """Operands are defined and list the use; ``False`` where one is not even a value."""
        visible = self.visible
        values = True
        for i, value in enumerate(node.inputs):
            if value is None:
                continue
            if value not in visible:
                values = values and isinstance(value, Value)  # pyright: ignore[reportUnnecessaryIsInstance]
                self.report(f"operand {i} {_why_invisible(value)}", node)
            elif (node, i) not in value.uses:
                self.report(f"operand {i}, %{value.name}, does not list this use", node)
            else:
                self.uses += 1
        return values

    def attributes(self, node: Node) -> list[Graph]:
        bodies: list[Graph] = []
        for name, attr in node.attrs.items():
            if isinstance(attr, Graph):
                bodies.append(attr)
            elif type(attr) is AttrRef:
                self.reference(node, name, attr)
            elif isinstance(attr, tuple) and attr and isinstance(attr[0], Graph):
                bodies += [a for a in attr if isinstance(a, Graph)]
        return bodies

    def reference(self, node: Node, name: str, ref: AttrRef) -> None:
        function = self.function
        if function is None:
            self.report(f"attribute {name} refers to a caller's {ref.name!r}, but this is no function", node)
        elif ref.name not in function.attributes and ref.name not in function.defaults:
            self.report(f"attribute {name} refers to {ref.name!r}, which {self.owner()} does not have", node)

    def return_node(self, graph: Graph) -> None:
        ret = graph.ret
        if ret.op != RETURN or ret.graph is not graph or ret.outputs or ret.erased:
            self.report(f"the return node of graph {graph.name!r} is damaged", ret)
        for i, value in enumerate(ret.inputs):
            if value is None:
                self.report(f"output {i} of graph {graph.name!r} is omitted", ret)
        if len(graph.ports) != len(ret.inputs):
            self.report(f"graph {graph.name!r} has {len(graph.ports)} ports for {len(ret.inputs)} outputs", ret)
        self.operands(ret)

    def stale_uses(self) -> None:
        """Some value lists a use that no operand of this graph answers: finds it."""
        for value in self.values:
            for user, i in value.uses:
                if user.erased or user.graph is None or user.graph not in self.graphs:
                    self.report(
                        f"%{value.name} lists a use by {user.op} {user.name!r}, which is not in the graph", user
                    )
                elif i >= len(user.inputs) or user.inputs[i] is not value:
                    self.report(f"%{value.name} lists a use as operand {i}, which is another value", user)

    # -- types

    def inferred(self, node: Node) -> None:
        """Infers the node anew, compares, and puts everything back."""
        recorded = [(v, v.type, v.known) for v in _touched(node)]
        problem = ""
        try:
            infer_node(node)
        except ModelError as error:
            problem = error.message
        proved = [(v.type, v.known) for v, _, _ in recorded]
        for value, t, known in recorded:
            value.type, value.known = t, known
        if problem and not _may_never_run(node):
            self.report(problem, node, "the model is inconsistent here, or the pass that made this node is at fault")
        for (value, t, known), (new_type, new_known) in zip(recorded, proved, strict=True):
            clash = contradiction(t, new_type)
            if clash is not None:
                self.report(f"%{value.name}: recorded {type_text(t)}, inferred {type_text(new_type)}: {clash}", node)
            elif known is not None and new_known is not None and _elements_differ(known, new_known):
                self.report(f"%{value.name}: recorded elements {list(known)}, inferred {list(new_known)}", node)


def _may_never_run(node: Node) -> bool:
    """Whether it is in a branch of an If: extents that contradict each other may be what the If asks about."""
    graph = node.graph
    while graph is not None and graph.parent is not None:
        if graph.parent.op == "If":
            return True
        graph = graph.parent.graph
    return False


def _touched(node: Node) -> list[Value]:
    """Values whose type inference of the node may set."""
    values = list(node.outputs)
    for body in node.subgraphs if node.attrs else ():
        for graph in body.all_graphs():
            values += graph.inputs
        for inner in body.all_nodes():
            values += inner.outputs
    return values


def _elements_differ(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    return len(a) != len(b) or any(differs(x, y) for x, y in zip(a, b, strict=True))


def _same_elements(value: Value, data: Constant) -> bool:
    assert value.known is not None
    if data.dtype.kind not in ("int", "uint", "bool") or data.count > KNOWN_LIMIT:
        return data.count > KNOWN_LIMIT
    found = [int(x) for x in data.numpy().reshape(-1)]
    return len(found) == len(value.known) and all(
        evaluate(k, {}) in (None, x) for k, x in zip(value.known, found, strict=True)
    )


def _why_invisible(value: object) -> str:
    if not isinstance(value, Value):
        return f"is a {type(value).__name__}, expected a value"
    producer = value.producer
    if producer is not None and (producer.erased or producer.graph is None):
        return f"is %{value.name}, whose producer {producer.op} {producer.name!r} is not in the graph"
    if producer is not None:
        return (
            f"is %{value.name}, which {producer.op} {producer.name!r} defines later or in a body that is not around it"
        )
    return f"is %{value.name}, an input or constant of no graph around it"


def _line(node: Node) -> str:
    """The node in the textual form; whatever is broken about it, a message must not fail."""
    from .text.printer import print_node

    try:
        return print_node(node)
    except (AttributeError, TypeError, ValueError, LookupError):
        return f"{node.op} {node.name!r}"
