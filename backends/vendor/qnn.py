"""Qualcomm's QNN provider of ONNX Runtime, HTP backend.

Every shape must be static; units are formed as on the processor but for more operators and for u16. What is no unit
falls back to the processor. Source: ``qnn`` provider and ``qnn_quant.py`` of ONNX Runtime 1.31, onnxruntime-qnn 2.4.
"""

from __future__ import annotations

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Model, Node
from ...passes.shared.quant.rules import QuantRules, UnitRule, rules_for
from ...passes.target import Target
from .. import pairs as p
from ..findings import LintReport
from .units import Declined, Special, check, scale_numbers

_LEVELS = {DType.U8: 255, DType.I8: 255, DType.U16: 65535, DType.I16: 65535, DType.I4: 15, DType.U4: 15}


def lint(model: Model, target: Target) -> LintReport:
    """Findings about ``model``."""
    return check(model, target, rules_for(target), Special(_pair, _unit, integer_operators="warning"))


def _pair(node: Node, rules: QuantRules) -> tuple[str, str, str] | None:
    scales, stored = scale_numbers(node), p.stored(node)
    if scales is None:
        return "scale-not-constant", f"the scale of {node.op} is computed", "warning"
    width = _LEVELS.get(stored, 0) * scales if stored is not None else scales
    if stored in _LEVELS and bool(np.any(width < rules.smallest_range * (1 - 1e-6))):
        return (
            "range-too-small",
            f"a range of {float(np.min(width)):.3g}, want at least {rules.smallest_range:g}",
            "warning",
        )
    return None


def _unit(node: Node, rule: UnitRule) -> None:
    if rule.fixed is None:
        return
    for q in p.quantizers(node):
        stored = p.stored(q)
        if stored not in p.WIDE or not p.constant_scalar(q, p.SCALE):
            continue
        scale, zero = rule.fixed[:2] if stored is DType.U16 else rule.fixed[2:]
        found = (float(p.number(q, p.SCALE)), int(p.number(q, p.ZERO)) if p.constant_scalar(q, p.ZERO) else 0)
        if not np.isclose(found[0], scale, rtol=1e-5) or found[1] != zero:
            raise Declined(
                "fixed-parameters", f"the 16-bit result of {node.op} has {found}, the kernel gives {(scale, zero)}"
            )
