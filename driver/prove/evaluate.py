"""Evaluates a small model on exact numbers, node by node, with shapes that are all known.

What is neither in the table of operators nor defined by others becomes a pseudo-random function of all its operands
and attributes: two such nodes give the same where they are given the same, and nothing else is assumed of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from ...ir.constants import ArrayConstant, Constant, SplatConstant
from ...ir.dims import is_static
from ...ir.dtypes import DType
from ...ir.errors import PlanishError
from ...ir.graph import AttrRef, Graph, Node, Value
from ...ir.infer import infer_node
from ...ir.ops import ELEMENTWISE, function_of, is_known, is_pure
from ...ir.schema import schema
from ...ir.types import TensorType, type_text
from ...passes.core import Context
from ...passes.rewrite.rewriter import Rewriter
from ...passes.rewrite.rule import NoMatch
from ...passes.shared import kernels_math  # noqa: F401  # pyright: ignore[reportUnusedImport]  (it registers)
from ...passes.shared.decompose import decompose, has_decomposition
from ...passes.shared.kernels import KERNELS, NoKernel
from . import grid, operators_axes, operators_signal, resize  # noqa: F401  # pyright: ignore[reportUnusedImport]  (they register)
from . import number as N
from .movement import MOVES, move
from .number import DECISIONS, Array, Number, Outcome, Undecided
from .operators import OPERATORS, Item
from .ring import ring

MAX_DEPTH = 8
"""Bodies and calls inside each other."""
MAX_ROUNDS = 16
"""Iterations of a Loop that are followed."""


@dataclass
class Limits:
    """What one evaluation may cost."""

    elements: int = 1 << 21
    """Of one value."""
    work: int = 1 << 26
    """Multiplications of products, and elements of all results."""


Constants: TypeAlias = dict[int, tuple[Constant, Item]]
"""Constants by the identity of their data, with the data, which must live as long as its number counts."""


class Evaluation:
    """One evaluation: the values so far, and what is left of the limits."""

    def __init__(self, limits: Limits | None = None, constants: Constants | None = None) -> None:
        """``constants``: those that were taken in before; others are added."""
        self.limits = limits or Limits()
        self.constants: Constants = {} if constants is None else constants
        self.left = self.limits.work
        self.values: dict[Value, Item] = {}
        self.branches: dict[Node, list[set[Outcome]]] = {}
        """How the comparisons in each node of the outermost graph came out."""
        self.given: list[dict[str, Any]] = []
        """Attributes of the calls of functions that are being followed."""

    def run(self, graph: Graph, inputs: Mapping[Value, Item]) -> list[Item]:
        """The graph's outputs. Raises :class:`Undecided`."""
        self.values.update(inputs)
        try:
            with np.errstate(all="ignore"):
                return self._graph(graph, 0)
        except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError) as error:
            raise Undecided(f"the operands do not fit: {error}") from error

    def _graph(self, graph: Graph, depth: int) -> list[Item]:
        if depth > MAX_DEPTH:
            raise Undecided("bodies are nested too deep")
        for node in graph:
            self._node(node, depth)
        return [self.value(v) for v in graph.outputs]

    def value(self, v: Value | None) -> Item:
        """What is known of a value."""
        if v is None:
            return None
        if v not in self.values:
            if v.data is None:
                raise Undecided(f"%{v.name} is not known")
            key = id(v.data)
            if key not in self.constants:
                self.constants[key] = v.data, self._constant(v.data)
            self.values[v] = self.constants[key][1]
        return self.values[v]

    def _constant(self, data: Constant) -> Item:
        if data.count > self.limits.elements:
            raise Undecided(f"a constant of {data.count} elements, the limit is {self.limits.elements}")
        array = np.broadcast_to(data.value, data.shape) if isinstance(data, SplatConstant) else data.numpy()
        return N.constant(array) if data.dtype.is_float else array

    def _node(self, node: Node, depth: int) -> None:
        items = [self.value(v) for v in node.inputs]
        seen: list[frozenset[Outcome]] = []
        token = DECISIONS.set(seen) if not depth else None
        try:
            results = self._results(node, items, depth)
        finally:
            if token is not None:
                DECISIONS.reset(token)
        if seen:
            self.branches[node] = _merged(node, seen)
        for out, item in zip(node.outputs, results, strict=False):
            self._spend(0 if item is None else math.prod(item.shape))
            if isinstance(item, Number) and item.dtype is None:
                item.dtype = out.dtype
            self.values[out] = item

    def _spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise Undecided(f"more than {self.limits.work} operations")

    def _results(self, node: Node, items: list[Item], depth: int) -> list[Item]:
        function = function_of(node)
        if function is not None:
            self.given.append({**function.defaults, **self._attrs(node)})
            found = self._call(function.graph, dict(zip(function.graph.inputs, items, strict=False)), depth)
            self.given.pop()
            return found
        if node.domain == "" and node.op == "If":
            return self._if(node, items, depth)
        if node.domain == "" and node.op == "Loop":
            return self._loop(node, items, depth)
        alone = concrete_node(node, items, self._attrs(node))
        found = self._computed(node, alone, items, depth)
        for out, item in zip(alone.outputs, found, strict=False):
            if isinstance(item, Number) and item.dtype is None:
                item.dtype = out.dtype
        return found

    def _computed(self, node: Node, alone: Node, items: list[Item], depth: int) -> list[Item]:
        if node.domain == "":
            _require_columns(node, items)
            self._spend(_products(node, items, alone))
            found = _standard(alone, items)
            if found is not None:
                return found
        try:
            return self._decomposed(alone, items, depth)
        except NoMatch:
            return opaque(alone, items)

    def _attrs(self, node: Node) -> dict[str, Any]:
        """The node's attributes, with what the caller of a function gives."""
        found: dict[str, Any] = {}
        for name, attr in node.attrs.items():
            if not isinstance(attr, AttrRef):
                found[name] = attr
            elif not self.given:
                raise Undecided("an attribute is the caller's")
            elif attr.name in self.given[-1]:
                found[name] = self.given[-1][attr.name]
        return found

    def _decomposed(self, node: Node, items: list[Item], depth: int) -> list[Item]:
        if not has_decomposition(node.domain, node.op, node.version):
            raise NoMatch("no decomposition")
        r = Rewriter(Context(), "decompose").at(node)
        try:
            results = decompose(r, node)
        except PlanishError as error:
            raise NoMatch(error.message) from None
        for v, item in zip(node.inputs, items, strict=True):
            if v is not None:
                self.values[v] = item
        for made in list(r.created):
            self._node(made, depth + 1)
        return [None if v is None else self.value(v) for v in results]

    # -- bodies

    def _call(self, graph: Graph, inputs: Mapping[Value, Item], depth: int) -> list[Item]:
        """What a body or function gives; values of an earlier call are forgotten."""
        if depth > MAX_DEPTH:
            raise Undecided("bodies are nested too deep")
        for body in graph.all_graphs():
            for node in body:
                for out in node.outputs:
                    self.values.pop(out, None)
        self.values.update(inputs)
        return self._graph(graph, depth + 1)

    def _if(self, node: Node, items: list[Item], depth: int) -> list[Item]:
        chosen = cast("Graph", node.attrs["then_branch" if _truth(items[0]) else "else_branch"])
        return self._call(chosen, {}, depth)

    def _loop(self, node: Node, items: list[Item], depth: int) -> list[Item]:
        body = cast("Graph", node.attrs["body"])
        rounds = None if items[0] is None else int(cast("Array", items[0]).reshape(-1)[0])
        going = items[1] is None or _truth(items[1])
        carried, step = list(items[2:]), 0
        collected: list[list[Item]] = []
        while going and (rounds is None or step < rounds):
            if step == MAX_ROUNDS:
                raise Undecided(f"a loop of more than {MAX_ROUNDS} rounds")
            start: list[Item] = [np.array(step, np.int64), np.array(True), *carried]
            found = self._call(body, dict(zip(body.inputs, start, strict=True)), depth)
            going, carried = _truth(found[0]), found[1 : 1 + len(carried)]
            collected.append(found[1 + len(carried) :])
            step += 1
        if not collected and len(node.outputs) > len(carried):
            raise Undecided("a loop without rounds collects nothing")
        return carried + [_stack(list(column)) for column in zip(*collected, strict=True)]


