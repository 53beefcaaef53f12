"""Arithmetic of ``y * gain + shift`` with one pair of numbers per channel, and of what it does to weights.

Everything is computed in float64 and rounded once, to the weight's own type. A result that is not finite, or
whose largest number in a channel falls below the type's normal range (every weight of that channel would lose
bits), is refused with :class:`NoMatch`.

Axes are counted from the right (-1 is the last one), as numpy's and ONNX's broadcasting does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.constants import (
    ArrayConstant,
    Constant,
    FileConstant,
    RowsConstant,
    SplatConstant,
)
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ...ir.repetition import RepeatedConstant, repeated
from ..rewrite.rule import NoMatch
from .attributes import require_own_attributes

Array = np.ndarray[Any, Any]

FOLDABLE = frozenset({DType.F32, DType.F16, DType.BF16, DType.F64})
"""Weight types whose arithmetic may be done ahead of time."""
LAZY_BYTES = 1 << 20
"""From this size on a weight in a file of its own stays there: what it is scaled by is applied when it is read."""


@dataclass(frozen=True)
class Affine:
    """``y -> y * gain + shift``; each is a float64 array of shape ``[]`` or ``[channels]``."""

    gain: Array
    shift: Array

    def then(self, after: Affine) -> Affine:
        """The map that applies ``self`` first."""
        return Affine(self.gain * after.gain, self.shift * after.gain + after.shift)

    @property
    def scales(self) -> bool:
        return bool((self.gain != 1).any())

    @property
    def shifts(self) -> bool:
        return bool((self.shift != 0).any())

    def checked(self) -> Affine:
        """Itself. Raises :class:`NoMatch` unless all numbers are finite."""
        if not (np.isfinite(self.gain).all() and np.isfinite(self.shift).all()):
            raise NoMatch("the scale or the shift is not finite")
        return self


ONE = np.ones((), np.float64)
ZERO = np.zeros((), np.float64)


def elementwise_affine(node: Node, operand: int, axis: int, channels: int | None, rank: int | None) -> Affine:
    """What ``Add``, ``Sub``, ``Mul``, ``Div`` or ``Neg`` does to its operand ``operand``, the other being constant.

    ``axis`` is the channel axis, ``channels`` its extent (``None``: unknown, then only scalars are accepted) and
    ``rank`` the rank of the operand (``None``: unknown). Raises :class:`NoMatch` where the node is no such map.
    """
    if node.op == "Neg":
        return Affine(-ONE, ZERO)
    other = node.input(1 - operand)
    if other is None or other.data is None:
        raise NoMatch(f"the other operand of {node.op} is not a constant")
    if other.dtype not in FOLDABLE:
        raise NoMatch(f"{node.op} of {other.dtype!r} is not real arithmetic")
    if node.version < 7 and operand == 1:
        raise NoMatch(f"{node.op} of opset {node.version} broadcasts its second operand only")
    values = channel_vector(other.data, axis, channels, rank, legacy_axis(node, other, rank))
    with np.errstate(all="ignore"):
        match node.op, operand:
            case "Add", _:
                found = Affine(ONE, values)
            case "Mul", _:
                found = Affine(values, ZERO)
            case "Sub", 0:
                found = Affine(ONE, -values)
            case "Sub", _:
                found = Affine(-ONE, values)
            case "Div", 0:
                found = Affine(1.0 / values, ZERO)
            case _:
                raise NoMatch(f"%{other.name} / y is not affine in y")
    return found.checked()


def legacy_axis(node: Node, other: Value, rank: int | None) -> int | None:
    """Axis (from the right) at which ``other``'s last dimension stands by ``axis``/``broadcast`` of opset 6 and before.

    ``None`` for numpy's broadcasting (``other`` aligned to the right).
    """
    if node.version >= 7 or node.version == 0 or not other.shape:
        return None
    require_own_attributes(node)
    if not node.attr("broadcast", 0):
        if len(other.shape) != rank:
            raise NoMatch(f"{node.op} of opset {node.version} without broadcast=1 wants equal shapes")
        return None
    axis = node.attrs.get("axis")
    if not isinstance(axis, int) or axis < 0:
        return None
    if rank is None:
        raise NoMatch(f"axis {axis} of {node.op} needs the operand's rank, which is unknown")
    return axis + len(other.shape) - 1 - rank


def channel_vector(data: Constant, axis: int, channels: int | None, rank: int | None, last: int | None = None) -> Array:
    """The constant as float64 ``[]`` or ``[channels]`` if broadcasting it only repeats numbers within a channel.

    Raises :class:`NoMatch` where it varies along another axis, or would change the shape of the other operand.
    ``last`` is where its last dimension stands when that is not axis -1.
    """
    shape = data.shape
    offset = 0 if last is None else last + 1
    # With an unknown rank only what cannot reach beyond the channel axis is safe.
    if shape and len(shape) - offset > (-axis if rank is None else rank):
        raise NoMatch(f"a constant of rank {len(shape)} raises the rank of an operand of rank {rank or 'unknown'}")
    for i, dim in enumerate(reversed(shape)):
        at = offset - 1 - i
        if dim != 1 and at != axis:
            raise NoMatch(f"the constant {list(shape)} varies along axis {at}, the channels are axis {axis}")
        if at == axis and dim not in (1, channels):
            raise NoMatch(f"the constant has {dim} channels, expected 1 or {channels or 'a known number'}")
    return data.numpy().astype(np.float64).reshape(-1 if data.count > 1 else ())


def batchnorm_affine(node: Node) -> Affine:
    """``scale / sqrt(var + epsilon)`` and ``shift - mean * gain`` of a BatchNormalization in inference mode.

    Raises :class:`NoMatch` in training mode, for per-element statistics (``spatial=0``) and parameters that are not
    constants. Source: BatchNormalization-1, -6, -7, -9, -14, -15.
    """
    require_inference(node)
    parts: list[Array] = []
    for i, what in enumerate(("scale", "shift", "mean", "variance"), 1):
        value = node.input(i)
        if value is None or value.data is None:
            raise NoMatch(f"the {what} %{value.name if value is not None else '?'} is not a constant")
        if value.dtype not in FOLDABLE:
            raise NoMatch(f"the {what} has element type {value.dtype!r}")
        if len(value.data.shape) != 1:
            raise NoMatch(f"the {what} has rank {len(value.data.shape)}, expected 1")
        parts.append(value.data.numpy().astype(np.float64))
    scale, shift, mean, variance = parts
    if len({p.shape for p in parts}) != 1:
        raise NoMatch(f"the parameters have {[p.size for p in parts]} elements, expected equal numbers")
    with np.errstate(all="ignore"):
        gain = scale / np.sqrt(variance + float(np.float32(node.attr("epsilon"))))
        return Affine(gain, shift - mean * gain).checked()


def require_inference(node: Node) -> None:
    """Raises :class:`NoMatch` unless the BatchNormalization normalizes by stored statistics, one per channel."""
    require_own_attributes(node)
    version = node.version
    if version >= 14:
        if node.attr("training_mode"):
            raise NoMatch("training_mode is 1, only inference can be folded")
    elif version < 7 and not node.attr("is_test", 0):
        raise NoMatch("is_test is 0, only inference can be folded")
    if version < 9 and not node.attr("spatial", 1):
        raise NoMatch("spatial is 0: one statistic per element")
    if len(node.outputs) > 1:
        raise NoMatch(f"BatchNormalization has {len(node.outputs)} results, one means inference")


def scaled_weight(weight: Constant, factor: Array, channels: tuple[int, ...] = ()) -> Constant:
    """``weight * factor`` (numpy broadcasting), rounded once to the weight's type; a splat times one number is a splat.

    ``channels`` are the axes each slice along which must keep its precision. Raises :class:`NoMatch` otherwise.
    """
    base = _base(weight)
    if base is not None and factor.ndim <= base.ndim:
        small = np.broadcast_shapes(base.shape, factor.shape)
        if math.prod(small) < weight.count:
            part = scaled_weight(ArrayConstant(np.broadcast_to(base, small), weight.dtype), factor, channels)
            return repeated(part.numpy(), weight.dtype, weight.shape)
    keep = {a % len(weight.shape) for a in channels}
    axes = tuple(a for a in range(len(weight.shape)) if a not in keep)
    if (
        isinstance(weight, (FileConstant, RowsConstant))
        and weight.nbytes >= LAZY_BYTES
        and factor.ndim <= len(weight.shape)
    ):
        return _scaled_rows(weight, factor, axes)
    out = _times(weight.numpy(), factor, weight.dtype)
    check_range(out, weight.dtype, axes)
    return ArrayConstant(out, weight.dtype)


def _times(array: Array, factor: Array, dtype: DType) -> Array:
    with np.errstate(all="ignore"):
        out = np.empty(array.shape, dtype.numpy)
        if out.dtype.isbuiltin == 1:
            np.multiply(array, factor, out=out, dtype=np.float64, casting="unsafe")
        else:
            out[...] = array.astype(np.float64) * factor
    return out


def _scaled_rows(weight: FileConstant | RowsConstant, factor: Array, axes: tuple[int, ...]) -> Constant:
    """:func:`scaled_weight` of a weight that stays in its file: it is read once now, to check the range."""
    dtype = weight.dtype
    per_row = factor.ndim == len(weight.shape) and factor.shape[0] > 1

    def compute(rows: Array, start: int) -> Array:
        return _times(rows, factor[start : start + len(rows)] if per_row else factor, dtype)

    made = RowsConstant(weight, compute)
    largest = [_largest(block, axes) for _, block in made.blocks()]
    check_largest(np.maximum.reduce(largest) if 0 in axes else np.concatenate(largest), dtype)
    return made


def _base(weight: Constant) -> Array | None:
    """What a constant of repeated elements repeats, with the constant's rank."""
    if isinstance(weight, SplatConstant):
        return np.full((1,) * len(weight.shape), weight.value, weight.dtype.numpy)
    return weight.base.numpy() if isinstance(weight, RepeatedConstant) else None


