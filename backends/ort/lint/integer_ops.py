"""Operators of ONNX and ONNX Runtime that work on stored integers as they are written."""

from __future__ import annotations

INTEGER_OPS = frozenset(
    (
        *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm"),
        *("QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearWhere", "QLinearAveragePool", "QLinearSigmoid"),
        *("QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearReduceMean", "NhwcMaxPool"),
        *(
            "MatMulIntegerToFloat",
            "DynamicQuantizeMatMul",
            "DynamicQuantizeLSTM",
            "QAttention",
            "QEmbedLayerNormalization",
        ),
        *("MatMulNBits", "GatherBlockQuantized", "MatMulBnb4", "QMoE"),
    )
)
