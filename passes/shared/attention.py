"""Finding scaled dot-product attention around its softmax, whatever the exporter.

    softmax(scale (q k^T) + mask) v          q [B, H, S, D], k and v [B, G, T, D], H a multiple of G

:func:`attention_around` starts at the Softmax and reads upwards: the mask (added, or chosen by Where), numbers on the
scores, the product; then downwards: what guards or drops, the product with the values. Keys may come transposed in any
way, repeated for grouped heads, or behind a cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir.dims import Dim, same_dim, same_shape
from ...ir.graph import Node, Value
from ..rewrite.matcher import scalar_value
from ..rewrite.rule import NoMatch
from .operands import perm_of, producer_of

HEADS_FIRST = (0, 2, 1, 3)
"""Perm from [B, S, H, D] to [B, H, S, D], and back."""
_LONGEST = 6


@dataclass
class Attention:
    """What was found. ``nodes`` compute the result and nothing else, ``root`` returns it as [B, H, S, D]."""

    softmax: Node
    q: Value
    k: Value
    """[B, G, T, D]; where ``key_perm`` is set, what to transpose by it to get that."""
    v: Value
    root: Node
    scale: float = 1.0
    masks: list[Value] = field(default_factory=list[Value])
    """What is added to the scores: masks, positions."""
    key_perm: tuple[int, ...] | None = None
    guarded: bool = False
    """Whether probabilities that are NaN (of a row in which everything is masked by -inf) are replaced by zeros."""
    nodes: list[Node] = field(default_factory=list[Node])


def attention_around(softmax: Node) -> Attention:
    """The attention whose softmax is ``softmax``. Raises :class:`NoMatch` with what is missing."""
    x = softmax.inputs[0]
    rank = softmax.output.rank
    if x is None or rank != 4:
        raise NoMatch(f"the scores have rank {rank}, wanted 4")
    # Before opset 13 all axes from the given one on were taken together: of the last one that is the same.
    if softmax.attr("axis", -1) not in (-1, 3):
        raise NoMatch("the softmax is not over the last axis")
    nodes = [softmax]
    product, scale, masks = _scores(x, nodes)
    q, kt = product.inputs[0], product.inputs[1]
    if q is None or kt is None or q.data is not None or q.rank != 4 or kt.rank != 4:
        raise NoMatch("the scores are not a product of two stacks of matrices")
    q, q_scale = _unscaled(q, nodes)
    kt, kt_scale = _unscaled(kt, nodes)
    k, perm = _keys(kt, nodes)
    k, k_scale = _unscaled(k, nodes) if kt in _results(nodes) else (k, 1.0)
    guarded = _guard(softmax, nodes)
    root, v = _values(guarded or softmax, nodes)
    scale *= q_scale * kt_scale * k_scale
    return Attention(softmax, q, k, v, root, scale, masks, perm, guarded is not None, nodes)


def _results(nodes: list[Node]) -> set[Value]:
    return {node.output for node in nodes}


def _unscaled(x: Value, nodes: list[Node]) -> tuple[Value, float]:
    """``x`` before numbers scaled it, and their product."""
    scale = 1.0
    for _ in range(_LONGEST):
        node = _private(x)
        if node is None or node.op not in ("Mul", "Div") or not (number := _number(node)):
            break
        scale *= number
        nodes.append(node)
        x = _other(node)
    return x, scale


def _scores(x: Value, nodes: list[Node]) -> tuple[Node, float, list[Value]]:
    """The product, what scales it, and what is added (in that order)."""
    scale, masks = 1.0, list[Value]()
    for _ in range(_LONGEST):
        node = _private(x)
        if node is None:
            raise NoMatch(f"%{x.name} is used elsewhere too, or is an input")
        nodes.append(node)
        if node.op == "MatMul":
            return node, scale, masks
        if node.op in ("Mul", "Div") and (number := _number(node)):
            scale *= number
            x = _other(node)
        elif node.op == "Add":
            if scale != 1.0:
                raise NoMatch("the sum of scores and mask is scaled")
            x, mask = _split_mask(node)
            masks.append(mask)
        else:
            raise NoMatch(f"{node.op} between product and softmax")
    raise NoMatch(f"more than {_LONGEST} nodes between product and softmax")


def _split_mask(add: Node) -> tuple[Value, Value]:
    """Scores and mask: the scores are what a product of this graph makes."""
    for i in (0, 1):
        x, mask = add.inputs[i], add.inputs[1 - i]
        if x is not None and mask is not None and _leads_to_product(x) and same_shape_or_wider(x, mask):
            return x, mask
    raise NoMatch("neither operand of the sum is a product of queries and keys")


def same_shape_or_wider(x: Value, mask: Value) -> bool:
    """Whether adding ``mask`` cannot make ``x`` larger."""
    if x.shape is None or mask.shape is None or len(mask.shape) > len(x.shape):
        return False
    offset = len(x.shape) - len(mask.shape)
    pairs = zip(mask.shape, x.shape[offset:], strict=True)
    # Two different symbols on the last axes are one extent in every run that does not fail: neither is 1 by itself.
    return all(m == 1 or same_dim(m, d) or (_is_open(m) and _is_open(d)) for m, d in pairs)


def _is_open(d: Dim) -> bool:
    return d is not None and not isinstance(d, int)


def _leads_to_product(x: Value) -> bool:
    for _ in range(_LONGEST):
        node = x.producer
        if node is None or node.domain or node.op not in ("MatMul", "Mul", "Div", "Add"):
            return False
        if node.op == "MatMul":
            return True
        if node.op == "Add":
            inner = next((v for v in node.inputs if v is not None and v.rank == x.rank and _scaled_product(v)), None)
            return inner is not None
        if not _number(node):
            return False
        x = _other(node)
    return False


def _scaled_product(x: Value) -> bool:
    for _ in range(_LONGEST):
        node = x.producer
        if node is not None and node.op == "MatMul" and not node.domain:
            return True
        if node is None or node.domain or node.op not in ("Mul", "Div") or not _number(node):
            return False
        x = _other(node)
    return False


def _number(node: Node) -> float:
    """By what a Mul or Div scales; 0 where that is not a constant number."""
    if node.op == "Mul":
        found = next((n for v in node.inputs if (n := scalar_value(v, node)) is not None), None)
        return float(found or 0.0)
    found = scalar_value(node.inputs[1], node)
    return 1.0 / found if found else 0.0


def _other(node: Node) -> Value:
    value = node.inputs[1] if node.op == "Mul" and scalar_value(node.inputs[0], node) is not None else node.inputs[0]
    assert value is not None
    return value


def _private(x: Value) -> Node | None:
    node = x.producer
    return node if node is not None and not node.domain and len(x.uses) == 1 else None


def _keys(kt: Value, nodes: list[Node]) -> tuple[Value, tuple[int, ...] | None]:
    """The keys of a product's right side [B, G, D, T], and a perm that is still to be applied."""
    node = kt.producer
    if node is None or node.op != "Transpose" or node.domain:
        return kt, (0, 1, 3, 2)
    perm, x = perm_of(node), node.inputs[0]
    if perm is None or x is None:
        raise NoMatch("the perm of the keys is unknown")
    if len(kt.uses) == 1:
        nodes.append(node)
    wanted = (perm[0], perm[1], perm[3], perm[2])
    return (x, None) if wanted == (0, 1, 2, 3) else (x, wanted)


