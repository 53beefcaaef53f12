"""Fuse rotary positions, spelled out, into the standard's RotaryEmbedding.

    x (c, c) + (-x2, x1) (s, s)      = RotaryEmbedding(x, c, s)           x = (x1, x2)
    (x1 c - x2 s, x2 c + x1 s)       = RotaryEmbedding(x, c, s)

where x1 and x2 are the halves of every head, or its even and odd elements (``interleaved``). Cosine and sine are taken
in before they are doubled; where they come out of a constant table, half of the table is kept.

**Why** one node for seven to twelve, and half of the cosines and sines.
**Needs** opset 23; x [B, H, S, D] or [B, S, H, D]; cosine and sine that are proven equal for both parts, one row for
every token.
A rotation of the first elements of every head takes the rest in as ``rotary_embedding_dim``.
**Leaves** parts of different numbers, the other direction of turning.
**Numbers** reassociates.
**Source** J. Su et al., RoFormer, 2021; RotaryEmbedding-23.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ...ir.dims import Call, Dim, Shape, SymDim, same_dim
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..core import Numbers, RewritePass
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.attention_heads import HEADS_FIRST, packed_heads
from ..shared.emit import again, squeeze, unsqueeze
from ..shared.operands import producer_of
from ..shared.rotary import Part, Table, elements, emit_table, joined, part_of, table_of

OPSET = 23


@dataclass
class FuseRotary(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    def rules(self) -> Iterable[NodeRule]:
        yield TurnedSum()
        yield TurnedParts()
        yield PartOfHead()


@dataclass
class _Rotation:
    x: Value
    cos: Value
    sin: Value
    interleaved: bool
    root: Node
    nodes: list[Node] = field(default_factory=list[Node])
    """Private ones in front of the root."""
    tables: tuple[Table, Table] | None = None
    """Set where cosine and sine are for both parts."""


class TurnedSum(NodeRule):
    """Anchored at the sum of x times cosine and the turned x times sine."""

    roots = ("Add",)

    def promising(self, node: Node) -> bool:
        return producer_of(node, 0, "Mul") is not None and producer_of(node, 1, "Mul") is not None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        found = _sum(node)
        _require(r, found)
        found.tables = (
            table_of(found.cos, interleaved=found.interleaved),
            table_of(found.sin, interleaved=found.interleaved),
        )
        return _emit(r, found)


class TurnedParts(NodeRule):
    """Anchored where the two turned parts are joined."""

    roots = ("Concat", "Reshape")

    def promising(self, node: Node) -> bool:
        inner = node if node.op == "Concat" else producer_of(node, 0, "Concat")
        return inner is not None and len(inner.inputs) == 2

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        first, second, interleaved, nodes = joined(node.output)
        found = _parts(first, second, interleaved)
        found.root = node
        found.nodes += [n for n in nodes if n is not node]
        _require(r, found)
        return _emit(r, found)


class PartOfHead(NodeRule):
    """Anchored where the turned first elements of every head and the rest are joined."""

    roots = ("Concat",)

    def promising(self, node: Node) -> bool:
        return len(node.inputs) == 2 and producer_of(node, 0, "RotaryEmbedding", "Reshape") is not None

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        turned, views = _turned_part(node)
        if len(node.inputs) != 2 or node.attr("axis", 0) not in (-1, 3) or turned.attr("rotary_embedding_dim", 0):
            raise NoMatch("the Concat does not join two parts of the last axis")
        x, first, cuts = _front(views[-1].inputs[0] if views else turned.inputs[0], node.inputs[1])
        inside = dict.fromkeys((turned, *views, *cuts, node))  # a set would give names by address
        if any(u not in inside for n in (turned, *views) for out in n.outputs for u, _ in out.uses):
            raise NoMatch("a turned part is used elsewhere too")
        heads_first = not views
        packed = packed_heads(x) if heads_first and all(u in inside for u, _ in x.uses) else None
        attrs: dict[str, Any] = {"rotary_embedding_dim": first}
        if turned.attr("interleaved", 0):
            attrs["interleaved"] = 1
        tables = turned.inputs[1:]
        r.begin(node, origin_of([*inside]))
        if packed is not None:
            flat, heads = packed
            split = producer_of(x.producer, 0, "Reshape") if x.producer is not None else None
            assert split is not None
            y = r.RotaryEmbedding(flat, *tables, num_heads=heads, **attrs)
            return r.Transpose(again(r, split, y, *split.inputs[1:]), perm=HEADS_FIRST)
        return r.RotaryEmbedding(x, *tables, **attrs) if heads_first else _tokens_first(r, x, tables, attrs)


def _turned_part(node: Node) -> tuple[Node, list[Node]]:
    """The rotation in front of a Concat, and the Reshapes around it where it is written on [B, S, H*D]."""
    turned = producer_of(node, 0, "RotaryEmbedding")
    if turned is not None and turned.inputs[0] is not None and turned.inputs[0].rank == 4:
        return turned, []
    behind = producer_of(node, 0, "Reshape")
    turned = producer_of(behind, 0, "RotaryEmbedding") if behind is not None else None
    front = producer_of(turned, 0, "Reshape") if turned is not None else None
    if behind is None or turned is None or front is None:
        raise NoMatch("no rotation in front of the Concat")
    a, b = front.inputs[0], behind.output
    if a is None or a.shape is None or b.shape is None or len(a.shape) != 4 or len(b.shape) != 4:
        raise NoMatch("the rotation is not of heads")
    if a.shape[2] != b.shape[2] or a.shape[3] != b.shape[3] or a.shape[2] != turned.attr("num_heads", 0):
        raise NoMatch("the Reshapes around the rotation do not show the same heads")
    return turned, [behind, front]


def _front(first: Value | None, rest: Value | None) -> tuple[Value, int, list[Node]]:
    """x, how many elements ``first`` takes of its last axis, and the nodes that cut it there into two."""
    a, b = (v.producer if v is not None else None for v in (first, rest))
    x = a.inputs[0] if a is not None and a.inputs else None
    if first is None or rest is None or a is None or b is None or x is None or b.inputs[0] is not x or not x.shape:
        raise NoMatch("the joined values are not two parts of one value")
    size, count = x.shape[-1], first.shape[-1] if first.shape else None
    if not isinstance(size, int) or not isinstance(count, int):
        raise NoMatch("the size of a head is unknown")
    if a is b and a.op == "Split" and not a.domain and a.attr("axis", 0) in (-1, 3) and len(a.outputs) == 2:
        if (first.index, rest.index) != (0, 1):
            raise NoMatch("the parts are joined the other way round")
        return x, count, [a]
    if elements(first) != list(range(count)) or elements(rest) != list(range(count, size)):
        raise NoMatch("the joined values are not the first and the other elements of one value")
    return x, count, [a, b]


def _sum(node: Node) -> _Rotation:
    a, b = producer_of(node, 0, "Mul"), producer_of(node, 1, "Mul")
    for straight, turned in ((a, b), (b, a)):
        if straight is None or turned is None:
            continue
        for i in (0, 1):
            both, sin = turned.inputs[i], turned.inputs[1 - i]
            turn = _turned(both) if both is not None else None
            if turn is None or sin is None:
                continue
            x, interleaved, nodes = turn
            for k in (0, 1):
                cos = straight.inputs[1 - k]
                if straight.inputs[k] is x and cos is not None:
                    return _Rotation(x, cos, sin, interleaved, node, [straight, turned, *nodes])
    raise NoMatch("no product with the swapped halves of the other factor")


def _turned(v: Value) -> tuple[Value, bool, list[Node]] | None:
    """x where ``v`` is ``(-x2, x1)``. Raises :class:`NoMatch` for other parts of one value."""
    try:
        first, second, interleaved, nodes = joined(v)
    except NoMatch:
        return None
    negated = first.producer
    if negated is None or negated.op != "Neg" or negated.domain:
        return None
    x2, x1 = part_of(negated.inputs[0]), part_of(second)
    if x1.x is not x2.x or (x1.index, x2.index) != (0, 1) or {x1.interleaved, x2.interleaved} != {interleaved}:
        raise NoMatch("the joined values are not the second and the first half of one value")
    return x1.x, interleaved, [*nodes, negated, *_cuts(x1, x2)]


def _cuts(*parts: Part) -> list[Node]:
    """Nodes that cut the parts and belong to the rotation: a Reshape into pairs may have other users."""
    return [node for part in parts for node in part.nodes if node.op != "Reshape"]


def _parts(first: Value, second: Value, interleaved: bool) -> _Rotation:
    minus, plus = first.producer, second.producer
    if minus is None or minus.op != "Sub" or minus.domain or plus is None or plus.op != "Add" or plus.domain:
        raise NoMatch("the parts are not a difference and a sum")
    (x1, cos, m1), (x2, sin, m2) = _term(minus, 0), _term(minus, 1)
    (y1, c1, m3), (y2, c2, m4) = _term(plus, 0), _term(plus, 1)
    if y1.index == 0:
        (y1, c1), (y2, c2) = (y2, c2), (y1, c1)
    parts = (x1, x2, y1, y2)
    if any(p.x is not x1.x or p.interleaved != interleaved for p in parts):
        raise NoMatch("the products are not of two parts of one value")
    if [p.index for p in parts] != [0, 1, 1, 0] or c1 is not cos or c2 is not sin:
        raise NoMatch("the products do not turn by one angle")
    nodes = [minus, plus, m1, m2, m3, m4, *_cuts(*parts)]
    return _Rotation(x1.x, cos, sin, interleaved, minus, list(dict.fromkeys(nodes)))


def _term(node: Node, i: int) -> tuple[Part, Value, Node]:
    """A part and what it is multiplied by."""
    product = producer_of(node, i, "Mul")
    for k in (0, 1) if product is not None else ():
        assert product is not None
        other = product.inputs[1 - k]
        try:
            part = part_of(product.inputs[k])
        except NoMatch:
            continue
        if other is not None:
            return part, other, product
    raise NoMatch("a term is no product of a part")


def _require(r: Rewriter, found: _Rotation) -> None:
    x = found.x
    inside = {*found.nodes, found.root}
    for node in found.nodes:
        if node.graph is not found.root.graph or any(u not in inside for out in node.outputs for u, _ in out.uses):
            raise NoMatch(f"%{node.output.name} is used elsewhere too")
    if r.opset() < OPSET:
        raise NoMatch(f"RotaryEmbedding needs opset {OPSET}, the model imports {r.opset()}")
    shape = x.shape
    if shape is None or len(shape) != 4 or not isinstance(shape[3], int) or shape[3] % 2:
        raise NoMatch(f"%{x.name} is {x.type}, wanted [B, H, S, D] with an even size D")
    if x.dtype not in (DType.F32, DType.F16, DType.BF16):
        raise NoMatch(f"rotation of {x.dtype!r}")


def _emit(r: Rewriter, found: _Rotation) -> Replacement:
    heads_axis = _heads_axis(found)
    x = found.x
    inside = {*found.nodes, found.root}
    packed = packed_heads(x) if heads_axis == 1 and all(user in inside for user, _ in x.uses) else None
    r.begin(found.root, origin_of([*found.nodes, found.root]))
    if found.tables is None:
        wide = [found.cos, found.sin]
    else:
        wide = [emit_table(r, t, interleaved=found.interleaved) for t in found.tables]
    flag = {"interleaved": 1} if found.interleaved else {}
    source = x if packed is None else packed[0]
    halves = [_for_batch(r, _rows(r, v, heads_axis), source) for v in wide]
    if packed is not None:
        # On [B, S, H*D]; the split into heads goes behind, where attention takes it in.
        flat, heads = packed
        split = producer_of(x.producer, 0, "Reshape") if x.producer is not None else None
        assert split is not None
        turned = r.RotaryEmbedding(flat, *halves, num_heads=heads, **flag)
        y = r.Transpose(again(r, split, turned, *split.inputs[1:]), perm=HEADS_FIRST)
    elif heads_axis == 1:
        y = r.RotaryEmbedding(x, *halves, **flag)
    else:
        y = _tokens_first(r, x, halves, flag)
    r.replace(found.root, y)
    return MODIFIED


def _tokens_first(r: Rewriter, x: Value, halves: Sequence[Value | None], flag: dict[str, int]) -> Value:
    """For x [B, S, H, D]: the operator takes [B, S, H*D]."""
    shape = x.shape
    assert shape is not None
    heads, size = shape[2], shape[3]
    if not isinstance(heads, int) or not isinstance(size, int):
        raise NoMatch(f"%{x.name} is {x.type}, wanted [B, S, H, D] with a known number of heads")
    flat = r.Reshape(x, np.array([0, 0, heads * size], np.int64))
    turned = r.RotaryEmbedding(flat, *halves, num_heads=heads, **flag)
    return r.Reshape(turned, np.array([0, 0, heads, size], np.int64))


def _heads_axis(found: _Rotation) -> int:
    """Which axis of x are the heads: the one along which cosine and sine do not differ. Raises :class:`NoMatch`."""
    shape = found.x.shape
    assert shape is not None
    size = shape[3]
    width: Dim = size if found.tables is not None or not isinstance(size, int) else size // 2
    for axis in (1, 2):
        if all(_one_row(v.shape, shape, axis, width) for v in (found.cos, found.sin)):
            return axis
    raise NoMatch(
        f"cosines {found.cos.type} and sines {found.sin.type} for {found.x.type}, wanted one row for every token"
    )


def _one_row(table: Shape | None, x: Shape, axis: int, width: Dim) -> bool:
    if table is None or not 2 <= len(table) <= 4:
        return False
    table = (1,) * (4 - len(table)) + table
    tokens = 3 - axis
    fits = table[axis] == 1 and _same_extent(table[tokens], x[tokens]) and same_dim(table[3], width)
    return fits and (table[0] == 1 or same_dim(table[0], x[0]))


def _same_extent(d: Dim, wanted: Dim) -> bool:
    """Whether ``d`` is ``wanted`` in every run in which the product of both succeeds.

    A table of n > 1 rows that is cut at the number of tokens has min(n, S) rows, which is 1 only where S is.
    """
    if same_dim(d, wanted):
        return True
    factors = d.terms[0][0] if isinstance(d, SymDim) and len(d.terms) == 1 and d.terms[0][1] == 1 else ()
    least = factors[0] if len(factors) == 1 else None
    if not isinstance(least, Call) or least.function != "min":
        return False
    return any(
        isinstance(n, int) and n > 1 and same_dim(o, wanted) for n, o in ((least.a, least.b), (least.b, least.a))
    )


def _rows(r: Rewriter, v: Value, heads_axis: int) -> Value:
    """Cosines as [B, S, D/2]."""
    missing = 4 - (v.rank or 4)
    if missing and heads_axis < missing:
        # The axis of heads is one of those that broadcasting puts in front: it need not be put in at all.
        return unsqueeze(r, v, list(range(missing - 1))) if missing > 1 else v
    wide: Any = unsqueeze(r, v, list(range(missing))) if missing else v
    return squeeze(r, wide, [heads_axis])


def _for_batch(r: Rewriter, rows: Value, x: Value) -> Value:
    """Rows [1, S, D/2] that the batch shares, once for every entry: the operator does not broadcast them."""
    if rows.shape is None or x.shape is None or same_dim(rows.shape[0], x.shape[0]):
        return rows
    target = r.Concat(r.Shape(x, start=0, end=1), np.array([1, 1], np.int64), axis=0)
    return r.Expand(rows, target)
