"""Compute on the rows of a constant table once, instead of on what was looked up.

    f(Gather(t, i), c)          = Gather(f(t, c), i)          f elementwise, c constant and the same for every row
    f(Gather(t, i), Gather(u, i)) = Gather(f(t, u), i)
    MatMul(Gather(t, i), w)     = Gather(t w, i)
    Gather(t, Slice(c))         = Slice(Gather(t, c))         c constant: positions, of which some are taken

An activation of a finite set of inputs (bytes, pieces of text, quantized levels) thereby becomes a table.

**Why** the work is done when the model is prepared. In the file type detector Magika the first layer and its Gelu are
a table of 257 rows for 2,048 bytes.
**Needs** tables looked up by rows (axis 0) with one and the same index; a table of results within
``max_constant_bytes``, or no larger than the one it replaces.
**Leaves** constants that differ along the index, operators without a kernel here, what goes into a reduction
(squares of a normalization that another pass fuses).
**Numbers** reassociates: functions are computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.constants import ArrayConstant, Constant
from ...ir.graph import Node, Value
from ...ir.ops import ELEMENTWISE
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.emit import again
from ..shared.evaluate import evaluate, has_kernel
from ..shared.kernels import NoKernel
from ..shared.operands import int_operand, normalized, producer_of

_MAX_WORK = 1 << 26


@dataclass
class FoldGather(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield OfLookedUp()
        yield BySlice()


class OfLookedUp(NodeRule):
    """An operator of constants and of values looked up with one index."""

    roots = (*sorted(op for _, op in ELEMENTWISE), "MatMul")

    def promising(self, node: Node) -> bool:
        return any(_lookup_of(v) is not None for v in node.inputs)

    def apply(self, r: Rewriter, node: Node) -> Value:
        lookup = _lookup(node)
        if any(user.op.startswith("Reduce") for user, _ in node.output.uses):
            raise NoMatch("a reduction follows: a normalization is worth more whole")
        index, rows, rest = lookup.inputs[1], _table(lookup).shape[0], _table(lookup).shape[1:]
        if index is None or index.rank is None:
            raise NoMatch("the rank of the index is unknown")
        if not has_kernel(node) or len(node.outputs) != 1:
            raise NoMatch(f"{node.op} cannot be computed ahead of time")
        rank = index.rank + len(rest)
        operands = [v if v is None else _per_row(r, node, k, v, lookup, rank) for k, v in enumerate(node.inputs)]
        limit = max(r.ctx.max_constant_bytes, _freed(lookup, node))
        table = _computed(r, node, operands, rows, limit)
        return r.Gather(r.const(table), index, axis=0)


class BySlice(NodeRule):
    """A lookup by part of a constant."""

    roots = ("Gather",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        part = producer_of(node, 1, "Slice")
        index = part.inputs[0] if part is not None else None
        if _lookup_of(node.output) is None or part is None or index is None or index.data is None:
            raise NoMatch("no rows of a constant table are looked up by a slice of a constant")
        given = int_operand(part, 3)
        axes = normalized(given, index.rank or 0) if given is not None else None
        if part.version < 10 or (part.input(3) is not None and axes is None):
            raise NoMatch("the sliced axes are not constant, or attributes")
        table, at = _table(node), index.numpy()
        size, limit = (
            table.nbytes // max(table.shape[0], 1) * at.size,
            max(r.ctx.max_constant_bytes, _freed(node, node)),
        )
        if size > limit:
            raise NoMatch(f"the looked-up rows take {size} bytes, limit {limit}")
        if not table.shape[0] or at.size == 0 or at.min() < -table.shape[0] or at.max() >= table.shape[0]:
            raise NoMatch(f"an index lies outside of the table of {table.shape[0]} rows")
        rows = r.const(ArrayConstant(table.numpy()[at], table.dtype), name=node.output.name)
        operands = list(part.inputs[1:])
        if axes is not None:
            operands[2] = r.const(np.array(axes, np.int64))
        return r.Slice(rows, *operands)


def _lookup(node: Node) -> Node:
    """The first operand that is looked up by rows in a constant table."""
    for v in node.inputs:
        found = _lookup_of(v)
        if found is not None:
            return found
    raise NoMatch("no operand is looked up in a constant table by rows")


def _lookup_of(v: Value | None) -> Node | None:
    """The node that looks ``v`` up in a constant table by rows."""
    node = v.producer if v is not None else None
    if node is None or node.domain or node.op != "Gather" or node.attr("axis", 0) != 0:
        return None
    table = node.inputs[0]
    return node if table is not None and table.data is not None and len(table.data.shape) >= 1 else None


def _table(lookup: Node) -> Constant:
    table = lookup.inputs[0]
    data = table.data if table is not None else None
    assert data is not None
    return data


def _per_row(r: Rewriter, node: Node, k: int, v: Value, lookup: Node, rank: int) -> Value:
    """What stands for operand ``k`` when the operator runs on the table: a table, or the constant itself."""
    rest = _table(lookup).shape[1:]
    other = _lookup_of(v)
    if other is not None:
        if other.inputs[1] is not lookup.inputs[1] or _table(other).shape != _table(lookup).shape:
            raise NoMatch(f"%{v.name} is looked up with another index, or in a table of other shape")
        if node.op == "MatMul" and k:
            raise NoMatch("a product of two looked-up values sums over their rows")
        table = other.inputs[0]
        assert table is not None
        return table
    if v.data is None:
        raise NoMatch(f"%{v.name} is neither constant nor looked up")
    shape = v.data.shape
    if node.op == "MatMul":
        if k == 0 or len(shape) != 2 or not rest:
            raise NoMatch(f"a product with a constant of shape {list(shape)}")
        return v
    while shape and shape[0] == 1 and len(shape) > len(rest):
        shape = shape[1:]
    if len(shape) > len(rest) or len(v.data.shape) > rank:
        raise NoMatch(f"constant %{v.name} of shape {list(v.data.shape)} differs along the index")
    if any(c not in (1, d) for c, d in zip(reversed(shape), reversed(rest), strict=False)):
        raise NoMatch(f"constant %{v.name} of shape {list(v.data.shape)} widens the rows {list(rest)}")
    return v if shape == v.data.shape else r.const(v.numpy().reshape(shape))


def _freed(lookup: Node, node: Node) -> int:
    """Bytes of the table where nothing else uses it."""
    table = lookup.inputs[0]
    alone = table is not None and len(table.uses) == 1 and all(user is node for user, _ in lookup.output.uses)
    return _table(lookup).nbytes if alone else 0


def _computed(r: Rewriter, node: Node, operands: list[Value | None], rows: int, limit: int) -> Constant:
    """The results of ``node`` on the operands."""
    trial = again(r, node, *operands).producer
    try:
        table = evaluate(trial, max_bytes=limit, max_work=_MAX_WORK)[0]
    except NoKernel as error:
        raise NoMatch(str(error)) from error
    if not table.shape or table.shape[0] != rows:
        raise NoMatch(f"{node.op} of the table has shape {list(table.shape)}, expected {rows} rows")
    array = table.numpy()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NoMatch("a row holds infinities or NaN")
    r.erase(trial)
    return table
