"""Contents rules: elements of small integer tensors, the arithmetic on shapes that exporters leave in models."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce

from ..constants import Constant
from ..dims import Dim, add, call, floordiv, mul, product, sub
from ..dtypes import DType
from ..graph import Node
from .rules import (
    MAX_ELEMENTS,
    WHOLE,
    Elements,
    attr_or_operand,
    axes_of,
    contents,
    elements,
    given,
    int_attr,
    ints,
    ints_attr,
    is_nonnegative,
    shape_of,
)


@contents("Constant")
def constant_elements(node: Node) -> Elements:
    value = node.attrs.get("value")
    if isinstance(value, Constant) and value.dtype in WHOLE and len(value.shape) <= 1 and value.count <= MAX_ELEMENTS:
        return tuple(map(int, value.numpy().reshape(-1).tolist()))
    if "value_int" in node.attrs:
        return (int_attr(node, "value_int", 0),)
    return ints_attr(node, "value_ints")


@contents("Shape")
def shape(node: Node) -> Elements:
    dims = shape_of(node, 0)
    return None if dims is None else dims[slice(*_shape_range(node, len(dims)))]


def _shape_range(node: Node, rank: int) -> tuple[int, int]:
    """First and last axis of Shape, clamped as the operator does (attributes since version 15)."""
    start, end = int_attr(node, "start", 0), int_attr(node, "end", rank)
    start, end = (max(0, min(rank, x + rank if x < 0 else x)) for x in (start, end))
    return start, max(start, end)


@contents("Size")
def size(node: Node) -> Elements:
    dims = shape_of(node, 0)
    return None if dims is None else (product(dims),)


@contents("Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten")
def same_elements(node: Node) -> Elements:
    return elements(node, 0)


@contents("Cast")
def cast(node: Node) -> Elements:
    """Between integers, and to truth values where all are integers (floats are not followed)."""
    found = elements(node, 0)
    if found is not None and node.outputs[0].dtype is DType.BOOL:
        return tuple([int(d != 0) if type(d) is int else None for d in found])
    return found


# -- arithmetic


def _pairs(node: Node, apply: Callable[[Dim, Dim], Dim]) -> Elements:
    rows = _aligned([elements(node, 0), elements(node, 1)])
    return None if rows is None else tuple([apply(x, y) for x, y in rows])


def _aligned(operands: list[Elements]) -> list[tuple[Dim, ...]] | None:
    """The operands' elements side by side, single ones repeated; ``None`` where one operand is not known."""
    known = [x for x in operands if x is not None]
    lengths = {len(x) for x in known} - {1}
    if len(known) != len(operands) or len(lengths) > 1:
        return None
    size = lengths.pop() if lengths else 1
    return list(zip(*(x * size if len(x) == 1 else x for x in known), strict=True))


@contents("Add")
def add_elements(node: Node) -> Elements:
    return _pairs(node, add)


@contents("Sub")
def sub_elements(node: Node) -> Elements:
    return _pairs(node, sub)


@contents("Mul")
def mul_elements(node: Node) -> Elements:
    return _pairs(node, mul)


@contents("Neg")
def neg_elements(node: Node) -> Elements:
    found = elements(node, 0)
    return None if found is None else tuple([sub(0, d) for d in found])


@contents("Div")
def div_elements(node: Node) -> Elements:
    return _pairs(node, _truncated)


def _truncated(a: Dim, b: Dim) -> Dim:
    """Integer division rounds towards zero; floor division is the same where both are non-negative."""
    if type(a) is int and type(b) is int:
        return None if b == 0 else a // b if (a < 0) == (b < 0) else -(-a // b)
    if is_nonnegative(a) and is_nonnegative(b):
        return floordiv(a, b)
    quotient = floordiv(a, b)
    # Where the division is exact there is nothing to round.
    return quotient if a is not None and b is not None and quotient is not None and mul(quotient, b) == a else None


