"""Reshapes around a Transpose, made so that the one in front only parts axes and the one behind only joins some.

    reshape(transpose(reshape(x: [16,6,5] to [2,48,5]), [1,2,0]) to [8,6,10])
      =  reshape(transpose(reshape(x to [2,8,6,5]), [1,2,3,0]) to [8,6,10])

Nothing is computed in another way, and the Transpose moves the same blocks; but a Reshape that joins ``8*6`` in front
hides that ``x`` could be stored in another order.
"""

from __future__ import annotations

from ....ir.graph import Graph, Node, Value
from ...rewrite.rewriter import Rewriter, origin_of
from ..operands import perm_of, producer_of
from ..targets import emit_reshape, reshape_target
from .orders import refined

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def part_views(graph: Graph, r: Rewriter) -> None:
    """Rewrites every Reshape, Transpose, Reshape of a graph whose first one joins axes."""
    for node in list(graph):
        if node.erased or node.domain or node.op != "Transpose":
            continue
        first = producer_of(node, 0, *_VIEWS)
        last = node.output.sole_user
        if first is None or last is None or last.op not in _VIEWS or last.domain or first.graph is not graph:
            continue
        # Between two Transposes it is a step of one that was taken apart: see ``apply.py``.
        follower = last.output.sole_user
        step = producer_of(first, 0, "Transpose") is not None or (follower is not None and follower.op == "Transpose")
        if first.output.sole_user is node and last.graph is graph and not step:
            _part(first, node, last, r)


def _part(first: Node, node: Node, last: Node, r: Rewriter) -> None:
    x, joined, perm = first.inputs[0], first.output.shape, perm_of(node)
    result = last.output.shape
    if x is None or x.shape is None or joined is None or perm is None or result is None:
        return
    found = refined(x.shape, joined)
    if isinstance(found, str) or len(found[0]) <= len(joined):
        return
    atoms, groups = found
    order = [a for axis in perm for a in groups[axis]]
    parts = reshape_target(x.shape, atoms, nonempty=False)
    whole = reshape_target(tuple(atoms[a] for a in order), result, nonempty=False)
    if parts is None or whole is None or isinstance(refined([atoms[a] for a in order], result), str):
        return
    if not r.allow(last):
        return
    r.begin(last, origin_of([first, node, last]))
    y: Value = r.Transpose(emit_reshape(r, x, parts, last), perm=tuple(order))
    r.replace(last, emit_reshape(r, y, whole, last))
