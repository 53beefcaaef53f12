"""Models close to given ones: small random edits, so that a pass meets what its author nearly thought of.

The given models are those that a pass is known to act on (golden cases, a user's own). Most edits keep the pattern and
break one of its conditions: another user, another constant, another axis. Whether the result is a model at all is
decided by type inference and the runtime; many are not.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.clone import clone_model
from ...ir.constants import ArrayConstant
from ...ir.dims import symbol
from ...ir.dtypes import DType
from ...ir.errors import PlanishError
from ...ir.graph import Graph, Model, Node, Value
from ...ir.infer import infer_model
from ...ir.types import TensorType
from ...ir.verify import verify

_SIBLINGS = {
    "Add": "Sub Mul",
    "Sub": "Add",
    "Mul": "Add Div",
    "Div": "Mul",
    "Max": "Min",
    "Min": "Max",
    "ReduceMean": "ReduceSum ReduceMax",
    "ReduceSum": "ReduceMean",
    "ReduceMax": "ReduceMin",
    "Relu": "Abs Neg Sigmoid",
    "Sigmoid": "Tanh",
    "Tanh": "Sigmoid",
    "Erf": "Tanh",
    "Exp": "Abs",
    "Sqrt": "Abs",
    "MaxPool": "AveragePool",
    "AveragePool": "MaxPool",
    "GlobalAveragePool": "GlobalMaxPool",
    "And": "Or",
    "Or": "And Xor",
    "Greater": "Less",
    "Squeeze": "Identity",
    "Floor": "Ceil",
    "Softmax": "LogSoftmax",
}


def mutated(model: Model, rng: random.Random) -> Model | None:
    """A copy with one to three edits and types inferred anew; ``None`` where that is no model."""
    copy = clone_model(model)
    done = 0
    for _ in range(rng.choice((1, 1, 2, 3))):
        for _ in range(8):
            if rng.choice(_EDITS)(copy, rng):
                done += 1
                break
    if not done:
        return None
    for graph in copy.all_graphs():
        for node in graph:
            for out in node.outputs:
                out.type, out.known = None, None
    try:
        if infer_model(copy):  # strict inference lets branches pass that contradict themselves
            return None
        verify(copy, types=True)
    except PlanishError:
        return None
    if any(map(_is_lax, copy.all_nodes())):
        return None
    for port, value in zip(copy.graph.ports, copy.graph.outputs, strict=True):
        port.declared = value.type
    return copy


def _is_lax(node: Node) -> bool:
    """What runtimes take as long as they do not see it beforehand: pads of another rank than one."""
    pads = node.input(1)
    return node.op == "Pad" and pads is not None and pads.rank not in (None, 1)


def _nodes(model: Model) -> list[Node]:
    return list(model.all_nodes())


def _inner(model: Model, graph: Graph | None = None) -> list[Value]:
    """Values that nodes of the main graph compute."""
    return [v for node in graph or model.graph for v in node.outputs if isinstance(v.type, TensorType)]


# -- edits


def _return_inner(model: Model, rng: random.Random) -> bool:
    """An inner value becomes a result."""
    values = [v for v in _inner(model) if not v.is_output]
    if not values:
        return False
    graph = model.graph
    names = [p.name for p in graph.ports]
    graph.set_outputs([*graph.outputs, rng.choice(values)], [*names, f"extra{len(names)}"])
    return True


def _add_user(model: Model, rng: random.Random) -> bool:
    """An inner value gets a second user."""
    values = [v for v in _inner(model) if v.dtype is not None and v.dtype.is_float and v.producer is not None]
    if not values:
        return False
    value = rng.choice(values)
    made = Node(rng.choice(("Relu", "Abs", "Identity")), [value], outputs=["user"])
    assert value.producer is not None
    model.graph.insert_after(value.producer, made)
    graph = model.graph
    names = [p.name for p in graph.ports]
    graph.set_outputs([*graph.outputs, made.output], [*names, f"extra{len(names)}"])
    return True


def _insert(model: Model, rng: random.Random) -> bool:
    """An operator between a node and one of its operands."""
    nodes = [n for n in _nodes(model) if n.inputs]
    if not nodes:
        return False
    node = rng.choice(nodes)
    i = rng.randrange(len(node.inputs))
    value = node.inputs[i]
    if value is None or node.graph is None or value.dtype is None:
        return False
    op = rng.choice(("Relu", "Neg", "Identity", "Abs")) if value.dtype.is_float else "Identity"
    made = Node(op, [value], outputs=["between"])
    node.graph.insert_before(node, made)
    node.set_input(i, made.output)
    return True


def _swap_operands(model: Model, rng: random.Random) -> bool:
    nodes = [n for n in _nodes(model) if len(n.inputs) >= 2]
    if not nodes:
        return False
    node = rng.choice(nodes)
    a, b = rng.sample(range(len(node.inputs)), 2)
    inputs = list(node.inputs)
    inputs[a], inputs[b] = inputs[b], inputs[a]
    node.set_inputs(inputs)
    return True


def _other_operand(model: Model, rng: random.Random) -> bool:
    """An operand replaced by another value that is there before the node."""
    nodes = list(model.graph)
    if len(nodes) < 2:
        return False
    at = rng.randrange(len(nodes))
    node = nodes[at]
    before = [*model.graph.inputs, *(v for n in nodes[:at] for v in n.outputs)]
    places = [(i, w) for i, v in enumerate(node.inputs) if v is not None for w in before if w is not v]
    places = [(i, w) for i, w in places if node.inputs[i].dtype is w.dtype]  # type: ignore[union-attr]
    if not places:
        return False
    i, value = rng.choice(places)
    node.set_input(i, value)
    return True


def _sibling(model: Model, rng: random.Random) -> bool:
    nodes = [n for n in _nodes(model) if n.op in _SIBLINGS and not n.domain]
    if not nodes:
        return False
    node = rng.choice(nodes)
    node.op = rng.choice(_SIBLINGS[node.op].split())
    return True


def _attribute(model: Model, rng: random.Random) -> bool:
    places = [(n, k) for n in _nodes(model) for k, v in n.attrs.items() if isinstance(v, (int, float, tuple))]
    if not places:
        return False
    node, name = rng.choice(places)
    old: Any = node.attrs[name]
    if rng.random() < 0.25:
        del node.attrs[name]
        return True
    new = _other_attribute(old, rng)
    if new is None or new == old:
        return False
    node.attrs[name] = new
    return True


def _other_attribute(old: Any, rng: random.Random) -> Any:
    if isinstance(old, int):
        return rng.choice((0, 1, -1, 2, old + 1, old - 1, -old))
    if isinstance(old, float):
        return rng.choice((old * 1.5, -old, 1.0, 0.0, old * (1 + 1e-4)))
    if not old or not all(isinstance(item, int) for item in old):
        return None
    items = list(old)
    i = rng.randrange(len(items))
    if rng.random() < 0.5:
        k = rng.randrange(len(items))
        items[i], items[k] = items[k], items[i]
    else:
        items[i] = max(0, items[i] + rng.choice((-1, 1)))
    return tuple(items)


def _new_attribute(model: Model, rng: random.Random) -> bool:
    """An attribute that is not there, with another value than the default."""
    options = {
        "Conv": [("group", 2), ("auto_pad", "SAME_UPPER"), ("strides", (2, 2)), ("pads", (1, 0, 0, 1))],
        "Gemm": [("alpha", 0.5), ("beta", 2.0), ("transA", 1), ("transB", 1)],
        "Softmax": [("axis", 1), ("axis", 0)],
        "Gather": [("axis", 1)],
        "Reshape": [("allowzero", 1)],
        "Flatten": [("axis", 2), ("axis", 0)],
        "ReduceMean": [("keepdims", 0), ("noop_with_empty_axes", 1)],
        "MaxPool": [("ceil_mode", 1), ("strides", (2, 2)), ("dilations", (2, 2))],
        "AveragePool": [("count_include_pad", 1), ("ceil_mode", 1), ("strides", (2, 2))],
        "BatchNormalization": [("training_mode", 1), ("epsilon", 0.1)],
        "Shape": [("start", 1), ("end", -1)],
        "ConvTranspose": [("output_padding", (1, 1)), ("strides", (2, 2)), ("group", 2)],
    }
    nodes = [n for n in _nodes(model) if n.op in options and not n.domain]
    if not nodes:
        return False
    node = rng.choice(nodes)
    name, value = rng.choice(options[node.op])
    node.attrs[name] = value
    return True


# -- constants and inputs


def _constants(model: Model) -> list[Value]:
    return [v for g in model.all_graphs() for v in g.constants if v.data is not None and v.data.count <= 1 << 14]


def _change_constant(model: Model, rng: random.Random) -> bool:
    values = _constants(model)
    if not values:
        return False
    value = rng.choice(values)
    assert value.data is not None
    dtype = value.data.dtype
    array = np.array(value.data.numpy())
    if dtype.is_float and array.size:
        flat = array.reshape(-1)
        i = rng.randrange(flat.size)
        with np.errstate(all="ignore"):
            flat[i] = rng.choice((0.0, 1.0, -1.0, 2.0, -flat[i], flat[i] * 1.01, np.inf if rng.random() < 0.1 else 3.0))
            if rng.random() < 0.3:
                flat[:] = flat[i]
    elif dtype in (DType.I64, DType.I32) and array.size:
        flat = array.reshape(-1)
        i = rng.randrange(flat.size)
        near = (int(flat[i]) + 1, int(flat[i]) - 1, -int(flat[i])) if abs(int(flat[i])) < 1 << 30 else ()
        flat[i] = rng.choice((0, 1, -1, 2, *near))
    elif dtype is DType.BOOL and array.size:
        array = np.logical_not(array)
    else:
        return False
    _set(value, array, dtype)
    return True


def _reshape_constant(model: Model, rng: random.Random) -> bool:
    """One axis more or less, or one of extent one spread out or drawn together."""
    values = _constants(model)
    if not values:
        return False
    value = rng.choice(values)
    assert value.data is not None
    array = np.array(value.data.numpy())
    roll = rng.randrange(4)
    if roll == 0:
        array = array[None]
    elif roll == 1 and array.ndim and array.shape[0] == 1:
        array = array[0]
    elif roll == 2 and array.ndim and 1 in array.shape:
        array = np.repeat(array, rng.choice((2, 3, 4)), axis=array.shape.index(1))
    elif roll == 3 and array.size:
        array = array.reshape(-1)[:1].reshape((1,) * rng.randrange(array.ndim + 1))
    else:
        return False
    _set(value, array, value.data.dtype)
    return True


def _set(value: Value, array: Any, dtype: DType) -> None:
    value.data = ArrayConstant(array, dtype)
    value.type = value.data.type
    value.known = None


def _overridable(model: Model, rng: random.Random) -> bool:
    """A constant of the main graph becomes an input, with its contents as default or with none."""
    values = [v for v in model.graph.constants if v.data is not None and v.uses]
    if not values:
        return False
    value = rng.choice(values)
    assert value.data is not None
    new = model.graph.add_input(f"given{len(model.graph.inputs)}", value.data.type)
    if rng.random() < 0.7:
        model.graph.defaults[new] = value.data
    value.replace_uses(new)
    model.graph.remove_constant(value)
    return True


def _symbolic(model: Model, rng: random.Random) -> bool:
    """An extent of an input becomes a symbol, or a symbol a number."""
    places = [
        (v, i) for v in model.graph.inputs if v.shape is not None and v not in model.graph.defaults
        for i in range(len(v.shape))
    ]  # fmt: skip
    if not places:
        return False
    value, i = rng.choice(places)
    t = value.tensor
    assert t is not None
    assert t.shape is not None
    new = symbol(rng.choice(("N", "M"))) if isinstance(t.shape[i], int) else rng.choice((1, 2, 4))
    value.type = t.with_shape((*t.shape[:i], new, *t.shape[i + 1 :]))
    return True


def _other_extent(model: Model, rng: random.Random) -> bool:
    """An extent of an input is another number."""
    places = [
        (v, i) for v in model.graph.inputs if v.shape is not None and v not in model.graph.defaults
        for i, d in enumerate(v.shape) if isinstance(d, int)
    ]  # fmt: skip
    if not places:
        return False
    value, i = rng.choice(places)
    t = value.tensor
    assert t is not None
    assert t.shape is not None
    value.type = t.with_shape((*t.shape[:i], rng.choice((1, 2, 3, 4, 6)), *t.shape[i + 1 :]))
    return True


def _opset(model: Model, rng: random.Random) -> bool:
    model.graph.opsets[""] = rng.choice((11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24))
    return True


def _wider(model: Model, rng: random.Random) -> bool:
    """All single precision becomes another float type."""
    to = rng.choice((DType.F64, DType.F16))
    for graph in model.all_graphs():
        for value in graph.inputs:
            if value.tensor is not None and value.dtype is DType.F32:
                value.type = value.tensor.with_dtype(to)
        for value in graph.constants:
            if value.data is not None and value.data.dtype is DType.F32:
                with np.errstate(all="ignore"):
                    _set(value, value.data.numpy().astype(to.numpy), to)
        graph.defaults = {
            v: ArrayConstant(c.numpy().astype(to.numpy), to) if c.dtype is DType.F32 else c
            for v, c in graph.defaults.items()
        }
        for node in graph:
            if node.op == "Cast" and node.attrs.get("to") == DType.F32.code:
                node.attrs["to"] = to.code
    return True


def _into_branch(model: Model, rng: random.Random) -> bool:
    """Everything goes into a branch of an If; the other one returns the same or something else."""
    graph = model.graph
    if not graph.count or any(node.subgraphs for node in graph) or any(v.producer is None for v in graph.outputs):
        return False
    if any(not isinstance(v.type, TensorType) for v in graph.outputs):
        return False
    bodies: dict[str, Graph] = {}
    outputs = list(graph.outputs)
    names = [p.name for p in graph.ports]
    then = Graph("then_branch", graph.opsets)
    graph.ret.set_inputs([])
    for node in list(graph):
        graph.unlink(node)
        then.append(node)
    then.set_outputs(outputs, names)
    bodies["then_branch"] = then
    copied = _copied(then)
    bodies["else_branch"] = copied
    condition = graph.add_input("condition", TensorType(DType.BOOL, ()))
    made = Node("If", [condition], dict(bodies), outputs=[f"{name}_if" for name in names])
    graph.append(made)
    graph.set_outputs(made.outputs, names)
    return True


def _copied(body: Graph) -> Graph:
    from ...ir.clone import clone_graph

    copy = clone_graph(body)
    copy.name = "else_branch"
    copy.opsets = body.opsets
    return copy


Edit = Callable[[Model, random.Random], bool]
_EDITS: tuple[Edit, ...] = (
    _return_inner, _return_inner, _add_user, _insert, _insert, _swap_operands, _swap_operands, _other_operand,
    _other_operand, _sibling, _attribute, _attribute, _new_attribute, _change_constant, _change_constant,
    _change_constant, _reshape_constant, _reshape_constant, _overridable, _symbolic, _other_extent, _other_extent,
    _opset, _wider, _into_branch,
)  # fmt: skip
