"""equalize-layers: channels between two products get weights of equal reach on both sides.

    f(W1 x + b1) W2 = f(g (W1 x + b1)) (W2 / g)    for f = Relu, LeakyRelu or nothing, g > 0 for each channel

``g`` is the power of two nearest to ``sqrt(r2 / r1)``, with ``r1`` and ``r2`` the largest weights that make and read
the channel: then both are ``sqrt(r1 r2)`` within a factor of two.

**Why**    one scale for a whole weight, or for all channels of an activation, wastes its steps on the widest channel.
**Needs**  Conv, ConvTranspose, Gemm or MatMul with constant weights on both sides, nothing else reading in between.
**Leaves** activations that do not pass scales (Clip to 6, HardSwish, Sigmoid); channels without weights; products whose
           reaches differ by less than a factor of two.
**Numbers** reassociates: powers of two change no bit unless numbers leave the normal range.
**Source** Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..shared.linear import LINEAR
from ..shared.quant.equalize import input_reach, output_reach, pair_before, powers_of_two


@dataclass
class EqualizeLayers(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield Equalize()


class Equalize(NodeRule):
    """Anchored at the second product."""

    roots = LINEAR

    def apply(self, r: Rewriter, node: Node) -> Value:
        pair = pair_before(node)
        made, read = output_reach(pair.first).astype(np.float64), input_reach(pair.second).astype(np.float64)
        used = (made > 0) & (read > 0) & np.isfinite(made) & np.isfinite(read)
        ratio = np.where(used, read, 1.0) / np.where(used, made, 1.0)
        gain = powers_of_two(np.sqrt(ratio))
        if (gain == 1).all():
            raise NoMatch("the weights on both sides reach equally far, within a factor of two")
        return pair.scaled(r, gain)
