"""LSTM, GRU and RNN: the operand's product with its weights for all steps at once, then one kernel for the steps.

    LSTM   i, o, f = s(x_t W + h R + b)    g = tanh(x_t W + h R + b)    c = f c + i g    h = o tanh(c)
    GRU    z, r = s(x_t W + h R + b)       g = tanh(x_t W + b + r (h R + b'))            h = (1 - z) g + z h
    RNN    h = tanh(x_t W + h R + b)

s is the logistic function. Source: LSTM-22, GRU-22, RNN-22 of ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ....ir.dtypes import DType
from ....ir.graph import Graph, Node, Value
from ....ir.infer.engine import infer_node
from ....ir.types import TensorType
from ..kernels import emit
from ..kernels import matmul as matmul_kernels
from ..kernels.machine import Machine
from ..kernels.math import scales, sigmoid, tanh
from ..kernels.tile import Epilogue
from ..rules.core import Unsupported, dtype_of, numbers, register_own, shape_of, static_shape
from .extents import Extent, atoms, expr, exprs, usual
from .forms import Array, Expr, Form
from .kernels import Kernel, Operand

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


register_own(*GATES)


def recurrent(node: Node) -> bool:
    """Whether this file computes the operator."""
    return node.domain == "" and node.op in GATES


@dataclass(frozen=True)
class Cell:
    """A recurrent operator. Extents in elements."""

    op: str
    steps: Extent
    batch: Extent
    inputs: int
    hidden: int
    directions: int
    reverse: bool
    """The only direction is backwards."""
    separate: bool
    """GRU: the reset gate acts behind the product (``linear_before_reset``)."""
    state: bool
    """Whether a state is given; else it begins with zeros."""
    outputs: tuple[bool, ...]
    """Which results are read: all steps', the last ones, the last cells."""

    @property
    def gates(self) -> int:
        return GATES[self.op]


def cell_of(node: Node) -> Cell:
    """Raises ``Unsupported``."""
    attrs = node.attrs
    direction = _text(node.attr("direction", "forward"))
    directions = 2 if direction == "bidirectional" else 1
    given = [_text(a) for a in attrs.get("activations", ())]  # type: ignore[union-attr]
    if given and given != DEFAULTS[node.op] * directions:
        raise Unsupported(f"activations {', '.join(given)}")
    for name in ("clip", "activation_alpha", "activation_beta", "input_forget", "layout"):
        if attrs.get(name):
            raise Unsupported(f"{name} of {node.op}")
    x, w, r = node.inputs[0], node.inputs[1], node.inputs[2]
    if x is None or w is None or r is None or w.data is None or r.data is None:
        raise Unsupported("weights that are computed")
    bias = node.input(3)
    if bias is not None and bias.data is None:
        raise Unsupported("a bias that is computed")
    steps, batch, (inputs,) = *shape_of(x)[:2], numbers(shape_of(x)[2:])
    length = node.input(4)
    if length is not None and (length.data is None or any(n != steps for n in length.data.numpy().tolist())):
        raise Unsupported("sequences of different lengths")
    if node.input(7) is not None and np.any(_constant(node.input(7)) != 0):
        raise Unsupported("peepholes")
    if any(dtype_of(v) != "float32" for v in (x, w, r)):
        raise Unsupported(f"{node.op} of {dtype_of(x)}")
    state = node.input(5) is not None or node.input(6) is not None
    separate = node.op == "GRU" and bool(attrs.get("linear_before_reset"))
    used = tuple(bool(out.uses) for out in node.outputs)
    return Cell(
        node.op, steps, batch, inputs, static_shape(r)[-1], directions, direction == "reverse", separate, state, used
    )


def make_time_major(graph: Graph) -> None:
    """Cells whose operands have the batch in front, as ONNX Runtime runs none, between transposes."""
    for node in [n for n in graph if recurrent(n) and n.attr("layout", 0)]:
        for i in (0, 5, 6):
            value = node.input(i)
            if value is not None:
                turned = Node("Transpose", [value], {"perm": (1, 0, 2)}, outputs=[f"{value.name}_turned"])
                graph.insert_before(node, turned)
                infer_node(turned)
                node.set_input(i, turned.output)
        del node.attrs["layout"]
        infer_node(node)
        for i, value in enumerate(node.outputs):
            if value.uses:
                back = Node("Transpose", [], {"perm": (1, 0, 2) if i else (2, 0, 1, 3)}, outputs=[value.name])
                graph.insert_after(node, back)
                value.replace_uses(back.output)
                back.set_inputs([value])
                infer_node(back)


