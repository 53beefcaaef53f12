"""Fuse a residual sum and the normalization behind it into ONNX Runtime's SkipLayerNormalization.

    LayerNormalization(x + y, g, c)        = com.microsoft::SkipLayerNormalization(x, y, g, c)
    LayerNormalization(x + (y + b), g, c)  = com.microsoft::SkipLayerNormalization(x, y, g, c, b)
    RMSNormalization(x + y, g)             = com.microsoft::SkipSimplifiedLayerNormalization(x, y, g)

Where the sum is read elsewhere too, it is the operator's last result.

**Why** one node for two or three, one launch on an accelerator. On processors ONNX Runtime 1.31's kernel takes 1.7
times the time of the sum and the normalization, so that it is in no default pipeline (see `avoid-skip-norm`).
**Needs** a target with ONNX Runtime; float32 (on CUDA float16 too); two computed operands of one shape; a normalization
over the last axis by constants.
**Leaves** operands that broadcast, other axes, normalizations whose mean or deviation is used.
**Numbers** reassociates.
**Source** ONNX Runtime's contrib operators, SkipLayerNormalization-1, SkipSimplifiedLayerNormalization-1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.dims import same_shape
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.emit import CONTRIB, allows_contrib

_OPERATORS = {"LayerNormalization": "SkipLayerNormalization", "RMSNormalization": "SkipSimplifiedLayerNormalization"}


@dataclass
class FuseSkipNorm(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield OfSum()


class OfSum(NodeRule):
    """Anchored at the normalization."""

    roots = tuple(_OPERATORS)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        _require_kernel(r, node)
        total = node.inputs[0].producer if node.inputs[0] is not None else None
        if total is None or total.op not in ("Add", "Sum") or total.domain or len(total.inputs) != 2:
            raise NoMatch("no sum of two values is normalized")
        x, y = _operands(total)
        scale, shift = _row(node, 1), _row(node, 2)
        add, bias = _biased(y) or _biased(x) or (None, None)
        if add is not None and add.output is x:
            x, y = y, x
        skip = y if add is None else next(v for v in add.inputs if v is not bias)
        other = [user for user, _ in total.output.uses if user is not node]
        rest = [shift, bias] if node.op == "LayerNormalization" else [bias]
        while rest and rest[-1] is None:
            rest.pop()
        r.begin(total, origin_of([*([add] if add is not None else []), total, node]))
        results = r.op(
            f"{CONTRIB}::{_OPERATORS[node.op]}",
            x,
            skip,
            scale,
            *rest,
            epsilon=node.attr("epsilon", 1e-5),
            _outputs=4 if other else 1,
        )
        r.replace(node, results[0] if other else results)
        if other:
            r.replace(total, results[3])
        return MODIFIED


def _require_kernel(r: Rewriter, node: Node) -> None:
    target, dtype, rank = r.ctx.target, node.output.dtype, node.output.rank
    if not allows_contrib(r) or target is None or target.runtime != "ort":
        raise NoMatch("the target has no operators of ONNX Runtime")
    if dtype is not DType.F32 and not (dtype is DType.F16 and target.arch == "cuda"):
        raise NoMatch(f"no kernel for {dtype!r}")
    if rank not in (2, 3) or node.attr("axis", -1) not in (-1, rank - 1):
        raise NoMatch(f"rank {rank}, normalized from axis {node.attr('axis', -1)}: wanted the last of 2 or 3 axes")
    if any(out.uses for out in node.outputs[1:]):
        raise NoMatch("mean or deviation are used")


def _operands(total: Node) -> tuple[Value, Value]:
    x, y = total.inputs
    if x is None or y is None or x.data is not None or y.data is not None:
        raise NoMatch("one operand of the sum is constant: a bias")
    if not same_shape(x.shape, y.shape):
        raise NoMatch(f"the operands of the sum are {x.type} and {y.type}")
    return x, y


def _row(node: Node, i: int) -> Value | None:
    """A constant vector operand. The fused node stands where the sum is, in front of what else computes one."""
    value = node.input(i)
    if value is None:
        return None
    if value.data is None or len(value.data.shape) != 1 or value.dtype is not node.output.dtype:
        raise NoMatch(f"%{value.name} is {value.type}, expected a constant vector")
    return value


def _biased(value: Value) -> tuple[Node, Value] | None:
    """The Add of a constant vector that makes ``value`` for the sum alone, and the vector."""
    add, shape = value.producer, value.shape
    if add is None or add.op != "Add" or add.domain or len(value.uses) != 1 or shape is None:
        return None
    for b, x in (add.inputs, reversed(add.inputs)):
        vector = b is not None and b.data is not None and b.rank == 1 and same_shape(b.shape, shape[-1:])
        if b is not None and x is not None and vector and x.rank == len(shape):
            return add, b
    return None
