"""The graph: values, nodes in an intrusive list, graphs with bodies, functions, models.

* A :class:`Graph` owns its nodes in topological order. Its last element is the *return node*, whose
  inputs are the graph's outputs, so an output is a use like any other.
* A subgraph is an attribute of the node that runs it. A value of an outer graph used inside is a
  *capture*: an ordinary use by an inner node. There are no names in between.
* Values and nodes compare by identity. ``uses`` is an insertion-ordered dict, so every walk over it is
  deterministic.
* Names are hints. Writers make them unique; only the names of the main graph's inputs and outputs are
  part of the interface and always survive.

Iteration under mutation is specified: ``for node in graph`` may erase any node, insert anywhere and
move nodes. A node inserted or moved behind the current position is visited, one inserted before it is
not, an erased one is not. After the current node is erased, iteration goes on with what followed it
when it was erased.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from .errors import PassError
from .schema import ABSENT, schema
from .types import Type
from .value import RETURN, AttrRef, EmptyAttr, Use, Value

if TYPE_CHECKING:
    from .constants import Constant

__all__ = [
    "RETURN",
    "Attr",
    "AttrRef",
    "EmptyAttr",
    "Function",
    "Graph",
    "Model",
    "Node",
    "Port",
    "Scalar",
    "Use",
    "Value",
]

Scalar: TypeAlias = Union[int, float, str, bytes, "Constant", "Graph", Type, "AttrRef"]
Attr: TypeAlias = Scalar | tuple[Scalar, ...]


class Node:
    """One operation. ``inputs`` may hold ``None`` (an omitted operand); change them with :meth:`set_input`."""

    __slots__ = (
        "attrs",
        "domain",
        "erased",
        "extra",
        "graph",
        "inputs",
        "name",
        "next_link",
        "op",
        "origin",
        "outputs",
        "overload",
        "prev_link",
    )

    def __init__(
        self,
        op: str,
        inputs: Iterable[Value | None] = (),
        attrs: dict[str, Attr] | None = None,
        *,
        domain: str = "",
        outputs: int | Iterable[str] = 1,
        name: str = "",
        overload: str = "",
    ) -> None:
        self.op = op
        self.domain = domain
        self.overload = overload
        self.name = name
        self.origin: tuple[str, ...] = ()
        """Names of the nodes of the original model that this one comes from, where it is not one of them."""
        self.extra: dict[str, Any] | None = None
        self.graph: Graph | None = None
        self.erased = False
        self.prev_link: Node | None = None
        self.next_link: Node | None = None
        self.inputs: list[Value | None] = []
        for i, value in enumerate(inputs):
            self.inputs.append(value)
            if value is not None:
                value.uses[(self, i)] = None
        self.outputs: list[Value] = []
        for i, hint in enumerate([""] * outputs if isinstance(outputs, int) else outputs):
            made = Value(hint)
            made.producer = self
            made.index = i
            self.outputs.append(made)
        self.attrs: dict[str, Attr] = {}
        if attrs:
            for key, attr in attrs.items():
                self.set_attr(key, attr)

    # -- reading

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def is_return(self) -> bool:
        return self.op == RETURN and self.domain == ""

    @property
    def version(self) -> int:
        """The version of its domain that the model imports; 0 where it imports none."""
        return self.graph.opsets.get(self.domain, 0) if self.graph is not None else 0

    @property
    def subgraphs(self) -> list[Graph]:
        """The bodies among its attributes, in attribute order."""
        found: list[Graph] = []
        for attr in self.attrs.values():
            kind = type(attr)
            if kind is Graph:
                found.append(attr)  # type: ignore[arg-type]
            elif kind is tuple and attr and type(attr[0]) is Graph:  # type: ignore[index]  (lists hold one kind)
                found.extend(attr)  # type: ignore[arg-type]
        return found

    def input(self, i: int) -> Value | None:
        """The operand at ``i``; ``None`` where it is omitted or the list is shorter."""
        return self.inputs[i] if i < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute as written, else the schema's default, else ``default``."""
        found = self.attrs.get(name, ABSENT)
        if found is not ABSENT:
            return found
        known = schema(self.domain, self.op, self.version)
        spec = known.attrs.get(name) if known is not None else None
        return default if spec is None or spec.default is ABSENT else spec.default

    # -- changing

    def set_input(self, i: int, value: Value | None) -> None:
        """Replaces operand ``i``."""
        old = self.inputs[i]
        if old is value:
            return
        if old is not None:
            del old.uses[(self, i)]
        self.inputs[i] = value
        if value is not None:
            value.uses[(self, i)] = None

    def set_inputs(self, values: Iterable[Value | None]) -> None:
        """Replaces all operands."""
        for i, old in enumerate(self.inputs):
            if old is not None:
                del old.uses[(self, i)]
        self.inputs = list(values)
        for i, new in enumerate(self.inputs):
            if new is not None:
                new.uses[(self, i)] = None

    def add_output(self, name: str = "") -> Value:
        """One more output."""
        made = Value(name)
        made.producer = self
        made.index = len(self.outputs)
        self.outputs.append(made)
        return made

    def set_attr(self, name: str, attr: Attr) -> None:
        """Sets an attribute; a body becomes this node's."""
        for body in (attr,) if isinstance(attr, Graph) else attr if isinstance(attr, tuple) else ():
            if isinstance(body, Graph):
                body.parent = self
                if self.graph is not None:
                    body.adopt(self.graph)
        self.attrs[name] = attr

    def erase(self) -> None:
        """Takes the node out of its graph and drops its uses, those inside its bodies too.

        Raises ``PassError`` when an output is still used. The node keeps its place for running iterations.
        """
        for out in self.outputs:
            if out.uses:
                user = next(iter(out.uses))[0]
                raise PassError(
                    f"erased node {self.op} {self.name!r} still feeds {user.op} {user.name!r} through %{out.name}",
                    help="replace the uses of its outputs first; the author of the pass is at fault",
                )
        self.drop_uses()
        if self.graph is not None:
            self.graph.unlink(self)
        self.erased = True
        if self.attrs:  # iterations that are inside its bodies, or will come there, find nothing more
            for inner in [node for body in self.subgraphs for node in body.all_nodes()]:
                inner.erased = True

    def drop_uses(self) -> None:
        """Forgets all operands, those of nodes in its bodies too."""
        self._drop_operands()
        if self.attrs:
            for graph in [graph for body in self.subgraphs for graph in body.all_graphs()]:
                for inner in graph:
                    inner._drop_operands()
                graph.ret._drop_operands()

    def _drop_operands(self) -> None:
        for i, value in enumerate(self.inputs):
            if value is not None:
                value.uses.pop((self, i), None)

    def move_before(self, other: Node) -> None:
        """Moves the node in front of ``other`` (in the same or another graph)."""
        if other is self:
            return
        if self.graph is not None:
            self.graph.unlink(self)
        assert other.graph is not None
        other.graph.insert_before(other, self)

    @property
    def next(self) -> Node | None:
        """The node behind it; ``None`` at the end."""
        after = self.next_link
        while after is not None and after.erased:
            after = after.next_link
        return None if after is None or after.is_return else after

    @property
    def prev(self) -> Node | None:
        """The node in front of it; ``None`` at the start."""
        return None if self.prev_link is None or self.prev_link.is_return else self.prev_link

    def __repr__(self) -> str:
        outs = ", ".join(f"%{v.name}" for v in self.outputs)
        ins = ", ".join("_" if v is None else f"%{v.name}" for v in self.inputs)
        domain = f"{self.domain}::" if self.domain else ""
        return f"{outs} = {domain}{self.op}({ins})"


