"""Bodies of If, Loop and Scan as models of their own, and what the loaders are told to run them.

A loader runs a branch, or a body turn by turn; kernels compute what is inside. What a body takes from around it is
handed to it behind its own inputs. Values that go from one turn to the next have the same extents in each.

**Source** ONNX If-1 to 25, Loop-1 to 25, Scan-9 to 25.
"""

from __future__ import annotations

from typing import Any, cast

from ...ir.clone import clone_graph
from ...ir.graph import Graph, Model, Node, Value
from .rules.core import Unsupported, dtype_of, shape_of

BODIES = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}
"""Attributes with bodies, by operator."""
MAX_DEPTH = 8
"""Of bodies in bodies."""
_LOOP_INPUTS = _LOOP_FIRST = 2
"""Trip count and condition in front of what a Loop carries; number of the turn and condition inside."""


def closed_bodies(node: Node) -> list[tuple[Model, list[Value]]]:
    """Each body as a model with the values around it that its last inputs stand for; constants come along.

    Raises ``Unsupported`` for operators that loaders do not run, and values that do not keep their extents.
    """
    if node.domain or node.op not in BODIES or (node.op == "Scan" and node.version < 9):
        raise Unsupported("it has a body")
    if _depth(node) > MAX_DEPTH:
        raise Unsupported(f"bodies lie in each other, more than {MAX_DEPTH} deep")
    bodies = [cast("Graph", node.attrs[name]) for name in BODIES[node.op]]
    if node.op != "If":
        _require_constant_extents(node, bodies[0])
    for value in node.inputs:
        if value is not None and 0 in shape_of(value):
            raise Unsupported(f"%{value.name} has no elements")
    return [_closed(body) for body in bodies]


def carried(node: Node) -> int:
    """How many values go from one turn to the next."""
    return len(node.inputs) - (_LOOP_INPUTS if node.op == "Loop" else int(node.attr("num_scan_inputs")))


def flow_spec(node: Node, bodies: list[Model]) -> dict[str, Any]:
    """What a manifest says of a node beside its bodies' steps.

    ``first`` are the shapes of the turn's number and the condition as a Loop's body takes them; ``stacked`` what one
    turn gives to be stacked, for where there is none; axes and directions are a Scan's.
    """
    if node.op == "If":
        return {"op": node.op}
    graph, count = bodies[0].graph, carried(node)
    results = graph.outputs[count + 1 :] if node.op == "Loop" else graph.outputs[count:]
    # Of no turn at all ONNX Runtime takes open extents for 0.
    stacked = [{"dtype": dtype_of(v), "shape": [d if isinstance(d, int) else 0 for d in shape_of(v)]} for v in results]
    if node.op == "Loop":
        return {"op": node.op, "first": [list(shape_of(v)) for v in graph.inputs[:_LOOP_FIRST]], "stacked": stacked}
    scanned = int(node.attr("num_scan_inputs"))
    return {
        "op": node.op,
        "stacked": stacked,
        "input_axes": _axes(node, "scan_input_axes", [len(shape_of(v)) for v in node.inputs[count:] if v is not None]),
        "output_axes": _axes(node, "scan_output_axes", [len(shape_of(v)) + 1 for v in results]),
        "input_directions": _numbers(node, "scan_input_directions", scanned),
        "output_directions": _numbers(node, "scan_output_directions", len(results)),
    }


def _axes(node: Node, name: str, ranks: list[int]) -> list[int]:
    return [axis % rank for axis, rank in zip(_numbers(node, name, len(ranks)), ranks, strict=True)]


def _numbers(node: Node, name: str, count: int) -> list[int]:
    return [int(n) for n in node.attr(name) or (0,) * count]


def _require_constant_extents(node: Node, body: Graph) -> None:
    """Raises ``Unsupported`` where what is carried changes its extents or type."""
    count = carried(node)
    skipped = _LOOP_FIRST if node.op == "Loop" else 0
    start = node.inputs[_LOOP_INPUTS:] if node.op == "Loop" else node.inputs[:count]
    ends = body.outputs[1 : count + 1] if node.op == "Loop" else body.outputs[:count]
    for outer, value, end in zip(start, body.inputs[skipped : skipped + count], ends, strict=True):
        if outer is None or (shape_of(outer), dtype_of(outer)) != (shape_of(value), dtype_of(value)):
            raise Unsupported(f"%{value.name} of its body is {value.type}, it starts as {outer and outer.type}")
        if shape_of(end) != shape_of(value):
            raise Unsupported(f"%{value.name} of its body is {value.type}, and {end.type} behind it")


def _closed(body: Graph) -> tuple[Model, list[Value]]:
    """A copy of the body that takes nothing from around it but inputs, each under a name of its own."""
    copy = clone_graph(body)
    graphs = list(copy.all_graphs())
    inside = set(graphs)
    readers = [*copy.all_nodes(), *(graph.ret for graph in graphs)]
    made: dict[Value, Value] = {}
    captured: list[Value] = []
    for reader in readers:
        for i, value in enumerate(reader.inputs):
            if value is None or value.owner in inside:
                continue
            if value not in made:
                made[value] = (
                    copy.add_input("", value.type) if value.data is None else copy.add_constant(value.data, value.name)
                )
                captured += [value] if value.data is None else []
            reader.set_input(i, made[value])
    for i, value in enumerate(copy.inputs):
        value.name = f"in{i}"
        if value.uses and dtype_of(value):
            shape_of(value)
    copy.set_outputs(copy.outputs, [f"out{i}" for i in range(len(copy.outputs))])
    return Model(copy), captured


def _depth(node: Node) -> int:
    """How deep bodies lie in it."""
    depth, level = 0, node.subgraphs
    while level:
        depth += 1
        level = [body for graph in level for inner in graph for body in inner.subgraphs]
    return depth
