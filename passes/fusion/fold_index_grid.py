"""Replace a lookup at every position, in order, by the tensor itself.

    GatherND(x, [i, j] for all i and j)[i, 1, 1, j] = x[i, j]  =  Unsqueeze(x, [1, 2])

The indices are ranges from zero to the extents of x, each along an axis of its own. The same in one axis:

    Gather(flatten(x), i n + j for all i and j < n)[i, 1, 1, j] = x[i, j]

**Why** PyTorch's exporters write padding masks like this, in a dozen nodes.
**Needs** an index for every axis of x; ranges with start 0 and step 1 whose lengths are proven to be the extents; no
other extent in the result.
**Leaves** ranges over a part, results that repeat x, ``batch_dims``.
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.dims import Dim, same_dim
from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.matcher import scalar_value
from ..shared.emit import unsqueeze
from ..shared.operands import int_list, normalized, producer_of
from ..shared.ranges import counted


@dataclass
class FoldIndexGrid(RewritePass):
    """See the module."""

    def rules(self) -> Iterable[NodeRule]:
        yield WholeGrid()
        yield FlatGrid()


class WholeGrid(NodeRule):
    """GatherND at all positions."""

    roots = ("GatherND",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        x, joined = node.inputs[0], producer_of(node, 1, "Concat")
        shape, out = x.shape if x is not None else None, node.output.shape
        if x is None or shape is None or out is None or joined is None or node.attr("batch_dims", 0):
            raise NoMatch("the indices are not joined from one for each axis, or a shape is unknown")
        rank = joined.output.rank
        if len(joined.inputs) != len(shape) or joined.attr("axis", 0) not in (-1, None if rank is None else rank - 1):
            raise NoMatch(f"{len(joined.inputs)} indices for {len(shape)} axes")
        places = [_place(v, d) for v, d in zip(joined.inputs, shape, strict=True)]
        if len(set(places)) != len(places):
            raise NoMatch("two indices run along one axis")
        if any(d != 1 for axis, d in enumerate(out) if axis not in places):
            raise NoMatch(f"the result {node.output.type} repeats elements")
        order = sorted(range(len(places)), key=places.__getitem__)
        if order != list(range(len(order))):
            x = r.Transpose(x, perm=tuple(order))
        axes = [axis for axis in range(len(out)) if axis not in places]
        return unsqueeze(r, x, axes) if axes else x


class FlatGrid(NodeRule):
    """Gather at all positions of a matrix that was made one axis."""

    roots = ("Gather",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        flat, total = producer_of(node, 0, "Flatten", "Reshape"), producer_of(node, 1, "Add")
        x = flat.inputs[0] if flat is not None else None
        if flat is None or x is None or x.shape is None or len(x.shape) != 2 or total is None or node.attr("axis", 0):
            raise NoMatch("no rows of a flattened matrix are looked up by a sum")
        rest = (flat.output.shape or (None,))[1:]
        if any(d != 1 for d in rest) or flat.output.rank not in (1, 2) or total.output.rank is None:
            raise NoMatch(f"the matrix became {flat.output.type}")
        row, column = _rows_and_columns(total, x.shape[1])
        rank = total.output.rank
        places = [_axis_of(row, x.shape[0]) + rank, _axis_of(column, x.shape[1]) + rank]
        out = total.output.shape
        if places[0] == places[1] or out is None or any(d != 1 for a, d in enumerate(out) if a not in places):
            raise NoMatch("the indices run along one axis, or repeat")
        if places[0] > places[1]:
            x = r.Transpose(x, perm=(1, 0))
        axes = [a for a in range(rank + len(rest)) if a not in places]
        return unsqueeze(r, x, axes) if axes else x


def _rows_and_columns(total: Node, extent: Dim) -> tuple[Value, Value]:
    """Of ``row * extent + column`` both. Raises :class:`NoMatch`."""
    for column, scaled in ((total.inputs[0], total.inputs[1]), (total.inputs[1], total.inputs[0])):
        mul = scaled.producer if scaled is not None else None
        if column is None or mul is None or mul.op != "Mul" or mul.domain:
            continue
        for row, n in ((mul.inputs[0], mul.inputs[1]), (mul.inputs[1], mul.inputs[0])):
            if row is not None and n is not None and n.known and len(n.known) == 1 and same_dim(n.known[0], extent):
                return row, column
    raise NoMatch(f"the index is no sum of a row times {extent} and a column")


def _axis_of(v: Value, extent: Dim) -> int:
    """Along which axis (from the right) ``v`` counts from 0 to ``extent``. Raises :class:`NoMatch`."""
    node = counted(v)
    if node is None or v.shape is None:
        raise NoMatch("an index is not a range put along an axis")
    own = [a - len(v.shape) for a, d in enumerate(v.shape) if d != 1]
    if scalar_value(node.inputs[0], node) != 0 or scalar_value(node.inputs[2], node) != 1:
        raise NoMatch("a range does not count from 0 in steps of 1")
    length = (node.output.shape or (None,))[0]
    if len(own) != 1 or not same_dim(v.shape[own[0]], extent) or not same_dim(length, extent):
        raise NoMatch(f"a range has length {length}, the axis {extent}")
    return own[0]


def _place(v: Value | None, extent: object) -> int:
    """Along which axis of the result the index ``v`` (with a last axis of its own) counts from 0 to ``extent``."""
    outer = v.producer if v is not None else None
    if v is None or outer is None or outer.op not in ("Unsqueeze", "Reshape") or v.rank is None:
        raise NoMatch("an index has no axis of its own")
    inner = outer.inputs[0]
    rank = v.rank - 1
    if inner is None or inner.rank != rank or v.shape is None or v.shape[-1] != 1:
        raise NoMatch("an index has no axis of its own")
    wide = inner.producer
    if wide is not None and wide.op == "Expand" and not wide.domain:
        inner = wide.inputs[0]
    placed = inner.producer if inner is not None else None
    if placed is None or placed.op != "Unsqueeze" or placed.domain or placed.output.rank is None:
        raise NoMatch("an index is not a range put along an axis")
    given = int_list(placed, "axes", 1)
    axes = normalized(given, placed.output.rank) if given is not None else None
    counted = producer_of(placed, 0, "Range")
    if axes is None or counted is None or len(axes) != placed.output.rank - 1:
        raise NoMatch("an index is not a range put along an axis")
    if scalar_value(counted.inputs[0], counted) != 0 or scalar_value(counted.inputs[2], counted) != 1:
        raise NoMatch("a range does not count from 0 in steps of 1")
    length = counted.output.shape
    if length is None or not same_dim(length[0], extent):  # type: ignore[arg-type]
        raise NoMatch(f"a range has length {length}, the axis {extent}")
    own = next(a for a in range(placed.output.rank) if a not in axes)
    return own + rank - placed.output.rank
