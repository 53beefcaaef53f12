"""TensorRT 10: explicit quantization.

Its importer refuses what is not symmetric i8 (or i4, float8) with positive constant scales; activations have one scale.
Results of products are not quantized by themselves; a pair between an operator and its activation prevents fusion.
Source: onnx-tensorrt's importer 10.1 (``onnx2trt_utils``, ``OnnxAttrs``), developer guide "Explicit Quantization".
"""

from __future__ import annotations

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Model, Node
from ...passes.shared.quant.rules import QuantRules, UnitRule, rules_for
from ...passes.target import Target
from .. import pairs as p
from ..findings import LintReport
from .units import Declined, Special, check, nonzero_zero_point, scale_numbers

_TYPES = (DType.I8, DType.I4, DType.F8E4M3FN, DType.F4E2M1, DType.I32)


def lint(model: Model, target: Target) -> LintReport:
    """Findings about ``model``; an ``error`` means that the importer refuses it."""
    return check(model, target, rules_for(target), Special(_pair, _unit, mixed=frozenset({"Add"})))


def _pair(node: Node, rules: QuantRules) -> tuple[str, str, str] | None:
    del rules
    stored = p.stored(node)
    if stored not in _TYPES:
        return "stored-type", f"{node.op} of {stored}: the importer takes i8, i4 and float8", "error"
    if nonzero_zero_point(node):
        return "zero-point", f"the zero point of {node.op} is not 0: quantize symmetrically", "error"
    scales = scale_numbers(node)
    if scales is None or not bool(np.all(scales > 0)):
        return "scale-not-positive", f"{node.op} needs positive constant scales", "error"
    value = node.inputs[0]
    if scales.size > 1 and (value is None or value.data is None) and not _of_weight(node):
        return "activation-per-channel", "activations have one scale for the tensor", "error"
    return None


def _of_weight(node: Node) -> bool:
    """Whether a DequantizeLinear stands behind a QuantizeLinear of a constant."""
    value = node.inputs[0]
    q = value.producer if value is not None else None
    return p.is_quantize(q) and q.inputs[0] is not None and q.inputs[0].data is not None


def _unit(node: Node, rule: UnitRule) -> None:
    del rule
    for q in p.quantizers(node):
        for dq, _ in p.out_edges(q):
            for user, _ in p.out_edges(dq):
                if user.op in ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "BatchNormalization"):
                    raise Declined("pair-before-activation", f"a pair stands between it and {user.op}: no fusion")
    if node.op == "Concat":
        scales = {float(s[0]) for dq in p.dequantizers(node) if (s := scale_numbers(dq)) is not None and s.size}
        if len(scales) > 1:
            raise Declined("parameters-differ", f"the operands of Concat have {len(scales)} scales, want one")
