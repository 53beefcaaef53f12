"""Fuse rotary positions, spelled out, into the standard's RotaryEmbedding.

    x c + (-x2, x1) s = RotaryEmbedding(x, cos, sin)           x = (x1, x2), c = (cos, cos), s = (sin, sin)

where x1 and x2 are the halves of every head. Cosine and sine are taken in before they are doubled.

**Why** one node for seven, and half of the cosines and sines.
**Needs** opset 23; x [B, H, S, D]; cosine and sine whose halves are proven equal, one row for every token.
**Leaves** halves of different numbers, rotations of a part of the head.
**Numbers** reassociates.
**Source** J. Su et al., RoFormer, 2021; RotaryEmbedding-23.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.dims import same_dim
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ...ir.ops import UNARY
from ..core import Numbers, RewritePass
from ..rewrite import NodeRule, NoMatch, Rewriter
from ..rewrite.matcher import scalar_value
from ..rewrite.rewriter import origin_of
from ..shared.attention_heads import HEADS_FIRST, packed_heads
from ..shared.emit import again, squeeze
from ..shared.operands import int_list, int_operand, producer_of

OPSET = 23
_LONGEST = 8


@dataclass
class FuseRotary(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield HalfSplit()


class HalfSplit(NodeRule):
    """Anchored at the sum."""

    roots = ("Add",)

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Mul") is not None and producer_of(node, 1, "Mul") is not None

    def apply(self, r: Rewriter, node: Node) -> Value:
        if r.opset() < OPSET:
            raise NoMatch(f"RotaryEmbedding needs opset {OPSET}, the model imports {r.opset()}")
        x, cos, sin, nodes = _rotation(node)
        shape = x.shape
        if shape is None or len(shape) != 4 or not isinstance(shape[3], int) or shape[3] % 2:
            raise NoMatch(f"%{x.name} is {x.type}, wanted [B, H, S, D] with an even size D")
        if x.dtype not in (DType.F32, DType.F16, DType.BF16):
            raise NoMatch(f"rotation of {x.dtype!r}")
        for v in (cos, sin):
            if v.shape is None or len(v.shape) != 4 or v.shape[1] != 1:
                raise NoMatch(f"%{v.name} is {v.type}, wanted one row for every token")
            if v.shape[0] != 1 and not same_dim(v.shape[0], shape[0]):
                raise NoMatch(f"%{v.name} is {v.type} for %{x.name}: {x.type}")
            if not same_dim(v.shape[2], shape[2]) or not same_dim(v.shape[3], shape[3]):
                raise NoMatch(f"%{v.name} is {v.type} for %{x.name}: {x.type}")
        chains = [_chain(cos), _chain(sin)]
        packed = packed_heads(x) if all(user in nodes for user, _ in x.uses) else None
        r.begin(node, origin_of([*nodes, node]))
        source = x if packed is None else packed[0]
        halves = [_for_batch(r, squeeze(r, _replayed(r, chain), [1]), source) for chain in chains]
        if packed is None:
            return r.RotaryEmbedding(x, *halves)
        # On [B, S, H*D]; the split into heads goes behind, where attention takes it in.
        flat, heads = packed
        split = producer_of(x.producer, 0, "Reshape") if x.producer is not None else None
        assert split is not None
        turned = r.RotaryEmbedding(flat, *halves, num_heads=heads)
        return r.Transpose(again(r, split, turned, *split.inputs[1:]), perm=HEADS_FIRST)


def _for_batch(r: Rewriter, rows: Value, x: Value) -> Value:
    """Rows [1, S, D/2] that the batch shares, once for every entry: the operator does not broadcast them."""
    if rows.shape is None or x.shape is None or same_dim(rows.shape[0], x.shape[0]):
        return rows
    target = r.Concat(r.Shape(x, start=0, end=1), np.array([1, 1], np.int64), axis=0)
    return r.Expand(rows, target)


def _rotation(node: Node) -> tuple[Value, Value, Value, list[Node]]:
    """x, cosine, sine and the nodes in front of the sum."""
    a, b = producer_of(node, 0, "Mul"), producer_of(node, 1, "Mul")
    for straight, turned in ((a, b), (b, a)):
        if straight is None or turned is None or len(straight.output.uses) != 1 or len(turned.output.uses) != 1:
            continue
        for i in (0, 1):
            joined = producer_of(turned, i, "Concat")
            if joined is None:
                continue
            x, inner = _swapped_halves(joined)
            sin = turned.inputs[1 - i]
            for k in (0, 1):
                if straight.inputs[k] is x:
                    cos = straight.inputs[1 - k]
                    assert cos is not None
                    assert sin is not None
                    return x, cos, sin, [straight, turned, joined, *inner]
    raise NoMatch("no product with the swapped halves of the other factor")


def _swapped_halves(joined: Node) -> tuple[Value, list[Node]]:
    """x and the nodes where ``joined`` is ``(-x2, x1)``."""
    if len(joined.inputs) != 2 or joined.attr("axis", 0) not in (-1, 3) or len(joined.output.uses) != 1:
        raise NoMatch("the Concat does not join two halves of the last axis, or is used elsewhere")
    negated = producer_of(joined, 0, "Neg")
    first = joined.inputs[1]
    if negated is None:
        raise NoMatch("the first half is not negated")
    second = negated.inputs[0]
    x1, x2 = _half(first), _half(second)
    if x1[0] is not x2[0] or (x1[1], x2[1]) != (0, 1):
        raise NoMatch("the joined values are not the second and the first half of one value")
    nodes = [negated, *dict.fromkeys((x1[2], x2[2]))]
    return x1[0], nodes


def _half(v: Value | None) -> tuple[Value, int, Node]:
    """What ``v`` is a half of along the last axis, which half, and the node."""
    node = v.producer if v is not None else None
    x = node.inputs[0] if node is not None and node.inputs else None
    size = x.shape[-1] if x is not None and x.shape else None
    if v is None or node is None or x is None or node.domain or not isinstance(size, int):
        raise NoMatch("a part is not cut out of a value of known extent")
    if v.shape is None or v.shape[-1] != size // 2 or size % 2:
        raise NoMatch("a part is not half as long")
    if node.op == "Split" and len(node.outputs) == 2 and node.attr("axis", 0) in (-1, 3):
        return x, v.index, node
    if node.op == "Slice":
        starts, axes, steps = int_operand(node, 1), int_list(node, "axes", 3), int_operand(node, 4)
        if starts is not None and axes in ([-1], [3]) and (steps is None or steps == [1]):
            start = starts[0] % size if starts[0] < 0 else starts[0]
            if start in (0, size // 2):
                return x, 0 if start == 0 else 1, node
    raise NoMatch(f"{node.op} does not cut a half out of the last axis")


def _chain(v: Value) -> tuple[Value, list[Node]]:
    """One half of what ``v`` repeats, and the elementwise nodes from there to ``v`` (outermost first)."""
    nodes: list[Node] = []
    for _ in range(_LONGEST):
        node = v.producer
        if node is None or node.domain:
            break
        if node.op == "Concat":
            same = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1] and _is_last_axis(node)
            if same and node.inputs[0] is not None:
                return node.inputs[0], nodes
            break
        before = node.inputs[0]
        scales = node.op in ("Mul", "Div") and scalar_value(node.inputs[1], node) is not None
        if ("", node.op) not in UNARY and not _keeps_last(node) and not scales:
            break
        nodes.append(node)
        if before is None:
            break
        v = before
    raise NoMatch(f"the halves of %{v.name} are not known to be equal")


def _is_last_axis(node: Node) -> bool:
    rank = node.output.rank
    return node.attr("axis", 0) in (-1, None if rank is None else rank - 1)


def _keeps_last(node: Node) -> bool:
    """Whether it only puts axes in front of the last one."""
    if node.op != "Unsqueeze":
        return False
    axes, rank = int_list(node, "axes", 1), node.output.rank
    return axes is not None and rank is not None and all(a % rank != rank - 1 for a in axes)


def _replayed(r: Rewriter, chain: tuple[Value, list[Node]]) -> Any:
    v, nodes = chain
    for node in reversed(nodes):
        v = again(r, node, v, *node.inputs[1:])
    return v
