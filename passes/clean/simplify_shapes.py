"""simplify-shapes: shapes computed at run time become constants where inference proves them.

Inference follows the elements of shape arithmetic as polynomials of the inputs' extents. A Reshape whose
target is ``[N, H*W]`` for an operand of shape ``[N, H, W]`` needs no arithmetic: ``[0, -1]`` says the same. An
Expand target that equals the operand's extent may say 1, a Slice end that equals the extent may be "the
end". Extents of a computed tensor that are an input's are read there. What computed the operand goes when nothing else
needs it.

**Why**    the Shape, Gather, Mul, Concat around every Reshape of an exported model cost more calls than the
           layers in between, and a target that is not constant stops most other passes and runtimes.
**Needs**  elements that are known as integers or as extents of the operand; at most one that is neither.
**Leaves** targets with two extents that must be computed; those that need 0 and -1 together, which ONNX Runtime
           refuses where the copied extent is 0, unless the model's own target has its -1 in the same place and is
           refused as well. ``empty-tensors=false`` takes these too (0 to 7 nodes fewer in models with open
           batch and image sizes, and no difference in time that could be measured).
**Numbers** exact.
**Source** ONNX Reshape-5 to 25, Expand-8, Slice-10.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...ir.dims import Dim, Shape, SymDim, same_dim
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import MODIFIED, NodeRule, NoMatch, Replacement
from ..shared.attributes import require_own_attributes
from ..shared.operands import constant_of, int_operand, normalized, producer_of
from ..shared.targets import reshape_target

END = (1 << 63) - 1


@dataclass
class SimplifyShapes(RewritePass):
    """Replaces computed shapes by constants."""

    empty_tensors: bool = True
    """Keep models running whose copied extents may be 0."""

    def rules(self) -> Iterable[NodeRule]:
        return [ReshapeTarget(not self.empty_tensors), ExpandTarget(), SliceEnds(), ShapeSource()]


def computed(node: Node, i: int) -> Value:
    """Operand ``i``, which must be computed and have known elements."""
    value = node.input(i)
    if value is None or value.data is not None:
        raise NoMatch(f"operand {i} is constant or absent")
    if value.known is None:
        raise NoMatch(f"the elements of %{value.name} are not known")
    return value


class ReshapeTarget(NodeRule):
    """The target of a Reshape."""

    roots = ("Reshape",)

    def __init__(self, nonempty: bool) -> None:
        self.nonempty = nonempty

    def promising(self, node: Node) -> bool:
        return len(node.inputs) == 2 and node.inputs[1] is not None and node.inputs[1].data is None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        require_own_attributes(node)
        wanted, x = computed(node, 1), node.inputs[0]
        if x is None or node.version < 5:
            raise NoMatch(f"the target is an attribute at opset {node.version}")
        assert wanted.known is not None
        known = list(wanted.known)
        shape = node.output.shape
        if shape is not None and len(shape) == len(known):
            known = [d if k in (-1, 0) else k for k, d in zip(known, shape, strict=True)]
        elif any(isinstance(d, int) and d <= 0 for d in known):
            raise NoMatch(f"the target {list(wanted.known)} has 0 or -1, and the result's rank is not known")
        copied = [] if node.attr("allowzero", 0) else [i for i, k in enumerate(wanted.known) if k == 0]
        target = reshape_target(x.shape, known, nonempty=True, copied=copied)
        if target is not None and not self.nonempty and 0 in target and -1 in target:
            self._require_same_rest(target, wanted.known)
        if target is None:
            raise NoMatch(lambda: f"no constant target says {known} for an operand {x.type}")
        if node.attr("allowzero", 0):
            r.set_attr(node, "allowzero", None)  # zeros in the new target copy extents
        r.set_input(node, 1, r.const(constant_of(target)))
        return MODIFIED

    def _require_same_rest(self, target: list[int], wanted: tuple[Dim, ...]) -> None:
        """A -1 in the same place fails for the same extents as before; elsewhere it may fail for others."""
        at = target.index(-1)
        if wanted[at] != -1:
            raise NoMatch(f"the target {target} is refused where a copied extent is 0")


class ExpandTarget(NodeRule):
    """The target of an Expand: where it equals the operand's extent, 1 does."""

    roots = ("Expand",)

    def promising(self, node: Node) -> bool:
        return len(node.inputs) == 2 and node.inputs[1] is not None and node.inputs[1].data is None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        wanted, x = computed(node, 1), node.inputs[0]
        assert wanted.known is not None
        if x is None or x.shape is None:
            raise NoMatch("the operand's rank is unknown")
        offset = len(wanted.known) - len(x.shape)
        target: list[int] = []
        for i, d in enumerate(wanted.known):
            if isinstance(d, int):
                target.append(d)
            elif i >= offset and same_dim(x.shape[i - offset], d):
                target.append(1)
            else:
                raise NoMatch(partial("extent {} of the target is not the operand's, which is {}".format, d, x.type))
        r.set_input(node, 1, r.const(constant_of(target)))
        return MODIFIED


