"""Bounds of the numbers in a tensor that hold in every run, from the inputs' types and the weights.

``Bounds().of(value)`` is a number that no element exceeds in magnitude, which also says that every element is finite
and not NaN; ``None`` is "nothing known". Integers are bounded by their type, so a text model is bounded from end to
end: embeddings are constant, a normalization divides by at least the root of epsilon, a softmax gives at most 1.

The bound of a result is computed in float64 and must stay so far below the type's largest number that no order of
summation overflows; :data:`_ROUNDING` widens sums for the rounding of partial results. Of weights only the largest
magnitude is looked at, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ...ir.dims import product
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from .operands import int_list, normalized

Bound: TypeAlias = float | None
Operands: TypeAlias = "list[Bound]"
Rule: TypeAlias = Callable[[Node, Operands], Bound]

_MAX_NODES = 1 << 16
"""Longest walk back for one question."""
_ROUNDING = 1.01
_RUN = 1 << 16
"""Elements whose squares are summed in float32: few enough that ``_ROUNDING`` covers the error."""
_FLOATS = {DType.F16: 65504.0, DType.BF16: 3.3895e38, DType.F32: float(np.finfo(np.float32).max), DType.F64: 1.7e308}


class Bounds:
    """Answers questions about one model; what was found is kept as long as the object lives."""

    def __init__(self) -> None:
        self._known: dict[Value, Bound] = {}

    def of(self, value: Value | None) -> Bound:
        """The bound of a value's elements."""
        if value is None:
            return None
        stack, visited = [value], 0
        while stack and visited < _MAX_NODES:
            v = stack[-1]
            if v in self._known:
                stack.pop()
                continue
            node = v.producer
            open_ = [] if node is None else [u for u in _operands(node) if u not in self._known]
            if open_ and node is not None and node.op in _RULES:
                stack.extend(open_)
                visited += 1
                continue
            self._known[v] = self._compute(v)
            stack.pop()
        return self._known.get(value)

    def of_rows(self, value: Value) -> Bound:
        """The bound of the rows without NaN of a normalization; it is taken for that of all from now on."""
        node = value.producer
        if node is None or node.op not in _NORMS or None in (bounds := [self.of(v) for v in node.inputs[1:]]):
            return None
        found = _times_root(node, [0.0, *bounds])
        if found is not None:
            self._known[value] = found
        return found

    def _compute(self, v: Value) -> Bound:
        if v.dtype is None:
            return None
        if v.data is not None:
            return _of_constant(v)
        if v.dtype.kind in ("int", "uint"):
            return float(2 ** (v.dtype.bits or 64))
        if v.dtype is DType.BOOL:
            return 1.0
        node, largest = v.producer, _FLOATS.get(v.dtype)
        rule = _RULES.get(node.op) if node is not None and node.domain in ("", "com.microsoft") else None
        if rule is None or node is None or largest is None or (v.index and node.op != "Split"):
            return None
        found = rule(node, [None if u is None else self._known.get(u) for u in node.inputs])
        # Half a unit above the largest number still rounds down to it: masks of -3.4028235e38 are usual.
        return None if found is None or not found <= largest * (1 + 2.0**-26) else min(found, largest)


def _operands(node: Node) -> list[Value]:
    return [u for u in node.inputs if u is not None]


def _of_constant(v: Value) -> Bound:
    data = v.data
    if data is None or data.dtype is DType.STRING or data.dtype.kind == "complex":
        return None
    if data.count == 0:
        return 0.0
    array = data.numpy()
    found = _longest_run(array.reshape(-1)) if array.dtype == np.float32 and array.flags.c_contiguous else math.nan
    if not math.isfinite(found):
        found = float(max(-array.min(), array.max()))
    return found if math.isfinite(found) else None


def _longest_run(flat: np.ndarray[Any, Any]) -> float:
    """The largest root of a sum of squares of a run of elements: no element is larger, and it is read but once."""
    runs = (flat[i : i + _RUN] for i in range(0, flat.size, _RUN))
    with np.errstate(all="ignore"):
        return _ROUNDING * math.sqrt(max(float(np.dot(run, run)) for run in runs))


# -- rules


def _first(node: Node, b: Operands) -> Bound:
    return b[0]


def _all(node: Node, b: Operands) -> Bound:
    found = [x for x in b if x is not None]
    return max(found) if b and len(found) == len(b) else None


def _one(node: Node, b: Operands) -> Bound:
    return None if b[0] is None else 1.0


def _sum(node: Node, b: Operands) -> Bound:
    return sum(x for x in b if x is not None) if None not in b else None


def _times(node: Node, b: Operands) -> Bound:
    return math.prod(x for x in b if x is not None) if None not in b else None


def _divide(node: Node, b: Operands) -> Bound:
    divisor = node.inputs[1]
    if b[0] is None or divisor is None or divisor.data is None or not divisor.data.count:
        return None
    smallest = float(np.abs(divisor.numpy().astype(np.float64)).min())
    return b[0] / smallest if smallest > 0 and b[1] is not None else None


def _where(node: Node, b: Operands) -> Bound:
    return None if b[1] is None or b[2] is None else max(b[1], b[2])


def _clip(node: Node, b: Operands) -> Bound:
    return _all(node, [x for x, v in zip(b, node.inputs, strict=True) if v is not None])


def _matmul(node: Node, b: Operands) -> Bound:
    x, w = node.inputs[0], node.inputs[1]
    if b[0] is None or b[1] is None or x is None or w is None:
        return None
    depth = x.shape[-1] if x.shape else None
    if node.op == "FusedMatMul":
        return None
    if _rows_sum_to_one(x):
        depth = 1
    return _ROUNDING * depth * b[0] * b[1] if isinstance(depth, int) else None


