"""Reading rotary positions: which part of a value an operand is, and cosines before they are repeated for both parts.

A head of size D has two parts: its halves, or its even and its odd elements (``interleaved``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.constants import ArrayConstant
from ...ir.dims import same_shape
from ...ir.graph import Node, Value
from ...ir.ops import UNARY
from ..rewrite.matcher import scalar_value
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from .emit import again, squeeze
from .operands import constant_ints, int_list, int_operand, normalized, producer_of

_LONGEST = 10
_MAX_TABLE = 1 << 26


@dataclass(frozen=True)
class Part:
    """One of the two parts of ``x`` along the last axis."""

    x: Value
    index: int
    interleaved: bool
    nodes: tuple[Node, ...]


def part_of(v: Value | None) -> Part:
    """What ``v`` is a part of. Raises :class:`NoMatch`."""
    node = v.producer if v is not None else None
    x = node.inputs[0] if node is not None and node.inputs else None
    if v is None or node is None or x is None or node.domain or not x.shape or not v.shape:
        raise NoMatch("a part is not cut out of a value of known extent")
    if node.op == "Squeeze" or (node.op == "Gather" and len(v.shape) < len(x.shape)):
        return _from_pairs(v, node)
    size = x.shape[-1]
    if not isinstance(size, int) or size % 2 or v.shape[-1] != size // 2 or len(v.shape) != len(x.shape):
        raise NoMatch("a part is not half as long")
    at = _positions(node, v, size, len(x.shape))
    for interleaved in (False, True):
        for index in (0, 1):
            if at == _wanted(size, index, interleaved=interleaved):
                return Part(x, index, interleaved, (node,))
    raise NoMatch(f"{node.op} does not cut a half out of the last axis")


def _wanted(size: int, index: int, *, interleaved: bool) -> list[int]:
    if interleaved:
        return list(range(index, size, 2))
    return list(range(index * size // 2, (index + 1) * size // 2))


def _positions(node: Node, v: Value, size: int, rank: int) -> list[int] | None:
    """Elements of the last axis that ``node`` takes; ``None`` where it does something else."""
    last = (-1, rank - 1)
    if node.op == "Split" and len(node.outputs) == 2 and node.attr("axis", 0) in last:
        return _wanted(size, v.index, interleaved=False)
    if node.op == "Gather" and node.attr("axis", 0) in last:
        found = int_operand(node, 1)
        return [i % size for i in found] if found is not None else None
    if node.op != "Slice":
        return None
    starts, axes, steps = int_operand(node, 1), int_list(node, "axes", 3), int_operand(node, 4) or [1]
    if starts is None or axes is None or len(axes) != 1 or axes[0] not in last or len(steps) != 1 or steps[0] < 1:
        return None
    start = starts[0] % size if starts[0] < 0 else starts[0]
    return list(range(start, size, steps[0]))[: _extent(v)]


def _extent(v: Value) -> int:
    last = v.shape[-1] if v.shape else None
    return last if isinstance(last, int) else 0


def elements(v: Value) -> list[int] | None:
    """Which elements of the last axis ``v`` has of what a Slice or Gather cuts it out of; ``None`` for other values."""
    node = v.producer
    x = node.inputs[0] if node is not None and node.inputs else None
    if node is None or node.domain or node.op not in ("Slice", "Gather") or x is None or not x.shape or not v.shape:
        return None
    size = x.shape[-1]
    if not isinstance(size, int) or len(v.shape) != len(x.shape):
        return None
    return _positions(node, v, size, len(x.shape))


def _from_pairs(v: Value, node: Node) -> Part:
    """An element of an axis of two that a Reshape split off: [.., D/2, 2] (pairs) or [.., 2, D/2] (halves)."""
    picked = node
    if node.op == "Squeeze":
        inner = node.inputs[0].producer if node.inputs[0] is not None else None
        if inner is None or inner.op != "Split" or inner.domain or len(inner.outputs) != 2:
            raise NoMatch("a part is not taken out of pairs")
        axis, index, picked = inner.attr("axis", 0), node.inputs[0].index if node.inputs[0] is not None else 0, inner
    else:
        found = constant_ints(node.inputs[1])
        if found is None or len(found) != 1:
            raise NoMatch("which element of a pair is not known")
        axis, index = node.attr("axis", 0), found[0] % 2
    split = producer_of(picked, 0, "Reshape")
    x, wide = (split.inputs[0], split.output.shape) if split is not None else (None, None)
    if split is None or x is None or not x.shape or not wide or not isinstance(axis, int) or v.shape is None:
        raise NoMatch("a part is not taken out of pairs")
    axis = axis + len(wide) if axis < 0 else axis
    size = x.shape[-1]
    tail = [(size // 2, 2), (2, size // 2)] if isinstance(size, int) and size % 2 == 0 else []
    halves = same_shape(wide[:-2], x.shape[:-1]) and axis in (len(wide) - 1, len(wide) - 2)
    pair = len(wide) - axis == 1
    if not halves or not tail or wide[-2:] != tail[0 if pair else 1] or not same_shape(v.shape[:-1], x.shape[:-1]):
        raise NoMatch("a part is not taken out of pairs")
    nodes = (node, split) if picked is node else (node, picked, split)
    return Part(x, index, pair, nodes)


def joined(v: Value) -> tuple[Value, Value, bool, list[Node]]:
    """First and second part that ``v`` is made of, whether they are interleaved, and the nodes that join them."""
    node = v.producer
    if node is None or node.domain or not v.shape:
        raise NoMatch("two parts are not joined")
    if node.op == "Concat" and len(node.inputs) == 2 and node.attr("axis", 0) in (-1, len(v.shape) - 1):
        a, b = node.inputs
        if a is None or b is None or a.shape is None or b.shape is None or a.shape[-1] != b.shape[-1]:
            raise NoMatch("the joined parts are not equally long")
        return a, b, False, [node]
    stack = producer_of(node, 0, "Concat") if node.op == "Reshape" else None
    wide = stack.output.shape if stack is not None else None
    if stack is None or not wide or len(stack.inputs) != 2 or stack.attr("axis", 0) not in (-1, len(wide) - 1):
        raise NoMatch(f"{node.op} does not join two parts of the last axis")
    fronts = [producer_of(stack, i, "Unsqueeze", "Reshape") for i in (0, 1)]
    parts = [f.inputs[0] if f is not None else None for f in fronts]
    if wide[-1] != 2 or not same_shape((*wide[:-2],), v.shape[:-1]):
        raise NoMatch("the Reshape does not join pairs along the last axis")
    for part in parts:
        if part is None or not same_shape(part.shape, wide[:-1]):
            raise NoMatch("the joined values are no pairs")
    assert parts[0] is not None
    assert parts[1] is not None
    return parts[0], parts[1], True, [node, stack, *[f for f in fronts if f is not None]]


# -- cosines and sines


@dataclass
class Table:
    """Cosines or sines [.., D/2]: ``source``, then ``nodes`` (the last one first)."""

    source: Value
    nodes: list[Node]
    cut: bool = False
    """Whether ``source`` is a constant for both parts, of which one is to be cut out."""
    drops_axis: bool = False
    """Whether ``source`` has one more axis of extent 1 behind."""


def table_of(v: Value, *, interleaved: bool) -> Table:
    """What ``v`` [.., D] repeats for both parts. Raises :class:`NoMatch` where that is not known."""
    nodes: list[Node] = []
    name = v.name
    for _ in range(_LONGEST):
        if v.data is not None and _repeats(v, interleaved=interleaved):
            return Table(v, nodes, cut=True)
        node = v.producer
        if node is None or node.domain:
            break
        found = _repeated(v, node, interleaved=interleaved)
        if found is not None:
            return Table(found[0], nodes, drops_axis=found[1])
        before = node.inputs[0]
        if before is None or not _keeps_last(node):
            break
        nodes.append(node)
        v = before
    raise NoMatch(f"the parts of %{name} are not known to be equal")


def _repeats(v: Value, *, interleaved: bool) -> bool:
    data = v.data
    if data is None or not data.shape or data.shape[-1] % 2 or data.nbytes > _MAX_TABLE:
        return False
    array = data.numpy()
    a, b = _cut(array, 0, interleaved=interleaved), _cut(array, 1, interleaved=interleaved)
    return bool(np.array_equal(a, b))


def _cut(array: np.ndarray[Any, Any], index: int, *, interleaved: bool) -> np.ndarray[Any, Any]:
    half = array.shape[-1] // 2
    return array[..., index::2] if interleaved else array[..., index * half : (index + 1) * half]


def _repeated(v: Value, node: Node, *, interleaved: bool) -> tuple[Value, bool] | None:
    """What a node repeats for both parts, and whether that has one more axis of extent 1 behind."""
    if not interleaved:
        same = node.op == "Concat" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        last = node.attr("axis", 0) in (-1, (v.rank or 0) - 1)
        return (node.inputs[0], False) if same and last and node.inputs[0] is not None else None
    if node.op != "Reshape" or v.shape is None:
        return None
    wide = producer_of(node, 0, "Tile", "Expand")
    narrow = wide.inputs[0] if wide is not None else None
    if wide is not None and narrow is not None and narrow.shape and wide.output.shape:
        grown = (*narrow.shape[:-1], 2)
        merged = same_shape((*narrow.shape[:-2],), v.shape[:-1])
        if merged and narrow.shape[-1] == 1 and same_shape(wide.output.shape, grown):
            return narrow, True
    try:
        a, b, pairs, _ = joined(v)
    except NoMatch:
        return None
    return (a, False) if pairs and a is b else None


def _keeps_last(node: Node) -> bool:
    """Whether ``node`` works on each element of the last axis by itself, so that it can be cut in front."""
    if node.op in ("Mul", "Div") and scalar_value(node.inputs[1], node) is not None:
        return True
    if ("", node.op) in UNARY:
        return True
    x = node.inputs[0]
    rank = x.rank if x is not None else None
    if rank is None:
        return False
    if node.op in ("Unsqueeze", "Squeeze"):
        inner = node.output.rank if node.op == "Unsqueeze" else rank
        axes = int_list(node, "axes", 1)
        known = normalized(axes, inner) if axes is not None and inner is not None else None
        return known is not None and (inner or 0) - 1 not in known
    if node.op == "Slice":
        axes = int_list(node, "axes", 3)
        return axes is not None and all(a % rank != rank - 1 for a in axes)
    if node.op == "Gather":
        axis = node.attr("axis", 0)
        return isinstance(axis, int) and axis % rank != rank - 1
    return False


def emit_table(r: Rewriter, table: Table, *, interleaved: bool) -> Value:
    """The cosines or sines for one part, in the shape that they had for both."""
    v = table.source
    if table.cut and v.data is not None:
        half = np.ascontiguousarray(_cut(v.numpy(), 0, interleaved=interleaved))
        v = r.const(ArrayConstant(half, v.data.dtype), name=v.name)
    if table.drops_axis:
        v = squeeze(r, v, [(v.rank or 1) - 1])
    for node in reversed(table.nodes):
        v = again(r, node, v, *node.inputs[1:])
    return v