def _merged(node: Node, seen: list[frozenset[Outcome]]) -> list[set[Outcome]]:
    """How a node's comparisons came out: each of an elementwise one's (Clip has two bounds), else all together."""
    if (node.domain, node.op) in ELEMENTWISE:
        return [set(s) for s in seen]
    return [set[Outcome]().union(*seen)]


def _truth(item: Item) -> bool:
    if item is None or isinstance(item, Number) or item.size != 1:
        raise Undecided("a condition is not one truth value")
    return bool(item.reshape(-1)[0])


def _stack(items: list[Item]) -> Item:
    if all(isinstance(x, Number) for x in items):
        numbers = cast("list[Number]", items)
        if len({x.shape for x in numbers}) > 1:
            raise Undecided("rounds of a loop give different shapes")
        return Number.of(np.stack(parts) for parts in zip(*(x.parts for x in numbers), strict=True))
    return np.stack(cast("list[Array]", items))


def concrete_node(node: Node, items: list[Item], attrs: dict[str, Any]) -> Node:
    """A copy of the node in a graph of its own, with operands of these shapes, and constants where they are known.

    Its results' types are inferred from them.
    """
    graph = Graph("one", dict(node.graph.opsets if node.graph is not None else {}))
    operands: list[Value | None] = []
    made: dict[Value, Value] = {}
    for v, item in zip(node.inputs, items, strict=True):
        if v is None or item is None:
            operands.append(None)
            continue
        if v not in made:
            made[v] = _operand(graph, v, item)
        operands.append(made[v])
    copy = Node(node.op, operands, domain=node.domain, outputs=[v.name for v in node.outputs], name=node.name)
    copy.attrs = attrs
    graph.append(copy)
    graph.set_outputs([new for old, new in zip(node.outputs, copy.outputs, strict=True) if old.uses])
    if node.domain == "" and node.op in MOVES:
        return copy
    try:
        infer_node(copy)
    except PlanishError as error:
        raise Undecided(error.message) from None
    return copy


