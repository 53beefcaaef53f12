"""What makes a model acceptable to a runtime that it is exported for, as pipeline text.

The types, zero points and granularity come from ``passes/shared/quant/rules.py``, which ``assign-quant`` and
``insert-qdq`` read for the target; what is left is the opset that the form needs, and whether weights alone are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.graph import Model
from ...passes.shared.quant.rules import rules_for
from ...passes.target import Target

PER_CHANNEL_OPSET = 13
"""Opset from which QuantizeLinear has an axis."""


@dataclass(frozen=True)
class Legal:
    """How to make a model for a target."""

    pipeline: str
    """Lossless part."""
    quantize: str
    """Name of the lossy group that goes behind it."""


def legalize(model: Model, target: Target) -> Legal:
    """The pipeline that makes ``model`` ready for ``target`` and quantizes it as that wants."""
    rules = rules_for(target)
    raised = f"raise-opset{{to={PER_CHANNEL_OPSET}}}," if model.opsets.get("", 0) < PER_CHANNEL_OPSET else ""
    return Legal(f"{raised}default", "int8" if rules.takes_pairs else "int8-weights")
