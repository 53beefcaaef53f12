"""Spelled-out functions that runtimes recognize by themselves: taking one node away from them costs more than it saves.

Folding the last factor of a Gelu into the product behind it leaves five nodes where ONNX Runtime would have run one.
"""

from __future__ import annotations

from collections import deque

from ...ir.graph import Node
from ..rewrite.rule import NoMatch
from .gelu import gelu_around
from .norms import find_affine, find_norm

_ANCHORS = {"Erf": "gelu", "Tanh": "gelu", "Sqrt": "norm", "Pow": "norm"}
_STEPS = frozenset({"Add", "Sub", "Mul", "Div", "Reciprocal", "Cast"})
_LONGEST = 12
"""Nodes looked at: from the result of such a function to its erf or square root it is four steps at most."""


def require_not_part(node: Node) -> None:
    """Raises :class:`NoMatch` where ``node`` is the end of a spelled-out Gelu or normalization."""
    queue, seen = deque([node]), {node}
    while queue and len(seen) <= _LONGEST:
        one = queue.popleft()
        for value in one.inputs:
            producer = value.producer if value is not None and len(value.uses) == 1 else None
            if producer is None or producer in seen or producer.domain or producer.graph is not node.graph:
                continue
            seen.add(producer)
            kind = _ANCHORS.get(producer.op)
            if kind is not None and node in _spelling(producer, kind):
                raise NoMatch(f"{node.op} ends a spelled-out {kind}, which runtimes recognize as a whole")
            if producer.op in _STEPS:
                queue.append(producer)


def _spelling(anchor: Node, kind: str) -> list[Node]:
    """The nodes of the function around ``anchor``; none where there is no such function."""
    try:
        if kind == "gelu":
            return list(gelu_around(anchor).nodes)
        norm = find_norm(anchor)
        find_affine(norm, shift=True)
        return norm.nodes
    except NoMatch:
        return []
