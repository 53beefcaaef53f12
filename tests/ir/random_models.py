"""Random models that are sound: every operator exists, every operand fits, bodies capture, names are odd."""

from __future__ import annotations

import random

import numpy as np

from planish.ir.constants import ArrayConstant, Constant, SeededConstant, SplatConstant
from planish.ir.dims import Dim, call, symbol
from planish.ir.dtypes import DType
from planish.ir.graph import Attr, EmptyAttr, Graph, Model, Node, Value
from planish.ir.infer import infer_node
from planish.ir.schema import FLOATS
from planish.ir.types import Layout, OptionalType, Quant, SequenceType, TensorType

NAMES = (
    "x",
    "x",
    "y",
    "",
    "a/b:0",
    'say "hi"',
    "back\\slash",
    "line\nbreak",
    "ünïcode",
    "v0",
    "1",
    "return",
    "%",
    "a b",
)
DIMS = ("N", "H", "odd name", "it's", "new\nline", "min")
TEXTS = ("", "plain", 'quote " and \\', "tab\tnew\nline", "\x00\x7f\u2028", "日本", "😀")


def bits(rng: random.Random, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """An array with arbitrary bits: not-a-numbers with payloads, subnormals and negative zeros among them."""
    count = int(np.prod(shape, dtype=int))
    if dtype is DType.STRING:
        items = np.empty(count, object)
        items[:] = [rng.choice([t.encode() for t in TEXTS] + [b"\xff\xfe", b'"\\'] * 2) for _ in range(count)]
        return items.reshape(shape)
    if dtype is DType.BOOL:
        return np.array([rng.random() < 0.5 for _ in range(count)], bool).reshape(shape)
    if dtype.is_integer:
        low = -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0
        high = low + (1 << dtype.bits) - 1
        values = [rng.choice((low, high, rng.randint(low, high))) for _ in range(count)]
        return np.array(values, np.uint64 if dtype.kind == "uint" else np.int64).astype(dtype.numpy).reshape(shape)
    raw = bytearray(rng.randbytes(count * dtype.numpy.itemsize))
    if dtype.is_packed:
        raw = bytearray(b & ((1 << dtype.bits) - 1) for b in raw)
    return np.frombuffer(bytes(raw), dtype.numpy).reshape(shape)


def random_dim(rng: random.Random) -> Dim:
    roll = rng.random()
    if roll < 0.4:
        return rng.randrange(5)
    if roll < 0.5:
        return None
    d: Dim = symbol(rng.choice(DIMS))
    if roll < 0.7:
        d = d * rng.randrange(1, 4) + rng.randrange(3)  # type: ignore[operator]
    elif roll < 0.85:
        d = call(rng.choice(("floordiv", "mod", "min", "max")), d, rng.randrange(2, 5))
    return d


def random_type(rng: random.Random, depth: int = 0) -> TensorType | SequenceType | OptionalType:
    roll = rng.random()
    if roll < 0.1 and depth < 3:
        return SequenceType(random_type(rng, depth + 1))
    if roll < 0.2 and depth < 3:
        return OptionalType(random_type(rng, depth + 1) if roll < 0.17 else None)
    dtype = rng.choice([*DType, None])
    shape = None if rng.random() < 0.1 else tuple(random_dim(rng) for _ in range(rng.randrange(4)))
    layout = Layout(rng.choice(("NHWC", "NCHW8c", "odd layout"))) if rng.random() < 0.2 else None
    quant = None
    if rng.random() < 0.2:
        n = rng.randrange(1, 4)
        scale = tuple(rng.choice((0.1, 1e-30, 3.0, rng.random())) for _ in range(n))
        quant = Quant(DType.I8, scale, tuple(rng.randrange(-9, 9) for _ in range(n)), rng.choice((None, 0, -1)), 32)
    return TensorType(dtype, shape, layout, quant, sparse=rng.random() < 0.1)


def random_constant(rng: random.Random, dtype: DType | None = None, shape: tuple[int, ...] | None = None) -> Constant:
    dtype = dtype or rng.choice(list(DType))
    shape = shape if shape is not None else rng.choice(((), (0,), (1,), (3,), (2, 2), (4, 5), (2, 0, 3)))
    roll = rng.random()
    if roll < 0.2:
        return SplatConstant(bits(rng, dtype, ()), dtype, shape)
    if roll < 0.3 and dtype.kind in ("float", "int", "uint"):
        return SeededConstant(rng.randrange(9), dtype, shape, rng.choice(("normal", "uniform")), rng.choice((1.0, 0.1)))
    return ArrayConstant(bits(rng, dtype, shape), dtype)


def random_model(seed: int) -> Model:
    """A sound model; the same seed gives the same model."""
    rng = random.Random(seed)
    graph = Graph(rng.choice(("main", "torch jit")), {"": 17, "my.domain": 1, "odd domain": 2})
    values: list[Value] = []
    for i in range(rng.randrange(1, 4)):
        v = graph.add_input(
            f"in{i}" if i else rng.choice(("x", "a/b:0", "v0")), TensorType(DType.F32, (symbol("N"), 4))
        )
        values.append(v)
    if rng.random() < 0.3:
        v = graph.add_input("with default", TensorType(DType.F32, (2, 4)))
        graph.defaults[v] = random_constant(rng, DType.F32, (2, 4))
    _fill(rng, graph, values, depth=0, length=rng.randrange(2, 12))
    outputs = [rng.choice(values) for _ in range(rng.randrange(1, 3))]
    graph.set_outputs(outputs, [f"out {i}" if rng.random() < 0.5 else f"out{i}" for i in range(len(outputs))])
    for port in graph.ports:
        if rng.random() < 0.5:
            port.declared = random_type(rng)
    model = Model(graph)
    model.metadata = {rng.choice(TEXTS): rng.choice(TEXTS)}
    model.doc, model.producer = rng.choice(TEXTS), ("made", "1.0")
    return model


def _fill(rng: random.Random, graph: Graph, values: list[Value], depth: int, length: int) -> None:
    """Appends nodes; ``values`` are float32 tensors ``[N,4]``, and grows."""
    for _ in range(length):
        a, b = rng.choice(values), rng.choice(values)
        name = rng.choice(NAMES)
        roll = rng.random()
        if roll < 0.4:
            node = Node(rng.choice(("Relu", "Sigmoid", "Neg")), [a], outputs=[name], name=rng.choice(NAMES))
        elif roll < 0.6:
            node = Node(rng.choice(("Add", "Mul", "Sub")), [a, b], outputs=[name])
        elif roll < 0.7:
            c = graph.add_constant(random_constant(rng, DType.F32, (1, 4)), rng.choice(NAMES))
            node = Node("Add", [a, c], outputs=[name])
        elif roll < 0.8 and depth < 3:
            node = _branch(rng, graph, values, depth, name)
        elif roll < 0.9:
            node = _unknown(rng, a, name)
        else:
            node = Node("Softmax", [a], {"axis": rng.choice((-1, 1))}, outputs=[name])
        if rng.random() < 0.2:
            node.origin = tuple(rng.choice(TEXTS) for _ in range(rng.randrange(3)))
        if rng.random() < 0.2:
            node.extra = {"doc": rng.choice(TEXTS), "odd": [1, (2.5, None), {"k": b"\xff"}, True]}
        graph.append(node)
        infer_node(node)
        if node.domain == "":
            values.append(node.output)


def _branch(rng: random.Random, graph: Graph, values: list[Value], depth: int, name: str) -> Node:
    flag = graph.add_constant(ArrayConstant(np.array(rng.random() < 0.5)), rng.choice(NAMES))
    bodies: dict[str, Graph] = {}
    for branch in ("else_branch", "then_branch"):
        body = Graph(branch, graph.opsets)
        inner = list(values)
        _fill(rng, body, inner, depth + 1, rng.randrange(1, 4))
        body.set_outputs([inner[-1]], [rng.choice(("", "y", "odd out"))])
        bodies[branch] = body
    return Node("If", [flag], dict(bodies), outputs=[name])


def _unknown(rng: random.Random, a: Value, name: str) -> Node:
    """An operator without a schema: any attribute, omitted operands and results, any recorded type."""
    attrs: dict[str, Attr] = {
        "f": rng.choice((0.1, 1e-40, -0.0, float("inf"), 3.0, 16777216.0)),
        "ints": (1, -(1 << 63), (1 << 63) - 1),
        "floats": (0.5, 1.0, -1e30),
        "none": EmptyAttr(FLOATS),
        "text": rng.choice(TEXTS),
        "raw": b"\xff\x00",
        "texts": tuple(TEXTS),
        "type of it": random_type(rng),
        "t": random_constant(rng),
        "ts": (random_constant(rng), random_constant(rng)),
    }
    chosen = {k: v for k, v in attrs.items() if rng.random() < 0.4}
    domain, op = rng.choice((("my.domain", "Foo"), ("odd domain", "Odd op")))
    node = Node(op, [a, None, a], chosen, domain=domain, outputs=[name, "", "z"])
    for out in node.outputs:
        if rng.random() < 0.7:
            out.type = random_type(rng)
    return node