class SliceEnds(NodeRule):
    """Ends of a Slice that are the extent of their axis."""

    roots = ("Slice",)

    def promising(self, node: Node) -> bool:
        return len(node.inputs) > 2 and node.inputs[2] is not None and node.inputs[2].data is None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        ends, x = computed(node, 2), node.inputs[0]
        steps = int_operand(node, 4) if node.input(4) is not None else [1]
        assert ends.known is not None
        if x is None or x.shape is None or steps is None or min(steps, default=1) < 1:
            raise NoMatch("the operand's rank is unknown, or a step is negative")
        count = len(ends.known)
        axes = normalized(int_operand(node, 3) or [], x.rank or 0) if node.input(3) is not None else list(range(count))
        if axes is None or len(axes) != count:
            raise NoMatch("the axes are not constant")
        out: list[int] = []
        for axis, end in zip(axes, ends.known, strict=True):
            if isinstance(end, int):
                out.append(end)
            elif same_dim(x.shape[axis], end):
                out.append(END if ends.dtype is DType.I64 else (1 << 31) - 1)
            else:
                text = "end {} of axis {} is not the extent of the operand, which is {}"
                raise NoMatch(partial(text.format, end, axis, x.type))
        r.set_input(node, 2, r.const(constant_of(out, ends.dtype or DType.I64)))
        return MODIFIED


class ShapeSource(NodeRule):
    """Extents that are read from a computed tensor or put together, and that an input has next to each other."""

    roots = ("Shape", "Unsqueeze", "Slice", "Gather", "Concat")

    def promising(self, node: Node) -> bool:
        return node.output.rank in (0, 1) and node.output.dtype is DType.I64

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        wanted, x = node.output.known, node.inputs[0]
        if node.output.rank not in (0, 1) or node.output.dtype is not DType.I64 or x is None or node.graph is None:
            raise NoMatch("no vector of extents")
        if node.output.rank == 0:
            return self._single(r, node, producer_of(node, 0, "Shape"))
        if node.op == "Shape" and x.producer is None:
            raise NoMatch("the operand is not computed")
        require_own_attributes(node)
        if not wanted or not all(isinstance(d, SymDim) for d in wanted):
            raise NoMatch("the extents are not known as those of inputs")
        r.begin(node)
        for source in node.graph.inputs:
            start = _run_of(wanted, source.shape or ())
            if start is None:
                continue
            whole = len(wanted) == source.rank
            if not whole and r.opset() < 15:
                continue
            return r.Shape(source, start=None if whole else start, end=None if whole else start + len(wanted))
        raise NoMatch(lambda: f"no input has the extents {list(wanted)} next to each other")

    def _single(self, r: Rewriter, node: Node, shape: Node | None) -> Value:
        """One extent as a scalar, which is picked from a shape."""
        wanted, x = node.output.known, shape.inputs[0] if shape is not None else None
        if x is None or x.producer is None or not wanted or not isinstance(wanted[0], SymDim) or node.graph is None:
            raise NoMatch("no extent that is picked from the shape of a computed tensor")
        r.begin(node)
        for source in node.graph.inputs:
            start = _run_of(wanted, source.shape or ())
            if start is not None:
                return r.Gather(r.Shape(source), np.int64(start))
        raise NoMatch(lambda: f"no input has the extent {wanted[0]}")


def _run_of(wanted: Shape, shape: Shape) -> int | None:
    """At which axis of ``shape`` the extents ``wanted`` start."""
    for start in range(len(shape) - len(wanted) + 1):
        if all(same_dim(a, b) for a, b in zip(wanted, shape[start:], strict=False)):
            return start
    return None
