"""Replace the product of a one-hot encoding and a constant matrix by a lookup of the matrix' rows.

    MatMul(Cast(Equal(Unsqueeze(x), [a, a+1, ..., a+n-1])), w)[i] = w[x[i] - a]    0 where x[i] is not among them
    MatMul(OneHot(x, n, [off, on]), w)[i]                         = off sum(w) + (on - off) w[x[i]]

A number without a row gives zeros; clamped to [-1, n] it finds the row of zeros that the table ends with, because
Gather counts negative indices from the end.

**Why** the encoding is n times as large as what it encodes, and nearly every product is with zero: 10 % of the file
type detector Magika.
**Needs** a constant finite matrix of rank 2; consecutive integers along the last axis; int32 or int64 numbers;
opset 12.
**Leaves** encodings along other axes, classes that are not consecutive, matrices with infinities or NaN,
which a product with zero spreads. An encoding that others use too stays for them.
**Numbers** exact, except that -0.0 in the matrix may become 0.0. OneHot with other values than 0 and 1: reassociates.
**Source** Gather-13, OneHot-11.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.emit import squeeze
from ..shared.operands import producer_of

_INDEX = (DType.I32, DType.I64)
_FLOATS = (DType.F32, DType.F64, DType.F16, DType.BF16)
_MAX_TABLE_BYTES = 64 << 20
_OPSET = 12
"""Clip of integers."""


@dataclass
class FoldOnehot(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield EqualTimesMatrix()
        yield OneHotTimesMatrix()


class EqualTimesMatrix(NodeRule):
    """Comparison with consecutive integers, cast, times a matrix."""

    roots = ("MatMul",)

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Cast") is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        equal = producer_of(_require(producer_of(node, 0, "Cast"), "the first factor is not a Cast"), 0, "Equal")
        equal = _require(equal, "the first factor is not the cast of a comparison")
        x, first, count = _classes(equal)
        table = _table(node, count)
        if r.opset() < _OPSET:
            raise NoMatch(f"clamping integers needs opset {_OPSET}, the model imports {r.opset()}")
        table = np.concatenate([table, np.zeros((1, table.shape[1]), table.dtype)])
        index = squeeze(r, x, [-1])
        dtype = index.dtype
        if first:
            index = r.Sub(index, r.const(first, dtype))
        index = r.Clip(index, r.const(-1, dtype), r.const(count, dtype))
        return r.Gather(r.const(table), index, axis=0)


class OneHotTimesMatrix(NodeRule):
    """OneHot along the last axis, times a matrix."""

    roots = ("MatMul",)

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Cast", "OneHot") is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        cast = producer_of(node, 0, "Cast")
        hot = _require(producer_of(cast or node, 0, "OneHot"), "the first factor is not a one-hot encoding")
        index, depth, values = hot.inputs
        if index is None or depth is None or values is None or depth.data is None or values.data is None:
            raise NoMatch("depth or values of OneHot are not constant")
        rank = hot.output.rank
        if rank is None or hot.attr("axis", -1) not in (-1, rank - 1):
            raise NoMatch(f"OneHot has axis {hot.attr('axis', -1)} of rank {rank}, wanted the last one")
        if index.dtype not in _INDEX or r.opset() < _OPSET:
            raise NoMatch(f"indices of type {index.dtype!r} at opset {r.opset()}, wanted int32 or int64 and {_OPSET}")
        count = int(depth.numpy().reshape(-1)[0])
        off, on = (float(v) for v in values.numpy())
        table = _table(node, count)
        base = off * table.astype(np.float64).sum(axis=0, keepdims=True)
        full = np.concatenate([base + (on - off) * table, base]).astype(table.dtype)
        # Like Gather, OneHot counts from the end where a number is negative; the row for all others is the last.
        low, high = r.const(-count, index.dtype), r.const(count, index.dtype)
        inside = r.And(r.GreaterOrEqual(index, low), r.Less(index, high))
        return r.Gather(r.const(full), r.Where(inside, r.Mod(index, high), high), axis=0)


def _require(node: Node | None, otherwise: str) -> Node:
    if node is None:
        raise NoMatch(otherwise)
    return node


def _classes(equal: Node) -> tuple[Value, int, int]:
    """What is compared, of shape ``[..., 1]``; the first class; how many."""
    for x, classes in (equal.inputs, reversed(equal.inputs)):
        if x is None or classes is None or classes.data is None or x.data is not None:
            continue
        if x.dtype not in _INDEX or not x.shape or x.shape[-1] != 1:
            raise NoMatch(f"the numbers are {x.type}, wanted int32 or int64 with a last axis of extent 1")
        shape = classes.data.shape
        if len(shape) > len(x.shape) or any(d != 1 for d in shape[:-1]):
            raise NoMatch(f"the classes have shape {list(shape)}, wanted one axis")
        row: list[int] = classes.numpy().reshape(-1).tolist()
        if not row or row != list(range(row[0], row[0] + len(row))):
            raise NoMatch("the classes are not consecutive integers")
        return x, row[0], len(row)
    raise NoMatch("neither side of the comparison is constant")


def _table(product: Node, rows: int) -> np.ndarray[Any, Any]:
    """The constant factor."""
    matrix = product.inputs[1]
    data = matrix.data if matrix is not None else None
    if data is None or data.dtype not in _FLOATS or len(data.shape) != 2:
        raise NoMatch("the second factor is not a constant matrix of floats")
    if data.shape[0] != rows:
        raise NoMatch(f"the matrix has {data.shape[0]} rows for {rows} classes")
    if data.nbytes > _MAX_TABLE_BYTES:
        raise NoMatch(f"the matrix takes {data.nbytes} bytes, the limit is {_MAX_TABLE_BYTES}")
    array = data.numpy()
    if not np.isfinite(array.astype(np.float64)).all():
        raise NoMatch("the matrix holds infinities or NaN, which a product with zero would spread")
    return array
