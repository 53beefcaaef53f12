"""Which nodes TVM runs and which ONNX Runtime does, in as few pieces as the order of data allows.

Pieces run one after the other and come in turns. A node goes into the first piece of its backend that is not in front
of any of its operands' pieces. Where there are two backends the number of pieces is the largest number of changes on
any path, which no partition beats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import TypeAlias

from ...ir.clone import clone_model
from ...ir.graph import Graph, Model, Node, Value
from . import rules  # noqa: F401  # pyright: ignore[reportUnusedImport]  (its modules register)
from .layout import Layouts
from .lower.kernels import Operands, run_rules
from .lower.recurrent import cell_of, recurrent
from .lower.scatter import scatter_kernels, scattering
from .rules.core import Kind, Unsupported, dtype_of, kind_of, shape_of

TVM, ORT, FLOW = "tvm", "ort", "flow"
"""Who runs a piece; of a node with bodies the loader does, and who runs the bodies is said in these."""


@dataclass
class Piece:
    """Nodes that run together."""

    backend: str
    """``TVM`` or ``ORT``, or ``FLOW`` for one node whose bodies have pieces of their own."""
    model: Model
    """These nodes alone: what comes from outside are its inputs, what is read outside its outputs."""
    inputs: list[str]
    """Of a node with bodies: its operands, empty where one is omitted."""
    outputs: list[str]
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    """Why ONNX Runtime runs it, by operator."""
    node: Node | None = None
    """The one with bodies."""
    bodies: list[Body] = field(default_factory=list["Body"])
    captured: list[list[str]] = field(default_factory=list[list[str]])
    """For each body the names of what it takes from around it."""


@dataclass
class Body:
    """A body as a model of its own, whose last inputs are what it took from around it."""

    model: Model
    pieces: list[Piece]
    captured: list[Value]
    """Values around it, in the order of these inputs."""


Inside: TypeAlias = Callable[[Node], list[Body]]
"""Bodies of a node that can run one by one. Raises ``Unsupported``."""


def why_not(node: Node) -> str | None:
    """Why no kernel can be made of a node; ``None`` where one can."""
    if node.subgraphs:
        return "it has a body"
    layouts = Layouts()
    try:
        for value in (*node.inputs, *node.outputs):
            if value is not None and (value.uses or value in node.inputs):
                empty = 0 in shape_of(value)
                if empty and (value is node.inputs[0] or value in node.outputs):  # an empty option is one left out
                    raise Unsupported(f"%{value.name} has no elements")
                dtype_of(value)
        if recurrent(node):
            cell_of(node)
            return None
        if scattering(node):
            scatter_kernels(node)
            return None
        for value, made in zip(node.outputs, run_rules([node], Operands(layouts), 1, {}), strict=False):
            if value.uses:
                layouts.form(value).compute(made.element, "out")
    except Unsupported as why:
        return str(why)
    return None


def refusals(graph: Graph, inside: Inside, *, gpu: bool = False) -> tuple[dict[Node, str], dict[Node, list[Body]]]:
    """Nodes that TVM cannot run, and why; the bodies of those that the loader runs."""
    refused: dict[Node, str] = {}
    flows: dict[Node, list[Body]] = {}
    for node in graph:
        why = None
        if node.subgraphs:
            try:
                flows[node] = inside(node)
            except Unsupported as unsupported:
                why = str(unsupported)
        else:
            why = why_not(node)
        if why is None and gpu and kind_of(node) is Kind.OWN:
            why = "loops of its own, which there are for processors only"
        if why is not None:
            refused[node] = why
    return refused, flows


def partition(model: Model, inside: Inside, *, gpu: bool = False) -> list[Piece]:
    """The pieces in the order in which they run; one where TVM runs everything."""
    refused, flows = refusals(model.graph, inside, gpu=gpu)
    if not refused and not flows:
        names = [v.name for v in model.graph.inputs]
        return [Piece(TVM, model, names, [p.name for p in model.graph.ports])]
    for node in flows:
        _without_constants(node)
    runs = {node: FLOW if node in flows else ORT if node in refused else TVM for node in model.graph}
    turns = permutations(dict.fromkeys(runs.values()))
    numbered = [
        (turn, _numbered(model.graph, [turn.index(runs[node]) for node in model.graph], len(turn))) for turn in turns
    ]
    turn, numbers = min(numbered, key=lambda found: len(set(found[1].values())))
    found: list[Piece] = []
    names = _names(model.graph)
    for number in sorted(set(numbers.values())):
        nodes = [node for node in model.graph if numbers[node] == number]
        backend = turn[number % len(turn)]
        if backend == FLOW:
            found += [_flow(model, node, flows[node], names) for node in nodes]
            continue
        reasons = {node.op: refused[node] for node in nodes if node in refused}
        found.append(_piece(model, nodes, backend, names, reasons))
    return found


def computed(pieces: Sequence[Piece]) -> Iterator[Graph]:
    """What TVM runs, in bodies too."""
    for piece in pieces:
        if piece.backend == TVM:
            yield piece.model.graph
        for body in piece.bodies:
            yield from computed(body.pieces)


def _without_constants(node: Node) -> None:
    """Makes constant operands results of kernels: the loader knows values by the name that a step gives them."""
    assert node.graph is not None
    for i, value in enumerate(node.inputs):
        if value is not None and value.data is not None:
            copy = Node("Identity", [value], outputs=[value.name])
            node.graph.insert_before(node, copy)
            copy.output.type = value.type
            node.set_input(i, copy.output)


def _flow(model: Model, node: Node, bodies: list[Body], names: Mapping[Value, str]) -> Piece:
    inputs = ["" if value is None else names[value] for value in node.inputs]
    captured = [[names[value] for value in body.captured] for body in bodies]
    outputs = [names[value] for value in node.outputs]
    return Piece(FLOW, model, inputs, outputs, node=node, bodies=bodies, captured=captured)


def _numbered(graph: Graph, kinds: Sequence[int], count: int) -> dict[Node, int]:
    """The number of every node's piece, which modulo ``count`` is the node's kind."""
    found: dict[Node, int] = {}
    for node, kind in zip(graph, kinds, strict=True):
        least = max((found[p] for p in _producers(node, graph)), default=kind)
        found[node] = least + (kind - least) % count
    for node in reversed(list(graph)):
        readers = [found[r] for out in node.outputs for u, _ in out.uses if (r := _owner(u, graph)) is not None]
        if readers and not _producers(node, graph):  # what has no operands runs where its result is read
            least = min(readers)
            found[node] = max(found[node], least - (least - found[node]) % count)
    return found


def _producers(node: Node, graph: Graph) -> list[Node]:
    """Nodes of the graph whose results a node reads, its bodies too."""
    readers = [node, *(inner for body in node.subgraphs for inner in body.all_nodes())]
    returned = [body.ret for body in node.subgraphs for body in body.all_graphs()]
    values = [v for reader in (*readers, *returned) for v in reader.inputs if v is not None]
    return [v.producer for v in values if v.producer is not None and v.producer.graph is graph]


def _names(graph: Graph) -> dict[Value, str]:
    """A name of its own for every value; interfaces keep theirs."""
    found: dict[Value, str] = {v: v.name for v in graph.inputs}
    taken = {*found.values(), *(port.name for port in graph.ports)}
    for i, node in enumerate(graph):
        for value in node.outputs:
            name = value.name or f"value{i}"
            while name in taken:
                name += "_"
            taken.add(name)
            found[value] = name
    found.update((v, port.name) for v, port in zip(graph.outputs, graph.ports, strict=True) if v.producer is not None)
    return found


def _piece(
    model: Model, nodes: Sequence[Node], backend: str, names: dict[Value, str], reasons: dict[str, str]
) -> Piece:
    graph = model.graph
    members = set(nodes)
    copy = clone_model(model)
    same = dict(zip(graph, copy.graph, strict=True))
    inside = [same[node] for node in nodes]
    kept = set(inside)
    returned = set(graph.outputs)
    outputs = [
        (out, same[node].outputs[i])
        for node in nodes
        for i, out in enumerate(node.outputs)
        if out in returned or any(_owner(user, graph) not in members for user, _ in out.uses)
    ]
    copy.graph.set_outputs([made for _, made in outputs], [names[out] for out, _ in outputs])
    inputs: list[str] = []
    original = {v: names[o] for o, v in zip(graph.inputs, copy.graph.inputs, strict=True)}
    for node in graph:
        original.update(zip(same[node].outputs, (names[v] for v in node.outputs), strict=True))
    own = [v for v in copy.graph.inputs if any(_owner(user, copy.graph) in kept for user, _ in v.uses)]
    inputs.extend(original[v] for v in own)
    for value in [v for node in copy.graph if node not in kept for v in node.outputs]:
        users = [(user, i) for user, i in value.uses if _owner(user, copy.graph) in kept]
        if users:
            made = copy.graph.add_input(original[value], value.type)
            inputs.append(original[value])
            for user, i in users:
                user.set_input(i, made)
    for node in reversed([node for node in copy.graph if node not in kept]):
        node.erase()
    for value in [v for v in copy.graph.inputs if v not in own and not v.uses]:
        copy.graph.remove_input(value)
    for value in [v for v in copy.graph.constants if not v.uses]:
        copy.graph.remove_constant(value)
    return Piece(backend, copy, inputs, [names[out] for out, _ in outputs], reasons)


def _owner(node: Node, graph: Graph) -> Node | None:
    """The node of the graph that a user is, or whose body has it; ``None`` for the graph's return."""
    at: Node | None = node
    while at is not None and at.graph is not graph:
        at = at.graph.parent if at.graph is not None else None
    return None if at is None or at.is_return else at
