"""Which nodes form a unit with the pairs around them and become one integer kernel, and what keeps the others from it.

Every check gives the name of the kernel or raises ``Declined`` with the first condition that is not met, in the order
in which ONNX Runtime 1.31 asks them. Source: ``qdq_selectors.cc``, ``qdq_selector_action_transformer.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.dtypes import DType
from ....ir.graph import Node, Value
from ... import pairs as p


class Declined(Exception):
    """A condition that a unit does not meet."""

    def __init__(self, rule: str, why: str) -> None:
        super().__init__(why)
        self.rule = rule
        self.why = why


@dataclass(frozen=True)
class Unit:
    """A node with what the kernel takes in."""

    kernel: str
    dequantizers: Sequence[Node]
    quantizers: Sequence[Node]
    absorbed: Node | None = None
    """A Relu or Clip whose work the QuantizeLinear does."""


@dataclass(frozen=True)
class Candidate:
    node: Node
    dqs: Sequence[Node]
    qs: Sequence[Node]
    clip: Node | None
    int8: bool
    """Whether kernels for signed activations are taken (ARM)."""


MOVEMENT = frozenset(
    ("Expand", "Flatten", "Gather", "GatherElements", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")
)
_ORDERED = ("MaxPool", "ReduceMax", "ReduceMin")
BIAS_TOLERANCE = 0.01
"""Relative difference between the bias' scale and the product that the runtime overlooks."""
_UNARY = ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax")


def find_unit(node: Node, *, int8: bool) -> Unit:
    """The unit that ``node`` forms. Raises ``Declined``."""
    checks = CHECKS.get(node.op, ()) if node.domain == "" else ()
    if not checks:
        raise Declined("no-integer-kernel", f"the runtime has no integer kernel for {node.op}")
    c = _candidate(node, int8=int8)
    reasons: list[Declined] = []
    for check in checks:
        try:
            return _unit(c, check(c))
        except Declined as reason:
            reasons.append(reason)
    x = node.inputs[0]
    weight_only = x is not None and not p.is_dequantize(x.producer)
    raise reasons[-1 if weight_only else 0]


def _candidate(node: Node, *, int8: bool) -> Candidate:
    clip: Node | None = None
    edges = p.out_edges(node)
    if len(edges) == 1 and edges[0][0].op in ("Relu", "Clip"):
        after = edges[0][0]
        clip = after if p.has_edges(after, 1) else None
    qs = p.quantizers(clip or node)
    if clip is not None and (len(qs) != 1 or not clip_is_redundant(clip, qs[0])):
        raise Declined("activation-kept", _clip_reason(clip, qs))
    return Candidate(node, p.dequantizers(node), qs, clip, int8)


def _clip_reason(clip: Node, qs: Sequence[Node]) -> str:
    if not qs:
        return f"{clip.op} stands between it and a reader that is not quantized"
    zero = p.number(qs[0], p.ZERO) if p.constant_scalar(qs[0], p.ZERO) else "not constant"
    if clip.op == "Relu":
        return f"{clip.op} behind it is not implied by its range: the zero point is {zero}, not the lowest number"
    return f"{clip.op} behind it cuts within the range of QuantizeLinear (zero point {zero})"


def _unit(c: Candidate, kernel: str) -> Unit:
    own = c.dqs[:1] if kernel == "MatMulNBits" else c.dqs
    return Unit(kernel, own, c.qs, c.clip)


def clip_is_redundant(clip: Node, q: Node) -> bool:
    """Whether the range of ``q`` implies ``clip`` (``IsClipMadeRedundantByQ``)."""
    dtype = p.stored(q)
    if dtype not in (DType.I8, DType.U8, *p.WIDE) or not p.constant_scalar(q, p.SCALE):
        return False
    scale = q.inputs[p.SCALE]
    if scale is None or scale.rank != 0 or scale.dtype is not DType.F32:
        return False
    zero_value = q.input(p.ZERO)
    if zero_value is not None and (zero_value.data is None or zero_value.rank != 0):
        return False
    zero = 0 if zero_value is None else int(p.number(q, p.ZERO))
    low, high = np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max
    if clip.op == "Relu":
        return zero == low
    bounds = clip_bounds(clip)
    if bounds is None:
        return False
    step = np.float32(p.number(q, p.SCALE))
    return np.rint(bounds[0] / step) + zero <= low and np.rint(bounds[1] / step) + zero >= high


