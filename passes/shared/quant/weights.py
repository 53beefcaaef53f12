"""Parameters of constant weights, and what rounding to them costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....ir.constants import ArrayConstant, Constant
from ....ir.graph import Value
from ....ir.repetition import compacted
from ....ir.types import Quant
from ...memo import Memo
from ...rewrite.rule import NoMatch
from .scheme import Scheme, make_quant, quant_from_range, rounded

Array = np.ndarray[Any, Any]

_SEARCHED_BITS = 4
"""Types up to that gain from cutting off a few large numbers. Wider ones do not, and what is cut off would leave a
reduced range, which ends before the type does."""
_FACTORS = np.linspace(1.0, 0.6, 17)


def weight_quant(
    weight: Value, axis: int | None, scheme: Scheme, memo: Memo, least: Array | None = None, block: int = 0
) -> Quant:
    """Parameters of a constant, one for each index of ``axis``, or one in all where that is ``None``; with ``block``
    one for each run of so many elements along ``axis``.

    ``least``: the least scale, one number or one for each index. Raises :class:`NoMatch` where the weight is not
    finite or has no elements.
    """
    assert weight.data is not None
    key = ("weight", weight.data.digest(), axis, block, scheme, None if least is None else least.tobytes())
    return memo.get(key, lambda: _weight_quant(weight, axis, scheme, least, block), lambda q: 64 * len(q.scale))


def _weight_quant(weight: Value, axis: int | None, scheme: Scheme, least: Array | None, block: int) -> Quant:
    array = weight.numpy()
    if not array.size or not np.isfinite(array).all():
        raise NoMatch(f"the weight %{weight.name} {'holds numbers that are not finite' if array.size else 'is empty'}")
    low, high = (_reduced(f, array, axis, block) for f in (np.minimum, np.maximum))
    if scheme.storage.bits <= _SEARCHED_BITS:
        low, high = _searched(array, low, high, axis, scheme, block)
    scale, zero = quant_from_range(low, high, scheme)
    if least is not None:
        scale = np.maximum(scale, least.max() if axis is None else least).astype(np.float32)
    return make_quant(scheme, scale, zero, axis, block)


def _reduced(function: np.ufunc, array: Array, axis: int | None, block: int) -> Array:
    """Over all that shares its parameters."""
    if block and axis is not None:
        extent: int = array.shape[axis]
        return np.asarray(function.reduceat(array, range(0, extent, block), axis=axis))
    others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis)
    return np.asarray(function.reduce(array, axis=others))


def _searched(
    array: Array, low: Array, high: Array, axis: int | None, scheme: Scheme, block: int
) -> tuple[Array, Array]:
    """The part of each range under which rounding errors and what is cut off are least in the mean square."""
    best = np.full(np.shape(low), np.inf)
    factors = np.ones(np.shape(low))
    for factor in _FACTORS:
        scale, zero = quant_from_range(low * factor, high * factor, scheme)
        found = rounded(array, make_quant(scheme, scale, zero, axis, block))
        error = _reduced(np.add, np.square(found - array), axis, block)
        factors = np.where(error < best, factor, factors)
        best = np.minimum(error, best)
    return low * factors, high * factors


def rounded_weight(data: Constant, quant: Quant, memo: Memo) -> Constant:
    """The constant as it comes back from the integers that ``quant`` says, float32."""
    key = ("rounded", data.digest(), quant)
    return memo.get(key, lambda: compacted(ArrayConstant(rounded(data.numpy(), quant))), lambda c: data.nbytes)


def weight_error(weight: Value, quant: Quant, memo: Memo) -> float:
    """Root mean square of what rounding moves, relative to that of the weight."""
    assert weight.data is not None
    key = ("weight error", weight.data.digest(), quant)
    return memo.get(key, lambda: _weight_error(weight.numpy(), quant), lambda _: 64)


def _weight_error(array: Array, quant: Quant) -> float:
    signal = float(np.square(array, dtype=np.float64).sum())
    noise = float(np.square(rounded(array, quant) - array, dtype=np.float64).sum())
    return math.sqrt(noise / signal) if signal else 0.0
