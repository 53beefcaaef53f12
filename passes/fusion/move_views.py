"""Move axes of extent 1 so that the views around them meet and vanish.

    unsqueeze(pad(unsqueeze(x)))      = pad(x')           the views undo each other
    reshape(slice(reshape(x)))        = slice(reshape(x)) the lower one joins the upper one
    reshape(transpose(x))             = transpose(x)      the Transpose moves the 1 itself
    transpose(relu(squeeze(x)))       = transpose(squeeze(relu(x)))

A view here is a Reshape, Squeeze, Unsqueeze or Flatten; Slice, Pad and functions of single elements treat a tensor
with and without axes of extent 1 alike.

**Why** exporters that compute over one spatial axis by operators for two put such views around every operator: a
kernel call each, which is most of the time of small models. Basic Pitch loses a third of its nodes.
**Needs** shapes that are known but for symbols; a Slice or Pad whose axes and amounts are constant.
**Leaves** views that change more than axes of extent 1 where that matters; inner values with other users.
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Node, Value
from ...ir.ops import UNARY
from ..core import RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..shared.emit import again
from ..shared.operands import int_operand, perm_of, producer_of
from ..shared.targets import emit_reshape, reshape_target
from ..shared.unit_axes import VIEWS, Axes, unit_map, view_map

_FUNCTIONS = tuple(op for _, op in UNARY)


@dataclass
class MoveViews(RewritePass):
    """See the module."""

    def rules(self) -> Iterable[NodeRule]:
        return [TransposeOfUnits(), ViewThrough(), ViewBelowFunction()]


class TransposeOfUnits(NodeRule):
    """A Transpose and a view of axes of extent 1, in either order: one of them is enough."""

    roots = ("Transpose", *VIEWS)

    def promising(self, node: Node) -> bool:
        return _upper(node) is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        upper = _upper(node)
        x = upper.inputs[0] if upper is not None else None
        if upper is None or x is None or x.shape is None or node.output.shape is None:
            raise NoMatch("no pair of a Transpose and a view of known shapes")
        if upper.output.sole_user is not node:
            raise NoMatch(f"%{upper.output.name} has another user")
        above, below = _axes(upper), _axes(node)
        axes: Axes = [None if a is None else above[a] for a in below]
        moved = [a for a in axes if a is not None and x.shape[a] != 1]
        r.begin(node, origin_of([upper, node]))
        if moved == sorted(moved):
            return _view(r, x, node)
        if len(axes) != len(x.shape):
            raise NoMatch(f"rank {len(x.shape)} becomes {len(axes)}")
        units = iter([a for a, d in enumerate(x.shape) if d == 1])
        return r.Transpose(x, perm=tuple(a if a is not None and x.shape[a] != 1 else next(units) for a in axes))


def _upper(node: Node) -> Node | None:
    return producer_of(node, 0, *(VIEWS if node.op == "Transpose" else ("Transpose",)))


def _axes(node: Node) -> Axes:
    if node.op != "Transpose":
        return view_map(node)
    perm = perm_of(node)
    if perm is None:
        raise NoMatch("the rank is unknown")
    return list(perm)


class ViewThrough(NodeRule):
    """View, then Slice, Pad or a function, then a view of axes of extent 1."""

    roots = VIEWS

    def promising(self, node: Node) -> bool:
        middle = _middle(node)
        return middle is not None and producer_of(middle, 0, *VIEWS) is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        middle = _middle(node)
        first = producer_of(middle, 0, *VIEWS) if middle is not None else None
        if middle is None or first is None or middle.graph is not node.graph:
            raise NoMatch("no Slice, Pad or function between two views")
        if middle.output.sole_user is not node:
            raise NoMatch(f"%{middle.output.name} has another user")
        below = view_map(node)
        r.begin(node, origin_of([first, middle, node]))
        x = first.inputs[0]
        try:
            kept = _undone(first, node, below)
        except NoMatch:
            kept = None
        if x is not None and kept is not None:
            return _through(r, middle, x, kept)
        inner = first.output
        if inner.sole_user is not middle or inner.shape is None:
            raise NoMatch(f"%{inner.name} has another user, or an unknown shape")
        wanted = [1 if a is None else inner.shape[a] for a in below]
        unit_map(inner.shape, wanted)
        return _through(r, middle, _reshaped(r, inner, wanted, node), {a: i for i, a in enumerate(below)})


def _middle(node: Node) -> Node | None:
    return producer_of(node, 0, "Slice", "Pad", *_FUNCTIONS)


def _undone(first: Node, last: Node, below: Axes) -> dict[int | None, int] | None:
    """The axes between the two views as axes of the first one's operand, where the last one undoes the first."""
    x = first.inputs[0]
    above = view_map(first)
    if x is None or x.shape is None or len(below) != len(x.shape):
        return None
    whole = [None if a is None else above[a] for a in below]
    same = all(a == i or (a is None and x.shape[i] == 1) for i, a in enumerate(whole))
    return {i: a for i, a in enumerate(above) if a is not None} if same else None


