"""Convolutions and matrix products with constant weights, seen alike: ``y[c] = sum_k w[c,k] x[k] + b[c]``.

:func:`linear_at` finds such a node; :func:`absorb_after` and :func:`absorb_before` give it new weights that do what
an affine map behind it or in front of it did. Axes are counted from the right.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.constants import ArrayConstant, Constant
from ...ir.graph import Node, Value
from ...ir.repetition import stored_bytes
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .affine import FOLDABLE, ONE, ZERO, Affine, Array, channel_vector, rounded, scaled_weight
from .attributes import require_own_attributes

CONVOLUTIONS = ("Conv", "ConvTranspose")
LINEAR = (*CONVOLUTIONS, "Gemm", "MatMul")
ROWS_ELEMENTS = 1 << 22
"""Elements of a weight that are in float64 at a time."""
CACHED_ELEMENTS = 1 << 16
"""The same where only a cache is to be spared."""
SHARED_BYTES = 64 << 10
"""A weight with other users may be copied up to this size: the copy costs less than the node it saves."""


@dataclass(frozen=True)
class Linear:
    """A product with constant weights, and the ``Add`` of a bias behind a ``MatMul`` where there is one."""

    node: Node
    weight: Value
    bias: Value | None
    """The bias operand (of the ``Add`` for a ``MatMul``), constant or not."""
    add: Node | None
    side: int
    """Which operand of the product is the weight."""
    axis: int
    """Channel axis of the result."""
    channels: int | None
    """Extent of that axis; ``None`` where the product has no channels (a weight vector)."""
    rank: int | None
    """Rank of the result."""

    @property
    def result(self) -> Value:
        return (self.add or self.node).output

    @property
    def x(self) -> Value:
        """The operand that is not a weight."""
        value = self.node.inputs[1 - self.side]
        assert value is not None
        return value

    @property
    def groups(self) -> int:
        return int(self.node.attr("group", 1)) if self.node.op in CONVOLUTIONS else 1

    def bias_vector(self) -> Array:
        """The bias as float64 ``[]`` or ``[channels]``, ``beta`` of a Gemm included. Raises :class:`NoMatch`."""
        if self.bias is None:
            return ZERO
        if self.bias.data is None:
            raise NoMatch(f"the bias %{self.bias.name} is not a constant")
        if self.bias.dtype is not self.weight.dtype:
            raise NoMatch(f"the bias is {self.bias.dtype!r}, the weight {self.weight.dtype!r}")
        if self.node.op in CONVOLUTIONS:
            if self.bias.data.shape != (self.channels,):
                raise NoMatch(f"the bias has shape {list(self.bias.data.shape)}, expected [{self.channels}]")
            return self.bias.data.numpy().astype(np.float64)
        vector = channel_vector(self.bias.data, self.axis, self.channels, self.rank)
        return vector * float(self.node.attr("beta")) if self.node.op == "Gemm" else vector


def linear_at(value: Value, what: str = "the operand") -> Linear:
    """The product that computes ``value``, which nothing else uses. Raises :class:`NoMatch` where it is none."""
    node = sole_producer(value, what)
    if node.op == "Add" and node.domain == "" and node.version >= 7:
        for i in (0, 1):
            product, bias = node.inputs[i], node.inputs[1 - i]
            if product is None or bias is None or bias.data is None:
                continue
            if _is_op(product.producer, "MatMul"):
                return _with_add(node, sole_producer(product, "the product"), bias)
    return linear_of(node)


def _with_add(add: Node, product: Node, bias: Value) -> Linear:
    found = linear_of(product)
    # Checked here, because the shape of the product and of the sum are then the same.
    assert bias.data is not None
    channel_vector(bias.data, found.axis, found.channels, found.rank)
    return Linear(product, found.weight, bias, add, found.side, found.axis, found.channels, found.rank)


def sole_producer(value: Value, what: str) -> Node:
    """The node that computes ``value`` for one use only. Raises :class:`NoMatch`."""
    node = value.producer
    if node is None:
        raise NoMatch(f"{what} %{value.name} is not computed by a product in this graph")
    if len(value.uses) != 1:
        raise NoMatch(f"{what} %{value.name} has another user")
    return node


def _is_op(node: Node | None, op: str) -> bool:
    return node is not None and node.op == op and node.domain == ""


def linear_of(node: Node) -> Linear:
    """The view of a product with constant weights of a float type. Raises :class:`NoMatch`."""
    if node.domain or node.op not in LINEAR:
        raise NoMatch(f"{node.op} is not a product with constant weights")
    require_own_attributes(node)
    if node.op == "MatMul":
        return _matmul(node)
    weight = _weight(node, 1)
    bias = node.input(2)
    shape = _data(weight).shape
    if node.op == "Gemm":
        if node.version < 7:
            raise NoMatch(f"Gemm of opset {node.version} broadcasts by attribute")
        channels = shape[0] if node.attr("transB") else shape[-1]
        return _some(Linear(node, weight, bias, None, 1, -1, channels, 2))
    if len(shape) < 3:
        raise NoMatch(f"the weight has rank {len(shape)}, expected at least 3")
    channels = shape[0] if node.op == "Conv" else shape[1] * int(node.attr("group", 1))
    return _some(Linear(node, weight, bias, None, 1, 1 - len(shape), channels, len(shape)))


def _some(found: Linear) -> Linear:
    groups = found.groups
    if not found.channels or groups < 1 or _data(found.weight).shape[0] % groups:
        raise NoMatch(f"{found.channels} channels in {groups} groups")
    return found


def _matmul(node: Node) -> Linear:
    rank = node.output.rank
    right = node.input(1)
    if right is not None and right.data is not None:
        weight = _weight(node, 1)
        shape = _data(weight).shape
        # A weight vector sums over its only axis: there are no channels, only a common scale.
        return Linear(node, weight, None, None, 1, -1, shape[-1] if len(shape) > 1 else None, rank)
    weight = _weight(node, 0)
    shape = _data(weight).shape
    x = node.input(1)
    if x is None or x.rank is None or x.rank < 2:
        raise NoMatch("the rank of the right operand of MatMul is unknown or 1")
    return Linear(node, weight, None, None, 0, -2, shape[-2] if len(shape) > 1 else None, rank)


def _weight(node: Node, i: int) -> Value:
    value = node.input(i)
    if value is None or value.data is None:
        raise NoMatch(f"the weight %{value.name if value is not None else '?'} of {node.op} is not a constant")
    if value.dtype not in FOLDABLE:
        raise NoMatch(f"the weight has element type {value.dtype!r}")
    return value


def _data(value: Value) -> Constant:
    assert value.data is not None
    return value.data


# -- an affine map behind


def absorb_after(r: Rewriter, linear: Linear, after: Affine, limit: int = SHARED_BYTES) -> Value:
    """Emits the product with ``after`` (gain and shift per output channel) in its weights and bias; its result.

    Raises :class:`NoMatch` where the bias is not constant, a shared weight above ``limit`` bytes would be copied,
    or the new weight leaves its type's range.
    """
    if not (after.scales or after.shifts):  # x + 0: the bias stays, constant or not
        return _emit(r, linear, linear.x, linear.weight, None)
    weight: Value | Constant = linear.weight
    bias = linear.bias_vector() if linear.bias is not None else ZERO
    if after.scales:
        require_cheap_copy(linear.weight, limit)
        factor, axes = _output_factor(linear, after.gain)
        weight = _reshaped(linear, after.gain, factor, axes)
    # alpha of a Gemm stays where it is; beta went into the bias.
    return _emit(r, linear, linear.x, weight, bias * after.gain + after.shift)


def _output_factor(linear: Linear, gain: Array) -> tuple[Array, tuple[int, ...]]:
    """The gain, shaped to multiply the weight, and the weight's axes of output channels."""
    shape = _data(linear.weight).shape
    op, axis = linear.node.op, -1
    if op == "Conv":
        axis = -len(shape)
    elif (op == "Gemm" and linear.node.attr("transB")) or (op == "MatMul" and linear.side == 0):
        axis = -2
    if gain.ndim and linear.channels is None:
        raise NoMatch("a weight vector has no channels")
    axes = (axis,) if linear.channels is not None else ()
    return (gain.reshape(-1, *[1] * (-1 - axis)) if gain.ndim else gain), axes