def clip_bounds(clip: Node) -> tuple[np.float32, np.float32] | None:
    """The constant bounds of a Clip of floats."""
    limits = np.finfo(np.float32)
    if clip.version < 11:
        return np.float32(clip.attr("min", limits.min)), np.float32(clip.attr("max", limits.max))
    found: list[np.float32] = []
    for i, default in ((1, limits.min), (2, limits.max)):
        value = clip.input(i)
        if value is not None and (value.data is None or value.dtype is not DType.F32):
            return None
        found.append(np.float32(default if value is None else p.number(clip, i)))
    return found[0], found[1]


# -- conditions that several units share


def _pairs(c: Candidate, count: int = -1, *, bare: bool = False) -> None:
    """``count`` DequantizeLinear in front (-1: one an operand) and one QuantizeLinear a result; ``bare``: or none."""
    present = sum(v is not None for v in c.node.inputs)
    count = present if count == -1 else count
    if len(c.dqs) != count:
        _wrong_operands(c, count)
    for dq in c.dqs:
        if p.only_reader(dq) is not c.node:
            raise Declined("shared-dequantize", f"{_name(dq)} in front has other readers or is a result of the graph")
    if not c.qs:
        if bare:
            return
        raise Declined("result-not-quantized", _bare_result(c))
    last = c.clip or c.node
    outputs = [v for v in c.node.outputs if v.name or v.uses]
    if p.returned(c.node) or p.returned(last):
        raise Declined("result-returned", "its float result is also a result of the graph")
    if len(c.qs) != len(outputs) or len(p.out_edges(c.node)) != len(outputs) or len(p.out_edges(last)) != len(c.qs):
        raise Declined("result-shared", f"{len(p.out_edges(last))} readers, of which {len(c.qs)} are QuantizeLinear")


def _wrong_operands(c: Candidate, count: int) -> None:
    bare = [i for i, v in enumerate(c.node.inputs) if v is not None and not p.is_dequantize(v.producer)]
    which = ", ".join(str(i) for i in bare)
    raise Declined(
        "operand-not-quantized",
        f"{len(c.dqs)} of {count} operands come from DequantizeLinear" + (f", not operand {which}" if which else ""),
    )


def _bare_result(c: Candidate) -> str:
    readers = sorted({user.op for user, _ in p.out_edges(c.clip or c.node)})
    return f"its result goes to {', '.join(readers) or 'the outside'}, not to QuantizeLinear"


def _types(c: Candidate, *, wide: bool = False, of: Sequence[int] | None = None) -> None:
    """Operands and results have one type, of 8 bits (``wide``: or 16)."""
    found = [p.stored(c.dqs[i]) for i in (of if of is not None else range(len(c.dqs)))] + [p.stored(q) for q in c.qs]
    if len(set(found)) > 1:
        raise Declined("types-differ", f"operands and result are {', '.join(map(str, found))}, want one type")
    _bits(found, wide=wide)


def _bits(found: Sequence[DType | None], *, wide: bool = False) -> None:
    for dtype in found:
        if dtype in p.WIDE and not wide:
            raise Declined("16-bit", f"there is no 16-bit kernel ({dtype})")
        if dtype in p.NARROW:
            raise Declined("4-bit", f"there is no 4-bit kernel ({dtype})")


def _signs(c: Candidate, *, needs_int8: bool) -> None:
    """Signed operands want signed weights (and a processor where the runtime takes them)."""
    x, w = p.stored(c.dqs[0]), p.stored(c.dqs[1])
    if x is not DType.I8:
        return
    if needs_int8 and not c.int8:
        raise Declined("signed-activation", "activations are i8 and were not turned to u8 (is a zero point missing?)")
    if w is not DType.I8:
        raise Declined("signed-activation", f"activations are i8, then weights must be i8, not {w}")


def _bias(c: Candidate) -> None:
    if len(c.dqs) == 3 and p.stored(c.dqs[2]) is not DType.I32:
        raise Declined("bias-not-int32", f"the bias is {p.stored(c.dqs[2])}, want i32")


def bias_scale_differs(dqs: Sequence[Node]) -> str:
    """Empty where the bias has the scale of the products within ``BIAS_TOLERANCE``, else what differs."""
    if any(dq.inputs[p.SCALE] is None or _scales(dq) is None for dq in dqs):
        return "a scale is not constant"
    x, w, bias = (_scales(dq) for dq in dqs)
    assert x is not None
    assert w is not None
    want = x * w
    if bias is None or (bias.size not in (1, want.size) and want.size != 1):
        return "the bias has another number of scales than the weight"
    worst = float(np.max(np.abs(bias - want) / np.abs(want)))
    if worst <= BIAS_TOLERANCE:
        return ""
    return f"the scale of the bias is off by {worst:.3g} of the product of the scales of operand and weight"


