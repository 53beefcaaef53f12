"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..ir.builder import DEFAULT_OPSET, Builder
from ..ir.dtypes import DType
from ..ir.graph import Model
from .layers import linear
from .weights import SeededWeights


def mlp(
    sizes: Sequence[int] = (784, 512, 256, 10),
    *,
    batch: int | str = "N",
    activation: str = "Relu",
    gemm: bool = True,
    seed: int = 0,
    opset: int = DEFAULT_OPSET,
) -> Model:
    """``input`` [batch, sizes[0]] through linear layers to ``output`` [batch, sizes[-1]], float32.

    ``activation`` is an ONNX operator of one operand. ``gemm`` spells a layer as Gemm with a transposed
    weight, as PyTorch's exporter does for two axes; without it as MatMul and Add.
    """
    b, w = Builder(opset=opset), SeededWeights(seed)
    x = b.input("input", DType.F32, (batch, sizes[0]))
    for i, (inner, outer) in enumerate(pairwise(sizes)):
        name = f"layers.{i}"
        if gemm:
            weight = b.const(w.kernel(f"{name}.weight", (outer, inner), gain=2**0.5), f"{name}.weight")
            x = b.Gemm(x, weight, b.const(w.vector(f"{name}.bias", outer), f"{name}.bias"), transB=1)
        else:
            x = linear(b, w, x, name, inner, outer, gain=2**0.5)
        if i < len(sizes) - 2:
            x = b.op(activation, x)
    b.output(x, "output")
    return b.model()
