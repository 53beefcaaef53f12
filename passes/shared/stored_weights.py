"""Weights stored in fewer bits and widened when they are loaded: what the passes ``store-*`` share."""

from __future__ import annotations

from abc import abstractmethod
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
from .weight_uses import weights_of

Array = np.ndarray[Any, Any]
LARGEST = {DType.F16: 65504.0, DType.BF16: 3.3895313892515355e38, DType.F8E4M3FN: 448.0, DType.F8E5M2: 57344.0}
"""The largest finite number of a type."""


@dataclass
class StoreNarrow(Pass):
    """A pass that stores float32 weights as floats of fewer bits. Each weight is a unit of the error budget."""

    numbers: ClassVar[Numbers] = Numbers.APPROXIMATES
    proposes: ClassVar[bool] = True
    opset: ClassVar[int]
    """Since then Cast takes the type."""

    min_bytes: int = 4096
    """Smaller weights stay: the cast takes about a hundred bytes itself."""
    max_error: float = 2.0**-10
    """Root mean square error of a weight, and of each of its slices along an axis, relative to the slice's own."""

    @abstractmethod
    def storage(self) -> DType:
        """The type."""

    def narrowed(self, value: Value, wide: Array) -> tuple[Array, Array | None]:
        """The weights in the type, and by what they are multiplied again: an array that broadcasts, or nothing.

        Raises ``NoMatch`` where one is out of range.
        """
        dtype = self.storage()
        with np.errstate(over="ignore"):
            narrow = wide.astype(dtype.numpy)
        lost = np.isinf(narrow.astype(np.float32)) & np.isfinite(wide)
        if lost.any():
            largest = float(np.max(np.abs(wide[lost])))
            raise NoMatch(f"holds {largest:.6g}, {dtype.numpy_name} ends at {LARGEST[dtype]:g}")
        return narrow, None

    def run(self, model: Model, r: Rewriter) -> None:
        found = model.graph.opsets.get("", 0)
        if found < self.opset:
            r.ctx.note(f"opset {found} has no Cast to {self.storage().numpy_name}, {self.opset} has")
            return
        for graph in list(model.all_graphs()):
            for node, value in list(_float_weights(graph)):
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
        narrow, scale = self.narrowed(value, wide)
        back = narrow.astype(np.float32)
        worst, mean = relative_errors(wide, back if scale is None else back * scale)
        if worst > self.max_error:
            raise NoMatch(f"would lose {worst:.2g} of a slice's root mean square, more than {self.max_error:.2g}")
        dtype = self.storage()
        saved = data.nbytes - dtype.nbytes(data.count) - (0 if scale is None else scale.nbytes)
        if not r.take(self.name, value, error=mean, saved_bytes=saved):
            raise NoMatch("is left out to stay within the error budget")
        if not r.allow_value(value):
            return
        r.begin(node, (value.name,))
        stored = r.const(ArrayConstant(narrow, dtype), name=f"{value.name}/{dtype.text}")
        cast = r.Cast(stored, to=DType.F32.code)
        if scale is not None:
            factor = r.const(ArrayConstant(scale.astype(np.float32)), name=f"{value.name}/scale")
            cast = r.Mul(cast, factor)
            r.move_constant(factor, graph)
        r.replace_value(value, cast)
        r.move_constant(stored, graph)
        r.remove_constant(value)


def _float_weights(graph: Graph) -> Iterator[tuple[Node, Value]]:
    """The graph's float32 constants, each with the first of the graph's nodes that needs it, bodies included."""
    for node, value in weights_of(graph):
        if value.dtype is DType.F32:
            yield node, value


def _require_ordinary_users(value: Value) -> None:
    for user, _ in value.uses:
        if user.op == RETURN:
            raise NoMatch("is returned by a graph")
        if user.domain:
            raise NoMatch(f"is an operand of {user.domain}::{user.op}, whose kernel may want a constant")


def relative_errors(wide: Array, narrow: Array) -> tuple[float, float]:
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