def _text(found: Any) -> str:
    return found.decode() if isinstance(found, bytes) else str(found)


def _constant(value: Value | None) -> Array:
    if value is None or value.data is None:
        raise Unsupported("an operand that is computed")
    return value.data.numpy()


def recurrent_kernels(node: Node, machine: Machine) -> list[Kernel]:
    """The product for all steps, whose result is a value of its own, and the steps. Raises ``Unsupported``."""
    cell = cell_of(node)
    x = node.inputs[0]
    assert x is not None
    weights, recurrence, bias = _weights(node, cell)
    width = cell.directions * cell.gates * cell.hidden
    product = matmul_kernels.MatMul((expr(cell.steps),), expr(cell.batch), cell.inputs, width)
    tile = matmul_kernels.tile_of(product, machine)
    packed = matmul_kernels.pack(weights, product, tile)
    gates = Form((cell.steps, cell.batch, width), "float32")
    inner = Value(f"{node.output.name}_gates", TensorType(DType.F32, gates.shape))
    epilogue = Epilogue(lambda s, at, extras: s + extras[0][at[-1]], (((width,), "float32"),), "float32", "bias")
    name = node.op.lower()
    first = Kernel(
        f"{name}_product",
        f"{product} {tile} bias",
        lambda: matmul_kernels.build(product, machine, tile, epilogue, name=f"{name}_product"),
        [
            Operand(x, Form((cell.steps, cell.batch, cell.inputs), "float32")),
            Operand(packed, Form(packed.shape, "float32")),
            Operand(bias, Form(bias.shape, "float32")),
        ],
        [(inner, gates)],
        atoms=list(atoms(gates.shape)),
    )
    operands = [Operand(inner, gates), Operand(recurrence, Form(recurrence.shape, "float32"))]
    state = Form((cell.directions, cell.batch, cell.hidden), "float32")
    if cell.separate:
        own = _bias(node, cell)[:, 1, 2]
        operands.append(Operand(np.ascontiguousarray(own), Form(own.shape, "float32")))
    for i in (5, 6)[: 2 if cell.op == "LSTM" else 1] if cell.state else ():
        given = node.input(i)
        if given is None:
            given = np.zeros((cell.directions, *numbers((cell.batch,)), cell.hidden), np.float32)
        operands.append(Operand(given, state))
    results = [
        (out, Form(shape_of(out), "float32")) for out, used in zip(node.outputs, cell.outputs, strict=True) if used
    ]
    second = Kernel(
        name,
        f"{cell} {machine.lanes()} {scales(machine)}",
        partial(_Steps.function, cell, machine, name),
        operands,
        results,
        atoms=list(atoms(gates.shape)),
    )
    return [first, second]


def _bias(node: Node, cell: Cell) -> Array:
    """[directions, 2 (of the operand, of the state), gates, hidden]."""
    shape = (cell.directions, 2, cell.gates, cell.hidden)
    given = node.input(3)
    return np.zeros(shape, np.float32) if given is None else _constant(given).reshape(shape)


def _weights(node: Node, cell: Cell) -> tuple[Array, Array, Array]:
    """[I, D g H] of the operand, [D, H, g H] of the state, and the sum of both biases [D g H]."""
    w, r, bias = _constant(node.inputs[1]), _constant(node.inputs[2]), _bias(node, cell)
    weights = np.ascontiguousarray(w.reshape(-1, cell.inputs).T)
    recurrence = np.ascontiguousarray(r.transpose(0, 2, 1))
    both = bias[:, 0] + bias[:, 1]
    if cell.separate:  # the candidate's second bias is inside the product with the reset gate
        both[:, 2] = bias[:, 0, 2]
    return weights, recurrence, np.ascontiguousarray(both.reshape(-1))


