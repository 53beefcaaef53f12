"""A model that also computes how its outputs move with some of its values, by reverse-mode differentiation.

Let ``y`` be the outputs and ``v`` a value, with the Jacobian ``J = dy/dv``. For a vector ``u`` of independent random
signs the product ``g = J^T u`` has ``E[g g^T] = J^T J``: the second moments of ``g`` over samples are the
metric in which an error of ``v`` counts as an error of the outputs (the Gauss-Newton matrix, by a stochastic estimate).
Outputs are divided by their Euclidean length, so that ``sum of (error @ g)^2`` over all rows of a value estimates the
square of the outputs' relative error, whatever their scale.

The gradient is emitted behind the model as standard operators: it runs wherever the model runs, on samples of any
shape, and its values can be observed like any other. Operators without a rule are replaced by their definitions; where
there is none either, what lies in front is declined with the reason.

Source: A. Griewank, A. Walther, Evaluating Derivatives, 2008; J. Martens, R. Grosse, Optimizing Neural Networks with
Kronecker-factored Approximate Curvature, ICML 2015 (metrics from random outputs).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....ir.clone import clone_model
from ....ir.dtypes import DType
from ....ir.errors import PlanishError
from ....ir.graph import Graph, Model, Node, Value
from ...core import Context
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from ..decompose import decompose
from ..emit import reduce_to_one
from .elementwise import ELEMENTWISE
from .linear import LINEAR
from .movement import MOVEMENT
from .reductions import REDUCTIONS
from .rule import Rule, shape_of

RULES: dict[str, Rule] = {**ELEMENTWISE, **LINEAR, **MOVEMENT, **REDUCTIONS}
"""Of the default domain. Other operators are decomposed."""
_CONSTANT = frozenset("Shape Size ArgMax ArgMin Equal Less Greater LessOrEqual GreaterOrEqual".split())
_FLAT = frozenset("Floor Ceil Round Sign IsNaN IsInf NonZero RandomNormalLike ConstantOfShape".split())
_TINY = 1e-30
_PRIME, _STRIDE, _SALT, _ROUNDS = (1 << 31) - 1, 48271, 1e4, 4


@dataclass
class Gradients:
    """A copy of a model with gradients behind it."""

    model: Model
    of: dict[Value, Value] = field(default_factory=dict[Value, Value])
    """From values of the original to values of the copy: the gradient, of the same shape."""
    copies: dict[Value, Value] = field(default_factory=dict[Value, Value])
    """From values of the original to those of the copy that hold the same."""
    declined: dict[Value, str] = field(default_factory=dict[Value, str])
    """Values without a gradient, with the reason."""


def with_gradients(model: Model, values: Iterable[Value], *, seed: int = 0) -> Gradients:
    """See the module. ``values`` lie in the main graph; those in bodies and functions are declined.

    ``seed`` is that of the random signs, which differ from sample to sample.
    """
    copy = clone_model(model)
    copies = dict(zip(_values(model.graph), _values(copy.graph), strict=True))
    found = Gradients(copy, copies=copies)
    wanted: dict[Value, Value] = {}
    for value in values:
        if value in copies:
            wanted[value] = copies[value]
        else:
            found.declined[value] = "it lies in a body or a function"
    reverse = _Reverse(copy, seed)
    reverse.prepare(wanted.values())
    reverse.run()
    found.copies.update((value, reverse.now(inner)) for value, inner in copies.items())
    for value in wanted:
        inner = found.copies[value]
        gradient = reverse.total(inner)
        if inner in reverse.blocked:
            found.declined[value] = reverse.blocked[inner]
        elif gradient is None:
            found.declined[value] = "no output of floats depends on it"
        else:
            found.of[value] = gradient
    outputs = [*copy.graph.outputs, *dict.fromkeys(found.of.values())]
    names = [port.name for port in copy.graph.ports]
    taken = set(names)
    for number in range(len(outputs) - len(names)):
        name = f"gradient.{number}"
        while name in taken:
            name += "_"
        taken.add(name)
        names.append(name)
    copy.graph.set_outputs(outputs, names)
    return found


def _values(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


class _Reverse:
    """One backward walk over the main graph of ``model``, which it extends."""

    def __init__(self, model: Model, seed: int) -> None:
        self.graph, self.seed = model.graph, seed
        self.r = Rewriter(Context(), "gradient")
        self.active: set[Value] = set()
        """What depends on a wanted value."""
        self.parts: dict[Value, list[Value]] = {}
        """Gradients of a value, one for each use so far."""
        self.blocked: dict[Value, str] = {}
        """Values whose gradient is unknown, and why."""
        self.moved: dict[Value, Value] = {}
        """From results of operators that were expanded to what holds the same now."""

    def now(self, value: Value) -> Value:
        """What holds a value of the copy after expansions."""
        while value in self.moved:
            value = self.moved[value]
        return value

    def prepare(self, wanted: Iterable[Value]) -> None:
        """Finds what depends on the wanted values and expands what has no rule."""
        self.active.update(v for v in wanted if _is_float(v))
        node = next(iter(self.graph), None)
        while node is not None and not node.is_return:
            following = node.next
            if any(v in self.active for v in node.inputs if v is not None) and not self._has_rule(node):
                expanded = self._expanded(node)
                if expanded is not None:
                    node = expanded
                    continue
            if self._reads_active(node):
                self.active.update(v for v in node.outputs if _is_float(v))
            node = following

    def _has_rule(self, node: Node) -> bool:
        return not node.domain and (node.op in RULES or node.op in _CONSTANT or node.op in _FLAT)

    def _reads_active(self, node: Node) -> bool:
        if not node.domain and (node.op in _CONSTANT or node.op in _FLAT):
            return False
        inner = (n for graph in node.subgraphs for n in graph.all_nodes())
        return any(v in self.active for n in (node, *inner) for v in n.inputs if v is not None)

    def _expanded(self, node: Node) -> Node | None:
        """The first of the operators that define ``node``, which is gone then; ``None`` where it stays."""
        before = node.prev
        try:
            self.r.begin(node)
            results = decompose(self.r, node)
            outputs = list(node.outputs)
            self.r.replace(node, results)
        except (NoMatch, PlanishError):
            self.r.rollback()
            return None
        self.moved.update((a, b) for a, b in zip(outputs, results, strict=False) if b is not None)
        first = before.next if before is not None else next(iter(self.graph), None)
        return first

    def run(self) -> None:
        """Emits the gradients of all active values that can be had."""
        nodes = list(self.graph)
        self.r.begin(self.graph.ret)
        for value in dict.fromkeys(self.graph.outputs):
            if value in self.active:
                self.parts.setdefault(value, []).append(self._start(value))
        for node in reversed(nodes):
            if self._reads_active(node) and any(v in self.active for v in node.outputs):
                self._back(node)
            elif self._reads_active(node) and node.outputs and not self._has_rule(node):
                self._block(node, f"{node.op} behind it has no gradient")

    def _start(self, value: Value) -> Value:
        """Random signs over the length of the output."""
        r = self.r
        assert value.dtype is not None
        wide = value if value.dtype in (DType.F32, DType.F64) else r.Cast(value, to=DType.F32.code)  # sums overflow
        square, total = r.Mul(wide, wide), wide
        if value.rank:
            axes = list(range(value.rank))
            square, total = (reduce_to_one(r, "ReduceSum", v, axes) for v in (square, wide))
        signs = r.Div(self._signs(wide, total), r.Sqrt(r.Add(square, _TINY)))
        return signs if wide is value else r.Cast(signs, to=value.dtype.code)

    def _signs(self, value: Value, total: Value) -> Any:
        """1 or -1 for each element of ``value``, by a hash of its place and of the sum of all: generators of random
        numbers have states, and runtimes lack them in new opsets."""
        r = self.r
        assert value.dtype is not None
        sample = r.Mod(r.Cast(r.Mul(r.Abs(total), _SALT), to=DType.I64.code), np.int64(_PRIME))
        count = r.Reshape(r.Size(value), np.zeros(0, np.int64))
        places = r.Range(np.int64(self.seed + 1), r.Add(count, np.int64(self.seed + 1)), np.int64(1))
        key = r.Mod(r.Add(r.Mul(places, np.int64(_STRIDE)), r.Reshape(sample, np.array([1]))), np.int64(_PRIME))
        for _ in range(_ROUNDS):
            key = r.Mod(r.Add(r.Mul(key, key), places), np.int64(_PRIME))
        heads = r.Reshape(r.Less(key, np.int64(_PRIME // 2)), shape_of(r, value))
        one = np.ones((), value.dtype.numpy)
        return r.Where(heads, r.const(one), r.const(-one))

    def _back(self, node: Node) -> None:
        """From the gradients of a node's results to those of its operands."""
        because = next((self.blocked[v] for v in node.outputs if v in self.blocked), "")
        if because:
            self._block(node, because)
            return
        given = [self.total(v) for v in node.outputs]
        if all(g is None for g in given):
            return
        rule = RULES.get(node.op) if not node.domain else None
        if rule is None:
            self._block(node, f"{node.op} behind it has no gradient")
            return
        try:
            wanted = [v is not None and v in self.active for v in node.inputs]
            for value, part in zip(node.inputs, rule(self.r, node, given, wanted), strict=True):
                if value is not None and part is not None and value in self.active:
                    self.parts.setdefault(value, []).append(part)
        except NoMatch as declined:
            self._block(node, f"{node.op} behind it {declined.reason}")

    def _block(self, node: Node, because: str) -> None:
        inner = (n for graph in node.subgraphs for n in graph.all_nodes())
        for n in (node, *inner):
            self.blocked.update((v, because) for v in n.inputs if v is not None and v in self.active)

    def total(self, value: Value) -> Value | None:
        """The sum over all uses; ``None`` where no output depends on the value."""
        parts = self.parts.get(value)
        if not parts:
            return None
        if len(parts) > 1:
            self.r.begin(self.graph.ret)
            self.parts[value] = [self.r.Sum(*parts)]
        return self.parts[value][0]


def _is_float(value: Value) -> bool:
    return value.dtype is not None and value.dtype.kind == "float"
