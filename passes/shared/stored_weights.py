"""Weights stored in fewer bits and widened when they are loaded: what the passes ``store-*`` share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.constants import (
    CHUNK_BYTES,
    ArrayConstant,
    Constant,
    FileConstant,
    LazyConstant,
    RowsConstant,
    SplatConstant,
)
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

    def scale_of(self, value: Value) -> Array | None:
        """By what the stored numbers are multiplied again: float32, extents of 1 where all share one; or nothing.

        Raises ``NoMatch`` where the weight cannot be scaled.
        """
        return None

    def narrowed(self, wide: Array, scale: Array | None) -> Array:
        """Weights in the type. Raises ``NoMatch`` where one is out of range."""
        dtype = self.storage()
        with np.errstate(over="ignore"):
            narrow = (wide if scale is None else wide / scale).astype(dtype.numpy)
        lost = np.isinf(narrow.astype(np.float32)) & np.isfinite(wide)
        if lost.any():
            largest = float(np.max(np.abs(wide[lost])))
            raise NoMatch(f"holds {largest:.6g}, {dtype.numpy_name} ends at {LARGEST[dtype]:g}")
        return narrow

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
        if not data.shape:
            raise NoMatch("is a single number")
        if data.nbytes < self.min_bytes:
            raise NoMatch(f"has {data.nbytes} bytes, fewer than {self.min_bytes}")
        _require_ordinary_users(value)
        scale = self.scale_of(value)
        worst, mean = self._errors(data, scale)
        if worst > self.max_error:
            raise NoMatch(f"would lose {worst:.2g} of a slice's root mean square, more than {self.max_error:.2g}")
        dtype = self.storage()
        saved = data.nbytes - dtype.nbytes(data.count) - (0 if scale is None else scale.nbytes)
        if not r.take(self.name, value, error=mean, saved_bytes=saved) or not r.allow_value(value):
            return
        r.begin(node, (value.name,))
        stored = r.const(self._stored(data, scale), name=f"{value.name}/{dtype.text}")
        cast = r.Cast(stored, to=DType.F32.code)
        if scale is not None:
            factor = r.const(ArrayConstant(scale), name=f"{value.name}/scale")
            cast = r.Mul(cast, factor)
            r.move_constant(factor, graph)
        r.replace_value(value, cast)
        r.move_constant(stored, graph)
        r.remove_constant(value)

    def _errors(self, data: Constant, scale: Array | None) -> tuple[float, float]:
        """See :func:`relative_errors`; a few rows are in memory at a time."""
        sums = ErrorSums(len(data.shape))
        for start, wide in row_pieces(data):
            part = scale if scale is None or len(scale) == 1 else scale[start : start + len(wide)]
            back = self.narrowed(wide, part).astype(np.float32)
            sums.add(wide, back if part is None else back * part)
        return sums.worst, sums.whole

    def _stored(self, data: Constant, scale: Array | None) -> Constant:
        """In memory, or for weights of a file computed as they are written."""
        if isinstance(data, (FileConstant, RowsConstant)):
            return LazyConstant(lambda: self.narrowed(data.numpy(), scale), self.storage(), data.shape)
        return ArrayConstant(self.narrowed(data.numpy(), scale), self.storage())


def row_pieces(data: Constant) -> Iterator[tuple[int, Array]]:
    """Rows of a tensor with axes, about ``CHUNK_BYTES`` at a time, each piece with the number of its first row."""
    rows = data.shape[0]
    step = max(1, CHUNK_BYTES * rows // max(1, data.nbytes))
    for start in range(0, rows, step):
        yield start, data.rows(start, min(start + step, rows))


class ErrorSums:
    """Squared errors and squares of a tensor, for each slice along an axis, added up by pieces of rows."""

    def __init__(self, rank: int) -> None:
        self.sums: list[list[list[Array]]] = [[[], []] for _ in range(rank)]
        """For each axis pieces of the noise and of the signal; for all but the first they are added up."""

    def add(self, wide: Array, narrow: Array) -> None:
        """The next rows, and what becomes of them."""
        finite = np.isfinite(wide)
        signal = np.where(finite, wide, 0.0).astype(np.float64)
        noise = np.where(finite, narrow, 0.0).astype(np.float64) - signal
        squares = (noise * noise, signal * signal)
        for axis, both in enumerate(self.sums):
            others = tuple(i for i in range(wide.ndim) if i != axis)
            for pieces, square in zip(both, squares, strict=True):
                found = square.sum(axis=others)
                if axis == 0 or not pieces:
                    pieces.append(found)
                else:
                    pieces[0] = pieces[0] + found

    @property
    def whole(self) -> float:
        """Root mean square error over root mean square."""
        if not self.sums:
            return 0.0
        noise, signal = (sum(float(p.sum()) for p in pieces) for pieces in self.sums[0])
        return _ratio(noise, signal)

    @property
    def worst(self) -> float:
        """The largest of all slices along one axis, and of the whole."""
        found = [_ratio(*(np.concatenate([*pieces, np.zeros(0)]) for pieces in both)) for both in self.sums]
        return max([self.whole, *found])


def relative_errors(wide: Array, narrow: Array) -> tuple[float, float]:
    """Root mean square error over root mean square: the largest of all slices along one axis, and of the whole."""
    sums = ErrorSums(max(1, wide.ndim))
    sums.add(np.atleast_1d(wide), np.atleast_1d(narrow))
    return sums.worst, sums.whole


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


def _ratio(noise: Any, signal: Any) -> float:
    return float(np.max(np.sqrt(noise / np.where(signal > 0, signal, 1.0)), initial=0.0))
