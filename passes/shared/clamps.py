"""Clamping in its spellings: Clip (attributes and operands), Relu, Max and Min with a number, and chains of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.matcher import scalar_value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .attributes import require_own_attributes

CLAMPS = ("Clip", "Relu", "Max", "Min")


@dataclass(frozen=True)
class Clamp:
    """``min(max(x, low), high)``, infinite where a side is open; the operand, and the nodes it is spelled with."""

    x: Value
    low: float
    high: float
    nodes: tuple[Node, ...]
    """Outermost first."""

    def apply(self, number: float) -> float:
        return min(max(number, self.low), self.high)


def clamp_of(node: Node) -> Clamp:
    """The clamp by one node. Raises :class:`NoMatch` for computed bounds and for Max and Min of other values."""
    x = node.input(0)
    if x is None or node.domain or node.op not in CLAMPS:
        raise NoMatch(f"{node.op} clamps nothing")
    if node.op == "Relu":
        return Clamp(x, 0.0, math.inf, (node,))
    if node.op == "Clip":
        low, high = _clip_bounds(node)
        return Clamp(x, low, high, (node,))
    if len(node.inputs) != 2 or 0 < node.version < 8:
        raise NoMatch(f"{node.op} has {len(node.inputs)} operands, expected a value and a number")
    for value, bound in ((x, node.inputs[1]), (node.inputs[1], x)):
        number = scalar_value(bound, node)
        if number is not None and value is not None and value.data is None:
            if number != number:
                raise NoMatch(f"the bound of {node.op} is NaN")
            low, high = (number, math.inf) if node.op == "Max" else (-math.inf, number)
            return Clamp(value, low, high, (node,))
    raise NoMatch(f"{node.op} has no constant number as a bound")


def _clip_bounds(node: Node) -> tuple[float, float]:
    require_own_attributes(node)
    bounds: list[float] = []
    for i, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
        if node.version < 11:
            found = node.attrs.get(name, default)
            bounds.append(default if not isinstance(found, float) or abs(found) >= _LARGEST else found)
            continue
        value = node.input(i)
        if value is None:
            bounds.append(default)
        elif value.data is None or value.data.count != 1:
            raise NoMatch(f"{name} of Clip is not a constant number")
        else:
            bounds.append(value.numpy().reshape(-1)[0].item())
    if any(b != b for b in bounds):
        raise NoMatch("a bound of Clip is NaN")
    return bounds[0], bounds[1]


_LARGEST = float(np.finfo(np.float32).max)


def clamp_chain(node: Node, longest: int = 16) -> Clamp:
    """The clamp by ``node`` and by clamps in front of it that nothing else uses."""
    total = clamp_of(node)
    for _ in range(longest):
        producer = total.x.producer
        if producer is None or producer.op not in CLAMPS or len(total.x.uses) != 1 or producer.graph is not node.graph:
            break
        try:
            inner = clamp_of(producer)
        except NoMatch:
            break
        # The inner one applied first: its range is what the outer one clamps.
        low = total.apply(inner.apply(-math.inf))
        high = total.apply(inner.apply(math.inf))
        total = Clamp(inner.x, low, high, (*total.nodes, *inner.nodes))
    return total


def emit_clamp(r: Rewriter, clamp: Clamp) -> Value:
    """The shortest spelling in the model's opset. Raises :class:`NoMatch` where it has none."""
    x, low, high = clamp.x, clamp.low, clamp.high
    dtype = x.dtype
    if dtype is None:
        raise NoMatch(f"the element type of %{x.name} is unknown")
    if low == 0 and high == math.inf and (dtype.is_float or (dtype in _RELU_INTEGERS and r.opset() >= 14)):
        return r.Relu(x)
    open_low, open_high = low == -math.inf, high == math.inf
    if (open_low or open_high) and any(n.op in ("Max", "Min") for n in clamp.nodes):
        # Clip with an open side makes an infinite element the largest finite one; Max and Min do not.
        if open_low and open_high:
            return x
        return r.Max(x, _bound(r, low, dtype)) if open_high else r.Min(x, _bound(r, high, dtype))
    if dtype not in (DType.F32, DType.F16) and r.opset() < 12 and not any(n.op == "Clip" for n in clamp.nodes):
        raise NoMatch(f"Clip of {dtype!r} before opset 12 is not widely implemented")
    if r.opset() >= 11:
        return r.Clip(x, None if open_low else _bound(r, low, dtype), *(() if open_high else (_bound(r, high, dtype),)))
    if dtype is DType.F64 and any(math.isfinite(b) and float(np.float32(b)) != b for b in (low, high)):
        raise NoMatch("the attributes of Clip before opset 11 hold float32 only")
    return r.Clip(x, min=None if open_low else float(low), max=None if open_high else float(high))


_RELU_INTEGERS = frozenset({DType.I32, DType.I8})
"""Signed integers that runtimes take in Relu; the standard admits all."""


def _bound(r: Rewriter, number: float, dtype: DType) -> Value:
    return r.const(np.asarray(number), dtype)
