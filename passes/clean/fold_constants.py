"""fold-constants: ``f(c1, ..., cn)`` becomes its value.

A node whose operands are all constant is computed now instead of in every run. Integer results whose
elements shape inference knows (``Shape`` of static extents and what is computed from it) become constants
whatever their operands are. ConstantOfShape, Expand and Tile of one element become splats, which take no
room in the file.

**Why**    exporters leave whole chains of constant arithmetic; a constant also lets other passes match.
**Needs**  that the operator is in the table of kernels (``passes/shared/kernels*.py``): known, pure and
           deterministic.
**Leaves** random operators; constants that a caller may override; QuantizeLinear and DequantizeLinear;
           casts that widen weights stored in fewer bits;
           what would take more than ``max-bytes`` more than the constants it replaces, or more than
           ``max-work`` operations, or would make the model's constants more than twice as large in all;
           integer division by zero and casts out of range, which the specification leaves open.
**Numbers** reassociates: movement, integers, comparisons, casts and single IEEE operations are exact;
           functions and sums of floats are computed in float64 and rounded once, which is closer to the
           true value than runtimes are.
**Source** ONNX operator specifications.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np

from ...ir.constants import Constant, SplatConstant
from ...ir.dtypes import DType
from ...ir.graph import Model, Node, Value
from ...ir.ops import is_pure
from ...ir.repetition import SPLAT_BYTES, stored_bytes
from ..core import Context, Numbers, RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch, Replacement
from ..shared.evaluate import evaluate, has_kernel, static_shape
from ..shared.kernels import NoKernel

FREE_GROWTH_BYTES = 1 << 16
"""A model with few constants may grow by this much all the same."""
STORED_BYTES = 2048
"""From here on a cast that makes a constant larger is how somebody stores weights (``store-float16``)."""


@dataclass
class FoldConstants(RewritePass):
    """Computes what does not depend on the model's inputs."""

    numbers = Numbers.REASSOCIATES

    max_bytes: int = 1 << 16
    """How much larger than the constants it replaces a result may be; the context's limit counts too."""
    max_work: int = 1 << 26
    """Elements read, written or multiplied for one node."""

    def rules(self) -> Iterable[NodeRule]:
        return [KnownElements(), ConstantOperands(self)]


class KnownElements(NodeRule):
    """A small integer tensor whose elements inference knows."""

    roots = ("*",)

    def promising(self, node: Node) -> bool:
        known = node.outputs[0].known if node.outputs else None
        return known is not None and all(type(d) is int for d in known)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        if not self.promising(node):
            raise NoMatch("not all elements of the result are known")
        if not is_pure(node) or any(out.uses for out in node.outputs[1:]):
            raise NoMatch("other results of the node are used")
        out = node.output
        shape, dtype = static_shape(out), out.dtype
        if shape is None or dtype not in (DType.I64, DType.I32, DType.BOOL):
            raise NoMatch("the type of the result is not known")
        return r.const(np.array(out.known, dtype.numpy).reshape(shape), name=out.name)


class ConstantOperands(NodeRule):
    """A node whose operands are all constant."""

    roots = ("*",)

    def __init__(self, options: FoldConstants) -> None:
        self.options = options
        self.budget: int | None = None
        self.seen: set[object] = set()
        """Small splats made so far: merge-constants makes one of equal ones, so that another costs nothing."""

    def promising(self, node: Node) -> bool:
        for value in node.inputs:
            if value is not None and value.data is None:
                return False
        return has_kernel(node)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        variable = next((v for v in node.inputs if v is not None and v.data is None), None)
        if variable is not None:
            raise NoMatch(f"%{variable.name} is not constant")
        freed = sum(freed_bytes(v, node) for v in dict.fromkeys(node.inputs) if v is not None)
        room = min(self.options.max_bytes, r.ctx.max_constant_bytes)
        try:
            results = evaluate(node, max_bytes=freed + room, max_work=self.options.max_work)
        except NoKernel as reason:
            raise NoMatch(str(reason)) from reason
        fresh = {key: c for c in results if (key := self._key(c)) not in self.seen}
        growth = sum(stored_bytes(c, r.opset()) for c in fresh.values()) - freed
        if growth > room:
            raise NoMatch(f"the file would grow by {growth} bytes, the limit is {room}")
        if node.op == "Cast" and growth > 0 and freed >= STORED_BYTES:
            raise NoMatch(f"{freed} bytes of weights are stored in fewer bits, which runtimes widen on loading")
        self._spend(r, node, growth)
        self.seen.update(fresh)
        return [r.const(c, name=out.name) for c, out in zip(results, node.outputs, strict=True)]

    def _key(self, data: Constant) -> object:
        if isinstance(data, SplatConstant) and data.nbytes <= SPLAT_BYTES:
            return (data.dtype, data.shape, np.asarray(data.value).tobytes())
        return id(data)

    def _spend(self, r: Rewriter, node: Node, growth: int) -> None:
        """Draws on what the model may grow by in all, which is counted in the context over several runs."""
        if growth <= 0:
            return
        if self.budget is None:
            assert node.graph is not None
            self.budget = total_budget(cast("Model", node.graph.model), r.ctx)
        if r.ctx.grown_bytes + growth > self.budget:
            raise NoMatch(f"folding has grown the file by {r.ctx.grown_bytes} bytes, the limit is {self.budget}")
        r.ctx.grown_bytes += growth


def freed_bytes(value: Value, node: Node) -> int:
    """Bytes that the file loses when ``node`` does not use ``value`` any more."""
    data = value.data
    if data is None or any(user is not node for user, _ in value.uses):
        return 0
    return stored_bytes(data, node.version)


def total_budget(model: Model, ctx: Context) -> int:
    """How much folding may add to the model, all runs in one context together: as much as it had at first."""
    opset = model.opsets.get("", 0)
    have = sum(stored_bytes(v.data, opset) for g in model.all_graphs() for v in g.constants if v.data is not None)
    return max(FREE_GROWTH_BYTES, have - ctx.grown_bytes)
