"""Two small models of one rewrite: what computed the values that it replaced, and what computes them now.

Both take the same inputs. Nearest to the rewrite these are the values that it left alone; where that is not enough to
see why it is right (a Relu of what is never negative), the nodes before them come in too, on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from ...ir.clone import clone_graph
from ...ir.errors import PlanishError
from ...ir.graph import Function, Graph, Model, Node, Value
from ...ir.infer import infer_model
from ...ir.ops import is_known, is_pure
from .snapshot import Change, State, World

MAX_NODES = 160
"""Nodes on one side of a cut."""
MAX_LEVELS = 8
"""How many nodes in front of a rewrite are looked at."""


@dataclass
class Cut:
    """The two models. Their outputs correspond."""

    before: Model
    after: Model
    leaves: list[Value]
    """The values of the optimized model that the inputs stand for."""
    own: set[Node]
    """Nodes of both models that are part of the rewrite itself, not of what stands in front of it."""
    whole: bool
    """Whether the inputs are inputs of the model or of a body: there is nothing more to look at."""


@dataclass
class Obligation:
    """Values that must be equal: what a node was given, or what it gives."""

    old: Value
    new: Value


@dataclass
class Frame:
    """What has to be shown, and how far the cut reaches."""

    change: Change
    pairs: list[Obligation]
    context: set[Value] = field(default_factory=set[Value])
    """Those of them that came in to show why it is right."""
    inner: set[Value] = field(default_factory=set[Value])
    """Values that the rewrite left alone and that are computed inside the cut."""
    leaves: dict[Value, None] = field(default_factory=dict[Value, None])


def wider(frame: Frame) -> Frame | None:
    """The frame with the nodes that compute its inputs; ``None`` where there are none, or too many."""
    more = {v for v in frame.leaves if _may_enter(frame.change, v)}
    if not more:
        return None
    found = Frame(frame.change, frame.pairs, frame.context | more, frame.inner | more)
    return found if collect(found) else None


def _may_enter(change: Change, value: Value) -> bool:
    state = change.after.definition(value)
    if state is None or value.data is not None:
        return False
    node = state.node
    return is_known(node) and is_pure(node) and (not node.subgraphs or node.op in ("If", "Loop"))


def collect(frame: Frame) -> bool:
    """Finds the leaves. ``False`` where one side has too many nodes."""
    for world, roots in (
        (frame.change.before, [p.old for p in frame.pairs]),
        (frame.change.after, [p.new for p in frame.pairs]),
    ):
        if _cone(frame, world, roots) is None:
            return False
    return True


def _cone(frame: Frame, world: World, roots: list[Value]) -> list[State] | None:
    """The nodes of one side in topological order, ``None`` for too many; adds to the leaves."""
    done: dict[Node, State] = {}
    entered: set[Node] = set()
    stack: list[tuple[Value | State, bool]] = [(v, False) for v in reversed(roots)]
    while stack:
        item, left = stack.pop()
        if isinstance(item, State):
            if left:
                done[item.node] = item
            continue
        state = world.definition(item)
        if state is None or not _inside(frame, item, state):
            if item.data is None:
                frame.leaves[item] = None
            continue
        if state.node in entered:
            continue
        entered.add(state.node)
        if len(entered) > MAX_NODES:
            return None
        stack.append((state, True))
        operands = [v for v in state.inputs if v is not None] + _captures(world, state)
        stack.extend((v, False) for v in reversed(operands))
    return list(done.values())


def _inside(frame: Frame, value: Value, state: State) -> bool:
    """Whether the cut computes the value: the rewrite changed it, or it was let in."""
    return value in frame.inner or frame.change.before.state(state.node) is not frame.change.after.state(state.node)


def _bodies(state: State) -> list[Graph]:
    found: list[Graph] = []
    for attr in state.attrs.values():
        parts = cast("tuple[Any, ...]", attr) if isinstance(attr, tuple) else (attr,)
        found.extend(part for part in parts if isinstance(part, Graph))
    return found


def _captures(world: World, state: State) -> list[Value]:
    """Values from outside that the bodies of a node use."""
    used: dict[Value, None] = {}
    made: set[Value] = set()
    stack = _bodies(state)
    while stack:
        body = stack.pop()
        made.update(world.inputs.get(body, ()))
        for node in [*world.orders.get(body, ()), body.ret]:
            inner = world.state(node) or State(node)
            used.update((v, None) for v in inner.inputs if v is not None and v.data is None)
            made.update(inner.outputs)
            stack.extend(_bodies(inner))
    return [v for v in used if v not in made]


# -- models


def cut(frame: Frame) -> Cut | None:
    """The two models; ``None`` where something cannot be cut out."""
    frame.leaves.clear()
    sides = ((frame.change.before, [p.old for p in frame.pairs]), (frame.change.after, [p.new for p in frame.pairs]))
    cones = [_cone(frame, world, roots) for world, roots in sides]
    leaves = list(frame.leaves)
    own: set[Node] = set()
    models = [
        None if cone is None else _Copier(world, frame.context, own).model(leaves, cone, roots)
        for cone, (world, roots) in zip(cones, sides, strict=True)
    ]
    before, after = models
    if before is None or after is None:
        return None
    return Cut(before, after, leaves, own, not any(_may_enter(frame.change, v) for v in leaves))


class _Copier:
    """Makes a model of nodes as they are in one world."""

    def __init__(self, world: World, context: set[Value], own: set[Node]) -> None:
        self.world, self.context, self.own = world, context, own
        self.graph = Graph("main", dict(world.opsets))
        self.values: dict[Value, Value] = {}

    def model(self, leaves: list[Value], states: list[State], roots: list[Value]) -> Model | None:
        """The model, with types inferred; ``None`` where something is missing."""
        for i, leaf in enumerate(leaves):
            made = self.values[leaf] = self.graph.add_input(f"i{i}", leaf.type)
            made.known = leaf.known
        try:
            for state in states:
                self._node(self.graph, state)
            outputs = [self._output(v) for v in roots]
        except KeyError:
            return None
        self.graph.set_outputs(outputs, [f"o{i}" for i in range(len(outputs))])
        model = Model(self.graph)
        for function in self.world.functions.values():
            copy = Function(function.domain, function.name, clone_graph(function.graph), function.overload)
            copy.attributes, copy.defaults = function.attributes, dict(function.defaults)
            model.add_function(copy)
        try:
            infer_model(model)
        except PlanishError:
            return None
        return model

    def _node(self, graph: Graph, state: State) -> None:
        operands = [self._operand(v) for v in state.inputs]
        names = [v.name for v in state.outputs]
        node = Node(state.op, operands, domain=state.domain, outputs=names, overload=state.overload)
        self.values.update(zip(state.outputs, node.outputs, strict=True))
        graph.append(node)
        if self.context.isdisjoint(state.outputs):
            self.own.add(node)
        for name, attr in state.attrs.items():
            node.set_attr(name, self._attr(attr))

    def _attr(self, attr: Any) -> Any:
        """Bodies are copied (they nest no deeper than the reader lets them)."""
        if isinstance(attr, Graph):
            return self._body(attr)
        parts = cast("tuple[Any, ...]", attr) if isinstance(attr, tuple) else ()
        if parts and isinstance(parts[0], Graph):
            return tuple(map(self._body, parts))
        return cast("Any", attr)

    def _body(self, body: Graph) -> Graph:
        copy, outside = Graph(body.name, self.graph.opsets), dict(self.values)
        for v in self.world.inputs[body]:
            self.values[v] = copy.add_input(v.name, v.type)
        for node in self.world.orders[body]:
            state = self.world.state(node)
            if state is None:
                raise KeyError(node.op)
            self._node(copy, state)
        ret = self.world.state(body.ret)
        returned = [self._operand(v) for v in (ret.inputs if ret is not None else body.ret.inputs)]
        copy.set_outputs([v for v in returned if v is not None], [f"r{i}" for i in range(len(returned))])
        self.values = outside
        return copy

    def _operand(self, v: Value | None) -> Value | None:
        if v is not None and v not in self.values and v.data is not None:
            self.values[v] = self.graph.add_constant(v.data, v.name)
        return None if v is None else self.values[v]

    def _output(self, v: Value) -> Value:
        """An output of its own for a value, which may be an input, a constant, or an output already."""
        node = Node("Identity", [self._operand(v)], outputs=[v.name])
        self.graph.append(node)
        return node.output