def _scales(dq: Node) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    value = dq.inputs[p.SCALE]
    return None if value is None or value.data is None else value.numpy().astype(np.float64).reshape(-1)


def _name(node: Node) -> str:
    return f"{node.op} {node.name}".strip()


# -- the units


def _movement(c: Candidate) -> str:
    return _dropped(c, wide=True)


def _ordered(c: Candidate) -> str:
    if c.node.op == "MaxPool" and c.node.version < 12:
        raise Declined("opset", f"MaxPool of opset {c.node.version} has no 8-bit kernel, want 12")
    return _dropped(c, positive=True)


def _resize(c: Candidate) -> str:
    kernel = _dropped(c)
    if c.node.attr("mode", b"nearest") not in ("nearest", b"nearest"):
        raise Declined("resize-mode", "only mode nearest keeps stored numbers")
    return kernel


def _dropped(c: Candidate, *, wide: bool = False, positive: bool = False) -> str:
    """DequantizeLinear in front and QuantizeLinear behind vanish: the node moves stored numbers."""
    if c.clip is not None:
        raise Declined("activation-kept", f"{c.clip.op} behind it")
    _pairs(c, 1)
    _types(c, wide=wide)
    if positive and not (p.constant_scalar(c.qs[0], p.SCALE) and p.number(c.qs[0], p.SCALE) > 0):
        raise Declined("scale-not-positive", "the order of stored numbers needs one positive constant scale")
    different = p.equal_parameters(c.qs[0], c.dqs[0])
    if different:
        raise Declined("parameters-differ", f"in front and behind {different}")
    return c.node.op


def _split(c: Candidate) -> str:
    if c.clip is not None:
        raise Declined("activation-kept", f"{c.clip.op} behind it")
    _pairs(c, 1)
    for q in c.qs:
        different = p.equal_parameters(q, c.dqs[0])
        if different:
            raise Declined("parameters-differ", f"in front and behind {different}")
    _bits([p.stored(c.dqs[0])], wide=True)
    return "Split"


def _argmax(c: Candidate) -> str:
    if c.clip is not None or len(c.dqs) != 1:
        _wrong_operands(c, 1)
    if p.only_reader(c.dqs[0]) is not c.node:
        raise Declined("shared-dequantize", f"{_name(c.dqs[0])} in front has other readers")
    _bits([p.stored(c.dqs[0])])
    if not p.constant_scalar(c.dqs[0], p.SCALE) or not p.constant_scalar(c.dqs[0], p.ZERO):
        raise Declined("parameters-differ", "DequantizeLinear has no constant scalar scale and zero point")
    return "ArgMax"


def _unary(c: Candidate) -> str:
    _pairs(c, 1)
    _types(c)
    return f"QLinear{c.node.op}"


def _all(c: Candidate) -> str:
    _pairs(c)
    _types(c)
    return f"QLinear{c.node.op}"


def _where(c: Candidate) -> str:
    _pairs(c, 2)
    _types(c)
    return "QLinearWhere"


def _conv(c: Candidate) -> str:
    _pairs(c)
    _types(c, wide=True, of=[0])
    if p.stored(c.dqs[1]) in p.NARROW:
        raise Declined("4-bit", f"there is no kernel for {p.stored(c.dqs[1])} weights")
    _signs(c, needs_int8=True)
    _bias(c)
    _bits([p.stored(c.dqs[0]), p.stored(c.dqs[1])])
    if len(c.dqs) == 3:
        different = bias_scale_differs(c.dqs)
        if different:
            raise Declined("bias-scale", different)
    return "QLinearConv"


def _matmul(c: Candidate) -> str:
    if len(c.dqs) != 2:
        _wrong_operands(c, 2)
    _signs(c, needs_int8=True)
    _bits([p.stored(dq) for dq in c.dqs])
    if not c.qs:
        return "MatMulIntegerToFloat"
    _pairs(c)
    _types(c, of=[0])
    return "QLinearMatMul"


