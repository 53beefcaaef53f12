"""compute-bfloat16: products, and what lies between them, in bfloat16.

    y = f(x)  becomes  y = float32(f(bfloat16(x)))

As compute-float16 does it, in the type that has float32's range: nothing overflows, samples are not needed, and three
bits of precision are lost for it.

**Why**    twice the arithmetic and half the traffic on accelerators with bfloat16.
**Needs**  a target with ``bf16``; opset 13.
**Leaves** targets without it; operators of other domains; the types of inputs, outputs and of what bodies take and
           give; regions without a product.
**Numbers** approximates: 2^-8 of every value in a region.
**Source** Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.dtypes import DType
from ..shared.half_compute import ComputeHalf


@dataclass
class ComputeBfloat16(ComputeHalf):
    """See the module."""

    feature: ClassVar[str] = "bf16"
    rounding: ClassVar[float] = 2.0**-8

    def storage(self) -> DType:
        return DType.BF16

    def needs_samples(self) -> bool:
        return False
