"""Finding scaled dot-product attention around its softmax, whatever the exporter.

    softmax(scores(q k^T)) v          q [B, H, S, D], k and v [B, G, T, D], H a multiple of G

:func:`attention_around` starts at the Softmax and reads upwards (``attention_scores.py``), then downwards: what guards
or drops, the product with the values. Keys may come transposed in any way, repeated for grouped heads, or behind a
cache. Batch and heads may be one axis: where Reshapes on all sides show both, they are taken out; otherwise that is
attention with one head, :attr:`Attention.folded`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir.dims import same_shape
from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ..rewrite.matcher import scalar_value
from ..rewrite.rule import NoMatch
from .attention_scores import Term, regroups, scores_of, unscaled
from .operands import perm_of


@dataclass
class Attention:
    """What was found. ``nodes`` compute the result and nothing else, ``root`` returns it as [B, H, S, D].

    Where ``folded``, q, k and v are [N, S, D] with batch and heads in one axis.
    """

    softmax: Node
    q: Value
    k: Value
    """[B, G, T, D]; where ``key_perm`` is set, what to transpose by it to get that."""
    v: Value
    root: Node
    """Its result may be [B*H, S, D] also where q, k and v are not folded."""
    scale: float = 1.0
    softcap: float = 0.0
    """Scores become softcap * tanh(scores / softcap); 0: they stay."""
    masks: list[Term] = field(default_factory=list[Term])
    """What is added to the scores (masks, positions), and where they are replaced; nearest to the softmax first."""
    key_perm: tuple[int, ...] | None = None
    guarded: bool = False
    """Whether probabilities that are NaN (of a row in which everything is masked by -inf) are replaced by zeros."""
    folded: bool = False
    widened: bool = False
    """Whether the softmax is computed in float32, and everything else in another type."""
    nodes: list[Node] = field(default_factory=list[Node])


def attention_around(softmax: Node) -> Attention:
    """The attention whose softmax is ``softmax``. Raises :class:`NoMatch` with what is missing."""
    nodes = [softmax]
    try:
        return _around(softmax, nodes)
    except NoMatch as declined:
        declined.matched = len(nodes)
        raise


def _around(softmax: Node, nodes: list[Node]) -> Attention:
    """Puts what it finds into ``nodes``."""
    x = softmax.inputs[0]
    rank = softmax.output.rank
    if x is None or rank not in (3, 4):
        raise NoMatch(f"the scores have rank {rank}, wanted 3 or 4")
    # Before opset 13 all axes from the given one on were taken together: of the last one that is the same.
    if softmax.attr("axis", -1) not in (-1, rank - 1):
        raise NoMatch("the softmax is not over the last axis")
    scores = scores_of(x)
    nodes += scores.nodes
    q, kt = scores.product.inputs[0], scores.product.inputs[1]
    if q is None or kt is None or q.data is not None or q.rank not in (3, 4) or kt.rank != q.rank:
        raise NoMatch("the scores are not a product of two stacks of matrices")
    q, q_scale = unscaled(q, nodes)
    kt, kt_scale = unscaled(kt, nodes)
    k, perm = _keys(kt, nodes)
    k, k_scale = unscaled(k, nodes) if kt in _results(nodes) else (k, 1.0)
    guarded = _guard(softmax, nodes)
    last = _narrowed(guarded or softmax, q.dtype, nodes) if scores.widened else guarded or softmax
    root, v = _values(last, nodes)
    scale = scores.scale * q_scale * kt_scale * k_scale
    found = Attention(softmax, q, k, v, root, scale, scores.softcap, scores.terms, perm, guarded is not None)
    found.nodes, found.widened = nodes, scores.widened
    if v.rank != q.rank:
        raise NoMatch(f"queries {q.type} and values {v.type} of different ranks")
    if q.rank == 3 and not _unfold(found):
        found.folded = True
        if any(term.rank != 3 for term in found.masks):
            raise NoMatch("a mask for batch and heads, which are one axis of the queries")
    return found


def _results(nodes: list[Node]) -> set[Value]:
    return {node.output for node in nodes}


def _keys(kt: Value, nodes: list[Node]) -> tuple[Value, tuple[int, ...] | None]:
    """The keys of a product's right side [.., D, T], and a perm that is still to be applied."""
    rank = kt.rank or 4
    straight = tuple(range(rank))
    node = kt.producer
    if node is None or node.op != "Transpose" or node.domain:
        return kt, (*straight[:-2], rank - 1, rank - 2)
    perm, x = perm_of(node), node.inputs[0]
    if perm is None or x is None:
        raise NoMatch("the perm of the keys is unknown")
    if len(kt.uses) == 1:
        nodes.append(node)
    wanted = (*perm[:-2], perm[-1], perm[-2])
    return (x, None) if wanted == straight else (x, wanted)


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


