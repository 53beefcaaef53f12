"""Replace a lookup at every position, in order, by the tensor itself.

    GatherND(x, [i, j] for all i and j)[i, 1, 1, j] = x[i, j]  =  Unsqueeze(x, [1, 2])

The indices are ranges from zero to the extents of x, each along an axis of its own.

**Why** PyTorch's second exporter writes padding masks like this, in a dozen nodes.
**Needs** an index for every axis of x; ranges with start 0 and step 1 whose lengths are proven to be the extents; no
other extent in the result.
**Leaves** ranges over a part, results that repeat x, ``batch_dims``.
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.dims import same_dim
from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.matcher import scalar_value
from ..shared.emit import unsqueeze
from ..shared.operands import int_list, normalized, producer_of


@dataclass
class FoldIndexGrid(RewritePass):
    """See the module."""

    def rules(self) -> Iterable[NodeRule]:
        yield WholeGrid()


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
