"""Runs a graph and shows wanted values on the way.

The runtime runs the nodes in stretches (see ``segments.py``): one, where the wanted values fit into the memory that
they may take, else as many as it needs. Every stretch runs once per sample whatever their number, so that a small limit
costs little time. If, Loop, Scan and calls of functions with wanted values inside are run here, round by round, their
bodies by the runtime; all others are ordinary nodes. Source of what they mean: If-25, Loop-25, Scan-25 of ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backends.core import Array
from ...backends.ort.session import SessionSettings
from ...ir.clone import clone_graph
from ...ir.errors import BackendError
from ...ir.graph import Function, Graph, Model, Node, Value
from ...ir.ops import function_of
from ...passes.shared.attributes import resolve_attributes
from .segments import Environment, Segment, operands

Show = Callable[[Value, Any], None]
Sizes = Callable[[Value], int]
CONTROL = ("If", "Loop", "Scan")


@dataclass(frozen=True)
class Plan:
    """How graphs are run."""

    wanted: frozenset[Value]
    opened: frozenset[Node]
    """Nodes that are run here because wanted values are inside."""
    settings: SessionSettings
    budget_bytes: int
    """What the wanted values of one stretch may take."""


def opened_nodes(model: Model, wanted: Iterable[Value]) -> tuple[set[Node], dict[Value, str]]:
    """The nodes around wanted values, and the wanted values that cannot be reached, with the reason."""
    calls: dict[Graph, list[Node]] = {}
    if model.functions:
        for node in model.all_nodes():
            function = function_of(node)
            if function is not None:
                calls.setdefault(function.graph, []).append(node)
    opened: set[Node] = set()
    declined: dict[Value, str] = {}
    for value in wanted:
        around, reason = _around(value, calls)
        if reason:
            declined[value] = reason
        else:
            opened |= around
    return opened, declined


def _around(value: Value, calls: dict[Graph, list[Node]]) -> tuple[set[Node], str]:
    found: set[Node] = set()
    graphs = [value.owner]
    while graphs:
        graph = graphs.pop()
        nodes = [] if graph is None else [graph.parent] if graph.parent is not None else calls.get(graph, [])
        for node in nodes:
            if function_of(node) is None and (node.domain or node.op not in CONTROL or _is_batched_scan(node)):
                return found, f"it is inside {node.op} {node.name!r}, whose rounds cannot be run one by one"
            if node not in found:
                found.add(node)
                graphs.append(node.graph)
    return found, ""


def _is_batched_scan(node: Node) -> bool:
    return node.op == "Scan" and node.version < 9


class Runner:
    """Runs one graph."""

    def __init__(self, graph: Graph, plan: Plan, returned: Sequence[Value], sizes: Sizes | None = None) -> None:
        """``returned``: values of the graph that :meth:`run` leaves in the environment. ``sizes``: bytes of wanted
        values, where stretches are to be cut by them."""
        self.graph, self.plan = graph, plan
        self.steps: list[Segment | _Opened] = []
        self._shown_inputs = [v for v in graph.inputs if v in plan.wanted]
        self._build(returned, sizes)
        self._drop = _last_uses(self.steps, returned)

    def run(self, environment: Environment, show: Show) -> None:
        """``environment`` holds the graph's inputs and captures; what is returned is added. Raises ``BackendError``."""
        for value in self._shown_inputs:
            if value in environment:
                show(value, environment[value])
        for step, drop in zip(self.steps, self._drop, strict=True):
            made = step.run(environment) if isinstance(step, Segment) else step.run(environment, show)
            for value, found in made.items():
                if value in self.plan.wanted:
                    show(value, found)
            environment.update(made)
            del made
            for value in drop:
                environment.pop(value, None)

    def _build(self, returned: Sequence[Value], sizes: Sizes | None) -> None:
        plan = self.plan
        needed = {v for v in returned if v.data is None}
        parts: list[list[Node]] = [[]]
        taken = 0
        for node in _needed_nodes(self.graph, plan, needed):
            if node in plan.opened:
                parts += [[node], []]
                taken = 0
                continue
            parts[-1].append(node)
            taken += sum(sizes(v) for v in node.outputs if v in plan.wanted) if sizes is not None else 0
            if taken > plan.budget_bytes:
                parts.append([])
                taken = 0
        later = set(needed)
        steps: list[Segment | _Opened] = []
        for part in reversed([p for p in parts if p]):
            made = [v for node in part for v in node.outputs]
            if part[0] in plan.opened:
                steps.append(_opened(part[0], plan))
            else:
                outputs = [v for v in made if v in later or v in plan.wanted]
                steps.append(Segment(self.graph, part, outputs, plan.settings))
            later.difference_update(made)
            later.update(v for node in part for v in operands(node))
        self.steps = steps[::-1]