class Port:
    """One output as the interface declares it. Types here are what the file says and may be wrong."""

    __slots__ = ("declared", "extra", "name")

    def __init__(self, name: str, declared: Type | None = None, extra: dict[str, Any] | None = None) -> None:
        self.name = name
        self.declared = declared
        self.extra = extra


class Graph:
    """Nodes in topological order, inputs, constants, and the outputs as operands of ``ret``."""

    __slots__ = (
        "constants",
        "count",
        "defaults",
        "extra",
        "inputs",
        "model",
        "name",
        "opsets",
        "parent",
        "ports",
        "ret",
    )

    def __init__(self, name: str = "main", opsets: dict[str, int] | None = None) -> None:
        self.name = name
        self.opsets: dict[str, int] = {} if opsets is None else opsets
        """Versions of the imported domains, shared with all bodies inside."""
        self.model: Model | None = None
        self.parent: Node | None = None
        """The node that runs this body; ``None`` for a main graph or a function's."""
        self.inputs: list[Value] = []
        self.defaults: dict[Value, Constant] = {}
        """Inputs with a default: ONNX initializers that a caller may override, hence not constants."""
        self.constants: dict[Value, None] = {}
        """Constants that this graph owns, in order."""
        self.ports: list[Port] = []
        """The outputs' declared names and types, parallel to ``outputs``."""
        self.extra: dict[str, Any] | None = None
        self.count = 0
        """Number of nodes, without those in bodies."""
        self.ret = Node(RETURN, outputs=0)
        self.ret.graph = self
        self.ret.prev_link = self.ret.next_link = self.ret

    # -- interface

    @property
    def outputs(self) -> list[Value]:
        """The returned values, in order."""
        return self.ret.inputs  # type: ignore[return-value]

    def add_input(self, name: str, type: Type | None = None) -> Value:
        value = Value(name, type)
        value.graph = self
        value.index = len(self.inputs)
        self.inputs.append(value)
        return value

    def remove_input(self, value: Value) -> None:
        """Removes an unused input of a body (never do this to a main graph: the interface is a promise)."""
        if value.uses:
            raise PassError(f"input %{value.name} of graph {self.name!r} is still used")
        self.inputs.remove(value)
        self.defaults.pop(value, None)
        for i, v in enumerate(self.inputs):
            v.index = i

    def add_constant(self, data: Constant, name: str = "") -> Value:
        value = Value(name, data.type)
        value.graph = self
        value.data = data
        self.constants[value] = None
        return value

    def remove_constant(self, value: Value) -> None:
        """Removes an unused constant."""
        if value.uses:
            raise PassError(f"constant %{value.name} is still used")
        self.constants.pop(value, None)

    def set_outputs(self, values: Iterable[Value], names: Iterable[str] | None = None) -> None:
        """Sets the returned values; without ``names`` the values' own names become the interface."""
        values = list(values)
        self.ret.set_inputs(values)
        self.ports = [Port(n) for n in (names if names is not None else [v.name for v in values])]

    # -- the list

    def __iter__(self) -> Iterator[Node]:
        ret = self.ret
        node = ret.next_link
        while node is not None:
            if not node.erased:
                if node is ret:
                    return
                yield node
            node = node.next_link

    def __reversed__(self) -> Iterator[Node]:
        ret = self.ret
        node = ret.prev_link
        while node is not None:
            if not node.erased:
                if node is ret:
                    return
                yield node
            node = node.prev_link

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return True

    def append(self, node: Node) -> Node:
        """Puts the node at the end."""
        return self.insert_before(self.ret, node)

    def insert_before(self, ref: Node, node: Node) -> Node:
        """Puts the node in front of ``ref``, which may be the return node."""
        before = ref.prev_link
        assert before is not None
        before.next_link = node
        node.prev_link = before
        node.next_link = ref
        ref.prev_link = node
        node.graph = self
        node.erased = False
        self.count += 1
        if node.attrs:
            for body in node.subgraphs:
                body.adopt(self)
        return node

    def insert_after(self, ref: Node, node: Node) -> Node:
        """Puts the node behind ``ref``."""
        after = ref.next_link
        assert after is not None
        return self.insert_before(after, node)

    def unlink(self, node: Node) -> None:
        """Takes a node out of the list; its links stay for running iterations."""
        before, after = node.prev_link, node.next_link
        assert before is not None
        assert after is not None
        before.next_link = after
        after.prev_link = before
        node.graph = None
        self.count -= 1

    def adopt(self, outer: Graph) -> None:
        """Makes this a body within ``outer``: same opsets, same model, its own bodies too."""
        stack: list[Graph] = [self]
        while stack:
            body = stack.pop()
            body.opsets, body.model = outer.opsets, outer.model
            for node in body:
                if node.attrs:
                    stack.extend(node.subgraphs)

    # -- walks

    def all_nodes(self) -> Iterator[Node]:
        """Nodes of this graph and of all bodies, a node before the nodes of its bodies (no return nodes)."""
        stack: list[tuple[Node, Node]] = []
        """Where to go on: the end of a graph and the node in it that was visited last."""
        ret = self.ret
        node = ret.next_link
        while node is not None:
            if not node.erased:
                if node is not ret:
                    yield node
                    if node.attrs and (bodies := node.subgraphs):
                        stack.append((ret, node))
                        stack.extend((body.ret, body.ret) for body in reversed(bodies))
                        ret, node = stack.pop()
                elif stack:
                    ret, node = stack.pop()
                else:
                    return
            node = node.next_link

    def all_graphs(self) -> Iterator[Graph]:
        """This graph and all bodies inside, outer ones first."""
        stack: list[Graph] = [self]
        while stack:
            graph = stack.pop()
            yield graph
            bodies = [body for node in graph if node.attrs for body in node.subgraphs]
            stack.extend(reversed(bodies))

    @property
    def outer(self) -> Graph | None:
        """The graph around this body."""
        return self.parent.graph if self.parent is not None else None

    @property
    def root(self) -> Graph:
        """The outermost graph: a main graph or a function's."""
        graph = self
        while graph.parent is not None and graph.parent.graph is not None:
            graph = graph.parent.graph
        return graph

    def __str__(self) -> str:
        from .text.printer import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"<graph @{self.name}: {self.count} nodes>"


