"""What a node costs: arithmetic operations and bytes moved, as dims (symbolic where shapes are).

Counts follow the usual convention: a multiply-add is 2 operations, a comparison, an addition or a
transcendental function 1 each; operators that only move data do none. Bytes moved are each operand read
once and each result written once, the lower bound for a kernel that keeps nothing from before. Estimates
for reports and for choosing between rewrites, not predictions of time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from .dims import Dim, Shape, add, floordiv, mul, product
from .graph import Node, Value
from .ops import MOVEMENT
from .types import TensorType

Flops: TypeAlias = Callable[[Node], Dim]

FLOPS: dict[tuple[str, str], Flops] = {}
"""Operations by (domain, op); an operator that is not here does one per element of its results."""
MS = "com.microsoft"


def flops(node: Node) -> Dim:
    """Arithmetic operations of one run; ``None`` where shapes do not tell.

    Nodes with bodies do none themselves: walk ``graph.all_nodes()`` to count each body once.
    """
    rule = FLOPS.get((node.domain, node.op))
    return rule(node) if rule is not None else _per_element(1)(node)


def bytes_moved(node: Node) -> Dim:
    """Bytes of all operands and results; ``None`` where one is unknown. A view (Reshape and kin) moves none."""
    if node.domain == "" and node.op in _VIEWS:
        return 0
    total: Dim = 0
    for value in [*dict.fromkeys(v for v in node.inputs if v is not None), *node.outputs]:
        total = add(total, value_bytes(value))
    return total


def value_bytes(value: Value) -> Dim:
    """Bytes that a value takes; ``None`` where its extents or element type are unknown."""
    t = value.type
    if not isinstance(t, TensorType) or t.dtype is None:
        return None
    count = t.count
    return t.dtype.nbytes(count) if isinstance(count, int) else floordiv(mul(count, t.dtype.bits), 8)


def total_flops(nodes: list[Node]) -> tuple[Dim, int]:
    """Sum over the nodes whose count is known, and how many are not known."""
    counts = [flops(n) for n in nodes]
    total: Dim = 0
    for count in counts:
        if count is not None:
            total = add(total, count)
    return total, counts.count(None)


_VIEWS = frozenset("Reshape Flatten Squeeze Unsqueeze Identity Shape Size Constant Optional OptionalGetElement".split())


def _rule(*ops: str, domain: str = "") -> Callable[[Flops], Flops]:
    def register(rule: Flops) -> Flops:
        for op in ops:
            FLOPS[domain, op] = rule
        return rule

    return register


def _count(node: Node, i: int = 0) -> Dim:
    shape = node.outputs[i].shape
    return None if shape is None else product(shape)


def _input(node: Node, i: int = 0) -> Dim:
    value = node.input(i)
    return None if value is None or value.shape is None else product(value.shape)


def _shape(node: Node, i: int) -> Shape | None:
    value = node.input(i)
    return None if value is None else value.shape


def _per_element(operations: int) -> Flops:
    """A fixed number of operations for each element of the first result."""
    return lambda node: mul(_count(node), operations) if node.outputs else 0


def _per_input(operations: int) -> Flops:
    """A fixed number of operations for each element of the first operand."""
    return lambda node: mul(_input(node), operations)


def _table() -> None:
    for key in MOVEMENT:
        FLOPS[key] = _per_element(0)
    free = "Shape Size Constant ConstantOfShape Range Cast CastLike Dropout NonZero OneHot EyeLike If Loop Scan"
    free += " ScatterElements ScatterND Scatter Compress Trilu"
    for op in free.split():
        FLOPS["", op] = _per_element(0)
    many = {
        "Sigmoid": 4, "HardSigmoid": 3, "HardSwish": 4, "Gelu": 8, "Mish": 6, "Swish": 5, "Elu": 3, "Selu": 4,
        "Celu": 4, "Softplus": 3, "Softsign": 3, "LeakyRelu": 2, "PRelu": 2, "Clip": 2, "Softmax": 5, "LogSoftmax": 6,
        "Hardmax": 2, "LpNormalization": 3, "BatchNormalization": 2, "InstanceNormalization": 6,
        "MeanVarianceNormalization": 6,
        "LayerNormalization": 7, "GroupNormalization": 7, "RMSNormalization": 5, "LRN": 8,
        "QuantizeLinear": 3, "DequantizeLinear": 2, "DynamicQuantizeLinear": 5, "RotaryEmbedding": 3, "GridSample": 8,
    }  # fmt: skip
    for op, operations in many.items():
        FLOPS["", op] = _per_element(operations)
    contrib = {
        "Gelu": 9, "FastGelu": 9, "QuickGelu": 9, "BiasGelu": 9, "BiasSplitGelu": 11, "ScaledSiLU": 6, "GatedAdd": 2,
        "BiasAdd": 2, "BiasSoftmax": 6, "SkipLayerNormalization": 8, "EmbedLayerNormalization": 8,
        "QEmbedLayerNormalization": 10, "SkipSimplifiedLayerNormalization": 6, "GatedRMSNorm": 11,
        "BranchwiseRMSNorm": 5, "EngramGate": 12, "LinearAttentionGate": 10, "GroupNorm": 8, "SkipGroupNorm": 10,
        "RotaryEmbedding": 3, "MRotaryEmbedding": 3, "GemmaRotaryEmbedding": 8, "RelativePositionBias": 10,
        "GatedRelativePositionBias": 4, "QuantizeLinear": 3, "DequantizeLinear": 2, "QLinearAdd": 6, "QLinearMul": 6,
        "QLinearSigmoid": 9, "QLinearLeakyRelu": 7, "QLinearSoftmax": 10, "QLinearConcat": 5, "QLinearWhere": 5,
        "GatherBlockQuantized": 2, "QOrderedGelu": 14, "QOrderedLayerNormalization": 12, "GridSample": 8,
        "Pad": 0, "GatherND": 0, "ExpandDims": 0, "Trilu": 0, "Range": 0, "UnfoldTensor": 0, "RemovePadding": 0,
        "RestorePadding": 0,
    }  # fmt: skip
    for op, operations in contrib.items():
        FLOPS[MS, op] = _per_element(operations)
    for op, operations in {"Affine": 2, "ImageScaler": 2, "ScaledTanh": 3, "ParametricSoftplus": 5}.items():
        FLOPS["", op] = _per_element(operations)
    FLOPS[MS, "HyperConnectionPreMix"] = _per_input(2)
    FLOPS[MS, "QLinearGlobalAveragePool"] = _per_input(1)
    FLOPS["", "SimplifiedLayerNormalization"] = _per_element(5)
    reductions = (
        "ReduceMax ReduceMin ReduceMean ReduceSum ReduceProd ArgMax ArgMin CumSum GlobalAveragePool GlobalMaxPool"
    )
    for op in (*reductions.split(), "TopK", "Einsum"):
        FLOPS["", op] = _per_input(1)
    for op in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "GlobalLpPool"):
        FLOPS["", op] = _per_input(2)


_table()


@_rule("Sum", "Max", "Min", "Mean")
def _variadic(node: Node) -> Dim:
    return mul(_count(node), max(len(node.inputs) - 1, 0))


def _macs(count: Dim, depth: Dim, bias: bool) -> Dim:
    """``count`` results of ``depth`` multiply-adds each, and an addition where there is a bias."""
    return mul(count, add(mul(depth, 2), 1 if bias else 0))


def _conv_like(weight: int, bias: int) -> Flops:
    def rule(node: Node) -> Dim:
        w = _shape(node, weight)
        return None if w is None else _macs(_count(node), product(w[1:]), node.input(bias) is not None)

    return rule


_rule("Conv")(_conv_like(1, 2))
_rule("ConvInteger")(_conv_like(1, 9))
_rule("QLinearConv")(_conv_like(3, 8))
_rule("QLinearConv", domain=MS)(_conv_like(3, 8))
_rule("FusedConv", "NhwcConv", "NhwcFusedConv", domain=MS)(_conv_like(1, 2))
_rule("Conv", domain="com.microsoft.nchwc")(_conv_like(1, 2))


@_rule("ConvTranspose")
@_rule("ConvTransposeWithDynamicPads", domain=MS)
def _conv_transpose(node: Node) -> Dim:
    """Each element of the data meets each weight of its channel once."""
    w = _shape(node, 1)
    if w is None:
        return None
    bias = _count(node) if node.input(2 if node.op == "ConvTranspose" else 3) is not None else 0
    return add(mul(mul(_input(node), product(w[1:])), 2), bias)


@_rule("MaxPool", "AveragePool", "LpPool")
@_rule("NhwcMaxPool", "QLinearAveragePool", "MaxpoolWithMask", domain=MS)
def _pool(node: Node) -> Dim:
    kernel = node.attrs.get("kernel_shape")
    window = product(k for k in kernel if isinstance(k, int)) if isinstance(kernel, tuple) else None
    return mul(_count(node), window)


def _matmul_like(a: int = 0) -> Flops:
    def rule(node: Node) -> Dim:
        shape = _shape(node, a)
        return _macs(_count(node), shape[-1], False) if shape else None

    return rule


_rule("MatMul", "MatMulInteger", "QLinearMatMul")(_matmul_like())
_rule(
    *"FusedMatMulActivation MatMulNBits MatMulBnb4 MatMulFpQ4 DynamicQuantizeMatMul MatMulIntegerToFloat "
    "MatMulInteger16 GemmFastGelu QOrderedMatMul".split(),
    domain=MS,
)(_matmul_like())


@_rule("FusedMatMul", "TransposeMatMul", domain=MS)
def _fused_matmul(node: Node) -> Dim:
    shape = _shape(node, 0)
    if shape is None or len(shape) < 1:
        return None
    depth = shape[-2] if node.attrs.get("transA", 0) and len(shape) > 1 else shape[-1]
    return _macs(_count(node), depth, False)


@_rule("Gemm")
@_rule("FusedGemm", "QGemm", domain=MS)
def _gemm(node: Node) -> Dim:
    shape = _shape(node, 0)
    if shape is None or len(shape) != 2:
        return None
    depth = shape[0] if node.attrs.get("transA", 0) else shape[1]
    return _macs(_count(node), depth, node.op != "QGemm" and node.input(2) is not None)


@_rule("Einsum")
def _einsum(node: Node) -> Dim:
    """All combinations of the letters' extents, one multiply-add for each operand after the first."""
    extents: dict[str, Dim] = {}
    for i, term in enumerate(str(node.attrs.get("equation", "")).replace(" ", "").partition("->")[0].split(",")):
        shape = _shape(node, i)
        if shape is None or len(shape) != len(term):  # an ellipsis is not followed
            return None
        extents.update(zip(term, shape, strict=True))
    return mul(product(extents.values()), max(2 * (len(node.inputs) - 1), 1))


