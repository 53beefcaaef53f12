"""remove-identity: ``f(x) = x``.

Operators that return an operand unchanged go, each under its own exact condition: Identity; Dropout at
inference; Cast to the type that is there; Reshape, Expand, Tile, Pad, Slice, Transpose, Concat, Split,
Squeeze, Unsqueeze, Flatten and Resize that move nothing; ``x*1``, ``x/1``, ``x-0``, ``x**1``, ``x and
true``, ``x or false``, ``x xor false``; Sum, Mean, Max, Min of one operand; Clip of integers without
bounds; Where with a constant condition; ``-(-x)``, ``not not x``; ``f(f(x)) = f(x)`` for Relu, Abs, Ceil,
Floor, Round, Sign.

**Why**    exporters leave them in; each costs a kernel call and, most of them, a copy.
**Needs**  that the result has the operand's shape for every value of the symbols, or that the operator
           cannot change it; constants that a caller may override do not count as constants.
**Leaves** ``x + 0.0`` for floats, which turns -0.0 into +0.0 (``x + -0.0`` goes; with the option
           ``signed-zeros=false`` both go); numbers near zero or one; Clip of floats, which without bounds
           clips infinities to the largest finite number; Dropout in training mode or with a used mask;
           QuantizeLinear and DequantizeLinear, whose rounding is the point.
**Numbers** exact; with ``signed-zeros=false`` zeros may change sign.
**Source** ONNX operator specifications, versions 1 to 26; LLVM's rule for ``fadd x, +0.0`` (needs ``nsz``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ...ir.constants import SplatConstant
from ...ir.dims import same_dim, same_shape
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ...ir.ops import is_pure
from ..core import RewritePass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NodeRule, NoMatch, Replacement
from ..shared.attributes import require_own_attributes
from ..shared.operands import int_list, int_operand, perm_of

MAX_SCAN = 1 << 16
"""Largest constant whose elements are looked at."""
END = 1 << 31
"""A slice end from here on stands for the end of the axis in every exporter (their sentinels are 2**31-1 and up)."""


@dataclass
class RemoveIdentity(RewritePass):
    """Removes operators that return an operand unchanged."""

    signed_zeros: bool = True
    """Keep ``x + 0.0``, which makes +0.0 of -0.0."""

    def rules(self) -> Iterable[NodeRule]:
        return [SameValue(), NeutralOperand(self.signed_zeros), ConstantCondition(), Repeated()]


def operand(node: Node, i: int = 0) -> Value:
    """The operand at ``i``, which must be there."""
    value = node.input(i)
    if value is None:
        raise NoMatch(f"operand {i} of {node.op} is absent")
    return value


_VARIADIC = ("Concat", "Sum", "Mean", "Max", "Min")


class SameValue(NodeRule):
    """Movement that moves nothing, and operators of one operand that do nothing."""

    roots = (
        *(
            "Identity",
            "Dropout",
            "Cast",
            "CastLike",
            "Reshape",
            "Expand",
            "Tile",
            "Pad",
            "Slice",
            "Transpose",
            "Concat",
        ),
        *("Split", "Squeeze", "Unsqueeze", "Flatten", "Resize", "Upsample", "Sum", "Mean", "Max", "Min", "Clip"),
    )

    def promising(self, node: Node) -> bool:
        op, value = node.op, node.inputs[0] if node.inputs else None
        if value is None or (len(node.inputs) > 1 and op in _VARIADIC):
            return False
        if op == "Split":
            return len(node.outputs) == 1
        if op == "Cast":
            return value.dtype is node.outputs[0].dtype
        if op == "Transpose":
            perm = node.attrs.get("perm")
            return not isinstance(perm, tuple) or list(perm) == sorted(perm)  # type: ignore[type-var]
        before, after = value.shape, node.outputs[0].shape
        if before is None or after is None:
            return True
        return before == after or (len(before) == len(after) and None in before)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        require_own_attributes(node)
        x = operand(node)
        reason = _CHECKS[node.op](node, x)
        if reason is not None:
            raise NoMatch(reason)
        return [x] + [None] * (len(node.outputs) - 1)


def _identity(node: Node, x: Value) -> str | None:
    return None


def _dropout(node: Node, x: Value) -> str | None:
    if not is_pure(node):
        return "Dropout may be in training mode"
    if any(out.uses for out in node.outputs[1:]):
        return "the mask of Dropout is used"
    return None


def _cast(node: Node, x: Value) -> str | None:
    to = node.output.dtype
    if to is None or x.dtype is None:
        return "an element type is unknown"
    return None if to is x.dtype else f"casts {x.dtype.text} to {to.text}"


def _same_shape(node: Node, x: Value) -> str | None:
    if same_shape(x.shape, node.output.shape):
        return None
    return f"{node.op} changes the shape from {x.type} to {node.output.type}, or may"


def _reshape(node: Node, x: Value) -> str | None:
    if same_shape(x.shape, node.output.shape):
        return None
    target, shape = int_list(node, "shape", 1), x.shape
    if target is None or shape is None or len(target) != len(shape) or node.attr("allowzero", 0):
        return _same_shape(node, x)
    # An extent that stays unknown is left over for -1: the others stay, so it does too.
    kept = [t == 0 or same_dim(d, t) for t, d in zip(target, shape, strict=True)]
    if target.count(-1) == 1 and kept.count(False) == 1 and not kept[target.index(-1)]:
        return None
    return None if all(kept) else _same_shape(node, x)


def _expand(node: Node, x: Value) -> str | None:
    target, shape = int_operand(node, 1), x.shape
    if target is not None and shape is not None and len(target) <= len(shape):
        tail = shape[len(shape) - len(target) :]
        if all(t == 1 or same_dim(d, t) for t, d in zip(target, tail, strict=True)):
            return None
    return _same_shape(node, x)


def _tile(node: Node, x: Value) -> str | None:
    repeats = int_operand(node, 1) if node.version >= 6 else None
    return None if repeats is not None and all(n == 1 for n in repeats) else "Tile repeats, or may"


def _pad(node: Node, x: Value) -> str | None:
    pads = int_list(node, "pads" if node.version >= 2 else "paddings", 1)
    return None if pads is not None and not any(pads) else "Pad adds elements, or may"


def _slice(node: Node, x: Value) -> str | None:
    steps = int_operand(node, 4) if node.input(4) is not None and node.version >= 10 else []
    if steps is None or any(step != 1 for step in steps):
        return "Slice has steps other than 1, or may"
    starts, ends = int_list(node, "starts", 1), int_list(node, "ends", 2)
    if starts is not None and ends is not None and not any(starts) and all(end >= END - 1 for end in ends):
        return None
    return _same_shape(node, x)


def _transpose(node: Node, x: Value) -> str | None:
    perm = perm_of(node)
    if perm is None:
        return "the rank is unknown"
    return None if list(perm) == sorted(perm) else f"Transpose has perm {list(perm)}"


def _one_operand(node: Node, x: Value) -> str | None:
    return None if len(node.inputs) == 1 else f"{node.op} has {len(node.inputs)} operands"


def _split(node: Node, x: Value) -> str | None:
    return None if len(node.outputs) == 1 else f"Split has {len(node.outputs)} results"


def _flatten(node: Node, x: Value) -> str | None:
    if x.rank == 2 and node.attr("axis", 1) in (1, -1):
        return None
    return _same_shape(node, x)


_ALIGNED = ("half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric")


def _resize(node: Node, x: Value) -> str | None:
    if not same_shape(x.shape, node.output.shape):
        return _same_shape(node, x)
    if node.op == "Resize" and node.version >= 11:
        mode = node.attr("coordinate_transformation_mode", "half_pixel")
        if mode not in _ALIGNED:
            return f"coordinate_transformation_mode is {mode}"
        if node.input(3) is not None:
            return None if node.attr("keep_aspect_ratio_policy", "stretch") == "stretch" else "keeps the aspect ratio"
        scales = node.input(2)
    elif node.op == "Upsample" and node.version < 9:
        scales = None
        given = node.attr("scales")
        if given is not None:
            return None if all(s == 1.0 for s in given) else "scales are not all 1"
    else:
        scales = node.input(1)
    return None if scales is not None and all_equal(scales, 1.0) else "scales are not all 1, or may not be"


def _clip(node: Node, x: Value) -> str | None:
    if node.version >= 11 and (node.input(1) is not None or node.input(2) is not None):
        return "Clip has a bound"
    # Without bounds it clips to the lowest and the highest number of the type.
    return None if node.version >= 11 and x.dtype is not None and x.dtype.is_integer else "Clip clips infinities"


_CHECKS: dict[str, Callable[[Node, Value], str | None]] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast,
    "Reshape": _reshape,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Slice": _slice,
    "Transpose": _transpose,
    "Concat": _one_operand,
    "Split": _split,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Flatten": _flatten,
    "Resize": _resize,
    "Upsample": _resize,
    "Sum": _one_operand,
    "Mean": _one_operand,
    "Max": _one_operand,
    "Min": _one_operand,
    "Clip": _clip,
}


def all_equal(value: Value, wanted: float) -> bool:
    """Whether ``value`` is a constant whose elements all equal ``wanted`` to the bit (so +0.0 is not -0.0)."""
    data = value.data
    if data is None or data.dtype is DType.STRING or data.count == 0:
        return False
    if isinstance(data, SplatConstant):
        array = np.asarray(data.value)
    elif data.count > MAX_SCAN:
        return False
    else:
        array = data.numpy()
    if array.item(0) != wanted or not bool((array == wanted).all()):
        return False
    return wanted != 0 or not data.dtype.is_float or bool((np.signbit(array) == np.signbit(wanted)).all())


_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1, "And": 1, "Or": 0, "Xor": 0}
_EITHER = ("Add", "Mul", "And", "Or", "Xor")
_NEUTRAL_BYTES = {
    op: {
        d: tuple(np.asarray(n).astype(d.numpy).tobytes() for n in (neutral, -0.0)[: 2 - neutral])
        for d in (DType.F32, DType.F16, DType.F64, DType.I64)
    }
    for op, neutral in _NEUTRAL.items()
}
"""How a tensor of neutral elements begins, by operator and the usual types: zeros have a sign."""


class NeutralOperand(NodeRule):
    """A constant operand that changes nothing."""

    roots = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor")

    def __init__(self, signed_zeros: bool) -> None:
        self.signed_zeros = signed_zeros

    def promising(self, node: Node) -> bool:
        neutral = _NEUTRAL_BYTES[node.op]
        for v in node.inputs:
            if v is not None and v.data is not None:
                first = v.data.sample()
                if not first or first.startswith(neutral.get(v.data.dtype, (b"",))):
                    return True
        return False

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        x, c = operand(node, 0), operand(node, 1)
        if c.data is None and x.data is not None and node.op in _EITHER:
            x, c = c, x
        if c.data is None:
            raise NoMatch("no operand is constant")
        self._check_value(node, c)
        if not self._keeps_shape(node, x, c):
            raise NoMatch(
                lambda: f"broadcasting %{c.name} changes the shape from {x.type} to {node.output.type}, or may"
            )
        return x

    def _check_value(self, node: Node, c: Value) -> None:
        assert c.data is not None
        neutral: float = _NEUTRAL[node.op]
        if node.op == "Add" and c.data.dtype.is_float and self.signed_zeros:
            if not all_equal(c, -0.0):
                raise NoMatch(f"%{c.name} is not -0.0 (adding +0.0 makes +0.0 of -0.0)")
        elif node.op == "Add" and all_equal(c, -0.0):
            pass
        elif not all_equal(c, neutral):
            raise NoMatch(f"%{c.name} is not {neutral}")

    def _keeps_shape(self, node: Node, x: Value, c: Value) -> bool:
        assert c.data is not None
        if node.version < 7:  # one-way broadcasting: the result is like the first operand
            return x is node.inputs[0]
        if c.data.count == 1 and x.rank is not None and len(c.data.shape) <= x.rank:
            return True
        return same_shape(x.shape, node.output.shape)


class ConstantCondition(NodeRule):
    """``where(true, a, b) = a``, ``where(false, a, b) = b``."""

    roots = ("Where",)

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        condition = operand(node, 0)
        for i, wanted in ((1, 1), (2, 0)):
            if all_equal(condition, wanted):
                chosen = operand(node, i)
                if not same_shape(chosen.shape, node.output.shape):
                    raise NoMatch(f"broadcasting changes the shape from {chosen.type} to {node.output.type}, or may")
                return chosen
        raise NoMatch("the condition is not constant, or mixed")


class Repeated(NodeRule):
    """Functions that are their own inverse, and functions that do nothing the second time."""

    roots = ("Neg", "Not", "BitwiseNot", "Relu", "Abs", "Ceil", "Floor", "Round", "Sign")

    def promising(self, node: Node) -> bool:
        inner = node.inputs[0].producer if node.inputs and node.inputs[0] is not None else None
        return inner is not None and inner.op == node.op

    _INVOLUTIONS = ("Neg", "Not", "BitwiseNot")

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        x = operand(node)
        inner = x.producer
        if inner is None or inner.op != node.op or inner.domain != "":
            raise NoMatch(f"%{x.name} is not computed by {node.op}")
        return operand(inner) if node.op in self._INVOLUTIONS else x
