"""Control flow and functions: If, Loop and Scan with captures, calls of model-local functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import AttrRef, EmptyAttr, Function, Graph, Node, Value
from ...ir.infer import infer_node
from ...ir.schema import FLOAT
from ...ir.types import TensorType
from .draft import Draft
from .versions import ints, squeeze, unsqueeze

F32, I64, BOOL = DType.F32, DType.I64, DType.BOOL
MAX_DEPTH = 2
Fill = Callable[[Draft, int], None]


def _body(d: Draft, name: str) -> Draft:
    """A draft for a body: it sees everything that is there now."""
    graph = Graph(name, d.graph.opsets)
    inner = Draft(d.shared, graph, d.values, d.depth + 1)
    # Constants go to the graph of the node that will run the body, or to the body itself.
    graph.parent = _anchor(d)
    return inner


def _anchor(d: Draft) -> Node:
    """A node of the outer graph that stands for the one to come, so that the body knows what is around it."""
    node = Node("Identity", [], outputs=0)
    node.graph = d.graph
    return node


def _emit(d: Draft, node: Node) -> Node:
    d.graph.append(node)
    infer_node(node)
    return node


def _register(d: Draft, node: Node, bounds: list[float], exact: list[bool]) -> None:
    for out, bound, sure in zip(node.outputs, bounds, exact, strict=True):
        out.name = out.name or f"{node.op.lower()}{len(d.values)}_{out.index}"
        d.shared.bound[out] = bound
        if sure:
            d.shared.exact.add(out)
        d.keep(out)


def condition(d: Draft) -> Value:
    """A scalar boolean: constant, an input, a comparison of extents, or computed."""
    roll = d.rng.randrange(6)
    if roll < 2:
        return d.const(np.asarray(d.chance(0.5)))
    if roll == 2:
        found = d.pick(BOOL, 0)
        if found is not None:
            return found
    x = d.pick(F32, (1, 2, 3), exact=True)
    if x is not None and d.chance(0.5):
        size = d.op("Gather", d.op("Shape", x, bound=10.0), np.asarray(0, np.int64), bound=10.0)
        return d.op(d.choose("Greater", "Equal", "Less"), size, d.choose(1, 2, 4), bound=1.0)
    if d.depth:
        return d.const(np.asarray(True))
    return d.input(BOOL, [], 0, 1)


def branch(d: Draft, fill: Fill) -> bool:
    """If whose branches capture; they return one or two values of equal types."""
    if d.depth >= MAX_DEPTH:
        return False
    x = d.take(F32)
    if x is None:
        return False
    when = condition(d)
    count = d.choose(1, 1, 2)
    bodies: dict[str, Graph] = {}
    bounds = [0.0] * count
    sure = [True] * count
    for name in d.choose(("then_branch", "else_branch"), ("else_branch", "then_branch")):
        inner = _body(d, name)
        if d.chance(0.8):
            fill(inner, d.choose(1, 2, 3))
        outputs: list[Value] = []
        for k in range(count):
            found = inner.pick(F32, where=lambda v: v.shape == x.shape)
            found = x if found is None else found
            own = found.producer is not None and found.producer.graph is inner.graph
            if not own or d.chance(0.3):
                # Some runtimes refuse a branch that returns an outer value as it is.
                found = inner.op(d.choose("Identity", "Relu", "Neg"), found)
            outputs.append(found)
            bounds[k] = max(bounds[k], d.bound(found))
            sure[k] = sure[k] and found in d.shared.exact
        inner.graph.set_outputs(outputs, [f"{name}_{k}" for k in range(count)])
        bodies[name] = inner.graph
    node = _emit(d, Node("If", [when], dict(bodies), outputs=[""] * count))
    _register(d, node, bounds, sure)
    return True


def loop(d: Draft, fill: Fill) -> bool:
    """Loop with carried values, captures, a scanned result, an early end, and constant or computed trip counts."""
    if d.depth >= MAX_DEPTH:
        return False
    x = d.take(F32, (0, 1, 2, 3))
    if x is None or x.shape is None:
        return False
    trips = np.asarray(d.choose(0, 1, 2, 3, 3), np.int64)
    inner = _body(d, "body")
    body = inner.graph
    number = body.add_input("i", TensorType(I64, ()))
    going = body.add_input("going", TensorType(BOOL, ()))
    carried = body.add_input("carried", x.type)
    constant_carry = body.add_input("same", x.type) if d.chance(0.3) else None
    for value, bound in ((number, 3.0), (going, 1.0), (carried, d.bound(x))):
        d.shared.bound[value] = bound
        d.shared.exact.add(value) if value is not carried else None
    inner.values += [carried]
    if d.chance(0.7):
        fill(inner, d.choose(1, 1, 2))
    next_carry = inner.pick(F32, where=lambda v: v.shape == x.shape) or carried
    next_carry = inner.op("Tanh", next_carry, bound=1.0)
    if d.chance(0.3):
        step = inner.op("Cast", number, to=F32.code, bound=3.0)
        next_carry = inner.op("Add", next_carry, step, bound=d.bound(x) + 4)
    more: Value = inner.op("Identity", going, bound=1.0)
    if d.chance(0.25):
        more = inner.op("Less", number, np.asarray(d.choose(1, 0, 5), np.int64), bound=1.0)
    outputs, initial = [more, next_carry], [x]
    if constant_carry is not None:
        outputs.append(inner.op("Identity", constant_carry))
        initial.append(x)
    scans = d.choose(0, 1, 1)
    if scans:
        outputs.append(inner.op("Relu", next_carry))
    body.set_outputs(outputs, [f"out{k}" for k in range(len(outputs))])
    condition_value = d.choose(None, d.const(np.asarray(True)))
    results = len(outputs) - 1
    trip_value = d.const(trips)
    if trips == 0 and scans:
        trip_value = d.const(np.asarray(1, np.int64))
    node = _emit(d, Node("Loop", [trip_value, condition_value, *initial], {"body": body}, outputs=[""] * results))
    _register(d, node, [d.bound(x) + 20] * results, [False] * results)
    return True


def scan(d: Draft, fill: Fill) -> bool:
    """Scan over the leading axis of one value with one state."""
    if d.depth >= MAX_DEPTH:
        return False
    x = d.take(F32, (2, 3), lambda v: v.shape is not None and all(isinstance(e, int) for e in v.shape[1:]))
    if x is None or x.shape is None or d.least(x.shape[0]) < 1:
        return False
    rest = x.shape[1:]
    state = d.const(np.zeros([e for e in rest if isinstance(e, int)], np.float32))
    inner = _body(d, "step")
    body = inner.graph
    carried = body.add_input("state", TensorType(F32, rest))
    element = body.add_input("element", TensorType(F32, rest))
    d.shared.bound[carried], d.shared.bound[element] = 3.0, d.bound(x)
    inner.values += [carried, element]
    if d.chance(0.5):
        fill(inner, 1)
    total = inner.op("Tanh", inner.op("Add", carried, element), bound=1.0)
    body.set_outputs([total, inner.op("Mul", total, 2.0)], ["next", "seen"])
    node = _emit(d, Node("Scan", [state, x], {"body": body, "num_scan_inputs": 1}, outputs=["", ""]))
    _register(d, node, [1.0, 2.0], [False, False])
    return True


def lost_rank(d: Draft, fill: Fill) -> bool:
    """A squeeze behind a condition, as TorchScript writes it, in front of what takes only one of the ranks."""
    x = d.take(F32, 3, lambda v: d.sizes(v.shape) is not None)
    if x is None or d.depth or min(map(min, d.sizes(x.shape) or [(0,)])) < 1:
        return False
    wide = unsqueeze(d, x, [3])
    size = d.op("Gather", d.op("Shape", wide, bound=10.0), np.asarray(3, np.int64), bound=10.0)
    when = d.op("Equal", size, np.asarray(1, np.int64), bound=1.0)
    bodies: dict[str, Graph] = {}
    for name in ("then_branch", "else_branch"):
        inner = _body(d, name)
        found = squeeze(inner, wide, [-1 if d.opset >= 11 else 3]) if name == "then_branch" else inner.op("Relu", wide)
        inner.graph.set_outputs([found], [name])
        bodies[name] = inner.graph
    node = _emit(d, Node("If", [when], dict(bodies), outputs=[f"lost{len(d.values)}"]))
    d.shared.bound[node.output] = d.bound(x)
    d.keep(d.op("Transpose", node.output, perm=(0, 2, 1), bound=d.bound(x)))
    return True


# -- functions


def function_call(d: Draft, fill: Fill) -> bool:
    """A call of a model-local function, a new one or one that is called elsewhere too."""
    model_functions: list[Function] = d.shared.functions
    if not model_functions or d.chance(0.4):
        model_functions.append(_new_function(d, len(model_functions)))
    function = d.rng.choice(model_functions)
    x = d.take(F32, (2, 3))
    if x is None:
        return False
    d.graph.root.opsets.setdefault(function.domain, 1)
    attrs: dict[str, Any] = {}
    if "alpha" in function.attributes or ("alpha" in function.defaults and d.chance(0.5)):
        attrs["alpha"] = d.choose(0.1, 0.3)
    second = x if d.chance(0.7) else d.op("Relu", x)
    operands = [x, second][: len(function.graph.inputs)]
    node = Node(function.name, operands, attrs, domain=function.domain, outputs=[""] * len(function.graph.outputs))
    d.graph.append(node)
    if d.graph.model is None:
        # The call is typed when the model is put together; until then it has its operand's type.
        for out in node.outputs:
            out.type = x.type
    _register(d, node, [2 * d.bound(x) + 3] * len(node.outputs), [False] * len(node.outputs))
    return True


def _new_function(d: Draft, number: int) -> Function:
    graph = Graph(f"function{number}", {"": d.opset})
    a = graph.add_input("a")
    b = graph.add_input("b") if d.chance(0.5) else None
    inner = Draft(d.shared, graph, [], MAX_DEPTH)
    x = inner.b.op("LeakyRelu", a, alpha=AttrRef("alpha", FLOAT)) if d.chance(0.6) else inner.b.op("Relu", a)
    uses_alpha = x.producer is not None and x.producer.op == "LeakyRelu"
    if d.chance(0.5):
        one = inner.b.op("Constant", value_float=d.choose(1.0, 0.5, 0.0)) if d.opset >= 12 else inner.b.op("Abs", x)
        x = inner.b.op(d.choose("Add", "Mul"), x, one)
    if b is not None:
        x = inner.b.op(d.choose("Add", "Sub"), x, b)
    outputs = [x]
    if d.chance(0.3):
        outputs.append(inner.b.op("Neg", a))
    graph.set_outputs(outputs, [f"y{k}" for k in range(len(outputs))])
    function = Function(d.choose("local", "local", "pkg.functions"), f"Fn{number}", graph)
    if uses_alpha:
        if d.chance(0.5):
            function.attributes = ("alpha",)
        else:
            function.defaults = {"alpha": 0.2}
    return function


def optional_outputs(d: Draft, fill: Fill) -> bool:
    """A node of which one result is not asked for, in the middle or at the end."""
    x = d.take(F32, (2, 3))
    if x is None or x.shape is None or d.sizes(x.shape) is None or x not in d.shared.exact:
        return False
    if d.opset < 11 or d.least(x.shape[-1]) < 2:
        return False
    node = _emit(d, Node("Unique", [x], {"sorted": 1}, outputs=["", "", "inv" if d.chance(0.5) else ""]))
    count = node.outputs[0]
    d.shared.bound[count] = d.bound(x)
    if node.outputs[2].name:
        d.shared.bound[node.outputs[2]] = 100.0
        d.shared.exact.add(node.outputs[2])
        d.values.append(node.outputs[2])
        node.outputs[0].name = f"uniq{len(d.values)}"
        d.values.append(node.outputs[0])
    else:
        node.outputs[0].name = f"uniq{len(d.values)}"
        d.values.append(node.outputs[0])
    return True


__all__ = ["EmptyAttr", "branch", "function_call", "ints", "loop", "lost_rank", "optional_outputs", "scan"]
MOTIFS = ((4, branch), (3, loop), (2, scan), (2, lost_rank), (3, function_call), (1, optional_outputs))
