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
    for op in ("Gelu", "FastGelu", "QuickGelu", "BiasGelu"):
        FLOPS[MS, op] = _per_element(9)
    for op in ("SkipLayerNormalization", "EmbedLayerNormalization"):
        FLOPS[MS, op] = _per_element(8)
    FLOPS[MS, "SkipSimplifiedLayerNormalization"] = _per_element(6)
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
_rule("FusedConv", domain=MS)(_conv_like(1, 2))
_rule("Conv", domain="com.microsoft.nchwc")(_conv_like(1, 2))


@_rule("ConvTranspose")
def _conv_transpose(node: Node) -> Dim:
    """Each element of the data meets each weight of its channel once."""
    w = _shape(node, 1)
    if w is None:
        return None
    bias = _count(node) if node.input(2) is not None else 0
    return add(mul(mul(_input(node), product(w[1:])), 2), bias)


@_rule("MaxPool", "AveragePool", "LpPool")
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
    *"FusedMatMulActivation MatMulNBits MatMulBnb4 DynamicQuantizeMatMul MatMulIntegerToFloat MatMulInteger16".split(),
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


@_rule("Attention")
def _attention(node: Node) -> Dim:
    """Scores and weighted values: two products, and a softmax between them."""
    q, k, v = _shape(node, 0), _shape(node, 1), _shape(node, 2)
    if q is None or k is None or v is None or not len(q) == len(k) == len(v) == 4:
        return None
    steps = k[2]
    present = node.outputs[1].shape if len(node.outputs) > 1 else None
    if present is not None and len(present) == 4 and present[2] is not None:
        steps = present[2]
    scores = mul(mul(q[0], q[1]), mul(q[2], steps))
    return mul(scores, add(mul(add(q[3], v[3]), 2), 5))


@_rule("MultiHeadAttention", domain=MS)
def _multi_head(node: Node) -> Dim:
    """Query ``[B, S, hidden]``, key and value ``[B, L, hidden]``."""
    q, k, v = _shape(node, 0), _shape(node, 1), _shape(node, 2)
    if q is None or k is None or v is None or not len(q) == len(k) == len(v) == 3:
        return None
    pairs = mul(q[0], mul(q[1], k[1]))
    return mul(pairs, mul(add(q[2], v[2]), 2))


@_rule("Attention", domain=MS)
def _packed_attention(node: Node) -> Dim:
    """The projection, then attention of ``[B, S, hidden]`` with itself (without a past)."""
    x, w = _shape(node, 0), _shape(node, 1)
    if x is None or w is None or len(x) != 3 or len(w) != 2 or node.input(4) is not None:
        return None
    projection = mul(mul(mul(x[0], x[1]), mul(w[0], w[1])), 2)
    return add(projection, mul(mul(x[0], mul(x[1], x[1])), mul(floordiv(mul(w[1], 2), 3), 2)))
