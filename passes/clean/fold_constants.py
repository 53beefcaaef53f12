"""fold-constants: ``f(c1, ..., cn)`` becomes its value.

A node whose operands are all constant is computed now instead of in every run. Integer results whose
elements shape inference knows (``Shape`` of static extents and what is computed from it) become constants
whatever their operands are. ConstantOfShape, Expand and Tile of one element become splats, which take no
room in the file.

**Why**    exporters leave whole chains of constant arithmetic; a constant also lets other passes match.
**Needs**  that the operator is in the table of kernels (``passes/shared/kernels*.py``): known, pure and
           deterministic.
**Leaves** random operators; constants that a caller may override; QuantizeLinear and DequantizeLinear;
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
from ..core import Context, Numbers, RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch, Replacement
from ..shared.evaluate import evaluate, has_kernel, static_shape
from ..shared.kernels import NoKernel

FREE_GROWTH_BYTES = 1 << 16
"""A model with few constants may grow by this much all the same."""
WRITTEN_AS_NODE = frozenset((DType.F16, DType.F32, DType.F64, DType.BOOL, DType.I8, DType.I16, DType.I32, DType.I64))
SPLAT_OPSET = 9
"""Since then files can hold a splat as a ConstantOfShape node."""


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
        growth = sum(stored_bytes(c, r) for c in results) - freed
        if growth > room:
            raise NoMatch(f"the file would grow by {growth} bytes, the limit is {room}")
        self._spend(r, node, growth)
        return [r.const(c, name=out.name) for c, out in zip(results, node.outputs, strict=True)]

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
    if data is None or isinstance(data, SplatConstant) or any(user is not node for user, _ in value.uses):
        return 0
    return data.nbytes


def stored_bytes(data: Constant, r: Rewriter) -> int:
    """Bytes that a constant takes in the file."""
    if isinstance(data, SplatConstant) and data.dtype in WRITTEN_AS_NODE and r.opset() >= SPLAT_OPSET:
        return 0
    return data.nbytes


def total_budget(model: Model, ctx: Context) -> int:
    """How much folding may add to the model, all runs in one context together: as much as it had at first."""
    dense = (v.data for g in model.all_graphs() for v in g.constants)
    have = sum(d.nbytes for d in dense if isinstance(d, Constant) and not isinstance(d, SplatConstant))
    return max(FREE_GROWTH_BYTES, have - ctx.grown_bytes)
