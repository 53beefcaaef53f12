"""merge-slices: two Slices in a row become one.

On different axes the lists are joined. On the same axis with step 1 and non-negative bounds,
``x[a:b][c:d] = x[a+c : min(b, a+d)]``.

**Why**    a crop written axis by axis copies the tensor once per axis.
**Needs**  constant starts, ends, axes and steps of both.
**Leaves** the same axis with a step other than 1, or with bounds from the end of an axis of unknown extent;
           an inner Slice that others use.
**Numbers** exact.
**Source** ONNX Slice, versions 1 to 13.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.graph import Node
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch, Replacement
from ..shared.operands import constant_of, has_list, int_list, int_operand, producer_of

_TOP = (1 << 63) - 1


@dataclass
class MergeSlices(RewritePass):
    """Composes chains of Slice."""

    def rules(self) -> Iterable[NodeRule]:
        return [SliceOfSlice()]


@dataclass
class Cut:
    """What a Slice does to one axis."""

    start: int
    end: int
    step: int


class SliceOfSlice(NodeRule):
    """Composes axis by axis."""

    roots = ("Slice",)

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Slice") is not None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        inner = producer_of(node, 0, "Slice")
        if inner is None:
            raise NoMatch("the operand is not computed by Slice")
        if inner.output.sole_user is not node:
            raise NoMatch(f"%{inner.output.name} has another user")
        x = inner.inputs[0]
        rank = x.rank if x is not None else None
        if x is None or rank is None:
            raise NoMatch("the rank is unknown")
        cuts, outer = cuts_of(inner, rank), cuts_of(node, rank)
        for axis, cut in outer.items():
            cuts[axis] = composed(cuts[axis], cut, axis) if axis in cuts else cut
        return emit_slice(r, x, cuts, node)


def cuts_of(node: Node, rank: int) -> dict[int, Cut]:
    """What the Slice does, by axis counted from the front."""
    starts, ends = int_list(node, "starts", 1), int_list(node, "ends", 2)
    if starts is None or ends is None:
        raise NoMatch("starts or ends are not constant")
    axes = int_list(node, "axes", 3) if has_list(node, "axes", 3) else list(range(len(starts)))
    steps = int_operand(node, 4) if node.input(4) is not None else [1] * len(starts)
    if axes is None or steps is None:
        raise NoMatch("axes or steps are not constant")
    cuts = {a % rank: Cut(*c) for a, *c in zip(axes, starts, ends, steps, strict=True) if -rank <= a < rank}
    if len(cuts) != len(starts):
        raise NoMatch("an axis is out of range or comes twice")
    return cuts


def composed(inner: Cut, outer: Cut, axis: int) -> Cut:
    """``x[inner][outer]`` as one cut."""
    if inner.step != 1 or outer.step != 1:
        raise NoMatch(f"axis {axis} is sliced twice with a step other than 1")
    if min(inner.start, inner.end, outer.start, outer.end) < 0:
        raise NoMatch(f"axis {axis} is sliced twice with a bound from its end")
    return Cut(min(inner.start + outer.start, _TOP), min(inner.end, inner.start + outer.end), 1)


def emit_slice(r: Rewriter, x: object, cuts: dict[int, Cut], like: Node) -> Replacement:
    """A Slice in the form of the model's opset."""
    axes = sorted(cuts)
    starts, ends = [cuts[a].start for a in axes], [cuts[a].end for a in axes]
    if like.version < 10:
        return r.Slice(x, starts=tuple(starts), ends=tuple(ends), axes=tuple(axes))
    steps = [cuts[a].step for a in axes]
    operands = [constant_of(starts), constant_of(ends), constant_of(axes)]
    if any(step != 1 for step in steps):
        operands.append(constant_of(steps))
    return r.Slice(x, *operands)