def _narrowed(last: Node, dtype: DType | None, nodes: list[Node]) -> Node:
    """The Cast of the probabilities back to the type of the queries."""
    cast = last.output.sole_user
    if cast is None or cast.op != "Cast" or cast.domain or cast.output.dtype is not dtype:
        raise NoMatch("the scores are cast to float32, and the probabilities alone are not cast back")
    nodes.append(cast)
    return cast


def _values(last: Node, nodes: list[Node]) -> tuple[Node, Value]:
    """The product with the values and its right side."""
    p = last.output
    user = p.sole_user
    if user is not None and user.op == "Reshape" and not user.domain and user.inputs[0] is p and regroups(user):
        nodes.append(user)
        p, user = user.output, user.output.sole_user
    if user is None or user.op != "MatMul" or user.domain or user.inputs[0] is not p:
        what = "nothing" if user is None else user.op
        raise NoMatch(f"the probabilities go to {what}, wanted the product with the values alone")
    v = user.inputs[1]
    if v is None or v.rank != p.rank or user.output.rank != p.rank:
        raise NoMatch("the values are not a stack of matrices")
    nodes.append(user)
    return user, v


# -- batch and heads in one axis


def _unfold(found: Attention) -> bool:
    """Takes the Reshapes out that put batch and heads into one axis, where all of q, k and v have one."""
    if found.key_perm not in (None, (0, 2, 1)):
        return False
    views = [_folding(v) for v in (found.q, found.k, found.v)]
    wide = [view.inputs[0] for view in views if view is not None]
    if len(wide) != 3 or any(v is None or v.shape is None for v in wide):
        return False
    q, k, v = (v for v in wide if v is not None)
    assert q.shape is not None
    if any(s.shape is None or not same_shape(s.shape[:2], q.shape[:2]) for s in (k, v)):
        return False
    found.nodes += [view for view in views if view is not None and len(view.output.uses) == 1]
    found.q, q_scale = unscaled(q, found.nodes) if _inside(found, views[0]) else (q, 1.0)
    found.k, k_scale = unscaled(k, found.nodes) if _inside(found, views[1]) else (k, 1.0)
    found.v = v
    found.scale *= q_scale * k_scale
    found.key_perm = None if found.key_perm is None else (0, 1, 3, 2)
    back = found.root.output.sole_user
    if back is not None and back.op == "Reshape" and not back.domain and regroups(back):
        wanted = (*q.shape[:3], None)
        given = back.output.shape
        if given is not None and same_shape(given[:3], wanted[:3]):
            found.nodes.append(back)
            found.root = back
    return True


def _folding(x: Value) -> Node | None:
    """The Reshape that puts batch and heads of ``x`` into one axis."""
    node = x.producer
    return (
        node
        if node is not None and node.op == "Reshape" and not node.domain and x.rank == 3 and regroups(node)
        else None
    )


def _inside(found: Attention, view: Node | None) -> bool:
    return view is not None and view in found.nodes
