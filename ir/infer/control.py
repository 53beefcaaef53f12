"""Type rules of operators with bodies: If, Loop, Scan, SequenceMap."""

from __future__ import annotations

from ..dims import Dim
from ..dtypes import DType
from ..graph import Graph, Node, Value
from ..types import SequenceType, TensorType, Type
from .joining import join, join_elements
from .rules import (
    Elements,
    Engine,
    Types,
    axis_of,
    contents,
    control,
    elements,
    elements_of,
    fail,
    int_attr,
    ints,
    ints_attr,
    plain,
)

MAX_EXACT_DEPTH, MAX_TYPED_DEPTH = 3, 8
"""Loops nested deeper start from unknown shapes, then from unknown types: a search in each would be exponential."""
ROUNDS = 5
"""Rounds in which carried shapes may lose extents one by one before they lose all."""


def _body(node: Node, name: str) -> Graph:
    body = node.attrs.get(name)
    if not isinstance(body, Graph):
        fail(node, f"attribute {name} is missing, expected a body")
    return body


# -- If


@control("If")
def if_(node: Node, engine: Engine) -> Types:
    """What both branches have in common, or what the one has that a known condition takes."""
    branches = [_body(node, "then_branch"), _body(node, "else_branch")]
    taken = _taken(node)
    # A branch that contradicts itself can never be taken; exporters leave such ones behind.
    strict, engine.strict = engine.strict, False
    for branch in branches:
        engine.body(branch)
    engine.strict = strict
    if taken is not None:
        engine.forgive(branches[1 - taken])
        return [v.type for v in branches[taken].outputs]
    return [_branch_type(node, a, b) for a, b in zip(branches[0].outputs, branches[1].outputs, strict=True)]


def _branch_type(node: Node, a: Value, b: Value) -> Type | None:
    if a.dtype is not None and b.dtype is not None and a.dtype is not b.dtype:
        fail(node, f"the branches return {a.dtype.text} and {b.dtype.text}, expected the same element type")
    return join(a.type, b.type)


def _taken(node: Node) -> int | None:
    """The branch that every run takes."""
    condition = elements(node, 0)
    if condition is None or len(condition) != 1 or type(condition[0]) is not int:
        return None
    return 0 if condition[0] else 1


@contents("If")
def if_elements(node: Node) -> list[Elements]:
    one, two = ([elements_of(v) for v in _body(node, name).outputs] for name in ("then_branch", "else_branch"))
    taken = _taken(node)
    if taken is not None:
        return (one, two)[taken]
    return [join_elements(a, b) for a, b in zip(one, two, strict=True)]


# -- Loop and Scan


def _set(value: Value, type_: Type | None) -> None:
    value.type = plain(type_) if isinstance(type_, TensorType) else type_
    value.known = None


def _carried(
    engine: Engine, body: Graph, into: list[Value], start: list[Type | None], out: list[Value]
) -> list[Type | None]:
    """Types that the carried values have in every iteration; the body is inferred with them."""
    state = list(start)
    if engine.depth > MAX_EXACT_DEPTH:
        state = [_without_shape(t) if engine.depth <= MAX_TYPED_DEPTH else None for t in state]
    for turn in range(ROUNDS + 2):
        for value, type_ in zip(into, state, strict=True):
            _set(value, type_)
        engine.body(body)
        joined = [join(a, v.type) for a, v in zip(state, out, strict=True)]
        if joined == state:
            return state
        if turn >= ROUNDS:
            joined = [a if a == b else _widened(b, turn) for a, b in zip(state, joined, strict=True)]
        state = joined
    for value in into:
        _set(value, None)
    engine.body(body)
    return [None] * len(state)


def _widened(t: Type | None, turn: int) -> Type | None:
    return None if turn > ROUNDS else _without_shape(t)


def _without_shape(t: Type | None) -> Type | None:
    return TensorType(t.dtype, sparse=t.sparse) if isinstance(t, TensorType) else t