class _Steps:
    """Writes the loop over steps of one sample and direction."""

    def __init__(self, cell: Cell, machine: Machine) -> None:
        lanes = machine.lanes()
        self.cell = cell
        self.sigmoid = partial(sigmoid, scales=scales(machine))
        self.lanes = next(n for n in (lanes, 8, 4, 2, 1) if n <= lanes and cell.hidden % n == 0)
        hidden, gates = cell.hidden, cell.gates
        width = cell.directions * gates * hidden
        self.steps, self.batch = exprs((cell.steps, cell.batch))
        self.x = emit.parameter("x", (self.steps, self.batch, width), "float32")
        self.r = emit.parameter("r", (cell.directions, hidden, gates * hidden), "float32")
        self.bias = emit.parameter("bias", (cell.directions, hidden), "float32")
        shape = (cell.directions, self.batch, hidden)
        self.start = [emit.parameter(name, shape, "float32") for name in ("h0", "c0")[: self.states]]
        every = (self.steps, cell.directions, self.batch, hidden)
        shapes = [("y", every), ("h", shape), ("c", shape)][: len(cell.outputs)]
        self.results = [emit.parameter(name, s, "float32") for name, s in shapes]
        self.h = emit.local("state_h", hidden, "float32")
        self.c = emit.local("state_c", hidden, "float32")
        self.sums = emit.local("sums", gates * hidden, "float32")
        self.kept = emit.local("kept", hidden, "float32")
        """GRU: what the reset gate leaves of the state, where that is in front of the product."""
        self.resets = cell.op == "GRU" and not cell.separate

    @property
    def states(self) -> int:
        return 2 if self.cell.op == "LSTM" else 1

    @staticmethod
    def function(cell: Cell, machine: Machine, name: str) -> Any:
        steps = _Steps(cell, machine)
        operands = [steps.x, steps.r, *([steps.bias] if cell.separate else []), *(steps.start if cell.state else [])]
        results = [r for r, used in zip(steps.results, cell.outputs, strict=True) if used]
        worth = usual(cell.steps) * cell.hidden**2 > 200_000
        body = emit.parallel((cell.directions, steps.batch), steps.run, worth=worth)
        return emit.function([*operands, *results], body, name)

    def run(self, d: Expr, b: Expr) -> Any:
        """All steps of one direction and sample."""
        cell = self.cell
        own = [self.h, self.c][: self.states]

        def begin(j: Expr) -> Any:
            at = emit.lanes(j, self.lanes)
            zero = emit.const(0, "float32", self.lanes)
            return [
                emit.store(s, given[d, b, at] if cell.state else zero, at)
                for s, given in zip(own, self.start, strict=True)
            ]

        def step(t: Expr) -> Any:
            backwards = cell.reverse or (cell.directions == 2 and d)
            at = t if backwards is False else self.steps - 1 - t
            if cell.directions == 2:
                at = emit.tir.Select(emit.tir.EQ(d, 1), self.steps - 1 - t, t)
            return emit.seq(self._sums(d, b, at), self._chunks(lambda j: self._update(d, b, at, j)))

        def end(j: Expr) -> Any:
            at = emit.lanes(j, self.lanes)
            last = zip(self.results[1:], own, cell.outputs[1:], strict=False)
            return [emit.store(result, s[at], d, b, at) for result, s, used in last if used]

        return emit.seq(
            [emit.alloc(buffer) for buffer in (*own, self.sums, *([self.kept] if self.resets else []))],
            self._chunks(lambda j: emit.seq(begin(j))),
            emit.loop(self.steps, step, name="t"),
            self._chunks(lambda j: emit.seq(end(j))) if any(cell.outputs[1:]) else emit.NOTHING,
        )

    def _chunks(self, body: Callable[[Expr], Any]) -> Any:
        return emit.loop(self.cell.hidden // self.lanes, lambda i: body(i * self.lanes), name="chunk")

    def _sums(self, d: Expr, b: Expr, t: Expr) -> Any:
        """All gates' sums; a candidate for the state may want another one first."""
        hidden, every = self.cell.hidden, self.cell.gates * self.cell.hidden
        if not self.resets:
            return self._products(d, b, t, 0, every, self.h)

        def reset(j: Expr) -> Any:
            return emit.loop(self.lanes, lambda lane: self._reset(j + lane), kind=emit.VECTORIZED, name="lane")

        first, last = (
            self._products(d, b, t, 0, 2 * hidden, self.h),
            self._products(d, b, t, 2 * hidden, every, self.kept),
        )
        return emit.seq(first, self._chunks(reset), last)

    def _reset(self, at: Expr) -> Any:
        return emit.store(self.kept, self.sigmoid(self._gate(1, at)) * self.h[at], at)

    def _products(self, d: Expr, b: Expr, t: Expr, begin: int, end: int, state: Any) -> Any:
        """sums = (x_t +) h R in some columns: several vectors of sums side by side, one broadcast of the state for
        all."""
        cell, n = self.cell, self.lanes
        total = (end - begin) // n
        wide = next(w for w in (8, 4, 2, 1) if total % w == 0)
        candidate = min(end, 2 * cell.hidden if cell.separate else cell.gates * cell.hidden) - begin

        def panel(p: Expr) -> Any:
            registers = [emit.local(f"sum{i}", n, "float32") for i in range(wide)]
            at = emit.lanes(0, n)

            def place(i: int) -> Expr:
                return emit.lanes(begin + (p * wide + i) * n, n)

            def add(k: Expr) -> Any:
                name, bound = emit.bind("hk", emit.spread(state[k], n))
                return emit.seq(
                    bound, [emit.store(s, s[at] + name * self.r[d, k, place(i)], at) for i, s in enumerate(registers)]
                )

            zero = emit.const(0, "float32", n)
            return emit.seq(
                [emit.alloc(s) for s in registers],
                [emit.store(s, zero, at) for s in registers],
                emit.loop(cell.hidden, add, name="k"),
                [emit.store(self.sums, s[at], place(i)) for i, s in enumerate(registers)],
            )

        def with_operand(j: Expr) -> Any:
            at = emit.lanes(j, n)
            source = emit.lanes(d * (cell.gates * cell.hidden) + j, n)
            return emit.store(self.sums, self.sums[at] + self.x[t, b, source], at)

        return emit.seq(
            emit.loop(total // wide, panel, name="panel"),
            emit.loop(candidate // n, lambda i: with_operand(begin + i * n), name="chunk"),
        )

    def _update(self, d: Expr, b: Expr, t: Expr, j: Expr) -> Any:
        """The new state of some neighbours, one by one: they become a vector."""

        def one(lane: Expr) -> Any:
            at = j + lane
            return emit.seq(*getattr(self, f"_{self.cell.op.lower()}")(d, b, t, at))

        return emit.loop(self.lanes, one, kind=emit.VECTORIZED, name="lane")

    def _gate(self, number: int, at: Expr) -> Expr:
        return self.sums[at + number * self.cell.hidden]

    def _lstm(self, d: Expr, b: Expr, t: Expr, at: Expr) -> list[Any]:
        i, o, f = (self.sigmoid(self._gate(g, at)) for g in range(3))
        g = tanh(self._gate(3, at))
        return [
            emit.store(self.c, f * self.c[at] + i * g, at),
            *self._out(d, b, t, at, o * tanh(self.c[at])),
        ]

    def _gru(self, d: Expr, b: Expr, t: Expr, at: Expr) -> list[Any]:
        z, r = (self.sigmoid(self._gate(g, at)) for g in range(2))
        cell = self.cell
        given = self.x[t, b, d * (cell.gates * cell.hidden) + 2 * cell.hidden + at]
        g = tanh(self._gate(2, at) if self.resets else given + r * (self._gate(2, at) + self.bias[d, at]))
        one = emit.const(1, "float32")
        return self._out(d, b, t, at, (one - z) * g + z * self.h[at])

    def _rnn(self, d: Expr, b: Expr, t: Expr, at: Expr) -> list[Any]:
        return self._out(d, b, t, at, tanh(self._gate(0, at)))

    def _out(self, d: Expr, b: Expr, t: Expr, at: Expr, h: Expr) -> list[Any]:
        # Not by a name for the new state: TVM makes one of a vectorized loop wrong where its value has names inside.
        every = [emit.store(self.results[0], self.h[at], t, d, b, at)] if self.cell.outputs[0] else []
        return [emit.store(self.h, h, at), *every]
