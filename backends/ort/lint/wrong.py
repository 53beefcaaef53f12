"""What ONNX Runtime 1.31 computes otherwise than the model says, or refuses, though every node is valid.

Measured, see ``tests/backends/test_lint.py``: a fused product takes the bias with the product of both scales
whatever scale it declares, and scales per channel along the columns (MatMul, Gemm) or filters (Conv) whatever axis they
declare; on x86 signed pairs that travel through movement of data lose their type (opset 21 and later).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....ir.dtypes import DType
from ....ir.graph import Node
from ....passes.target import Target
from ... import pairs as p
from .units import Unit, bias_scale_differs
from .work import Work

OVERFLOWS = 64
"""Largest magnitude of i8 weights at which two products with u8 fit 16 bits: 2 * 255 * 64 < 2^15."""
_PRODUCTS = ("QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "QGemm")


def complaints(node: Node, unit: Unit, target: Target) -> Iterator[tuple[str, str, str]]:
    """(rule, why, severity) of what is wrong with an integer kernel."""
    if unit.kernel == "QGemm" and len(unit.dequantizers) == 3:
        yield from _bias(unit)
    if unit.kernel in _PRODUCTS:
        yield from _axis(node, unit)
    if unit.kernel in _PRODUCTS and saturates(target):
        yield from _overflow(unit)


def saturates(target: Target) -> bool:
    """Whether kernels add pairs of products of u8 and i8 in 16 bits that saturate (``vpmaddubsw``)."""
    return target.arch in ("x86_64", "any") and "vnni" not in target.features


def _bias(unit: Unit) -> Iterator[tuple[str, str, str]]:
    different = bias_scale_differs(unit.dequantizers)
    if different:
        yield "bias-scale", f"{different}; the kernel takes the product all the same: wrong results", "error"
    zero = unit.dequantizers[2].input(p.ZERO)
    if zero is not None and zero.data is not None and np.any(zero.numpy() != 0):
        yield (
            "bias-scale",
            "the zero point of the bias is not 0; the kernel takes 0 all the same: wrong results",
            "error",
        )


def _axis(node: Node, unit: Unit) -> Iterator[tuple[str, str, str]]:
    dq = unit.dequantizers[1]
    scale, weight = dq.input(p.SCALE), dq.input(0)
    if scale is None or weight is None or p.is_scalar(scale) or scale.rank != 1 or weight.rank is None:
        return
    axis = int(dq.attr("axis", 1)) % weight.rank
    want = 0 if unit.kernel == "QLinearConv" or node.attr("transB", 0) else weight.rank - 1
    if axis != want:
        why = f"the weight's scales run along axis {axis}, the kernel takes them along axis {want}: wrong results"
        yield "weight-axis", why, "error"


def _overflow(unit: Unit) -> Iterator[tuple[str, str, str]]:
    x, w = unit.dequantizers[:2]
    weight = w.input(0)
    if p.stored(x) is not DType.U8 or p.stored(w) is not DType.I8 or weight is None:
        return
    if weight.data is None:
        yield "saturation", "u8 x i8 with a weight that is not constant: sums of two products may saturate", "warning"
        return
    most = int(np.max(np.abs(weight.numpy().astype(np.int16)), initial=0))
    if most > OVERFLOWS:
        why = f"u8 x i8 with weights up to {most}: sums of two products saturate in 16 bits without VNNI"
        yield "saturation", why, "warning"


def lost_types(work: Work) -> Iterator[Node]:
    """Signed QuantizeLinear nodes added behind movement at opset 21 or later: on x86 the runtime refuses the model."""
    for node in work.forwarded:
        if node.erased or node.version < 21 or p.stored(node) is not DType.I8:
            continue
        if p.is_dequantize(p.only_reader(node)):
            yield node