@control("Loop")
def loop(node: Node, engine: Engine) -> Types:
    """Operands trip count, condition, carried...; results carried..., stacked...."""
    body = _body(node, "body")
    count = len(node.inputs) - 2
    if len(body.inputs) != count + 2 or len(body.outputs) < count + 1:
        fail(node, f"{count} carried values, expected a body of {count + 2} inputs and at least {count + 1} outputs")
    for value, dtype in zip(body.inputs, (DType.I64, DType.BOOL), strict=False):
        # The counter and the condition are scalars; ONNX Runtime makes them [1] where the body declares that.
        _set(value, TensorType(dtype, (1,) if value.shape == (1,) else ()))
    start = [v.type if v is not None else None for v in node.inputs[2:]]
    state = _carried(engine, body, body.inputs[2:], start, body.outputs[1 : count + 1])
    trips = _trip_count(node, body)
    return [*state, *(_stacked(v, trips, 0, node) for v in body.outputs[count + 1 :])]


def _trip_count(node: Node, body: Graph) -> int | None:
    """The number of iterations where it is constant and nothing ends the loop early."""
    trips = ints(node, 0)
    start = node.input(1)
    again = body.outputs[0]
    while again.producer is not None and again.producer.op == "Identity" and again.producer.inputs[0] is not None:
        again = again.producer.inputs[0]
    goes_on = again is body.inputs[1] or _is_true(again)
    return max(trips[0], 0) if trips and goes_on and (start is None or _is_true(start)) else None


def _is_true(value: Value) -> bool:
    found = elements_of(value)
    return found is not None and len(found) == 1 and found[0] == 1


def _stacked(value: Value, extent: Dim, axis: int, node: Node) -> Type | None:
    """The type of all iterations' results along a new axis."""
    t = value.tensor
    if t is None or t.shape is None:
        return None if t is None else TensorType(t.dtype)
    at = axis_of(node, axis, len(t.shape) + 1)
    return TensorType(t.dtype, (*t.shape[:at], extent, *t.shape[at:]))


@control("Scan")
def scan(node: Node, engine: Engine) -> Types:
    """Operands state..., sequences...; results state..., stacked... (version 8 has a batch axis: left unknown)."""
    body = _body(node, "body")
    if 0 < node.version < 9:
        for value in body.inputs:
            _set(value, TensorType(value.dtype))
        engine.body(body)
        return []
    sequences = int_attr(node, "num_scan_inputs", 1)
    states = len(node.inputs) - sequences
    if len(body.inputs) != len(node.inputs) or states < 0 or len(body.outputs) < states:
        fail(node, f"{len(node.inputs)} operands and {sequences} sequences, expected as many body inputs")
    axes = ints_attr(node, "scan_input_axes") or (0,) * sequences
    extent: Dim = None
    for value, outer, axis in zip(body.inputs[states:], node.inputs[states:], axes, strict=True):
        t = outer.tensor if outer is not None else None
        if t is None or t.shape is None:
            _set(value, None if t is None else TensorType(t.dtype))
            continue
        at = axis_of(node, axis, len(t.shape))
        extent = t.shape[at] if extent is None or type(t.shape[at]) is int else extent
        _set(value, TensorType(t.dtype, t.shape[:at] + t.shape[at + 1 :]))
    start = [v.type if v is not None else None for v in node.inputs[:states]]
    state = _carried(engine, body, body.inputs[:states], start, body.outputs[:states])
    stacked = body.outputs[states:]
    out_axes = ints_attr(node, "scan_output_axes") or (0,) * len(stacked)
    return [*state, *(_stacked(v, extent, a, node) for v, a in zip(stacked, out_axes, strict=True))]


@control("SequenceMap")
def sequence_map(node: Node, engine: Engine) -> Types:
    """Body inputs are elements of the sequences, other operands as they are."""
    body = _body(node, "body")
    for value, outer in zip(body.inputs, node.inputs, strict=True):
        t = outer.type if outer is not None else None
        _set(value, t.element if isinstance(t, SequenceType) else t)
    engine.body(body)
    return [SequenceType(v.type) for v in body.outputs]
