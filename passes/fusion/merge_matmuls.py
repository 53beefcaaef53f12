"""Merge products of one value with several constant matrices into one product and a Split.

    x W1, x W2, x W3  =  Split(x [W1 W2 W3])

Queries, keys and values; gate and up; parallel heads. With biases likewise: Gemm(x, W1, b1), ... or an Add behind each.

**Why** one call reads x once and packs it once for all; accelerators want few large products. On ONNX Runtime 1.31 on a
processor it does not pay (one thread: a decoder step 1.00, 32 tokens 1.04, MiniLM 0.99 to 1.02 of the time without), so
it is not in the default pipeline; it takes fewer nodes, and the tuner tries it.
**Needs** constant matrices of the same height and element type in nodes of the same form.
**Leaves** matrices that others use too; groups whose joined matrix would take more than ``max_bytes``; groups in which
no matrix is narrower than ``narrow`` columns.
**Numbers** exact, up to the order in which a kernel sums: reassociates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.dtypes import DType
from ...ir.graph import Graph, Node, Value
from ..core import GraphPass, Numbers
from ..rewrite import Rewriter
from ..rewrite.rewriter import origin_of
from ..shared.emit import split

_FLOATS = (DType.F32, DType.F16, DType.BF16, DType.F64)
_OPSET = 7


@dataclass
class MergeMatmuls(GraphPass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    max_bytes: int = 256 << 20
    """Largest joined matrix."""
    narrow: int = 1 << 30
    """Columns that at least one matrix must stay below."""

    def run_graph(self, graph: Graph, r: Rewriter) -> None:
        if graph.opsets.get("", 0) < _OPSET:
            return
        for group in list(_groups(graph)):
            reason = self._reason(group)
            if reason is not None:
                r.ctx.note(reason)
            elif r.allow(group[0]):
                _merge(r, group)

    def _reason(self, group: Sequence[Node]) -> str | None:
        sizes = [_matrix(n).shape[_columns(n)] for n in group]
        if min(sizes) >= self.narrow:
            return f"no matrix of {sizes} columns is narrower than {self.narrow}"
        total = sum(_matrix(n).nbytes for n in group)
        return (
            f"the joined matrix takes {total} bytes, the limit is {self.max_bytes}" if total > self.max_bytes else None
        )


def _groups(graph: Graph) -> Iterator[list[Node]]:
    """Two or more products of one value, in order, that can be one."""
    found: dict[tuple[object, ...], list[Node]] = {}
    for node in graph:
        key = _key(node)
        if key is not None:
            found.setdefault(key, []).append(node)
    yield from (group for group in found.values() if len(group) > 1)


def _key(node: Node) -> tuple[object, ...] | None:
    if node.domain or node.op not in ("MatMul", "Gemm") or len(node.inputs) < 2:
        return None
    x, w = node.inputs[0], node.inputs[1]
    data = w.data if w is not None else None
    if x is None or w is None or data is None or x.data is not None or len(w.uses) != 1:
        return None
    if len(data.shape) != 2 or data.dtype not in _FLOATS or node.output.rank is None:
        return None
    bias = node.input(2)
    if bias is not None and (bias.data is None or bias.data.shape != (data.shape[_columns(node)],)):
        return None
    attrs = tuple(sorted((k, v) for k, v in node.attrs.items() if isinstance(v, (int, float))))
    return (id(x), node.op, data.dtype, data.shape[1 - _columns(node)], bias is not None, attrs)


def _columns(node: Node) -> int:
    """Axis of the matrix that is the last axis of the result."""
    return 0 if node.op == "Gemm" and node.attr("transB", 0) else 1


def _matrix(node: Node) -> ArrayConstant:
    w = node.inputs[1]
    assert w is not None
    return w.data  # type: ignore[return-value]


def _merge(r: Rewriter, group: list[Node]) -> None:
    first, adds = group[0], _adds(group)
    x, axis = first.inputs[0], _columns(first)
    assert x is not None
    r.begin(first, origin_of([*group, *adds]))
    weights = [_matrix(n).numpy() for n in group]
    name = "+".join(v.name for n in group if (v := n.inputs[1]) is not None)
    operands: list[Value] = [x, r.const(ArrayConstant(np.concatenate(weights, axis), _matrix(first).dtype), name=name)]
    if first.input(2) is not None:
        biases = [n.inputs[2] for n in group]
        operands.append(r.const(np.concatenate([b.numpy() for b in biases if b is not None])))
    whole = r.op(first.op, *operands, **cast("dict[str, Any]", first.attrs))
    if adds:
        whole = r.Add(whole, r.const(np.concatenate([_row(add).reshape(-1) for add in adds])))
    parts = split(r, whole, [w.shape[axis] for w in weights], -1)
    for node, part in zip(adds or group, parts, strict=True):
        r.replace(node, part)


def _adds(group: list[Node]) -> list[Node]:
    """The sums with a bias that are all that uses the products, one for each; none where one is missing."""
    found = [node.output.sole_user for node in group] if group[0].op == "MatMul" else []
    adds = [add for add in found if add is not None and add.graph is group[0].graph and _is_bias(add)]
    return adds if len(adds) == len(group) else []


def _is_bias(add: Node) -> bool:
    """Whether it adds a constant number to each column, and does not change the shape."""
    if add.op != "Add" or add.domain or add.version < _OPSET:
        return False
    columns = add.output.shape[-1] if add.output.shape else None
    return any(v is not None and v.data is not None for v in add.inputs) and _row(add).shape == (columns,)


def _row(add: Node) -> np.ndarray[Any, Any]:
    v = next(v for v in add.inputs if v is not None and v.data is not None)
    return v.numpy()
