"""compute-float16: products, and what lies between them, in half precision.

    y = f(x)  becomes  y = float32(f(float16(x)))

Regions are grown by a minimum cut: a node joins where that saves more than the casts it causes. Softmax, normalization,
other reductions, exponentials and divisions stay in float32.

**Why**    twice the arithmetic and half the traffic on GPUs and on ARM processors with half precision.
**Needs**  a target with ``fp16``; samples: a value joins where ``margin`` times its largest magnitude on them is in
           range, a constant where it loses nothing but rounding.
**Leaves** x86 processors, whose kernels would cast each operand; nodes that take or give what is out of range, or was
           never observed (a branch that no sample takes); operators of other domains; the types of inputs, outputs and
           of what bodies take and give. Regions without a product.
**Numbers** approximates: 2^-11 of every value in a region.
**Source** IEEE 754-2019, binary16; Micikevicius et al., Mixed Precision Training, ICLR 2018 (which operators).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.dtypes import DType
from ..shared.half_compute import ComputeHalf


@dataclass
class ComputeFloat16(ComputeHalf):
    """See the module."""

    feature: ClassVar[str] = "fp16"
    rounding: ClassVar[float] = 2.0**-11

    def storage(self) -> DType:
        return DType.F16

    def needs_samples(self) -> bool:
        return True