def _operand(graph: Graph, v: Value, item: Item) -> Value:
    if v.data is not None:
        return graph.add_constant(v.data, v.name)
    if isinstance(item, Number):
        return graph.add_input(v.name, TensorType(v.dtype or item.dtype, item.shape))
    assert item is not None
    return graph.add_constant(ArrayConstant(np.ascontiguousarray(item).reshape(item.shape)), v.name)


_MATRICES = ("MatMul", "Gemm")


def _products(node: Node, items: list[Item], concrete: Node) -> int:
    """Multiplications of a product of matrices or a convolution."""
    x = items[0] if items else None
    if not isinstance(x, Number) or not x.shape:
        return 0
    shape = concrete.outputs[0].shape
    count = math.prod(cast("Iterable[int]", shape)) if shape is not None and is_static(shape) else 0
    if node.op in _MATRICES:
        return count * (x.shape[0] if node.attr("transA", 0) else x.shape[-1])
    w = items[1] if len(items) > 1 else None
    if node.op in ("Conv", "ConvTranspose") and isinstance(w, Number):
        return count * math.prod(w.shape[1:]) * (1 if node.op == "Conv" else 4)
    return 0


def _standard(node: Node, items: list[Item]) -> list[Item] | None:
    """A standard operator by its table; ``None`` where none has it."""
    if node.op in MOVES:
        return move(node, items)
    if node.op == "Constant":
        return [_written(node)]
    numbers = any(isinstance(x, Number) for x in items)
    floats = any(out.dtype is not None and out.dtype.is_float for out in node.outputs)
    if (numbers or floats) and node.op in OPERATORS:
        return OPERATORS[node.op](node, items)
    if node.op == "ConstantOfShape" and floats:
        return [_filled(node, cast("Array", items[0]))]
    if not numbers and node.op == "Where":
        return [np.where(*cast("list[Array]", items))]
    if node.op in KERNELS and not numbers and not floats:
        try:
            return list(KERNELS[node.op](node, cast("list[Array | None]", items)))
        except NoKernel as error:
            raise Undecided(str(error)) from None
    return None


