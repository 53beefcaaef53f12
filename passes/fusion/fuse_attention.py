"""Fuse scaled dot-product attention into the standard's Attention.

    softmax(s q k^T + mask) v = Attention(q, k, v, mask; scale = s)

Queries, keys and values that are split into heads in front, and the result that is merged behind, are taken in as
[B, S, H*D]; keys and values repeated for grouped heads are taken in once; a key-value cache becomes ``past_key``,
``past_value`` and the results ``present``; a mask that hides what comes later, and nothing else, becomes ``is_causal``.

**Why** one node for eight to forty, no copies for heads, no scores in memory between nodes; what every runtime's
attention kernels take.
**Needs** opset 23; scores and probabilities that nothing else uses; static numbers of heads; scale before mask.
**Leaves** numbers on the sum of scores and mask, a softmax over another axis, probabilities that are
also an output or are dropped out in training.
Grouped heads stay with this operator: on processors ONNX Runtime 1.31's GroupQueryAttention took 1.0 to 1.4 times its
time (16 query and 4 key heads of 64; 1 to 128 new and 0 to 512 cached tokens); `fuse-group-query` makes it on request.
**Numbers** reassociates: the scale is spread over both factors. A row in which everything is masked by -inf, which
gives NaN, may give zeros or the mean of the values instead.
**Source** A. Vaswani et al., 2017; J. Ainslie et al. (grouped queries), 2023; Attention-23.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ...ir.dims import Dim, Shape, add, same_dim, same_shape
from ...ir.dtypes import DType
from ...ir.graph import Model, Node, Value
from ..core import Numbers, RewritePass, pass_name
from ..rewrite import MODIFIED, NodeRule, NoMatch, Rewriter
from ..rewrite.greedy import apply_rules
from ..rewrite.rewriter import origin_of
from ..rewrite.rule import Replacement
from ..shared.attention import Attention, attention_around
from ..shared.attention_causal import is_causal
from ..shared.attention_heads import cached, merged_heads, packed_heads, ungrouped
from ..shared.attention_mask import operand_mask, require_known_mask
from ..shared.bounds import Bounds
from ..shared.emit import squeeze

OPSET = 23
_MAX_SHAPE_NODES = 64
"""Nodes of shape arithmetic that are followed."""


@dataclass
class FuseAttention(RewritePass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES
    spreads: ClassVar[bool] = True
    cache: bool = True
    """Take a key-value cache in. Without it the cache is concatenated in front of the operator."""
    softcap: bool = False
    """Fuse scores with a soft cap too. ONNX Runtime 1.31's processor kernel takes 1.2 to 3.2 times the parts' time."""
    folded: bool = False
    """Fuse batch and heads in one axis that nothing takes apart, as one head: 0.9 to 1.1 of the parts' time."""

    def rules(self) -> Iterable[NodeRule]:
        yield AroundSoftmax(self)

    def run(self, model: Model, r: Rewriter) -> None:
        # Layers share the arithmetic of shapes: the one whose cache it is read from can only go when the others have.
        patient = AroundSoftmax(self, patient=True)
        patient.owner = pass_name(type(self))
        apply_rules(model, [patient], r)
        super().run(model, r)


@dataclass
class _Side:
    """Keys or values."""

    x: Value
    """[B, G, T, D], the new part where there is a cache."""
    past: Value | None = None
    concat: Node | None = None
    perm: tuple[int, ...] | None = None
    nodes: list[Node] = field(default_factory=list[Node])