def _guard(softmax: Node, nodes: list[Node]) -> Node | None:
    """``Where(IsNaN(p), 0, p)`` behind the softmax, where both uses of p are that."""
    p = softmax.output
    users = [u for u, _ in p.uses]
    question = next((u for u in users if u.op == "IsNaN" and not u.domain), None)
    where = question.output.sole_user if question is not None else None
    if question is None or where is None or where.op != "Where" or len(users) != 2 or where not in users:
        return None
    if where.inputs[0] is not question.output or where.inputs[2] is not p or scalar_value(where.inputs[1], where) != 0:
        return None
    nodes += [question, where]
    return where


def _values(last: Node, nodes: list[Node]) -> tuple[Node, Value]:
    """The product with the values and its right side."""
    p = last.output
    user = p.sole_user
    if user is None or user.op != "MatMul" or user.domain or user.inputs[0] is not p:
        what = "nothing" if user is None else user.op
        raise NoMatch(f"the probabilities go to {what}, wanted the product with the values alone")
    v = user.inputs[1]
    if v is None or v.rank != 4 or user.output.rank != 4:
        raise NoMatch("the values are not a stack of matrices")
    nodes.append(user)
    return user, v


# -- grouped heads and caches


def ungrouped(x: Value) -> tuple[Value, list[Node]]:
    """``x`` before each head was repeated for n neighbours, [B, G, T, D] -> [B, G*n, T, D], and the nodes for it.

    Or [B, 1, 1, T, D] where one head was split off and repeated at once.
    """
    reshape = x.producer
    expand = producer_of(reshape, 0, "Expand") if reshape is not None and reshape.op == "Reshape" else None
    unsqueeze = producer_of(expand, 0, "Unsqueeze", "Reshape") if expand is not None else None
    if reshape is None or expand is None or unsqueeze is None or reshape.domain:
        return x, []
    source = unsqueeze.inputs[0]
    a, wide, narrow = source.shape if source is not None else None, expand.output.shape, unsqueeze.output.shape
    out = x.shape
    if source is None or a is None or wide is None or narrow is None or out is None or len(wide) != 5:
        return x, []
    if len(a) != 4:  # one head: split off and repeated at once
        source, a = unsqueeze.output, (*narrow[:2], *narrow[3:])
    one = len(narrow) == 5 and narrow[2] == 1 and same_shape((*narrow[:2], *narrow[3:]), a)
    widened = same_shape((*wide[:2], *wide[3:]), a) and isinstance(wide[2], int)
    if not (one and widened and isinstance(a[1], int) and out[1] == a[1] * wide[2]):  # type: ignore[operator]
        return x, []
    same = same_dim(out[0], a[0]) and same_dim(out[2], a[2]) and same_dim(out[3], a[3])
    return (source, [reshape, expand, unsqueeze]) if same else (x, [])