def _through(r: Rewriter, node: Node, x: Value, axes: dict[int | None, int]) -> Value:
    """``node`` on ``x``, whose axes are those of its operand as ``axes`` says (axes of extent 1 left out)."""
    if node.op == "Slice":
        given, rank = int_operand(node, 3), node.output.rank
        if node.version < 10 or given is None or rank is None:
            raise NoMatch("Slice without constant axes")
        return again(
            r, node, x, *node.inputs[1:3], r.const(_ints([_at(axes, a % rank) for a in given])), *node.inputs[4:]
        )
    if node.op == "Pad":
        pads, rank = int_operand(node, 1), node.output.rank
        if node.version < 11 or pads is None or node.input(3) is not None or rank is None or x.rank is None:
            raise NoMatch("Pad without constant amounts for all axes")
        moved = [0] * (2 * x.rank)
        for i, amount in enumerate(pads):
            if amount:
                moved[_at(axes, i % rank) + (x.rank if i >= rank else 0)] = amount
        return again(r, node, x, r.const(_ints(moved)), *node.inputs[2:])
    return again(r, node, x, *node.inputs[1:])


def _at(axes: dict[int | None, int], axis: int) -> int:
    if axis not in axes:
        raise NoMatch(f"axis {axis} of extent 1 is padded or cut")
    return axes[axis]


class ViewBelowFunction(NodeRule):
    """A function between a view and a Transpose, which then meet."""

    roots = ("Transpose",)

    def promising(self, node: Node) -> bool:
        middle = producer_of(node, 0, *_FUNCTIONS)
        return middle is not None and producer_of(middle, 0, *VIEWS) is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        middle = producer_of(node, 0, *_FUNCTIONS)
        first = producer_of(middle, 0, *VIEWS) if middle is not None else None
        x = first.inputs[0] if first is not None else None
        if middle is None or first is None or x is None or middle.graph is not node.graph:
            raise NoMatch("no function between a view and a Transpose")
        if middle.output.sole_user is not node or first.output.sole_user is not middle:
            raise NoMatch("an inner value has another user")
        if producer_of(first, 0, *VIEWS) is not None:  # ViewThrough would bring them together again, without an end
            raise NoMatch("two views meet there already")
        view_map(first)
        r.begin(node, origin_of([first, middle, node]))
        return again(r, node, again(r, first, again(r, middle, x, *middle.inputs[1:]), *first.inputs[1:]))


def _view(r: Rewriter, x: Value, node: Node) -> Value:
    assert node.output.shape is not None
    return _reshaped(r, x, node.output.shape, node)


def _reshaped(r: Rewriter, x: Value, wanted: Sequence[Dim], like: Node) -> Value:
    target = reshape_target(x.shape, wanted, nonempty=False)
    if target is None:
        raise NoMatch("a Reshape remains whose target cannot be constant")
    return emit_reshape(r, x, target, like)


def _ints(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)