class AroundSoftmax(NodeRule):
    """Anchored at the softmax."""

    roots = ("Softmax",)

    def __init__(self, options: FuseAttention, *, patient: bool = False) -> None:
        self.options = options
        self.patient = patient
        self.bounds = Bounds()

    def apply(self, r: Rewriter, node: Node) -> Replacement:
        found = attention_around(node)
        try:
            return self._fused(r, node, found)
        except NoMatch as declined:
            declined.matched = len(found.nodes)
            raise

    def _fused(self, r: Rewriter, node: Node, found: Attention) -> Replacement:
        if r.opset() < OPSET:
            raise NoMatch(f"Attention needs opset {OPSET}, the model imports {r.opset()}")
        _require_type(r, found.q.dtype)
        if any(v.shape is not None and 0 in v.shape for v in (found.q, found.k, found.v)):
            raise NoMatch("an operand is empty, which kernels of Attention refuse")
        if not found.scale > 0:
            raise NoMatch(f"the scores are scaled by {found.scale}, which ONNX Runtime's Attention refuses")
        if found.softcap and not self.options.softcap:
            raise NoMatch(f"the scores have a soft cap of {found.softcap}, and option softcap is off")
        if found.folded and not self.options.folded:
            raise NoMatch("batch and heads are one axis, and option folded is off")
        if found.folded:
            k, v = _Side(found.k, perm=found.key_perm), _Side(found.v)
            _require_folded_extents(found)
            require_known_mask(r, found)
            self._emit(r, found, k, v, 1, 1)
            return MODIFIED
        k, v = _side(found.k, found.key_perm), _side(found.v, None)
        repeats = {*k.nodes, *v.nodes}
        takes = all(_takes_cache(found, side, repeats) for side in (k, v))
        if self.patient and not takes and all(_takes_cache(found, side, None) for side in (k, v)):
            raise NoMatch("other nodes ask for the shape of the cache")
        if not self.options.cache or not takes:
            k, v = _without_cache(found.k, found.key_perm), _without_cache(found.v, None)
        heads, groups = _heads(found, k, v)
        require_known_mask(r, found)
        self._emit(r, found, k, v, heads, groups)
        return MODIFIED

    def _emit(self, r: Rewriter, found: Attention, k: _Side, v: _Side, heads: int, groups: int) -> None:
        flat = found.folded or found.root.output.rank == 3
        packed = _packed(found, k, v) if not flat else None
        tail = merged_heads(found.root.output) if packed is not None else None
        last = tail[1] if tail is not None else found.root
        concats = [side.concat for side in (k, v) if side.concat is not None]
        r.begin(last, origin_of([*found.nodes, *concats]))
        if packed is not None and tail is not None:
            q, key, value = packed
            extra = {"q_num_heads": heads, "kv_num_heads": groups}
        else:
            q, key, value, extra = found.q, _stacked(r, k), _stacked(r, v), {}
            if found.folded:
                extra = {"q_num_heads": 1, "kv_num_heads": 1}
        keys, parts = _key_extent(found, k)
        causal = k.past is None and len(found.masks) == 1 and is_causal(found.masks[0], _queries(found), keys)
        mask = None if causal else operand_mask(r, found, self.bounds, keys, parts)
        results: Any = r.op(
            "Attention",
            q,
            key,
            value,
            *([mask, k.past, v.past] if k.past is not None else [mask] if mask is not None else []),
            scale=found.scale,
            softcap=found.softcap or None,
            is_causal=1 if causal else None,
            softmax_precision=DType.F32.code if found.widened else None,
            _outputs=3 if k.past is not None else 1,
            **extra,
        )
        y = results if k.past is None else results[0]
        for side, present in zip((k, v), results[1:] if k.past is not None else (), strict=False):
            assert side.concat is not None
            r.replace(side.concat, present)
        r.replace(last, _folded_again(r, y, found) if flat and not found.folded else y)


def _require_type(r: Rewriter, dtype: DType | None) -> None:
    """Raises :class:`NoMatch` for types whose fused kernel rounds at other places than the parts do.

    ONNX Runtime's CPU kernel of 16-bit floats rounds where the spelled-out form does not: 1e-3 of the values. For
    float64 there is none, and the function body takes the root of the scale in float32.
    """
    if dtype is DType.F32:
        return
    target = r.ctx.target
    if dtype not in (DType.F16, DType.BF16) or target is None or target.arch != "cuda":
        raise NoMatch(f"attention of {dtype!r} on this target")


def _require_folded_extents(found: Attention) -> None:
    """Raises :class:`NoMatch` where matrices are shared by a batch: the operator does not broadcast them."""
    q, v = found.q.shape, found.v.shape
    k = found.k.shape if found.key_perm is None or found.k.shape is None else _permuted(found.k.shape, found.key_perm)
    if q is None or k is None or v is None:
        raise NoMatch("a shape is unknown")
    if not (same_dim(q[0], k[0]) and same_dim(q[0], v[0]) and same_dim(q[2], k[2]) and same_dim(k[1], v[1])):
        raise NoMatch(f"queries {found.q.type}, keys {found.k.type} and values {found.v.type} broadcast")
    if not isinstance(q[2], int) or not isinstance(v[2], int):
        raise NoMatch("the size of a head is unknown")


def _permuted(shape: Shape, perm: tuple[int, ...]) -> Shape:
    return tuple(shape[a] for a in perm)


def _folded_again(r: Rewriter, y: Value, found: Attention) -> Value:
    """[B*H, S, D] of [B, H, S, D], as what follows wants it."""
    shape = found.root.output.shape
    batch, heads, steps = (r.Shape(found.q, start=a, end=a + 1) for a in range(3))
    size = np.array([shape[2] if shape is not None else -1], np.int64)
    return r.Reshape(y, r.Concat(r.Mul(batch, heads), steps, size, axis=0))


def _queries(found: Attention) -> Dim:
    return found.q.shape[-2] if found.q.shape else None


def _key_extent(found: Attention, k: _Side) -> tuple[Dim, list[tuple[Value, int]]]:
    """Number of keys, cached ones included, and the axes whose extents sum up to it."""
    axis = (k.x.rank or 4) - 2 if k.perm is None else k.perm[-2]
    parts = [(k.x, axis)] if k.past is None else [(k.past, 2), (k.x, axis)]
    total: Dim = 0
    for v, a in parts:
        total = add(total, v.shape[a] if v.shape is not None else None)
    return total, parts