def rounded(array: Array, dtype: DType) -> ArrayConstant:
    """An array in ``dtype``. Raises :class:`NoMatch` where numbers leave its range."""
    with np.errstate(all="ignore"):
        out = np.ascontiguousarray(array).astype(dtype.numpy)
    check_range(out, dtype, tuple(range(out.ndim)), underflow=False)
    return ArrayConstant(out, dtype)


def check_range(out: Array, dtype: DType, axes: tuple[int, ...], underflow: bool = True) -> None:
    """Raises :class:`NoMatch` where ``out`` is not finite or a slice (reduced over ``axes``) is all but subnormal."""
    if out.size:
        check_largest(_largest(out, axes), dtype, underflow)


def _largest(out: Array, axes: tuple[int, ...]) -> Array:
    """The largest magnitude of each slice; NaN where it has one."""
    wide = out if out.dtype.isbuiltin == 1 else out.astype(np.float32)
    return np.maximum(wide.max(axis=axes), -wide.min(axis=axes))


def check_largest(largest: Array, dtype: DType, underflow: bool = True) -> None:
    """:func:`check_range`, given the largest magnitude of each slice."""
    if not np.isfinite(largest).all():
        raise NoMatch(f"the folded weight is not finite in {dtype!r}")
    tiny = 2.0 ** {DType.F16: -14, DType.F64: -1022}.get(dtype, -126)
    if underflow and ((largest > 0) & (largest < tiny)).any():
        raise NoMatch(f"the folded weight falls below the normal range of {dtype!r}")
