"""merge-reshapes: ``reshape(reshape(x)) = reshape(x)``, for Reshape, Flatten, Squeeze and Unsqueeze.

None of them moves an element, so in a chain only the last shape counts. Squeeze after Unsqueeze of the same
axes cancels; two Unsqueeze or two Squeeze become one; every other pair becomes one Reshape whose constant
target is made of integers, 0 (copy) and -1 (what is left over).

**Why**    each is a kernel call, and hides what lies behind from other passes.
**Needs**  that the final shape can be written as a constant target, or that the last is a Reshape whose
           target does not copy.
**Leaves** shapes with several unknown extents that are not copies; ``allowzero=1``; before opset 5 all but
           static targets.
**Numbers** exact.
**Source** ONNX Reshape-5 to 25, Squeeze and Unsqueeze 1 to 25, Flatten 1 to 25.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch, Replacement
from ..shared.operands import constant_of, has_list, int_list, int_operand, normalized, producer_of
from ..shared.targets import emit_reshape, reshape_target

_OPS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass
class MergeReshapes(RewritePass):
    """Shortens chains of shape changes to their last shape."""

    def rules(self) -> Iterable[NodeRule]:
        return [AxesOfAxes(), LastShape()]


def source_of(inner: Node) -> Value:
    """What the inner node reshapes."""
    x = inner.inputs[0]
    if x is None:
        raise NoMatch("the inner node has no operand")
    return x


def axes_of(node: Node, rank: int | None) -> list[int]:
    """The axes of a Squeeze (of its operand) or an Unsqueeze (of its result), counted from the front."""
    given = int_list(node, "axes", 1) if has_list(node, "axes", 1) else None
    if given is None or rank is None:
        raise NoMatch("the axes are not constant, or the rank is unknown")
    axes = normalized(given, rank)
    if axes is None:
        raise NoMatch("an axis is out of range or comes twice")
    return sorted(axes)


class AxesOfAxes(NodeRule):
    """Two of Squeeze and Unsqueeze."""

    roots = ("Squeeze", "Unsqueeze")

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Squeeze", "Unsqueeze") is not None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        inner = producer_of(node, 0, "Squeeze", "Unsqueeze")
        if inner is None:
            raise NoMatch("the operand is not computed by Squeeze or Unsqueeze")
        x, middle = source_of(inner), inner.output.rank
        wide = node.op == "Unsqueeze"
        outer_axes = axes_of(node, node.output.rank if wide else middle)
        inner_axes = axes_of(inner, middle if inner.op == "Unsqueeze" else x.rank)
        if inner.op != node.op:
            if outer_axes == inner_axes:
                return x
            raise NoMatch(f"{inner.op} of axes {inner_axes}, then {node.op} of axes {outer_axes}")
        if wide:  # the inner axes are positions among those that the outer one does not insert
            kept = [a for a in range(len(outer_axes) + (middle or 0)) if a not in outer_axes]
            axes = sorted(outer_axes + [kept[a] for a in inner_axes])
        else:
            kept = [a for a in range(x.rank or 0) if a not in inner_axes]
            axes = sorted(inner_axes + [kept[a] for a in outer_axes])
        if node.version < 13:
            return r.op(node.op, x, axes=tuple(axes))
        return r.op(node.op, x, constant_of(axes))


class LastShape(NodeRule):
    """Any two, as one Reshape."""

    roots = _OPS

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, *_OPS) is not None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        inner = producer_of(node, 0, *_OPS)
        if inner is None:
            raise NoMatch("the operand is not computed by Reshape, Flatten, Squeeze or Unsqueeze")
        x = source_of(inner)
        if self._own_target(node) is not None:
            return r.Reshape(x, node.inputs[1])
        shape = node.output.shape
        if shape is None:
            raise NoMatch("the rank of the result is unknown")
        target = reshape_target(x.shape, shape, nonempty=self._fails_when_empty(node))
        if target is None or (node.version < 5 and min(target, default=1) < 1):
            raise NoMatch(f"no constant target says {node.output.type} for an operand {x.type}")
        return emit_reshape(r, x, target, node)

    def _fails_when_empty(self, node: Node) -> bool:
        """Whether the node has 0 and -1 together already."""
        target = int_operand(node, 1) if node.op == "Reshape" and node.version >= 5 else None
        return target is not None and 0 in target and -1 in target

    def _own_target(self, node: Node) -> list[int] | None:
        """The target of a Reshape that does not look at its operand's extents."""
        if node.op != "Reshape" or node.version < 5:
            return None
        target = int_operand(node, 1)
        if target is None:
            return None
        return None if 0 in target else target