def _gemm(c: Candidate) -> str:
    _pairs(c, bare=True)
    _signs(c, needs_int8=False)
    _types(c, wide=True, of=[0])
    _bits([p.stored(c.dqs[0]), p.stored(c.dqs[1])])
    for dq in c.dqs[:2]:
        if dq.input(p.ZERO) is None:
            raise Declined("no-zero-point", f"{_name(dq)} in front has no zero point, even 0 must be written")
    if len(c.dqs) == 3:
        if c.node.attr("beta", 1.0) != 1.0:
            raise Declined("gemm-form", f"beta is {c.node.attr('beta', 1.0)}, want 1 where there is a bias")
        _bias(c)
    return "QGemm"


def _nbits(c: Candidate) -> str:
    """Float activations, a weight of few bits that is spread out within the kernel."""
    if c.clip is not None:
        raise Declined("activation-kept", f"{c.clip.op} behind it")
    x, weight = c.node.inputs[:2]
    dq = weight.producer if weight is not None else None
    if c.qs or not p.is_dequantize(dq) or x is None or p.is_dequantize(x.producer):
        raise Declined("operand-not-quantized", "beside weights of few bits activations and results must be floats")
    if not p.has_edges(dq, 1):
        raise Declined("shared-dequantize", f"{_name(dq)} in front has other readers")
    if c.node.op == "Gemm":
        _nbits_gemm(c.node, dq)
    _nbits_weight(dq)
    return "MatMulNBits"


def _nbits_gemm(node: Node, dq: Node) -> None:
    if node.attr("alpha", 1.0) != 1.0 or node.attr("transA", 0) or node.attr("transB", 0):
        raise Declined("gemm-form", "alpha must be 1, transA and transB 0 beside weights of few bits")
    bias, weight = node.input(2), dq.inputs[0]
    after = p.only_reader(node)
    if p.producer_of(node.inputs[0], "Transpose") is not None or (bias is None and after and after.op == "Transpose"):
        raise Declined(
            "gemm-form", "the Transpose beside it becomes transA, which must be 0 beside weights of few bits"
        )
    if bias is None:
        return
    if node.attr("beta", 1.0) != 1.0 or weight is None or weight.shape is None or bias.shape != weight.shape[1:]:
        raise Declined("gemm-form", "beta must be 1 and the bias have one element a column")


def _nbits_weight(dq: Node) -> None:
    weight, scale, zero = dq.inputs[0], dq.inputs[p.SCALE], dq.input(p.ZERO)
    assert weight is not None
    assert scale is not None
    if any(v is not None and v.data is None for v in (weight, scale, zero)):
        raise Declined("weight-not-constant", "the weight, its scale and zero point must be constant")
    if len(weight.uses) > 1 or len(scale.uses) > 1:
        which = "weight" if len(weight.uses) > 1 else "scale"
        raise Declined("weight-shared", f"the constant with the {which} has other readers")
    if scale.dtype not in (DType.F32, DType.F16) or p.stored(dq) not in p.BITS or weight.rank != 2:
        raise Declined("weight-form", f"{p.stored(dq)} of rank {weight.rank} with {scale.dtype} scales has no kernel")
    block = int(dq.attr("block_size", 0))
    if block:
        _blocked(dq, weight, scale, block)
    elif scale.rank == 1 and dq.attr("axis", 1) != 1:
        raise Declined("weight-axis", f"scales run along axis {dq.attr('axis', 1)}, written as 1 they would do")
    elif not (scale.rank == 0 or (scale.rank == 1 and scale.shape == (weight.shape or ())[1:])):
        raise Declined("weight-form", "scales must be one number, one a column, or one a block of a column")


def _blocked(dq: Node, weight: Value, scale: Value, block: int) -> None:
    if dq.attr("axis", 1) != 0:
        raise Declined("weight-axis", f"blocks run along axis {dq.attr('axis', 1)}, written as 0 they would do")
    if block < 16 or block & (block - 1):
        raise Declined("weight-block", f"blocks have {block} elements, want a power of two from 16")
    if scale.rank != 2 or weight.rank != 2:
        raise Declined("weight-form", "blocked scales must be a matrix")


CHECKS: dict[str, tuple[Callable[[Candidate], str], ...]] = {
    **dict.fromkeys(MOVEMENT, (_movement,)),
    **dict.fromkeys(_ORDERED, (_ordered,)),
    **dict.fromkeys(_UNARY, (_unary,)),
    **dict.fromkeys(("Add", "Mul", "Concat"), (_all,)),
    "Resize": (_resize,),
    "Split": (_split,),
    "ArgMax": (_argmax,),
    "Where": (_where,),
    "Conv": (_conv,),
    "MatMul": (_matmul, _nbits),
    "Gemm": (_gemm, _nbits),
}