def _side(x: Value, perm: tuple[int, ...] | None) -> _Side:
    """With what repeats heads and what puts a cache in front taken apart."""
    if perm is not None:
        return _Side(x, perm=perm)
    inner, nodes = ungrouped(x)
    parts = cached(inner)
    if parts is None:
        return _Side(inner, nodes=nodes)
    past, new, concat = parts
    return _Side(new, past, concat, None, nodes)


def _takes_cache(found: Attention, side: _Side, ending: set[Node] | None) -> bool:
    """Whether the cache is put together for this attention, and else only returned by the graph.

    ``ending`` are the nodes that repeat heads and go with the fusion: they may ask for the cache's shape.
    ``None``: anybody may.
    """
    if side.concat is None or side.past is None:
        return False
    inside = {*found.nodes, *side.nodes}
    past, new = side.past.shape, side.x.shape
    if past is None or new is None or not all(same_dim(past[i], new[i]) for i in (0, 1, 3)):
        return False
    # What repeats the heads must go too: it stands in front of the operator that would now make the keys.
    repeats = [out for node in side.nodes for out in node.outputs]
    if any(user not in inside for out in repeats for user, _ in out.uses):
        return False
    users = [user for user, _ in side.concat.output.uses if user not in inside and not user.is_return]
    return all(user.op == "Shape" and not user.domain and _ends_in(user, ending) for user in users)


def _ends_in(node: Node, last: set[Node] | None) -> bool:
    """Whether what is computed from ``node`` goes to nodes of ``last`` only."""
    stack, seen = [node], {node}
    while last is not None and stack:
        for out in stack.pop().outputs:
            for user, _ in out.uses:
                if user.is_return or len(seen) > _MAX_SHAPE_NODES:
                    return False
                if user not in last and user not in seen:
                    seen.add(user)
                    stack.append(user)
    return True


def _without_cache(x: Value, perm: tuple[int, ...] | None) -> _Side:
    if perm is not None:
        return _Side(x, perm=perm)
    inner, nodes = ungrouped(x)
    return _Side(inner, nodes=nodes)


def _heads(found: Attention, k: _Side, v: _Side) -> tuple[int, int]:
    """Numbers of query and of key heads. Raises :class:`NoMatch` where the extents do not fit."""
    q = found.q.shape
    ks = k.x.shape if k.perm is None or k.x.shape is None else _permuted(k.x.shape, k.perm)
    vs = v.x.shape
    ks, vs = _without_repeat(ks), _without_repeat(vs)
    if q is None or ks is None or vs is None or len(ks) != 4 or len(vs) != 4:
        raise NoMatch("a shape is unknown")
    heads, groups = q[1], ks[1]
    if not isinstance(heads, int) or not isinstance(groups, int) or groups < 1 or heads % groups or vs[1] != groups:
        raise NoMatch(f"{heads} query heads, {groups} and {vs[1]} key and value heads")
    if not (same_dim(q[0], ks[0]) and same_dim(q[0], vs[0]) and same_dim(q[3], ks[3]) and same_dim(ks[2], vs[2])):
        raise NoMatch(f"queries {found.q.type}, keys {k.x.type} and values {v.x.type} broadcast")
    if not isinstance(q[3], int) or not isinstance(vs[3], int):
        raise NoMatch("the size of a head is unknown")
    return heads, groups


def _without_repeat(shape: Shape | None) -> Shape | None:
    """[B, G, T, D] of [B, G, 1, T, D]."""
    return shape if shape is None or len(shape) != 5 else (*shape[:2], *shape[3:])


def _packed(found: Attention, k: _Side, v: _Side) -> tuple[Value, Value, Value] | None:
    """Queries, keys and values as [B, S, H*D] where all three are split into heads in front."""
    key_perm = k.perm
    q = packed_heads(found.q)
    key = packed_heads(k.x) if key_perm is None else _packed_by(k.x, key_perm)
    value = packed_heads(v.x)
    if q is None or key is None or value is None:
        return None
    return q[0], key[0], value[0]


def _packed_by(x: Value, perm: tuple[int, ...]) -> tuple[Value, int] | None:
    """Keys that one Transpose splits, moves and transposes at once: ``x`` is [B, T, G, D]."""
    reshape = x.producer
    if perm != (0, 2, 1, 3) or reshape is None or reshape.op != "Reshape" or reshape.domain:
        return None
    flat, shape = reshape.inputs[0], x.shape
    if flat is None or flat.shape is None or len(flat.shape) != 3 or shape is None or len(shape) != 4:
        return None
    heads, size = shape[2], shape[3]
    if not isinstance(heads, int) or not isinstance(size, int) or flat.shape[2] != heads * size:
        return None
    return (flat, heads) if same_shape(shape[:2], flat.shape[:2]) else None


def _stacked(r: Rewriter, side: _Side) -> Value:
    if side.perm is not None:
        return r.Transpose(side.x, perm=side.perm)
    return squeeze(r, side.x, [2]) if side.x.rank == 5 else side.x
