"""store-float16: ``w`` becomes ``Cast(float16(w))``: weights take half the room and are widened when they are loaded.

The arithmetic stays in single precision. ONNX Runtime computes the casts once, when it optimizes the model on loading,
so that runs cost what they did.

**Why**    half the bytes to store, send and read.
**Needs**  float32 weights of at least ``min-bytes``, operands of standard operators.
**Leaves** numbers above 65504; weights of which some row or column would lose more than ``max-error`` of its root mean
           square, because its numbers lie below float16's normal range (6e-5); what a graph returns, what callers may
           override; operands of operators that are not ONNX's own, whose kernels may want constants.
**Numbers** approximates: every weight moves by at most 2^-11 of itself, 3e-8 below the normal range. One unit of the
           error budget for each weight.
**Source** IEEE 754-2019, binary16; ONNX Cast-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.constants import ArrayConstant, SplatConstant
from ...ir.dtypes import DType
from ...ir.graph import RETURN, Graph, Model, Node, Value
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch

Array = np.ndarray[Any, Any]
LARGEST = 65504.0
_CAST_OPSET = 6
"""Since then Cast names its type by number."""


@dataclass
class StoreFloat16(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True

    min_bytes: int = 4096
    """Smaller weights stay: the cast takes about a hundred bytes itself."""
    max_error: float = 2.0**-10
    """Root mean square error of a weight, and of each of its slices along an axis, relative to the slice's own."""

    def run(self, model: Model, r: Rewriter) -> None:
        if model.graph.opsets.get("", 0) < _CAST_OPSET:
            r.ctx.note(f"opset {model.graph.opsets.get('', 0)} has no Cast by number, {_CAST_OPSET} has")
            return
        for graph in list(model.graph.all_graphs()):
            for node, value in list(_weights(graph)):
                try:
                    self._store(node, value, graph, r)
                except NoMatch as declined:
                    if r.ctx.trace:
                        r.ctx.note(f"%{value.name} {declined.reason}")

    def _store(self, node: Node, value: Value, graph: Graph, r: Rewriter) -> None:
        """Raises ``NoMatch`` before any change."""
        data = value.data
        assert data is not None
        if isinstance(data, SplatConstant):
            raise NoMatch("is a splat, which takes no room")
        if data.nbytes < self.min_bytes:
            raise NoMatch(f"has {data.nbytes} bytes, fewer than {self.min_bytes}")
        _require_ordinary_users(value)
        wide = data.numpy()
        narrow = _narrowed(wide)
        worst, mean = _errors(wide, narrow)
        if worst > self.max_error:
            raise NoMatch(f"would lose {worst:.2g} of a slice's root mean square, more than {self.max_error:.2g}")
        if not r.take("store-float16", value, error=mean, saved_bytes=data.nbytes // 2):
            raise NoMatch("is left out to stay within the error budget")
        if not r.allow_value(value):
            return
        r.begin(node, (value.name,))
        stored = r.const(ArrayConstant(narrow), name=f"{value.name}/f16")
        r.replace_value(value, r.Cast(stored, to=DType.F32.code))
        r.move_constant(stored, graph)
        r.remove_constant(value)


def _weights(graph: Graph) -> Iterator[tuple[Node, Value]]:
    """The graph's float32 constants, each with the first of the graph's nodes that needs it, bodies included."""
    seen: set[Value] = set()
    for node in graph:
        for value in _operands(node):
            data = value.data
            if data is None or value.graph is not graph or value in seen:
                continue
            seen.add(value)
            if data.dtype is DType.F32:
                yield node, value


def _operands(node: Node) -> Iterator[Value]:
    yield from (v for v in node.inputs if v is not None)
    for body in node.subgraphs if node.attrs else ():
        for inner in body.all_nodes():
            yield from (v for v in inner.inputs if v is not None)


def _require_ordinary_users(value: Value) -> None:
    for user, _ in value.uses:
        if user.op == RETURN:
            raise NoMatch("is returned by a graph")
        if user.domain:
            raise NoMatch(f"is an operand of {user.domain}::{user.op}, whose kernel may want a constant")


def _narrowed(wide: Array) -> Array:
    """The weights in float16. Raises ``NoMatch`` where one is out of range."""
    largest = float(np.max(np.abs(wide[np.isfinite(wide)]), initial=0.0))
    if largest > LARGEST:
        raise NoMatch(f"holds {largest:.6g}, float16 ends at {LARGEST:g}")
    return wide.astype(np.float16)


def _errors(wide: Array, narrow: Array) -> tuple[float, float]:
    """Root mean square error over root mean square: the largest of all slices along one axis, and of the whole."""
    finite = np.isfinite(wide)
    signal = np.where(finite, wide, 0.0).astype(np.float64)
    noise = np.where(finite, narrow, 0.0).astype(np.float64) - signal
    signal, noise = signal * signal, noise * noise
    whole = _ratio(noise.sum(), signal.sum())
    worst = whole
    for axis in range(wide.ndim):
        others = tuple(i for i in range(wide.ndim) if i != axis)
        worst = max(worst, _ratio(noise.sum(axis=others), signal.sum(axis=others)))
    return worst, whole


def _ratio(noise: Any, signal: Any) -> float:
    return float(np.max(np.sqrt(noise / np.where(signal > 0, signal, 1.0)), initial=0.0))
