"""ONNX Runtime's operators that stay whole, and why: what ``expand-fused`` does not decompose.

With the equations of ``decompose_contrib.py`` they cover every operator of ``com.microsoft`` for which ONNX Runtime
1.31 has a kernel on processors (a test asks its registry) or on CUDA (docs/OperatorKernels.md of its sources).
"""

from __future__ import annotations

_LOOP = "a decoder in a loop of its own; its body is a graph that planish optimizes by itself"
_IN_PLACE = "writes into a cache that the caller owns, of a length that no value in the graph tells"
_RAGGED = "sequences of different lengths lie packed in rows: the standard has no such form"
_ORDERED = "integers in a layout of cuBLASLt's"
_RANDOM = "draws random numbers: for training"
_BLOCKED = "a blocked layout under the shape of the plain one; ONNX Runtime makes it while loading, for one processor"

WHOLE: dict[str, str] = {
    "AttnLSTM": "an LSTM with attention inside its steps: the standard could say it by a Scan only",
    "BeamSearch": _LOOP,
    "GreedySearch": _LOOP,
    "Sampling": _LOOP,
    "WhisperBeamSearch": _LOOP,
    "DecoderMaskedMultiHeadAttention": _IN_PLACE,
    "DecoderMaskedSelfAttention": _IN_PLACE,
    "DecoderAttention": _IN_PLACE,
    "SparseAttention": f"{_IN_PLACE}, and skips blocks that a sparse layout lists",
    "DynamicSparseAttention": f"{_IN_PLACE}, and skips blocks that it chooses while running",
    "PagedAttention": "reads a cache in pages that a table of values orders",
    "SparsePagedAttention": "reads a cache in pages that a table of values orders",
    "PackedAttention": _RAGGED,
    "PackedMultiHeadAttention": _RAGGED,
    "PackedSparseAttentionIndexer": _RAGGED,
    "RemovePadding": _RAGGED,
    "RestorePadding": _RAGGED,
    "VarlenCausalConvWithState": _RAGGED,
    "LongformerAttention": "attends within windows and to global tokens that values name",
    "SparseAttentionIndexer": "chooses what attention skips while running",
    "LinearAttention": "a recurrence over positions: the standard before opset 27 could say it by a Scan only",
    "GatedDeltaNet": "a recurrence over positions: the standard could say it by a Scan only",
    "DynamicQuantizeLSTM": "quantizes data and state by their range in every step",
    "MatMulFpQ4": "the weight is a blob of the runtime's own quantizer",
    "QMoE": "weights of a few bits in the packing of one kernel",
    "MatMulNBitsMlp": "no kernel on processors; two MatMulNBits and a gate in one",
    "MatMulNBitsQkv": "no kernel on processors; three MatMulNBits in one",
    "MatMulBlockQuantizedFp4Weight": "weights of 4-bit floats in the packing of one kernel",
    "MatMulBlockQuantizedFp8Weight": "weights of 8-bit floats in the packing of one kernel",
    "GemmFloat8": "products of 8-bit floats, rounded as cuBLASLt does",
    "MaxpoolWithMask": "a window leaves out what a mask hides, which the standard's windows cannot",
    "RelativePositionBias": "buckets of distances: where one ends depends on how the kernel rounds a logarithm",
    "WordConvEmbedding": "a convolution over the characters of each word, of as many as the word has",
    "QOrderedAttention": _ORDERED,
    "QOrderedGelu": _ORDERED,
    "QOrderedLayerNormalization": _ORDERED,
    "QOrderedLongformerAttention": _ORDERED,
    "QOrderedMatMul": _ORDERED,
    "QuantizeWithOrder": _ORDERED,
    "DequantizeWithOrder": _ORDERED,
    "BiasDropout": _RANDOM,
    "BitmaskBiasDropout": _RANDOM,
    "BitmaskDropout": _RANDOM,
}
"""Operators of ``com.microsoft`` that fuse others and have no decomposition."""


SINGLE = frozenset(
    "BifurcationDetector ComplexMul ComplexMulConj CropAndResize DynamicTimeWarping Inverse Irfft MurmurHash3 "
    "NGramHashMapping NGramRepeatBlock Rfft SampleOp SparseToDenseMatMul Tokenizer UnfoldTensor Unique "
    "VarlenNGramHashMapping".split()
)
"""Operators of ``com.microsoft`` with kernels that fuse nothing: each does one thing that the standard lacks."""

CUDA_KERNELS = frozenset(
    (
        "Attention BeamSearch BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu BitmaskBiasDropout "
        "BitmaskDropout ComplexMul ComplexMulConj ConvTransposeWithDynamicPads CropAndResize DecoderAttention "
        "DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention DequantizeLinear DequantizeWithOrder "
        "DynamicTimeWarping EmbedLayerNormalization FastGelu FusedConv FusedMatMul GatedRelativePositionBias "
        "GatherBlockQuantized Gelu GemmFloat8 GemmaRotaryEmbedding GreedySearch GridSample GroupNorm "
        "GroupQueryAttention Inverse Irfft LongformerAttention MatMulBnb4 MatMulNBits MoE MultiHeadAttention "
        "NGramRepeatBlock NhwcConv PackedAttention PackedMultiHeadAttention PagedAttention QAttention QMoE "
        "QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention QOrderedMatMul "
        "QuantizeLinear QuantizeWithOrder QuickGelu RelativePositionBias RemovePadding RestorePadding Rfft "
        "RotaryEmbedding Sampling SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization "
        "SparseAttention TransposeMatMul Trilu UnfoldTensor WhisperBeamSearch"
    ).split()
)
"""Operators of ``com.microsoft`` with CUDA kernels. Source: docs/OperatorKernels.md in ONNX Runtime's sources."""


def why_whole(domain: str, op: str) -> str | None:
    """Why the operator has no decomposition; ``None`` where nothing is known."""
    if domain == "com.microsoft.nchwc":
        return _BLOCKED
    return WHOLE.get(op) if domain == "com.microsoft" else None