def _needed_nodes(graph: Graph, plan: Plan, returned: set[Value]) -> list[Node]:
    """The nodes from which wanted and returned values are computed, in order."""
    needed, found = set(returned), list[Node]()
    for node in reversed(list(graph)):
        if node in plan.opened or any(v in needed or v in plan.wanted for v in node.outputs):
            found.append(node)
            needed.update(operands(node))
    return found[::-1]


def _last_uses(steps: Sequence[Segment | _Opened], returned: Sequence[Value]) -> list[list[Value]]:
    """What may go after each step: values that steps make and nothing later needs."""
    later = set(returned)
    made = {v for step in steps for v in step.outputs}
    found: list[list[Value]] = []
    for step in reversed(steps):
        mine = {*step.outputs, *step.inputs} & made
        found.append([v for v in mine if v not in later])
        later.update(step.inputs)
    return found[::-1]


# -- nodes that are run here


class _Opened:
    """A node with wanted values inside."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.inputs = list(dict.fromkeys(operands(node)))
        self.outputs = node.outputs

    def run(self, environment: Mapping[Value, Any], show: Show) -> Environment:
        raise NotImplementedError

    def _named(self, found: Sequence[Any]) -> Environment:
        return dict(zip(self.node.outputs, found, strict=False))


def _opened(node: Node, plan: Plan) -> _Opened:
    function: Function | None = function_of(node)
    if function is not None:
        return _Call(node, function, plan)
    return {"If": _If, "Loop": _Loop, "Scan": _Scan}[node.op](node, plan)


def _run_body(runner: Runner, environment: Environment, show: Show) -> list[Any]:
    """What the body returns: constants and captures may be among it."""
    runner.run(environment, show)
    return [_operand(v, environment) for v in runner.graph.outputs]


def _operand(value: Value, environment: Mapping[Value, Any]) -> Any:
    return value.data.numpy() if value.data is not None else environment[value]


def _body_runner(body: Graph, plan: Plan) -> Runner:
    return Runner(body, plan, [v for v in body.outputs if v.data is None])


class _If(_Opened):
    def __init__(self, node: Node, plan: Plan) -> None:
        super().__init__(node)
        names = ("then_branch", "else_branch")
        self.branches = [_body_runner(node.attrs[name], plan) for name in names]  # pyright: ignore[reportArgumentType]

    def run(self, environment: Mapping[Value, Any], show: Show) -> Environment:
        condition = self.node.inputs[0]
        assert condition is not None
        chosen = self.branches[0 if _is_true(_operand(condition, environment)) else 1]
        return self._named(_run_body(chosen, dict(environment), show))


class _Loop(_Opened):
    def __init__(self, node: Node, plan: Plan) -> None:
        super().__init__(node)
        body = node.attrs["body"]
        assert isinstance(body, Graph)
        self.body = _body_runner(body, plan)

    def run(self, environment: Mapping[Value, Any], show: Show) -> Environment:
        limit, condition, *carried = [None if v is None else _operand(v, environment) for v in self.node.inputs]
        rounds = None if limit is None else int(np.asarray(limit).reshape(-1)[0])
        go_on = condition is None or _is_true(condition)
        graph, i = self.body.graph, 0
        scanned: list[list[Array]] = [[] for _ in graph.outputs[1 + len(carried) :]]
        while go_on and (rounds is None or i < rounds):
            given = [_shaped(i, np.int64, graph.inputs[0]), _shaped(go_on, np.bool_, graph.inputs[1]), *carried]
            inner = dict(environment)
            inner.update(zip(graph.inputs, given, strict=True))
            flag, *found = _run_body(self.body, inner, show)
            carried = found[: len(carried)]
            for kept, array in zip(scanned, found[len(carried) :], strict=True):
                kept.append(array)
            go_on = _is_true(flag)
            i += 1
        stacks = [_stacked(s, v) for s, v in zip(scanned, graph.outputs[1 + len(carried) :], strict=True)]
        return self._named([*carried, *stacks])


class _Scan(_Opened):
    def __init__(self, node: Node, plan: Plan) -> None:
        super().__init__(node)
        body = node.attrs["body"]
        assert isinstance(body, Graph)
        self.body = _body_runner(body, plan)
        self.count = int(node.attr("num_scan_inputs"))

    def run(self, environment: Mapping[Value, Any], show: Show) -> Environment:
        given = [_operand(v, environment) for v in self.node.inputs if v is not None]
        states, inputs = given[: len(given) - self.count], given[len(given) - self.count :]
        graph = self.body.graph
        outs = graph.outputs[len(states) :]
        in_axes, backwards = self._numbers("scan_input_axes", inputs), self._numbers("scan_input_directions", inputs)
        moved = [
            np.moveaxis(a, axis, 0)[:: -1 if back else 1]
            for a, axis, back in zip(inputs, in_axes, backwards, strict=True)
        ]
        scanned: list[list[Array]] = [[] for _ in outs]
        for i in range(len(moved[0])):
            inner = dict(environment)
            inner.update(zip(graph.inputs, [*states, *(np.ascontiguousarray(a[i]) for a in moved)], strict=True))
            found = _run_body(self.body, inner, show)
            states = found[: len(states)]
            for kept, array in zip(scanned, found[len(states) :], strict=True):
                kept.append(array)
        out_axes, reversed_ = self._numbers("scan_output_axes", outs), self._numbers("scan_output_directions", outs)
        stacks = [
            np.ascontiguousarray(np.moveaxis(_stacked(s[:: -1 if back else 1], v), 0, axis))
            for s, v, axis, back in zip(scanned, outs, out_axes, reversed_, strict=True)
        ]
        return self._named([*states, *stacks])

    def _numbers(self, name: str, of: Sequence[Any]) -> list[int]:
        found: Any = self.node.attr(name)
        return [int(n) for n in found] if found else [0] * len(of)


class _Call(_Opened):
    """A call of a function of the model: values inside are shown as those of the function."""

    def __init__(self, node: Node, function: Function, plan: Plan) -> None:
        super().__init__(node)
        copies: dict[Value, Value] = {}
        graph = clone_graph(function.graph, copies)
        for body in graph.all_graphs():
            body.model = function.graph.model
        twins = dict(zip(_all_nodes(function.graph), _all_nodes(graph), strict=True))
        for inner in twins.values():
            resolve_attributes(inner, node, function)
        self.originals = {copy: value for value, copy in copies.items()}
        inner_plan = Plan(
            frozenset(copies.get(v, v) for v in plan.wanted),
            frozenset(twins.get(n, n) for n in plan.opened),
            plan.settings,
            plan.budget_bytes,
        )
        for absent in graph.inputs[len(node.inputs) :]:
            _without(absent)
        for formal, actual in zip(graph.inputs, node.inputs, strict=False):
            if actual is None:
                _without(formal)
        self.body = _body_runner(graph, inner_plan)

    def run(self, environment: Mapping[Value, Any], show: Show) -> Environment:
        given = [None if v is None else _operand(v, environment) for v in self.node.inputs]
        inner: Environment = {f: a for f, a in zip(self.body.graph.inputs, given, strict=False) if a is not None}
        return self._named(
            _run_body(self.body, inner, lambda value, array: show(self.originals.get(value, value), array))
        )


def _all_nodes(graph: Graph) -> list[Node]:
    return list(graph.all_nodes())


def _without(formal: Value) -> None:
    """An operand that the caller leaves out."""
    for user, i in list(formal.uses):
        if user.is_return:
            raise BackendError("a function returns an operand that is absent", where="calibrate", help="")
        user.set_input(i, None)


def _is_true(found: Any) -> bool:
    return bool(np.asarray(found).reshape(-1)[0])


def _shaped(number: Any, dtype: Any, formal: Value) -> Array:
    """A scalar, or a vector of one where the body declares that."""
    return np.full((1,) if formal.rank == 1 else (), number, dtype)


def _stacked(arrays: list[Array], value: Value) -> Array:
    """What a loop returns of all its rounds; of none, as the runtime has it, extents that are unknown are 0."""
    if arrays:
        return np.stack(arrays)
    tensor = value.tensor
    if tensor is None or tensor.shape is None or tensor.dtype is None:
        raise BackendError(f"a loop without a round leaves the shape of %{value.name} open", where="calibrate", help="")
    return np.zeros((0, *(d if isinstance(d, int) else 0 for d in tensor.shape)), tensor.dtype.numpy)
