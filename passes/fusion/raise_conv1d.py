"""Raise convolutions of one spatial axis to two, the first of extent one.

    Conv(x; w) = Squeeze(Conv(Unsqueeze(x); w'))        x [N, C, L] -> [N, C, 1, L],  w [M, C, k] -> w' [M, C, 1, k]

The Squeeze then moves behind what follows (activations, sums, slices of channels, concatenations), to meet the next
Unsqueeze, with which it cancels.

**Why** ONNX Runtime computes convolutions of two spatial axes in a blocked layout with direct kernels, those of one by
im2col and a product: the encoder of Silero's voice detector takes half the time (a third for 30 chunks at once).
**Needs** a constant f32 weight whose channels the blocked kernels take: input channels fewer than lanes or a multiple
of four; groups of whole vectors, or depthwise.
**Leaves** other groupings, automatic padding, weights of other types.
**Numbers** reassociates (another kernel sums in another order).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ...ir.ops import UNARY
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter, Rule
from ..rewrite.rewriter import origin_of
from ..shared.activations import CONTRIB, qualified
from ..shared.blocked import lanes_of
from ..shared.operands import int_list, int_operand, normalized

_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Pow"})
_AXIS = 2


@dataclass
class RaiseConv1d(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule | Rule]:
        yield Raise()
        yield SinkPointwise()
        yield SinkMovement()


class Raise(NodeRule):
    """A convolution of one spatial axis."""

    roots = ("Conv",)

    def apply(self, r: Rewriter, node: Node) -> Value:
        x, weight = node.inputs[0], node.input(1)
        if x is None or weight is None or weight.data is None or weight.dtype is not DType.F32:
            raise NoMatch("the weight is not an f32 constant")
        if len(weight.data.shape) != 3 or x.rank not in (3, None):
            raise NoMatch(f"the weight has rank {len(weight.data.shape)}, expected 3")
        mode = node.attr("auto_pad", "NOTSET")
        if mode not in ("NOTSET", b"NOTSET"):
            raise NoMatch(f"auto_pad is {mode!r}")
        _require_blocked(weight.data.shape, int(node.attr("group", 1)), lanes_of(r.ctx.target))
        wide = r.const(weight.numpy()[:, :, None, :], name=weight.name)
        bias = node.input(2)
        y = r.Conv(_raised(r, x), wide, *(() if bias is None else (bias,)), **_attrs(node))
        return _lowered(r, y)


def _require_blocked(shape: tuple[int, ...], groups: int, lanes: int) -> None:
    outputs, inputs = shape[0], shape[1]
    if groups == 1:
        if inputs >= lanes and inputs % 4:
            raise NoMatch(f"{inputs} input channels, a multiple of 4 is wanted")
    elif inputs == 1 and outputs == groups:
        if outputs % lanes:
            raise NoMatch(f"depthwise, {outputs} channels do not fill vectors of {lanes}")
    elif inputs % lanes or (outputs // groups) % lanes:
        raise NoMatch(f"groups of {inputs} channels do not fill vectors of {lanes}")


def _attrs(node: Node) -> dict[str, Any]:
    attrs: dict[str, Any] = dict(node.attrs)
    for name in ("kernel_shape", "strides", "dilations"):
        if name in attrs:
            attrs[name] = (1, *attrs[name])
    if "pads" in attrs:
        begin, end = attrs["pads"]
        attrs["pads"] = (0, begin, 0, end)
    return attrs


def _raised(r: Rewriter, x: Value) -> Value:
    """``x`` with the extra axis; what a Squeeze took it from, if one did."""
    source = _squeezed(x)
    if source is not None:
        return source
    if r.opset() < 13:
        return r.Unsqueeze(x, axes=(_AXIS,))
    return r.Unsqueeze(x, np.array([_AXIS], np.int64))


def _lowered(r: Rewriter, y: Value) -> Value:
    if r.opset() < 13:
        return r.Squeeze(y, axes=(_AXIS,))
    return r.Squeeze(y, np.array([_AXIS], np.int64))


def _squeezed(value: Value | None) -> Value | None:
    """The operand [N, C, 1, L] of the Squeeze that gives ``value``."""
    node = value.producer if value is not None else None
    if node is None or node.op != "Squeeze" or node.domain:
        return None
    x = node.inputs[0]
    axes = int_list(node, "axes", 1)
    if x is None or x.rank != 4 or axes is None or normalized(axes, 4) != [_AXIS]:
        return None
    return x if _comes_from_conv(x) else None


def _comes_from_conv(value: Value) -> bool:
    """Whether the tensor is one that this pass raised: other Squeezes stay where they are."""
    for _ in range(8):
        node = value.producer
        if node is None or (node.domain and qualified(node) not in CONTRIB):
            return False
        if node.op == "Conv":
            return True
        if not node.domain and ("", node.op) not in UNARY and node.op not in _BINARY and node.op not in _MOVES:
            return False
        operand = next((v for v in node.inputs if v is not None and v.data is None), None)
        if operand is None:
            return False
        value = operand
    return False


class SinkPointwise(NodeRule):
    """An elementwise operator of a Squeeze."""

    roots = (*(op for _, op in sorted(UNARY)), *sorted(_BINARY), *sorted(CONTRIB))

    def apply(self, r: Rewriter, node: Node) -> Value:
        if node.version < 7 and node.op in _BINARY:
            raise NoMatch(f"{node.op} of opset {node.version} broadcasts by attribute")
        operands: list[Value | None] = []
        found = False
        for i, value in enumerate(node.inputs):
            source = _squeezed(value) if node.op in _BINARY or i == 0 else None
            found = found or source is not None
            operands.append(source or _constant(r, value, pointwise=node.op in _BINARY))
        if not found:
            raise NoMatch("no raised operand")
        r.begin(node, origin_of([node]))
        attrs: dict[str, Any] = dict(node.attrs)
        return _lowered(r, r.op(qualified(node), *operands, **attrs))


def _constant(r: Rewriter, value: Value | None, *, pointwise: bool) -> Value | None:
    """An operand that is not raised: a parameter, or a constant that broadcasts alike with one more axis."""
    if value is None or not pointwise:
        return value
    if value.data is None or len(value.data.shape) > 3:
        raise NoMatch(f"%{value.name} is neither raised nor a constant")
    *leading, last = value.data.shape or (1,)
    if all(d == 1 for d in leading):
        return value
    return r.const(value.numpy().reshape(*leading, 1, last), name=value.name)


_MOVES = frozenset({"Slice", "Split", "Concat"})


class SinkMovement(NodeRule):
    """Slices, splits and concatenations of a Squeeze along another axis than its own."""

    roots = tuple(sorted(_MOVES))

    def apply(self, r: Rewriter, node: Node) -> Value | list[Value]:
        sources = [_squeezed(v) for v in (node.inputs if node.op == "Concat" else node.inputs[:1])]
        raised = [s for s in sources if s is not None]
        if len(raised) != len(sources):
            raise NoMatch("an operand is not raised")
        if node.op == "Slice":
            return _lowered(r, _slice(r, node, raised[0]))
        attrs: dict[str, Any] = dict(node.attrs) | {"axis": _moved_axis(int(node.attr("axis", 0)))}
        if node.op == "Concat":
            return _lowered(r, r.Concat(*raised, **attrs))
        parts: Any = r.op("Split", raised[0], *node.inputs[1:], _outputs=len(node.outputs), **attrs)
        several: list[Value] = parts if len(node.outputs) > 1 else [parts]
        return [_lowered(r, p) for p in several]


def _slice(r: Rewriter, node: Node, x: Value) -> Value:
    if node.version < 10:
        axes = node.attrs.get("axes")
        if not isinstance(axes, tuple):
            raise NoMatch("Slice has no axes")
        return r.op("Slice", x, **(dict(node.attrs) | {"axes": tuple(_moved_axis(int(a)) for a in axes)}))  # type: ignore[arg-type]
    axes = int_operand(node, 3)
    if axes is None:
        raise NoMatch("the axes of Slice are not constant")
    moved = np.array([_moved_axis(a) for a in axes], np.int64)
    return r.Slice(x, node.inputs[1], node.inputs[2], moved, *node.inputs[4:])


def _moved_axis(axis: int) -> int:
    """Where an axis of [N, C, L] is in [N, C, 1, L]."""
    axis = axis + 3 if axis < 0 else axis
    return axis + 1 if axis >= _AXIS else axis
