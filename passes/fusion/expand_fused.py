"""Expand fused operators into the ones that define them.

    Gelu(x) = 0.5 x (1 + erf(x / sqrt(2)))        HardSwish(x) = x HardSigmoid(x; 1/6, 1/2)        ...

by our own equations, by the standard's function bodies, and by equations for ONNX Runtime's contrib operators.

**Why** a target without the operator can run the model; and each fusion is checked against its decomposition.
**Needs** a decomposition that fits the model's opset. ``ops`` names the operators (``Gelu``, ``com.microsoft::Gelu``);
without it all contrib operators on floats with a decomposition, and the standard's activations and norms.
**Leaves** operators without a decomposition (``shared/whole_operators.py`` says why), and results that one does not
give (the statistics of norms). Operators on quantized data, which may round a step differently, only by name.
**Numbers** reassociates.
**Source** the function bodies in onnx.defs; ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Node
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.rule import Replacement
from ..shared.decompose import decompose
from ..shared.decompose_contrib import CONTRIB_EQUATIONS
from ..shared.decompose_quantized import QUANTIZED_EQUATIONS

_STANDARD = tuple("Gelu HardSwish Mish Swish LayerNormalization RMSNormalization GroupNormalization Celu".split())


@dataclass
class ExpandFused(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    ops: tuple[str, ...] = ()
    """Operators to expand; none names the usual ones."""

    def rules(self) -> Iterable[NodeRule]:
        floats = (key for key in CONTRIB_EQUATIONS if key not in QUANTIZED_EQUATIONS)
        contrib = tuple(f"{domain}::{op}" if domain else op for domain, op in floats)
        yield IntoDefinition(self.ops or _STANDARD + contrib)


class IntoDefinition(NodeRule):
    """One fused operator."""

    def __init__(self, ops: tuple[str, ...]) -> None:
        self.names = frozenset(ops)

    def root_ops(self) -> frozenset[str]:
        return frozenset(name.rpartition("::")[2] for name in self.names)

    def accepts(self, node: Node) -> bool:
        return (f"{node.domain}::{node.op}" if node.domain else node.op) in self.names

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        results = decompose(r, node)
        if not any(v is not None for v in results):
            raise NoMatch(f"nothing uses {node.op}")
        return results
