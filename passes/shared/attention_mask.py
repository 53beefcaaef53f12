"""Masks as the standard's Attention takes them, and as ONNX Runtime's kernel of it wants them.

Measured on ONNX Runtime 1.31: the kernel takes masks whose last two extents are the scores' own; a row in which
every element is -inf, false, or exactly the lowest number of the type gives zeros. The spelled-out softmax gives NaN
for -inf (no result that anybody can use: zeros are as good) and the plain mean for the lowest number, so that number is
raised a little: next to it a score is lost in rounding anyway.
"""

from __future__ import annotations

import numpy as np

from ...ir.dims import Dim, same_dim
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.matcher import scalar_value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .attention import Attention
from .bounds import Bounds

_LOWEST = {DType.F32: -3.4028234663852886e38, DType.F16: -65504.0, DType.F64: -1.7976931348623157e308}
_RAISED = 0.875
"""The fill becomes this times the lowest number: the sum with any usual score is the same number for all of them."""
_MAX_CONSTANT = 1 << 24


def require_known_mask(r: Rewriter, found: Attention) -> None:
    """Raises :class:`NoMatch` where the model sets empty rows to zero and the fused operator would not."""
    if found.guarded:
        if len(found.masks) != 1:
            raise NoMatch(f"NaN is replaced by zeros and {len(found.masks)} values are added to the scores, expected 1")
        target = r.ctx.target
        if target is None or target.runtime != "ort":
            raise NoMatch("NaN is replaced by zeros, which only ONNX Runtime's kernel does by itself")
        if _chosen(found.masks[0]) is None:
            raise NoMatch("NaN is replaced by zeros, and the mask is not chosen between 0 and -inf")


def operand_mask(
    r: Rewriter, found: Attention, bounds: Bounds, keys: Dim, parts: list[tuple[Value, int]]
) -> Value | None:
    """The mask as an operand of Attention. ``parts`` are the axes whose extents sum up to the number of keys."""
    if not found.masks:
        return None
    mask = found.masks[0]
    for other in found.masks[1:]:
        mask = r.Add(other, mask)
    if found.guarded:
        chosen = _chosen(mask)
        assert chosen is not None
        condition, keeps = chosen
        mask = condition if keeps else r.Not(condition)
    else:
        mask = _raised(r, mask, bounds)
    return _widened(r, mask, found.q, keys, parts)


def _raised(r: Rewriter, mask: Value, bounds: Bounds) -> Value:
    lowest = _LOWEST.get(mask.dtype) if mask.dtype is not None else None
    bound = bounds.of(mask)
    if lowest is None or (bound is not None and bound < -lowest * (1 - 2.0**-10)):
        return mask
    if mask.data is not None and _rows_live(mask):
        return mask
    return r.Max(mask, r.const(lowest * _RAISED, mask.dtype))


def _widened(r: Rewriter, mask: Value, q: Value, keys: Dim, parts: list[tuple[Value, int]]) -> Value:
    """With one row for every query and one column for every key: the kernel does not broadcast them."""
    shape, wanted = mask.shape, q.shape
    assert shape is not None
    assert wanted is not None
    if len(shape) >= 2 and same_dim(shape[-2], wanted[2]) and same_dim(shape[-1], keys):
        return mask
    columns = [r.Shape(v, start=axis, end=axis + 1) for v, axis in parts]
    total = columns[0] if len(columns) == 1 else r.Add(*columns)
    return r.Expand(mask, r.Concat(r.Shape(q, start=2, end=3), total, axis=0))


def _chosen(mask: Value) -> tuple[Value, bool] | None:
    """The condition, and whether it keeps what is true, where the mask is 0 or -inf by a condition."""
    node = mask.producer
    if node is None or node.op != "Where" or node.domain:
        return None
    condition = node.inputs[0]
    yes, no = _scalar(node, 1), _scalar(node, 2)
    if condition is None or {yes, no} != {0.0, float("-inf")}:
        return None
    same = condition.shape is not None and condition.shape == mask.shape
    return (condition, yes == 0.0) if same else None


def _scalar(node: Node, i: int) -> float | None:
    found = scalar_value(node.inputs[i], node)
    return None if found is None else float(found)


def _rows_live(mask: Value) -> bool:
    """Whether every row of a constant mask has a finite element."""
    data = mask.data
    if data is None or data.nbytes > _MAX_CONSTANT or not data.shape or not data.dtype.is_float:
        return False
    array = data.numpy().astype(np.float64)
    return bool((np.isfinite(array).any(axis=-1) & ~np.isnan(array).any(axis=-1) & (array < np.inf).all(axis=-1)).all())
