"""merge-constants: equal constants become one.

**Why**    exporters write the same scalar, axis list or tied weight many times; equal operands also make
           equal nodes, which eliminate-common-subexpressions then finds.
**Needs**  the same element type, shape and bits (so -0.0 is not 0.0), and the same annotations.
**Leaves** defaults of inputs, which a caller may override; sparse constants beside dense ones.
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...ir.constants import SparseConstant, SplatConstant
from ...ir.graph import Graph, Model, Value
from ...ir.types import TensorType
from ..core import Pass
from ..rewrite.rewriter import Rewriter


@dataclass
class MergeConstants(Pass):
    """Merges equal constants of the main graph and of each function, bodies included."""

    def run(self, model: Model, r: Rewriter) -> None:
        for root in model.roots():
            for same in equal_constants(root):
                keep_first(root, same, r)
        if r.ctx.trace and not r.changes:
            r.ctx.note("no two constants are equal")


def equal_constants(root: Graph) -> Iterator[list[Value]]:
    """Groups of two or more equal constants. Data is read only where element type, shape and first bytes agree."""
    groups = grouped((v for g in root.all_graphs() for v in g.constants), _head)
    for group in groups:
        for alike in grouped(group, _first_bytes):
            # Equal first bytes settle it where there is nothing else.
            if all(map(_is_its_sample, alike)):
                yield alike
            else:
                yield from grouped(alike, _digest)


def grouped(values: Any, key: Any) -> list[list[Value]]:
    """Values with equal keys, in order; those alone are left out."""
    buckets: dict[Any, list[Value]] = {}
    for value in values:
        buckets.setdefault(key(value), []).append(value)
    return [bucket for bucket in buckets.values() if len(bucket) > 1]


def _is_its_sample(value: Value) -> bool:
    data = value.data
    assert data is not None
    return len(data.sample()) == data.nbytes or (isinstance(data, SplatConstant) and not data.dtype.is_packed)


def _head(value: Value) -> Any:
    data, t = value.data, value.type
    assert data is not None
    annotated = isinstance(t, TensorType) and (t.layout is not None or t.quant is not None)
    return (data.dtype, data.shape, t if annotated else None, isinstance(data, SparseConstant))


def _first_bytes(value: Value) -> bytes:
    assert value.data is not None
    return value.data.sample()


def _digest(value: Value) -> str:
    assert value.data is not None
    return value.data.digest()


def keep_first(root: Graph, same: list[Value], r: Rewriter) -> None:
    """Makes all users take the first one, which every body must see."""
    kept = same[0]
    for value in same[1:]:
        if not r.allow_value(value):
            return
        if kept.graph is not value.graph:
            r.move_constant(kept, root)
        r.replace_value(value, kept)
        r.remove_constant(value)