def _reshaped(linear: Linear, gain: Array, factor: Array, axes: tuple[int, ...]) -> Constant:
    """The scaled weight; that of a ConvTranspose has its output channels spread over groups and axis 1."""
    data = _data(linear.weight)
    if linear.node.op != "ConvTranspose":
        return scaled_weight(data, factor, axes)
    shape, groups = data.shape, linear.groups
    split = (groups, shape[0] // groups, *shape[1:])
    if gain.ndim:
        factor = gain.reshape(groups, 1, shape[1], *[1] * (len(shape) - 2))
    whole = ArrayConstant(data.numpy().reshape(split), data.dtype)
    return ArrayConstant(scaled_weight(whole, factor, (0, 2)).numpy().reshape(shape), data.dtype)


def with_outputs(r: Rewriter, linear: Linear, order: Array) -> Value:
    """Emits the product with a matrix with its output channels in another order. Raises :class:`NoMatch`."""
    data = _data(linear.weight)
    if len(data.shape) != 2 or linear.axis != -1:
        raise NoMatch(f"the weight has shape {list(data.shape)}, the channels are axis {linear.axis}")
    require_cheap_copy(linear.weight, SHARED_BYTES)
    weight = ArrayConstant(np.take(data.numpy(), order, _output_axis(linear)), data.dtype)
    bias = None if linear.bias is None else np.broadcast_to(linear.bias_vector(), (len(order),))[order]
    return _emit(r, linear, linear.x, weight, bias)


# -- an affine map in front


def absorb_before(r: Rewriter, linear: Linear, x: Value, before: Affine, limit: int = SHARED_BYTES) -> Value:
    """Emits the product of ``x`` with ``before`` (gain and shift per input channel) in its weights and bias.

    A shift needs a product in which every output sees every weight: no padding, no ConvTranspose, no MatMul without
    bias. Raises :class:`NoMatch` where one of these fails.
    """
    bias = bias_with_shift(linear, before.shift) if before.shifts else None
    weight: Value | Constant = linear.weight
    if before.scales:
        require_cheap_copy(linear.weight, limit)
        weight = scaled_weight(_data(linear.weight), _input_factor(linear, before.gain), ())
    return _emit(r, linear, x, weight, bias)


def bias_with_shift(linear: Linear, shift: Array) -> Array:
    """The bias that does what ``shift`` in front of the product did. Raises :class:`NoMatch` where none does."""
    _require_full_windows(linear)
    bias = linear.bias_vector() if linear.bias is not None else ZERO
    alpha = float(linear.node.attr("alpha")) if linear.node.op == "Gemm" else 1.0
    return bias + alpha * _summed_shift(linear, _input_factor(linear, shift))


def _summed_shift(linear: Linear, shift: Array) -> Array:
    """The sum of ``weight * shift`` per output channel (float64), a few rows of the weight at a time."""
    data = _data(linear.weight)
    shape, output = data.shape, _output_axis(linear) % len(data.shape)
    if len(shape) == 2 and shift.ndim:
        return _product_with_shift(data, shift.reshape(-1), output)
    spread = np.broadcast_to(shift, shape)
    axes = tuple(i for i in range(len(shape)) if i != output)
    step = max(1, ROWS_ELEMENTS * shape[0] // max(1, data.count))
    parts = [
        (data.rows(i, min(i + step, shape[0])).astype(np.float64) * spread[i : i + step]).sum(axis=axes)
        for i in range(0, shape[0], step)
    ]
    return np.concatenate(parts) if output == 0 else np.asarray(sum(parts[1:], parts[0]))


def _product_with_shift(data: Constant, shift: Array, output: int) -> Array:
    """The same for a matrix, by products of rows that fit into a cache."""
    rows, step = data.shape[0], max(1, CACHED_ELEMENTS // max(1, data.shape[1]))
    if output == 0:
        return np.concatenate(
            [data.rows(i, min(i + step, rows)).astype(np.float64) @ shift for i in range(0, rows, step)]
        )
    total = np.zeros(data.shape[1], np.float64)
    for i in range(0, rows, step):
        total += shift[i : i + step] @ data.rows(i, min(i + step, rows)).astype(np.float64)
    return total


def input_channels(linear: Linear) -> int:
    """Extent of the channel axis of ``x``."""
    shape = _data(linear.weight).shape
    match linear.node.op:
        case "Conv":
            return shape[1] * linear.groups
        case "ConvTranspose":
            return shape[0]
        case "Gemm":
            return shape[1] if linear.node.attr("transB") else shape[0]
        case _:
            return shape[-1] if linear.side == 0 or len(shape) == 1 else shape[-2]


def input_axis(linear: Linear) -> int:
    """Channel axis of ``x`` (of the axis that is summed over). Raises :class:`NoMatch` for a transposed one."""
    if linear.node.op in CONVOLUTIONS:
        return linear.axis
    if linear.node.op == "Gemm" and linear.node.attr("transA"):
        raise NoMatch("transA is 1: the channels are the first axis")
    return -1 if linear.side == 1 else -2


def _output_axis(linear: Linear) -> int:
    if linear.node.op == "Conv":
        return 0
    return -2 if linear.node.op == "Gemm" and linear.node.attr("transB") else -1


def _input_factor(linear: Linear, gain: Array) -> Array:
    """A vector over input channels, shaped to multiply the weight."""
    if not gain.ndim:
        return gain
    shape, groups = _data(linear.weight).shape, linear.groups
    match linear.node.op:
        case "Conv":
            # Output channel m belongs to group m // (M / groups), which sees its own slice of the input channels.
            rows = gain.reshape(groups, shape[1]).repeat(shape[0] // groups, axis=0)
            return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))
        case "ConvTranspose":
            return gain.reshape(-1, *[1] * (len(shape) - 1))
        case "Gemm":
            return gain if linear.node.attr("transB") else gain[:, None]
        case _:
            return gain if linear.side == 0 or len(shape) == 1 else gain[:, None]


def _require_full_windows(linear: Linear) -> None:
    op, node = linear.node.op, linear.node
    if op == "ConvTranspose":
        raise NoMatch("ConvTranspose adds a different number of inputs at the border: a shift in front cannot move")
    if op == "MatMul":
        raise NoMatch("MatMul has no bias: a shift in front would only move behind it")
    if op != "Conv":
        return
    pads: Any = node.attrs.get("pads", ())
    if node.attr("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID") or any(pads):
        raise NoMatch("Conv pads with zeros, which the shift in front does not reach")


# -- common


def require_cheap_copy(weight: Value, limit: int) -> None:
    """Raises :class:`NoMatch` where another node uses the weight and a second copy takes more than ``limit`` bytes."""
    data = _data(weight)
    if len(weight.uses) < 2 or data.nbytes <= limit:
        return
    user = next(iter(weight.uses))[0]
    size = stored_bytes(data, user.graph.opsets.get("", 0) if user.graph is not None else 0)
    if size > limit:
        raise NoMatch(f"the weight %{weight.name} has another user and a copy takes {size} bytes, limit {limit}")


def _emit(r: Rewriter, linear: Linear, x: Value, weight: Value | Constant, bias: Array | None) -> Value:
    """The product of ``x`` with a new weight; ``bias=None`` keeps the bias operand, zeros where none was make none."""
    node = linear.node
    attrs: dict[str, Any] = dict(node.attrs)
    w = weight if isinstance(weight, Value) else r.const(weight, name=linear.weight.name)
    if node.op == "MatMul":
        operands = (x, w) if linear.side == 1 else (w, x)
        product = r.op("MatMul", *operands, **attrs)
        if bias is None:
            return product if linear.add is None else r.Add(product, linear.bias)
        if linear.add is None and not bias.any():
            return product
        return r.Add(product, _bias_constant(r, linear, _bias_column(linear, bias)))
    if bias is None:
        return r.op(node.op, x, w, *([] if linear.bias is None else [linear.bias]), **attrs)
    if linear.bias is None and not bias.any() and not (node.op == "Gemm" and node.version < 11):
        return r.op(node.op, x, w, **attrs)
    attrs.pop("beta", None)
    full = np.broadcast_to(bias, (linear.channels,)) if linear.channels else bias
    return r.op(node.op, x, w, _bias_constant(r, linear, full), **attrs)


def _bias_constant(r: Rewriter, linear: Linear, bias: Array) -> Value:
    name = linear.bias.name if linear.bias is not None else f"{linear.weight.name}_bias"
    return r.const(rounded(bias, _data(linear.weight).dtype), name=name)


def _bias_column(linear: Linear, bias: Array) -> Array:
    """A bias vector that broadcasts along the channel axis."""
    return bias.reshape(-1, *[1] * (-1 - linear.axis)) if bias.ndim else bias


def compose(maps: Iterable[Affine]) -> Affine:
    """The maps one after another."""
    total = Affine(ONE, ZERO)
    for one in maps:
        total = total.then(one)
    return total