@contents("Mod")
def mod_elements(node: Node) -> Elements:
    fmod = bool(node.attrs.get("fmod", 0))

    def apply(a: Dim, b: Dim) -> Dim:
        if type(a) is int and type(b) is int:
            return None if b == 0 else int(math.fmod(a, b)) if fmod else a % b
        return call("mod", a, b) if is_nonnegative(a) and is_nonnegative(b) else None

    return _pairs(node, apply)


@contents("Min", "Max")
def extreme(node: Node) -> Elements:
    rows = _aligned([elements(node, i) for i in range(len(node.inputs))])
    function = node.op.lower()
    return None if rows is None else tuple([reduce(partial(_extreme, function), row) for row in rows])


def _extreme(function: str, a: Dim, b: Dim) -> Dim:
    """``min`` or ``max``, decided where the difference has a sign."""
    if a is None or b is None:
        return None
    if is_nonnegative(sub(a, b)):
        return a if function == "max" else b
    if is_nonnegative(sub(b, a)):
        return b if function == "max" else a
    return call(function, a, b)


@contents("Abs")
def absolute(node: Node) -> Elements:
    found = elements(node, 0)
    if found is None:
        return None
    return tuple([abs(d) if type(d) is int else d if is_nonnegative(d) else None for d in found])


@contents("Clip")
def clip(node: Node) -> Elements:
    found, low, high = elements(node, 0), elements(node, 1), elements(node, 2)
    if found is None or "min" in node.attrs or "max" in node.attrs:
        return None
    for operand, function, bound in ((1, "max", low), (2, "min", high)):
        if given(node, "", operand):
            if bound is None:
                return None
            found = tuple([_extreme(function, d, bound[0]) for d in found])
    return found


# -- comparison


