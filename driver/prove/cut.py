"""Two small models of one rewrite: what computed the values that it replaced, and what computes them now.

Both take the same inputs. Nearest to the rewrite these are the values that it left alone; where that is not enough to
see why it is right (a Relu of what is never negative), the nodes before them come in too, on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from ...ir.clone import clone_graph
from ...ir.errors import PlanishError
from ...ir.graph import RETURN, Function, Graph, Model, Node, Value
from ...ir.infer import infer_model
from ...ir.ops import is_known, is_pure
from .snapshot import Change, State, World

MAX_NODES = 160
"""Nodes on one side of a cut."""
MAX_REGION = 600
"""Nodes behind a rewrite among which others that it changed are looked for."""
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


def obligations(change: Change) -> list[Obligation] | None:
    """What makes the rewrite right, at the nodes that got other operands: these are equal one by one.

    Of nodes that became others the results are. ``None`` where it cannot be said value by value.
    """
    found: dict[tuple[Value, Value], None] = {}
    for node in change.changed:
        old, new = change.before.state(node), change.after.state(node)
        if old is None or new is None:
            continue
        if node.op == RETURN:
            if not _returned(change, node, old, new, found):
                return None
        elif old.same_operation(new):
            found.update(_operand_pairs(old, new))
        else:
            found.update(((v, v), None) for v in old.outputs if v in new.outputs and v.uses)
    return [Obligation(a, b) for a, b in found]


def _returned(change: Change, node: Node, old: State, new: State, found: dict[tuple[Value, Value], None]) -> bool:
    """Adds what a return node demands; ``False`` where it returns more or less than before."""
    if len(old.inputs) == len(new.inputs):
        found.update(_operand_pairs(old, new))
        return True
    parent = node.graph.parent if node.graph is not None else None
    return parent is not None and parent in change.changed  # the node that runs the body is compared


def _operand_pairs(old: State, new: State) -> dict[tuple[Value, Value], None]:
    pairs = zip(old.inputs, new.inputs, strict=True)
    return {(a, b): None for a, b in pairs if a is not b and a is not None and b is not None}


def first_frame(change: Change) -> Frame | None:
    """The smallest frame; ``None`` where the cut would be too large."""
    pairs = obligations(change)
    frame = Frame(change, pairs or [])
    return frame if pairs is not None and _collect(frame) else None


def region_frame(change: Change) -> Frame | None:
    """The frame for a rewrite that changes values on the way: all between the changed nodes is in it, and what leaves
    that region must be equal. ``None`` where it would be too large."""
    region = _region(change)
    if region is None:
        return None
    found: dict[tuple[Value, Value], None] = {}
    for node in region:
        old, new = change.before.state(node), change.after.state(node)
        if old is None or new is None:
            continue
        if node.op == RETURN:
            if not _returned(change, node, old, new, found):
                return None
            continue
        for v in new.outputs:
            if any(user not in region or (user.op == RETURN and v in _returns(change, user)) for user, _ in v.uses):
                if v not in old.outputs:
                    return None
                found[v, v] = None
    inner = {v for node in region for v in node.outputs}
    frame = Frame(change, [Obligation(a, b) for a, b in found], inner=inner)
    return frame if found and _collect(frame) else None


def _returns(change: Change, ret: Node) -> list[Value | None]:
    """What a return node returned before and returns now, at the same place."""
    old, new = change.before.state(ret), change.after.state(ret)
    if old is None or new is None:
        return []
    return [b for a, b in zip(old.inputs, new.inputs, strict=False) if a is b]


def _region(change: Change) -> dict[Node, None] | None:
    """The changed nodes that are there now, and all nodes between them; ``None`` for too many."""
    start = [node for node in change.changed if change.after.state(node) is not None]
    reached: dict[Node, None] = dict.fromkeys(start)
    queue = list(start)
    for node in queue:
        if len(queue) > MAX_REGION:
            break
        for user in [user for out in node.outputs for user, _ in out.uses]:
            if user not in reached:
                reached[user] = None
                queue.append(user)
    between = dict.fromkeys(start)
    stack = list(start)
    while stack:
        node = stack.pop()
        for v in node.inputs:
            producer = v.producer if v is not None else None
            if producer is not None and producer in reached and producer not in between:
                between[producer] = None
                stack.append(producer)
    return between if len(between) <= MAX_NODES else None


def wider(frame: Frame) -> Frame | None:
    """The frame with the nodes that compute its inputs; ``None`` where there are none, or too many."""
    more = {v for v in frame.leaves if _may_enter(frame.change, v)}
    if not more:
        return None
    found = Frame(frame.change, frame.pairs, frame.context | more, frame.inner | more)
    return found if _collect(found) else None


def _may_enter(change: Change, value: Value) -> bool:
    state = change.after.definition(value)
    if state is None or value.data is not None:
        return False
    node = state.node
    return is_known(node) and is_pure(node) and (not node.subgraphs or node.op in ("If", "Loop"))


def _collect(frame: Frame) -> bool:
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
        copy = Graph(body.name, self.graph.opsets)
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
