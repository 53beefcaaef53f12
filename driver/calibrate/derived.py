"""Values whose statistics follow from those of another, which need not be looked at.

An operator that only moves elements keeps range and histogram. One that maps each element by a monotone function takes
the ends of the range to its ends, and what was drawn for the histogram to what would be drawn of its result. The
arithmetic is that of float32, where these operators round as the runtime does; only ``Sigmoid`` and ``Tanh`` may differ
in the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backends.core import Array
from ...ir.dtypes import DType
from ...ir.graph import Graph, Node, Value
from ...passes.shared.quant.accumulate import Accumulator, Drawn
from ...passes.shared.quant.statistics import Kind

Map = Callable[[Array], Array]

_MOVES = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "DepthToSpace", "SpaceToDepth"}
)
_WITH_SCALAR: dict[str, Any] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


@dataclass(frozen=True)
class Derived:
    """A value, and how it follows from another."""

    value: Value
    source: Value
    map: Map
    """Monotone, element by element."""

    def follow(self, drawn: Drawn) -> Drawn:
        """What is drawn of the value, from what was drawn of its source."""
        if self.map is _same:
            return drawn
        with np.errstate(all="ignore"):
            ends = self.map(np.array([drawn.low, drawn.high], np.float32))
            numbers = self.map(drawn.numbers)
        return Drawn(drawn.size, float(ends.min()), float(ends.max()), numbers, drawn.step)


class Derivations:
    """Those among wanted values of a model's main graph."""

    def __init__(self, graph: Graph, accumulators: dict[Value, Accumulator]) -> None:
        self.accumulators = accumulators
        self.of: dict[Value, list[Derived]] = {}
        """By the value that is looked at; what follows from a derived value comes behind it."""
        self.roots: dict[Value, Value] = {}
        """Of each derived value the one that is looked at."""
        for value in (v for node in graph for v in node.outputs if v in accumulators):
            found = derivation(value) if self._suits(value) else None
            if found is None or found.source not in accumulators:
                continue
            root = self.roots.get(found.source, found.source)
            self.roots[value] = root
            self.of.setdefault(root, []).append(found)

    def _suits(self, value: Value) -> bool:
        return not self.accumulators[value].want.kinds & ~(Kind.RANGE | Kind.HISTOGRAM)

    @property
    def watched(self) -> frozenset[Value]:
        """The values that have to be looked at."""
        return frozenset(v for v in self.accumulators if v not in self.roots)

    def without(self, value: Value) -> list[Value]:
        """Leaves out a watched value; also what follows from it, which is returned with it."""
        gone = [value, *(d.value for d in self.of.pop(value, []))]
        for each in gone:
            self.accumulators.pop(each, None)
            self.roots.pop(each, None)
        return gone

    def show(self, value: Value, array: Array) -> None:
        """Takes in a tensor of a watched value, and all that follows from it. Raises ``TypeError``."""
        drawn = self.accumulators[value].add(array)
        following = self.of.get(value)
        if not following:
            return
        known: dict[Value, Drawn] = {} if drawn is None else {value: drawn}
        arrays: dict[Value, Array] = {value: array}
        for derived in following:
            source = known.get(derived.source)
            if source is not None and (found := derived.follow(source)).finite:
                known[derived.value] = found
                self.accumulators[derived.value].add_drawn(found)
            else:  # some numbers are none: all are looked at
                self.accumulators[derived.value].add(_computed(derived, following, arrays))


def _computed(derived: Derived, following: list[Derived], arrays: dict[Value, Array]) -> Array:
    """The whole tensor, from what is there of those that it follows from."""
    path, makers = [derived], {d.value: d for d in following}
    while path[-1].source not in arrays:
        path.append(makers[path[-1].source])
    for step in reversed(path):
        with np.errstate(all="ignore"):
            arrays[step.value] = step.map(arrays[step.source])
    return arrays[derived.value]


def derivation(value: Value) -> Derived | None:
    """How a value follows from an operand of its node; ``None`` where it does not."""
    node = value.producer
    if node is None or node.domain or not node.inputs:
        return None
    if node.op in _MOVES:
        source = node.inputs[0]
        return Derived(value, source, _same) if source is not None and source.data is None else None
    if value.dtype is not DType.F32:
        return None
    operands = [v for v in node.inputs if v is not None and v.data is None]
    made = _map_of(node, operands[0]) if len(operands) == 1 and operands[0].dtype is DType.F32 else None
    return Derived(value, operands[0], made) if made is not None else None


def _map_of(node: Node, source: Value) -> Map | None:
    if node.op in _WITH_SCALAR:
        return _with_scalar(node, source)
    if node.op == "Clip":
        return _clip(node)
    if node.op == "HardSigmoid":
        slope, offset = np.float32(node.attr("alpha")), np.float32(node.attr("beta"))
        return lambda x: np.clip(slope * x + offset, np.float32(0), np.float32(1))
    return _UNARY.get(node.op)


def _with_scalar(node: Node, source: Value) -> Map | None:
    function = _WITH_SCALAR[node.op]
    left, right = node.inputs
    assert left is not None
    assert right is not None
    first = left is source
    number = _scalar(right if first else left)
    if number is None or (node.op == "Div" and (not first or number == 0)):
        return None
    return (lambda x: function(x, number)) if first else (lambda x: function(number, x))


def _clip(node: Node) -> Map | None:
    if node.version < 11:
        low, high = np.float32(node.attr("min")), np.float32(node.attr("max"))
        return lambda x: np.clip(x, low, high)
    ends: list[Any] = [-np.inf, np.inf]
    for i, value in enumerate(node.inputs[1:3]):
        if value is not None:
            ends[i] = _scalar(value)
    if None in ends or ends[0] > ends[1]:
        return None
    return lambda x: np.clip(x, np.float32(ends[0]), np.float32(ends[1]))


def _scalar(value: Value) -> Any:
    """The only element of a constant, float32."""
    if value.data is None or value.tensor is None or value.tensor.count != 1 or value.dtype is not DType.F32:
        return None
    return value.data.numpy().reshape(-1)[0]


def _same(x: Array) -> Array:
    return x


def _sigmoid(x: Array) -> Array:
    return np.float32(1) / (np.float32(1) + np.exp(-x))


_UNARY: dict[str, Map] = {
    "Relu": lambda x: np.maximum(x, np.float32(0)),
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
    "Neg": np.negative,
}