def _rows_sum_to_one(x: Value) -> bool:
    """Whether it is a softmax over the last axis, or one with some elements replaced by zeros."""
    node = x.producer
    if node is not None and node.op == "Where" and node.inputs[2] is not None and _is_zero(node.inputs[1]):
        node = node.inputs[2].producer
    if node is None or node.op != "Softmax" or node.domain:
        return False
    rank = x.rank
    return node.version >= 13 and node.attr("axis", -1) in (-1, None if rank is None else rank - 1)


def _is_zero(v: Value | None) -> bool:
    return v is not None and v.data is not None and not v.numpy().any()


def _gemm(node: Node, b: Operands) -> Bound:
    w = node.inputs[1]
    if b[0] is None or b[1] is None or w is None or w.data is None:
        return None
    if len(b) > 2 and node.inputs[2] is not None and b[2] is None:
        return None
    total = w.data.shape[1 if node.attr("transB", 0) else 0] * b[1] * abs(node.attr("alpha", 1.0))
    bias = (b[2] or 0.0) * abs(node.attr("beta", 1.0)) if len(b) > 2 else 0.0
    return _ROUNDING * (b[0] * total + bias)


def _conv(node: Node, b: Operands) -> Bound:
    w = node.inputs[1]
    if b[0] is None or b[1] is None or w is None or w.data is None:
        return None
    if len(b) > 2 and node.inputs[2] is not None and b[2] is None:
        return None
    total = math.prod(w.data.shape[1:]) * b[1]
    return _ROUNDING * (b[0] * total + ((b[2] or 0.0) if len(b) > 2 else 0.0))


def _normalized(node: Node, b: Operands) -> Bound:
    """|x - mean| / sqrt(var + epsilon) <= sqrt(n); the squares must not overflow on the way."""
    x = node.inputs[0]
    shape = x.shape if x is not None else None
    axis = node.attr("axis", -1)
    if b[0] is None or shape is None or None in b or not node.attr("epsilon", 1e-5) > 0:
        return None
    n = product(shape[axis:])
    largest = _FLOATS.get(x.dtype) if x is not None and x.dtype is not None else None
    if not isinstance(n, int) or largest is None or 4 * n * b[0] * b[0] > largest:
        return None
    return _times_root(node, b)


def _times_root(node: Node, b: Operands) -> Bound:
    x = node.inputs[0]
    n = product(x.shape[node.attr("axis", -1) :]) if x is not None and x.shape is not None else None
    if not isinstance(n, int):
        return None
    shift = b[2] if len(b) > 2 else 0.0
    return _ROUNDING * (math.sqrt(n) * (b[1] or 0.0) + (shift or 0.0))


def _power(node: Node, b: Operands) -> Bound:
    power = node.inputs[1]
    if b[0] is None or power is None or power.data is None or power.data.count != 1:
        return None
    exponent = float(power.numpy().reshape(-1)[0])
    return b[0] ** exponent if exponent > 0 and exponent == int(exponent) and b[0] < 1e100 else None


def _exp(node: Node, b: Operands) -> Bound:
    return math.exp(b[0]) if b[0] is not None and b[0] < 700 else None


def _plus_one(node: Node, b: Operands) -> Bound:
    return None if b[0] is None else b[0] + 1.0


def _reduced_sum(node: Node, b: Operands) -> Bound:
    n = _reduced_count(node)
    return None if n is None or b[0] is None else _ROUNDING * n * b[0]


def _reduced(node: Node, b: Operands) -> Bound:
    """Of no elements the mean is NaN and the maximum infinite."""
    return b[0] if _reduced_count(node) else None


def _pooled(node: Node, b: Operands) -> Bound:
    x = node.inputs[0]
    whole = x is not None and x.shape is not None and all(isinstance(d, int) and d > 0 for d in x.shape[2:])
    return b[0] if whole else None


def _reduced_count(node: Node) -> int | None:
    """Number of elements that make one; ``None`` where it is not known."""
    x = node.inputs[0]
    shape, axes = (x.shape if x is not None else None), int_list(node, "axes", 1)
    if shape is None:
        return None
    taken = normalized(axes, len(shape)) if axes else list(range(len(shape)))
    n = product(shape[a] for a in taken) if taken is not None else None
    return n if isinstance(n, int) else None


_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_RULES: dict[str, Rule] = {}
for _op in (
    "Gather GatherElements GatherND Slice Reshape Transpose Squeeze Unsqueeze Flatten Expand Identity Tile Split Neg "
    "Abs Relu Gelu FastGelu QuickGelu Swish HardSwish Mish Cast Softsign Floor DepthToSpace SpaceToDepth"
).split():
    _RULES[_op] = _first
for _op in ("ReduceMean", "ReduceMax", "ReduceMin"):
    _RULES[_op] = _reduced
for _op in ("MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool"):
    _RULES[_op] = _pooled
for _op in ("Concat", "Max", "Min", "Mean"):
    _RULES[_op] = _all
for _op in ("Sigmoid", "Tanh", "Softmax", "HardSigmoid", "Erf", "Sin", "Cos"):
    _RULES[_op] = _one
for _op in _NORMS:
    _RULES[_op] = _normalized
for _op in ("Softplus", "Elu", "Ceil", "Round"):
    _RULES[_op] = _plus_one
_more: dict[str, Any] = {
    "Add": _sum,
    "Sub": _sum,
    "Sum": _sum,
    "Mul": _times,
    "Div": _divide,
    "Where": _where,
    "Clip": _clip,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "Pow": _power,
    "Exp": _exp,
    "ReduceSum": _reduced_sum,
}
_RULES.update(_more)