_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@_rule(*_GATES)
def _recurrent(node: Node) -> Dim:
    """For each step, sequence, direction and gate: hidden x (in + hidden) multiply-adds."""
    x, r = _shape(node, 0), _shape(node, 2)
    if x is None or r is None or len(x) != 3 or len(r) != 3:
        return None
    per_gate = mul(mul(r[2], add(x[2], r[2])), 2)
    return mul(mul(mul(x[0], x[1]), r[0]), mul(per_gate, _GATES[node.op]))


@_rule("Resize", "Upsample")
def _resize(node: Node) -> Dim:
    """Copies, or a weighted sum of 2 (linear) or 4 (cubic) neighbours along each of two axes."""
    mode = node.attrs.get("mode", "nearest")
    return mul(_count(node), {"linear": 8, "cubic": 32}.get(str(mode), 0))


# -- attention


def _pairs(pairs: Dim, key_size: Dim, value_size: Dim) -> Dim:
    """``pairs`` of a query and a key, over all heads: two products, and a softmax between them."""
    return mul(pairs, add(mul(add(key_size, value_size), 2), 5))


def _heads(node: Node, i: int, attr: str) -> tuple[Dim, Dim, Dim, Dim] | None:
    """Batch, heads, steps and size of an operand ``[B, N, S, D]`` or ``[B, S, N * D]``."""
    shape, heads = _shape(node, i), node.attrs.get(attr)
    if shape is not None and len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    if shape is None or len(shape) != 3 or not isinstance(heads, int) or heads <= 0:
        return None
    return shape[0], heads, shape[1], floordiv(shape[2], heads)


