"""Masks as the standard's Attention takes them, and as ONNX Runtime's kernel of it wants them.

Measured on ONNX Runtime 1.31: the kernel takes masks whose last two extents are the scores' own; a row in which
every element is -inf, false, or exactly the lowest number of the type gives zeros. The spelled-out softmax gives NaN
for -inf (no result that anybody can use: zeros are as good) and the plain mean for the lowest number, so that number is
raised a little: next to it a score is lost in rounding anyway.
"""

from __future__ import annotations

import numpy as np

from ...ir.dims import Dim, mul, same_dim
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.matcher import scalar_value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .attention import Attention
from .attention_causal import FAR
from .attention_scores import Term
from .bounds import Bounds
from .emit import unsqueeze

_LOWEST = {DType.F32: -3.4028234663852886e38, DType.F16: -65504.0, DType.F64: -1.7976931348623157e308}
RAISED = {dtype: float(np.asarray(0.875 * lowest, dtype.numpy)) for dtype, lowest in _LOWEST.items()}
"""What the fill becomes: the sum with any usual score is the same number for all of them."""
_MAX_CONSTANT = 1 << 24


def require_known_mask(r: Rewriter, found: Attention) -> None:
    """Raises :class:`NoMatch` where the mask as one operand would not say what the model says."""
    fills = {term.fill for term in found.masks if term.fill is not None}
    if fills - {float("-inf")} and len(fills) > 1:
        raise NoMatch(f"scores are replaced by {sorted(fills)}")
    added = [term for term in found.masks if term.fill is None]
    if added and any(fill > FAR for fill in fills):
        raise NoMatch(f"scores are replaced by {max(fills)}, which is no limit next to what is added")
    for term in found.masks:
        _require_place(found, term)
    if found.guarded:
        _require_guard(r, found)


def _require_place(found: Attention, term: Term) -> None:
    shape = term.value.shape
    if found.folded or term.rank == 4 or shape is None or len(shape) < 3 or shape[0] == 1:
        return
    q = found.q.shape
    if q is None or not same_dim(shape[0], mul(q[0], q[1])):
        raise NoMatch(f"the mask %{term.value.name} is {term.value.type} for queries {found.q.type}")


def _require_guard(r: Rewriter, found: Attention) -> None:
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
    chosen = _chosen(found.masks[0]) if len(found.masks) == 1 else None
    if chosen is not None and (found.guarded or found.masks[0].fill is not None):
        condition, keeps = chosen
        mask = _placed(r, found, condition if keeps else r.Not(condition), found.masks[0])
        return _widened(r, mask, found, keys, parts)
    total: Value | None = None
    for term in reversed(found.masks):
        value = _placed(r, found, term.value, term)
        if term.fill is not None:
            total = _replaced(r, found, value, term, total)
            continue
        value = _raised(r, r.Neg(value) if term.negated else value, bounds)
        total = value if total is None else r.Add(total, value)
    assert total is not None
    return _widened(r, total, found, keys, parts)


def _placed(r: Rewriter, found: Attention, value: Value, term: Term) -> Value:
    """On [B, H, S, T] what the model has on [B*H, S, T]."""
    if term.rank == 4 or value.rank != 3 or value.shape is None or value.shape[0] == 1:
        return value
    if found.folded:
        return unsqueeze(r, value, [1])
    return r.Reshape(value, r.Concat(r.Shape(found.q, start=0, end=2), r.Shape(value, start=1, end=3), axis=0))


def _replaced(r: Rewriter, found: Attention, condition: Value, term: Term, inner: Value | None) -> Value:
    dtype = found.q.dtype
    assert dtype is not None
    assert term.fill is not None
    fill = r.const(term.fill if np.isinf(term.fill) else RAISED.get(dtype, 0.875 * term.fill), dtype)
    rest = r.const(0.0, dtype) if inner is None else inner
    return r.Where(condition, fill, rest) if term.where else r.Where(condition, rest, fill)


def _raised(r: Rewriter, mask: Value, bounds: Bounds) -> Value:
    dtype = mask.dtype
    lowest = _LOWEST.get(dtype) if dtype is not None else None
    bound = bounds.of(mask)
    if lowest is None or dtype is None or (bound is not None and bound < -lowest * (1 - 2.0**-10)):
        return mask
    if mask.data is not None and _rows_live(mask):
        return mask
    raised = RAISED[dtype]
    node = mask.producer
    if node is not None and node.op == "Where" and not node.domain:
        choice = [c for c in (_scalar(node, 1), _scalar(node, 2)) if c is not None]
        if len(choice) == 2:
            return r.Where(node.inputs[0], *(r.const(max(c, raised), mask.dtype) for c in choice))
    return r.Max(mask, r.const(raised, mask.dtype))


def _widened(r: Rewriter, mask: Value, found: Attention, keys: Dim, parts: list[tuple[Value, int]]) -> Value:
    """With one row for every query and one column for every key: the kernel does not broadcast them."""
    shape, wanted = mask.shape, found.q.shape
    assert shape is not None
    assert wanted is not None
    rows = len(wanted) - 2
    if len(shape) >= 2 and same_dim(shape[-2], wanted[rows]) and same_dim(shape[-1], keys):
        return mask
    columns = [r.Shape(v, start=axis, end=axis + 1) for v, axis in parts]
    total = columns[0] if len(columns) == 1 else r.Add(*columns)
    return r.Expand(mask, r.Concat(r.Shape(found.q, start=rows, end=rows + 1), total, axis=0))


def _chosen(term: Term) -> tuple[Value, bool] | None:
    """The condition, and whether it keeps what is true, where a score stays as it is or becomes -inf."""
    if term.fill is not None:
        return (term.value, not term.where) if term.fill == float("-inf") else None
    node = term.value.producer
    if term.negated or node is None or node.op != "Where" or node.domain:
        return None
    condition = node.inputs[0]
    yes, no = _scalar(node, 1), _scalar(node, 2)
    if condition is None or {yes, no} != {0.0, float("-inf")}:
        return None
    same = condition.shape is not None and condition.shape == term.value.shape
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