@contents("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def compare(node: Node) -> Elements:
    op = node.op

    def apply(a: Dim, b: Dim) -> Dim:
        difference = sub(a, b)
        if difference is None:
            return None
        above, below = is_nonnegative(difference), is_nonnegative(sub(0, difference))
        strictly = is_nonnegative(sub(difference, 1)), is_nonnegative(sub(-1, difference))
        if op == "Equal":
            return 1 if above and below else 0 if any(strictly) else None
        if op in ("Less", "LessOrEqual"):
            above, below, strictly = below, above, strictly[::-1]
        if op in ("Greater", "Less"):
            return 1 if strictly[0] else 0 if below else None
        return 1 if above else 0 if strictly[1] else None

    return _pairs(node, apply)


@contents("Not")
def negate(node: Node) -> Elements:
    found = elements(node, 0)
    return None if found is None else tuple([1 - d if type(d) is int else None for d in found])


@contents("And", "Or")
def logic(node: Node) -> Elements:
    decides = int(node.op == "Or")

    def apply(a: Dim, b: Dim) -> Dim:
        if a == decides or b == decides:
            return decides
        return None if a is None or b is None else 1 - decides

    return _pairs(node, apply)


@contents("Where")
def where(node: Node) -> Elements:
    rows = _aligned([elements(node, i) for i in range(3)])
    return None if rows is None else tuple([_chosen(*row) for row in rows])


def _chosen(condition: Dim, a: Dim, b: Dim) -> Dim:
    if type(condition) is int:
        return a if condition else b
    return a if a == b else None


# -- movement


@contents("Gather")
def gather(node: Node) -> Elements:
    data, at = elements(node, 0), ints(node, 1)
    if data is None or at is None or len(shape_of(node, 0) or ()) != 1:
        return None
    if any(not -len(data) <= i < len(data) for i in at):
        return None
    return tuple([data[i] for i in at])


@contents("Slice")
def slice_elements(node: Node) -> Elements:
    data = elements(node, 0)
    starts = attr_or_operand(node, "starts", 1)
    ends = attr_or_operand(node, "ends", 2)
    axes = attr_or_operand(node, "axes", 3) if given(node, "axes", 3) else (0,)
    steps = attr_or_operand(node, "steps", 4) if given(node, "steps", 4) else (1,)
    if data is None or starts is None or ends is None or axes is None or steps is None or len(starts) != 1:
        return None
    start, end, step = starts[0], ends[0], steps[0]
    if type(start) is not int or type(end) is not int or type(step) is not int or step == 0 or axes[0] not in (0, -1):
        return None
    return data[slice(*slice(start, end, step).indices(len(data)))] if step > 0 else _backwards(data, start, end, step)


def _backwards(data: tuple[Dim, ...], start: int, end: int, step: int) -> tuple[Dim, ...]:
    # A range, not a slice: slice() reads the end -1 that indices() gives for "before the first" as the last.
    return tuple([data[i] for i in range(*slice(start, end, step).indices(len(data)))])


@contents("Concat")
def concat(node: Node) -> Elements:
    out: list[Dim] = []
    for i in range(len(node.inputs)):
        part = elements(node, i)
        if part is None:
            # An operand of known length keeps the others' places.
            dims = shape_of(node, i)
            if dims is None or len(dims) != 1 or type(dims[0]) is not int or dims[0] > MAX_ELEMENTS:
                return None
            part = (None,) * dims[0]
        out.extend(part)
    return tuple(out)


@contents("Split")
def split(node: Node) -> list[Elements]:
    data = elements(node, 0)
    out: list[Elements] = []
    at = 0
    for value in node.outputs:
        size = value.shape[0] if value.shape else None
        if data is None or type(size) is not int:
            return []
        out.append(data[at : at + size])
        at += size
    return out


@contents("Expand", "Tile")
def repeated(node: Node) -> Elements:
    data, dims = elements(node, 0), node.outputs[0].shape
    if data is None or dims is None or (dims and type(dims[0]) is not int):
        return None
    size = dims[0] if dims else 1
    assert type(size) is int
    return data * (size // len(data)) if data and size <= MAX_ELEMENTS else None


@contents("Transpose")
def transpose(node: Node) -> Elements:
    return elements(node, 0)


@contents("ConstantOfShape")
def constant_of_shape(node: Node) -> Elements:
    dims = node.outputs[0].shape
    value = node.attrs.get("value")
    if dims is None or not isinstance(value, Constant) or any(type(d) is not int for d in dims):
        return None
    size = dims[0] if dims else 1
    assert type(size) is int
    return (int(value.numpy().reshape(-1)[0]),) * size if size <= MAX_ELEMENTS else None


@contents("Range")
def range_elements(node: Node) -> Elements:
    bounds = [ints(node, i) for i in range(3)]
    if any(b is None or len(b) != 1 for b in bounds):
        return None
    start, limit, delta = (b[0] for b in bounds if b is not None)
    if not delta or -((start - limit) // delta) > MAX_ELEMENTS:
        return None
    return tuple(range(start, limit, delta))


@contents("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def reduction(node: Node) -> Elements:
    data = elements(node, 0)
    if data is None or not data or not _reduces(node):
        return None
    if node.op == "ReduceProd":
        return (product(data),)
    if node.op == "ReduceSum":
        return (reduce(add, data),)
    return (reduce(partial(_extreme, node.op[6:].lower()), data),)


def _reduces(node: Node) -> bool:
    """Whether the rank-1 operand is reduced to one element."""
    if not given(node, "axes", 1):
        return not node.attrs.get("noop_with_empty_axes", 0)
    axes = attr_or_operand(node, "axes", 1)
    return bool(axes) and axes_of(node, axes, 1) is not None


@contents("ScatterND", "ScatterElements")
def scatter(node: Node) -> Elements:
    """Single elements replaced: PyTorch exports ``shape[i] = n`` this way."""
    data, updates = elements(node, 0), elements(node, 2)
    dims = shape_of(node, 1)
    at = ints(node, 1) if node.op == "ScatterElements" or dims is None or len(dims) == 1 else None
    if data is None or updates is None or at is None or len(at) != len(updates):
        return None
    if node.attrs.get("reduction", "none") != "none":
        return None
    out = list(data)
    for i, d in zip(at, updates, strict=True):
        if not -len(out) <= i < len(out):
            return None
        out[i] = d
    return tuple(out)
