"""merge-factors: two products with constant weights and nothing between them become one where that is cheaper.

    (x A + b) B + c = x (A B) + (b B + c)

**Why**    a factorization whose rank is so high that it costs more than the whole; layers that were exported linear.
**Needs**  MatMul, Gemm or Conv, of two convolutions one with a 1x1 kernel and without strides and padding; a product
           ``A B`` with no more parameters than both; with up to ``growth`` times as many where this machine stands for
           the target and measures that it is faster.
**Leaves** an inner value or a weight with another user, groups, residuals behind a bias, biases in front of padding.
**Numbers** reassociates; computed in float64, rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..shared.affine import rounded
from ..shared.factor.chains import OPS, Chain, chain_at, is_bias
from ..shared.factor.faster import require_faster


@dataclass
class MergeFactors(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    growth: float = 1.0
    """The most parameters of a product, over those of both factors; above 1 the clock decides."""

    def rules(self) -> Iterable[NodeRule]:
        yield ProductOfProducts(self.growth)


class ProductOfProducts(NodeRule):
    """The second of two products."""

    roots = OPS

    def __init__(self, growth: float = 1.0) -> None:
        self.growth = growth

    def promising(self, node: Node) -> bool:
        x = node.inputs[0]
        return x is not None and x.producer is not None and x.producer.op in (*OPS, "Add")

    def apply(self, r: Rewriter, node: Node) -> Value:
        chain = chain_at(node)
        for linear in (chain.first, chain.second):
            if len(linear.weight.uses) > 1:
                raise NoMatch(f"the weight %{linear.weight.name} has another user")
        if chain.count > max(self.growth, 1.0) * chain.parameters:
            raise NoMatch(f"the product has {chain.count} parameters, the two have {chain.parameters}")
        if chain.count > chain.parameters:
            require_faster(chain, r.ctx)
        weight, bias = chain.weight(), chain.bias()
        dtype = chain.second.weight.dtype
        assert dtype is not None
        made = rounded(weight, dtype)
        extra = None if bias is None else rounded(bias, dtype)
        r.begin(node, origin_of([chain.first.node, node]))
        name = f"{chain.first.weight.name}*{chain.second.weight.name}"
        w = r.const(made, name=name)
        b = None if extra is None else r.const(extra, name=_bias_name(chain))
        if chain.is_conv:
            merged: Value = r.op("Conv", chain.x, w, *([] if b is None else [b]), **chain.attrs())
            return merged
        return _matrix(r, chain, w, b)


def _matrix(r: Rewriter, chain: Chain, w: Value, b: Value | None) -> Value:
    node = chain.second.node
    residual = chain.second.bias if chain.second.bias is not None and not is_bias(chain.second) else None
    if node.op == "Gemm":
        added = residual if residual is not None else b
        beta: Any = node.attrs.get("beta") if residual is not None else None
        merged: Value = r.Gemm(chain.x, w, *([] if added is None else [added]), beta=beta)
        return merged
    product: Value = r.MatMul(chain.x, w)
    return product if b is None else r.Add(product, b)


def _bias_name(chain: Chain) -> str:
    found = chain.second.bias or chain.first.bias
    return found.name if found is not None else ""