def cached(x: Value) -> tuple[Value, Value, Node] | None:
    """Past and new part, and the Concat, where ``x`` [B, G, P + T, D] is a cache with what is new behind it."""
    node = x.producer
    if (
        node is None
        or node.op != "Concat"
        or node.domain
        or len(node.inputs) != 2
        or node.attr("axis", 0) not in (2, -2)
    ):
        return None
    past, new = node.inputs[0], node.inputs[1]
    return (past, new, node) if past is not None and new is not None and past.producer is None else None


def packed_heads(x: Value) -> tuple[Value, int] | None:
    """[B, S, H*D] and H where ``x`` [B, H, S, D] is made of it by Reshape and Transpose."""
    transpose = x.producer
    if transpose is None or transpose.op != "Transpose" or transpose.domain or perm_of(transpose) != HEADS_FIRST:
        return None
    reshape = producer_of(transpose, 0, "Reshape")
    flat = reshape.inputs[0] if reshape is not None else None
    shape = reshape.output.shape if reshape is not None else None
    if flat is None or shape is None or flat.shape is None or len(flat.shape) != 3 or len(shape) != 4:
        return None
    heads, size = shape[2], shape[3]
    if not isinstance(heads, int) or not isinstance(size, int) or flat.shape[2] != heads * size:
        return None
    return (flat, heads) if same_shape(shape[:2], flat.shape[:2]) else None


def merged_heads(y: Value) -> tuple[Node, Node] | None:
    """Transpose and Reshape that make [B, S, H*D] of ``y`` [B, H, S, D], where nothing else uses it."""
    transpose = y.sole_user
    if transpose is None or transpose.op != "Transpose" or transpose.domain or perm_of(transpose) != HEADS_FIRST:
        return None
    reshape = transpose.output.sole_user
    if reshape is None or reshape.op != "Reshape" or reshape.domain or y.shape is None:
        return None
    shape, (b, h, s, d) = reshape.output.shape, y.shape
    if shape is None or len(shape) != 3 or not isinstance(h, int) or not isinstance(d, int):
        return None
    return (transpose, reshape) if same_shape(shape, (b, s, h * d)) else None
