"""sink-constants: a constant that only one body uses belongs to that body.

**Why**    ONNX Runtime prepares weights (blocked and packed layouts, folded bias) only where the initializer lies in
           the graph of the node: a convolution in a branch whose weight lies outside runs the slow kernel.
**Needs**  all uses inside one body (and the bodies inside it).
**Leaves** constants that several branches use, bodies of Loop and Scan whose constant a caller shares.
**Numbers** exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Graph, Model, Value
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter


@dataclass
class SinkConstants(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.EXACT

    def run(self, model: Model, r: Rewriter) -> None:
        for graph in list(model.all_graphs()):
            if not any(node.attrs and node.subgraphs for node in graph):
                continue
            for value in list(graph.constants):
                body = _common(value, graph)
                if body is None:
                    if r.ctx.trace:
                        r.ctx.note(f"%{value.name} is used outside of one body")
                elif r.allow(body.ret):
                    del graph.constants[value]
                    body.constants[value] = None
                    value.graph = body
                    r.changes += 1


def _common(value: Value, owner: Graph) -> Graph | None:
    """The innermost body that holds all uses; ``None`` where that is the owner, or nothing uses the value."""
    common: list[Graph] | None = None
    for user, _ in value.uses:
        path = list(_path(user.graph, owner))[::-1]
        if common is None:
            common = path
        else:
            same = 0
            while same < min(len(common), len(path)) and common[same] is path[same]:
                same += 1
            common = common[:same]
        if not common:
            return None
    return common[-1] if common else None


def _path(graph: Graph | None, owner: Graph) -> Iterator[Graph]:
    """The bodies from ``graph`` out to ``owner``, which is not among them."""
    while graph is not None and graph is not owner:
        yield graph
        graph = graph.outer