def _held(node: Node, i: int, axis: int) -> Dim:
    """The extent along ``axis`` of result ``i``, a cache; ``None`` where there is none or it is unknown."""
    shape = node.outputs[i].shape if len(node.outputs) > i else None
    return shape[axis] if shape is not None and len(shape) > axis else None


@_rule("Attention")
def _attention(node: Node) -> Dim:
    q, k, v = (_heads(node, i, f"{'q' if i == 0 else 'kv'}_num_heads") for i in range(3))
    if q is None or k is None or v is None:
        return None
    steps = _held(node, 1, 2)
    if steps is None and node.input(4) is None:
        steps = k[2]
    return _pairs(mul(mul(q[0], q[1]), mul(q[2], steps)), q[3], v[3])


@_rule("MultiHeadAttention", "DecoderMaskedMultiHeadAttention", domain=MS)
def _multi_head(node: Node) -> Dim:
    """Query ``[B, S, hidden]``, key and value ``[B, L, hidden]`` or ``[B, N, L, D]``; or all in one."""
    q = _shape(node, 0)
    if q is not None and len(q) == 5:  # [B, S, N, 3, D]
        return _pairs(mul(mul(q[0], q[2]), mul(q[1], q[1])), q[4], q[4])
    query, k, v = (_heads(node, i, "num_heads") for i in range(3))
    if query is None or k is None or v is None:
        return None
    steps = _held(node, 1, 2)
    if steps is None and node.input(6 if node.op == "MultiHeadAttention" else 5) is None:
        steps = k[2]
    return _pairs(mul(mul(query[0], query[1]), mul(query[2], steps)), query[3], v[3])