def _written(node: Node) -> Item:
    """What a Constant holds."""
    (name, given), *_ = node.attrs.items()
    if isinstance(given, Constant):
        return N.constant(given.numpy()) if given.dtype.is_float else given.numpy()
    if name.startswith("value_float"):
        return N.constant(np.array(given, np.float32))
    if name.startswith("value_int"):
        return np.array(given, np.int64)
    raise Undecided("a constant that is no tensor of numbers")


def _filled(node: Node, shape: Array) -> Item:
    value = node.attrs.get("value")
    array = value.numpy() if isinstance(value, Constant) else np.zeros(1, np.float32)
    wanted = tuple(int(n) for n in shape)
    return N.constant(array.reshape(())).map(lambda a: np.broadcast_to(a, wanted))


def _require_columns(node: Node, items: list[Item]) -> None:
    """Raises :class:`Undecided` for attention behind a cache with a mask that has not a column for every key.

    The standard would broadcast it, ONNX Runtime's kernel refuses it: no rewrite needs to hold for such operands.
    """
    if node.op != "Attention" or len(items) < 5:
        return
    key, mask, past = items[1], items[3], items[4]
    if key is not None and mask is not None and past is not None:
        keys = key.shape[-2] + past.shape[2]
        if mask.shape[-1] != keys:
            raise Undecided(f"a mask of {mask.shape[-1]} columns for {keys} keys")


def opaque(node: Node, items: list[Item]) -> list[Item]:
    """Results that depend on everything the node is given, and on nothing else. Raises :class:`Undecided`."""
    if not is_known(node) or not is_pure(node) or node.subgraphs:
        raise Undecided(f"{node.op} is unknown, random, or has bodies")
    state = hashlib.blake2b(f"{node.domain}::{node.op}-{since(node)} {_attrs(node)}".encode(), digest_size=16)
    for item in items:
        state.update(b"-" if item is None else str(item.shape).encode())
        if item is not None:
            state.update(
                (ring().value(item.field) if isinstance(item, Number) else np.ascontiguousarray(item)).tobytes()
            )
    return [_random(out, state.digest(), i) for i, out in enumerate(node.outputs)]


def since(node: Node) -> int:
    """The version of the node's own operator; 0 where there is no schema."""
    known = schema(node.domain, node.op, node.version)
    return 0 if known is None else known.since


def _attrs(node: Node) -> str:
    parts: list[str] = []
    for name, attr in sorted(node.attrs.items()):
        text = attr.digest() if isinstance(attr, Constant) else repr(attr)
        parts.append(f"{name}={text}")
    return " ".join(parts)


def _random(out: Value, seed: bytes, i: int) -> Item:
    if out.dtype is None or not is_static(out.shape):
        raise Undecided(f"the extents of {type_text(out.type)} follow from elements")
    shape = cast("tuple[int, ...]", out.shape)
    random = np.random.default_rng([int.from_bytes(seed, "little"), i])
    if out.dtype.is_float:
        found = N.free(random, shape, out.dtype, 1.0)
        return Number(found.field, found.near, np.full(shape, np.inf), found.grid)
    if out.dtype is DType.STRING or not (out.dtype is DType.BOOL or out.dtype.is_integer):
        raise Undecided(f"no made-up {out.dtype.text}")
    return random.integers(0, 2 if out.dtype is DType.BOOL else 100, shape).astype(out.dtype.numpy)