class Function:
    """A model-local function: an operator ``domain::name`` (and ``overload``) with a body."""

    __slots__ = ("attributes", "defaults", "domain", "extra", "graph", "name", "overload")

    def __init__(self, domain: str, name: str, graph: Graph, overload: str = "") -> None:
        self.domain, self.name, self.overload = domain, name, overload
        self.graph = graph
        """Its body; ``graph.opsets`` are the function's own imports."""
        self.attributes: tuple[str, ...] = ()
        """Names of attributes without a default."""
        self.defaults: dict[str, Attr] = {}
        self.extra: dict[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.domain, self.name, self.overload)


class Model:
    """A main graph with functions and what the file says about itself."""

    __slots__ = ("doc", "domain", "extra", "functions", "graph", "ir_version", "metadata", "producer", "version")

    def __init__(self, graph: Graph, *, ir_version: int = 10) -> None:
        self.graph = graph
        self.functions: dict[tuple[str, str, str], Function] = {}
        self.ir_version = ir_version
        self.producer: tuple[str, str] = ("", "")
        """Producer name and version."""
        self.domain = ""
        self.version = 0
        self.doc = ""
        self.metadata: dict[str, str] = {}
        self.extra: dict[str, Any] | None = None
        for body in graph.all_graphs():
            body.model = self

    @property
    def opsets(self) -> dict[str, int]:
        """Versions of the domains that the main graph imports."""
        return self.graph.opsets

    def add_function(self, function: Function) -> None:
        self.functions[function.key] = function
        for body in function.graph.all_graphs():
            body.model = self

    def roots(self) -> Iterator[Graph]:
        """The main graph, then the functions' graphs."""
        yield self.graph
        for function in list(self.functions.values()):
            yield function.graph

    def all_graphs(self) -> Iterator[Graph]:
        """Every graph of the model, bodies and functions included."""
        for root in self.roots():
            yield from root.all_graphs()

    def all_nodes(self) -> Iterator[Node]:
        """Every node of the model, bodies and functions included."""
        for root in self.roots():
            yield from root.all_nodes()

    def __str__(self) -> str:
        from .text.printer import print_model

        return print_model(self)

    def __repr__(self) -> str:
        return f"<model: {self.graph.count} nodes, {len(self.functions)} functions>"
