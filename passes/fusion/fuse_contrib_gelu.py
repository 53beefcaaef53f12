"""Fuse the Gaussian error linear unit into ONNX Runtime's own operators, at opsets that have no Gelu.

    0.5 x (1 + erf(x / sqrt(2)))                          = com.microsoft::Gelu(x)
    0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))       = com.microsoft::FastGelu(x)
    x sigmoid(a x)                                        = com.microsoft::QuickGelu(x; alpha = a)

in every spelling. With a bias of one axis in front (that no Gemm takes), Gelu(x + b) = BiasGelu(x, b).

**Why** ONNX Runtime fuses the spellings of PyTorch's first exporter by itself and misses those of its second, of JAX
and of TensorFlow: five to nine passes over the widest tensor of every block.
**Needs** a target whose runtime has the operators; float32 (on CUDA float16 too); an opset before 20, whose Gelu is
standard (`fuse-gelu`); with the option ``bias`` any opset.
**Leaves** models for other runtimes; with the option ``quick=false`` (default) products with a sigmoid, which the
runtime fuses by itself.
**Numbers** reassociates.
**Source** D. Hendrycks, K. Gimpel, Gaussian Error Linear Units, 2016; ONNX Runtime's contrib operators.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter, Rule, Scalar
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Match, Replacement, RuleBase
from ..shared.emit import CONTRIB, allows_contrib
from ..shared.gelu import gelu_around

STANDARD = 20
"""Opset with a Gelu of its own."""


@dataclass
class FuseContribGelu(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    bias: bool = False
    """Take the addition of a bias in: ONNX Runtime does it by itself."""
    quick: bool = False
    """Fuse products with a sigmoid: the same kernel that the runtime would choose, in fewer nodes."""

    def rules(self) -> Iterable[RuleBase]:  # type: ignore[override]
        yield SpelledOut()
        if self.bias:
            yield WithBias()
            yield StandardWithBias()
        if self.quick:
            yield QuickSigmoid()
            yield Silu()


def require_kernel(r: Rewriter, value: Value) -> None:
    """Raises :class:`NoMatch` where the target's runtime cannot compute it."""
    if not allows_contrib(r):
        raise NoMatch("the target takes standard operators only")
    target = r.ctx.target
    halves = (DType.F16,) if target is not None and target.arch == "cuda" else ()
    if value.dtype not in (DType.F32, *halves):
        raise NoMatch(f"no kernel for {value.dtype!r}")


class SpelledOut(NodeRule):
    """Anchored at the erf or tanh, because those are rare."""

    roots = ("Erf", "Tanh")

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        if r.opset() >= STANDARD:
            raise NoMatch(f"opset {r.opset()} has a Gelu of its own")
        require_kernel(r, node.output)
        found = gelu_around(node)
        r.begin(found.root, origin_of(found.nodes))
        r.replace(found.root, r.op(f"{CONTRIB}::{'FastGelu' if found.tanh else 'Gelu'}", found.x))
        return MODIFIED


class WithBias(Rule):
    """Gelu of a sum with a vector."""

    def pattern(self, op: Any, x: Value, b: Value) -> Any:
        return op(f"{CONTRIB}::Gelu", op.Add(x, b))

    def guard(self, m: Match) -> None:
        if m.b.rank != 1 or m.x.shape is None or not m.x.shape or m.x.shape[-1] != m.b.shape[0]:
            raise NoMatch(f"the addend is {m.b.type}, wanted a vector as long as the last axis of {m.x.type}")

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        return r.op(f"{CONTRIB}::BiasGelu", m.x, m.b)


class StandardWithBias(WithBias):
    """The same of the standard's Gelu."""

    def pattern(self, op: Any, x: Value, b: Value) -> Any:
        return op.Gelu(op.Add(x, b))

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        require_kernel(r, m.x)
        return super().rewrite(r, m)


class QuickSigmoid(Rule):
    """x * sigmoid(a * x)."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Mul(x, op.Sigmoid(op.Mul(x, Scalar(name="slope"))))

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        require_kernel(r, m.x)
        return r.op(f"{CONTRIB}::QuickGelu", m.x, alpha=float(m.slope))


class Silu(Rule):
    """x * sigmoid(x), which is standard since opset 24."""

    def pattern(self, op: Any, x: Value) -> Any:
        return op.Mul(x, op.Sigmoid(x))

    def rewrite(self, r: Rewriter, m: Match) -> Value:
        require_kernel(r, m.x)
        return r.op(f"{CONTRIB}::QuickGelu", m.x, alpha=1.0)