@_rule("GroupQueryAttention", "SparseAttention", domain=MS)
def _grouped(node: Node) -> Dim:
    """All pairs, although half of them are masked: kernels differ in what they skip."""
    q, heads, kv_heads = _shape(node, 0), node.attrs.get("num_heads"), node.attrs.get("kv_num_heads")
    if q is None or len(q) != 3 or not isinstance(heads, int) or not isinstance(kv_heads, int):
        return None
    size = floordiv(q[2], heads if node.input(1) is not None else heads + 2 * kv_heads)
    steps = _held(node, 1, 2)
    if steps is None and node.input(3) is None:
        steps = q[1]
    return _pairs(mul(mul(q[0], heads), mul(q[1], steps)), size, size)


@_rule("Attention", "QAttention", domain=MS)
def _packed_attention(node: Node) -> Dim:
    """The projection of ``[B, S, in]`` by ``[in, q + k + v]``, then attention."""
    x, w, heads = _shape(node, 0), _shape(node, 1), node.attrs.get("num_heads")
    if x is None or w is None or len(x) != 3 or len(w) != 2 or not isinstance(heads, int) or heads <= 0:
        return None
    sizes = node.attrs.get("qkv_hidden_sizes")
    q, _, v = sizes if isinstance(sizes, tuple) and len(sizes) == 3 else (floordiv(w[1], 3),) * 3
    if not isinstance(q, (int, type(w[1]))) or not isinstance(v, (int, type(w[1]))):
        return None
    steps = _held(node, 1, 3)
    if steps is None and node.input(4 if node.op == "Attention" else 8) is None:
        steps = x[1]
    projection = mul(mul(mul(x[0], x[1]), mul(w[0], w[1])), 2)
    pairs = mul(mul(x[0], heads), mul(x[1], steps))
    return add(projection, _pairs(pairs, floordiv(q, heads), floordiv(v, heads)))


# -- recurrences, mixtures and windows of language models


@_rule("LinearAttention")
@_rule("LinearAttention", domain=MS)
def _linear_attention(node: Node) -> Dim:
    """For each token and head the state ``[d_k, d_v]`` is decayed, corrected, added to and read."""
    state = node.outputs[1].shape if len(node.outputs) > 1 else None
    q = _shape(node, 0)
    if state is None or len(state) != 4 or q is None or len(q) != 3:
        return None
    return mul(mul(q[1], product(state)), 7)


@_rule("CausalConvWithState")
@_rule("CausalConvWithState", domain=MS)
def _causal_conv(node: Node) -> Dim:
    w = _shape(node, 1)
    return None if w is None else _macs(_count(node), product(w[1:]), node.input(2) is not None)


@_rule("CDist", domain=MS)
def _distances(node: Node) -> Dim:
    shape = _shape(node, 0)
    return mul(_count(node), mul(shape[-1], 3)) if shape else None


@_rule("HyperConnectionPostMix", domain=MS)
def _post_mix(node: Node) -> Dim:
    mix = _shape(node, 3)
    if node.input(3) is None:
        return mul(_count(node), 2)
    return None if mix is None else _macs(_count(node), add(mix[-1], 1), False)


@_rule("MoE", "QMoE", domain=MS)
def _experts(node: Node) -> Dim:
    """Each token goes through ``k`` experts, whose weights (of a mixture in floats) are ``[experts, out, in]``."""
    k = node.attrs.get("k", 1)
    tokens = _shape(node, 1)
    if node.op == "QMoE" or tokens is None or not tokens or not isinstance(k, int):
        return None
    total: Dim = 0
    for i in (2, 4, 6):
        w = _shape(node, i)
        if w is not None:
            total = add(total, product(w[1:]))
        elif node.input(i) is not None:
            return None
    return mul(mul(tokens[0], total), 2 * k)


@_rule("DynamicQuantizeLSTM", domain=MS)
def _quantized_lstm(node: Node) -> Dim:
    """As LSTM, with weights ``[directions, in, 4 * hidden]``."""
    x, w, r = _shape(node, 0), _shape(node, 1), _shape(node, 2)
    if x is None or w is None or r is None or len(x) != 3 or not len(w) == len(r) == 3:
        return None
    return mul(mul(mul(x[0], x[1]), mul(w[0], w[2])), mul(add(w[1], r[1]), 2))
