"""Masks by which each position sees itself and what is in front of it, in all their spellings.

    keep[i, j] = j <= i:  a constant, a comparison of counted positions, Trilu of ones;  chosen by Where or added

[S, S] for as many queries as keys: what ``is_causal`` of the standard's Attention says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dims import Dim, same_dim
from ...ir.graph import Node, Value
from ..rewrite.matcher import scalar_value
from .attention_scores import Term
from .ranges import counted, everywhere

FAR = -1e30
"""A fill below it hides any score, and whatever a mask adds to it."""
_MAX_ELEMENTS = 1 << 22
_LONGEST = 6
_SWAPPED = {"Less": "Greater", "LessOrEqual": "GreaterOrEqual", "Greater": "Less", "GreaterOrEqual": "LessOrEqual"}


def is_causal(term: Term, queries: Dim, keys: Dim) -> bool:
    """Whether what the term does to scores of ``queries`` rows and ``keys`` columns is exactly the causal mask."""
    if not same_dim(queries, keys) or term.negated:
        return False
    if term.fill is not None:
        return term.fill <= FAR and _keeps(term.value, queries) == (not term.where)
    value, node = term.value, term.value.producer
    if value.data is not None:
        return _is_constant_mask(value, queries)
    if node is None or node.domain:
        return False
    if node.op == "Where":
        yes, no = (scalar_value(node.inputs[i], node) for i in (1, 2))
        keeps = _keeps(node.inputs[0], queries)
        zero, fill = (yes, no) if keeps else (no, yes)
        return keeps is not None and zero == 0 and fill is not None and fill <= FAR
    return node.op == "Trilu" and _is_upper(node) and _fills(node, queries)


def _is_constant_mask(value: Value, extent: Dim) -> bool:
    found = _square(value, extent)
    if found is None or found.dtype.kind != "f":
        return False
    seen = np.tri(found.shape[0], dtype=bool)
    return bool((found[seen] == 0).all() and (found[~seen] <= FAR).all())


def _square(value: Value, extent: Dim) -> np.ndarray[Any, Any] | None:
    """The matrix of a constant that is the same for every batch and head."""
    data = value.data
    if (
        data is None
        or len(data.shape) < 2
        or not 0 < data.count <= _MAX_ELEMENTS
        or data.shape[-2:] != (extent, extent)
    ):
        return None
    return data.numpy().reshape(data.shape[-2:]) if data.count == data.shape[-1] ** 2 else None


def _keeps(condition: Value | None, extent: Dim) -> bool | None:
    """Whether the condition is true for what is seen (``True``) or for what is not; ``None``: it is something else."""
    turned = True
    for _ in range(_LONGEST):
        if condition is None:
            return None
        if condition.data is not None:
            return _keeps_constant(condition, extent, turned)
        node = condition.producer
        if node is None or node.domain:
            return None
        if node.op == "Not":
            turned = not turned
        elif node.op == "Trilu":
            lower = _is_lower(node) and _ones(node, extent)
            return turned if lower else None
        elif node.op in _SWAPPED:
            found = _compares(node, extent)
            return None if found is None else found == turned
        elif node.op not in ("Cast", "Unsqueeze", "Identity"):
            return None
        condition = node.inputs[0]
    return None


def _keeps_constant(condition: Value, extent: Dim, turned: bool) -> bool | None:
    found = _square(condition, extent)
    if found is None:
        return None
    seen = np.tri(found.shape[0], dtype=bool)
    if bool((found.astype(bool) == seen).all()):
        return turned
    return not turned if bool((found.astype(bool) != seen).all()) else None


def _compares(node: Node, extent: Dim) -> bool | None:
    """Whether a comparison of column and row numbers keeps what is seen; ``None`` where it is another one."""
    axes = [_counted_axis(v, extent) for v in node.inputs]
    if sorted(a for a in axes if a is not None) != [-2, -1]:
        return None
    op = node.op if axes[0] == -1 else _SWAPPED[node.op]  # of column and row
    return {"LessOrEqual": True, "Greater": False}.get(op)


def _counted_axis(v: Value | None, extent: Dim) -> int | None:
    """The last axis (-1) or the one before (-2), where ``v`` counts 0, 1, ... along it and has no other extent."""
    node = counted(v)
    if v is None or v.shape is None or node is None:
        return None
    own = [a - len(v.shape) for a, d in enumerate(v.shape) if d != 1]
    start, step = scalar_value(node.inputs[0], node), scalar_value(node.inputs[2], node)
    whole = len(own) == 1 and same_dim(v.shape[own[0]], extent) and same_dim((node.output.shape or (None,))[0], extent)
    return own[0] if whole and start == 0 and step == 1 and own[0] >= -2 else None


def _is_lower(node: Node) -> bool:
    return not node.attr("upper", 1) and _diagonal(node) == 0


def _is_upper(node: Node) -> bool:
    return bool(node.attr("upper", 1)) and _diagonal(node) == 1


def _diagonal(node: Node) -> int | None:
    k = node.input(1)
    return 0 if k is None else scalar_value(k, node)


def _ones(node: Node, extent: Dim) -> bool:
    return _is_square(node, extent) and bool(everywhere(node.inputs[0]))


def _fills(node: Node, extent: Dim) -> bool:
    fill = everywhere(node.inputs[0])
    return _is_square(node, extent) and isinstance(fill, float) and fill <= FAR


def _is_square(node: Node, extent: Dim) -> bool:
    shape = node.output.shape
    return shape is not None and len(shape) >= 2 and all(same_dim(d, extent) for d in shape[-2:])
