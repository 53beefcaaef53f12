"""rematerialize: what lies unused over the peak of memory is computed again where it is needed.

    v = f(u); ...; y = g(v)    becomes    v = f(u); ...; v' = f(u); y = g(v')

for a value v that is alive at the fullest node, is not read there, and comes from a few nodes whose operands are alive
later anyway or are smaller.

**Why**    models for small memories: a cheap result that waits for a late reader costs operations instead of bytes.
**Needs**  a limit in bytes (``max-bytes``), sizes that are numbers, nodes without side effects.
**Leaves** graphs below the limit, results of the graph, values that bodies read. Every candidate is tried on a copy;
           the one that takes most off what is above the limit, for the operations that it adds, is made, until nothing
           is gained. The note says what was added, and where the limit stays out of reach.
**Numbers** exact: the same operators on the same operands.
**Source** M. Kusumoto et al., A graph theoretic framework of recomputation algorithms, NeurIPS 2019; for inference the
           operands decide, not the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.clone import clone_model
from ...ir.cost import flops, total_flops
from ...ir.graph import Graph, Model, Node, Value
from ...ir.ops import is_pure
from ..core import Context, Numbers, Pass
from ..rewrite.rewriter import Rewriter, origin_of
from ..shared.liveness import Liveness, Storage, liveness

_ROUNDS = 64
_TRIED = 12
"""Values that are tried in each round, the largest first."""
_MOST_NODES = 4
"""That are computed again for one value."""


@dataclass(frozen=True)
class _Again:
    """A value that is computed again: indices of nodes in the graph's order."""

    nodes: tuple[int, ...]
    """In their order; the last one makes the value."""
    output: int
    at: int
    """Readers behind this node read the new value."""
    flops: int


@dataclass
class Rematerialize(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.EXACT

    max_bytes: int = 0
    """What may be alive at once; 0: no limit, nothing is done."""

    def run(self, model: Model, r: Rewriter) -> None:
        live = liveness(model.graph)
        if not self.max_bytes or live.unknown:
            because = f"{len(live.unknown)} sizes are no numbers" if live.unknown else "no limit was given (max-bytes)"
            r.ctx.note(f"nothing is computed again: {because}")
            return
        start, added, count = live.peak, 0, 0
        for i in range(_ROUNDS):
            if live.peak <= self.max_bytes:
                break
            if r.ctx.progress is not None:
                r.ctx.progress("computing again", i, _ROUNDS)
            found = self._best(model, live)
            if found is None or not r.allow(live.nodes[found.nodes[-1]]):
                break
            _compute_again(model.graph, found, r)
            added, count = added + found.flops, count + len(found.nodes)
            live = liveness(model.graph)
        total, _ = total_flops(live.nodes)
        share = f" ({added / total:.2%})" if isinstance(total, int) and total else ""
        reached = "" if live.peak <= self.max_bytes else f"; the limit {self.max_bytes:,} is not reached"
        r.ctx.note(
            f"{start:,} bytes at the peak became {live.peak:,}: {count} nodes run again, {added:,} operations "
            f"more{share}{reached}"
        )

    def _best(self, model: Model, live: Liveness) -> _Again | None:
        profile = live.profile
        at = profile.index(max(profile))
        above = self._above(profile)
        best: tuple[float, _Again] | None = None
        waiting = [s for s in live.alive(at) if s.size and not s.fixed and s.born < at < s.dies]
        for found in [again for s in waiting if (again := _again(live, s, at)) is not None][:_TRIED]:
            copy = clone_model(model)
            _compute_again(copy.graph, found, Rewriter(Context(), "rematerialize"))
            then = liveness(copy.graph)
            gain = above - self._above(then.profile)
            if gain > 0 and then.peak <= live.peak and (best is None or gain / (1 + found.flops) > best[0]):
                best = gain / (1 + found.flops), found
        return None if best is None else best[1]

    def _above(self, profile: list[int]) -> int:
        """Bytes above the limit, summed over the nodes."""
        return sum(max(n - self.max_bytes, 0) for n in profile)


def _again(live: Liveness, storage: Storage, at: int) -> _Again | None:
    """How a value that waits over a node could be made again in front of its next reader."""
    index = {node: i for i, node in enumerate(live.nodes)}
    waiting = [v for v in storage.values if v.producer in index and index[v.producer] < at]
    if len(waiting) != 1 or any(user not in index for user, _ in waiting[0].uses):
        return None  # views of one another, or read in bodies
    value = waiting[0]
    readers = [index[user] for user, _ in value.uses]
    if at in readers or not any(i > at for i in readers) or not any(i < at for i in readers):
        return None  # read now, never again, or only later: then an order would do
    later = min(i for i in readers if i > at)
    lasting = {v for s in live.storages if s.dies >= later for v in s.values if v is not value}
    nodes = _chain(value, lasting, index)
    if nodes is None or value.producer is None:
        return None
    costs = [flops(node) for node in nodes]
    total = sum(c for c in costs if isinstance(c, int))
    return _Again(tuple(sorted(index[n] for n in nodes)), value.producer.outputs.index(value), at, total)


def _chain(value: Value, lasting: set[Value], index: dict[Node, int]) -> list[Node] | None:
    """Nodes to run again, from values that are alive later anyway, or else from those in front of few nodes."""
    found: dict[Node, None] = {}
    queue = [value]
    while queue:
        node = queue.pop().producer
        if node is None or node not in index or not is_pure(node) or node.subgraphs:
            return None
        if node in found:
            continue
        found[node] = None
        if len(found) > _MOST_NODES:
            return None
        queue += [v for v in node.inputs if v is not None and v.data is None and v not in lasting and v.producer]
    return list(found)


def _compute_again(graph: Graph, again: _Again, r: Rewriter) -> None:
    nodes = [node for node in graph if not node.is_return]
    index = {node: i for i, node in enumerate(nodes)}
    source = nodes[again.nodes[-1]]
    value = source.outputs[again.output]
    later = sorted({index[user] for user, _ in value.uses if index[user] > again.at})
    made: dict[Value, Value] = {}
    r.begin(nodes[later[0]], origin_of([source]))
    for i in again.nodes:
        node = nodes[i]
        attrs: dict[str, Any] = dict(node.attrs)
        operands = [None if v is None else made.get(v, v) for v in node.inputs]
        name = f"{node.domain}::{node.op}" if node.domain else node.op
        results = r.op(name, *operands, _outputs=len(node.outputs), **attrs)
        made.update(zip(node.outputs, [results] if len(node.outputs) == 1 else results, strict=True))
    for reader in later:
        for i, operand in enumerate(nodes[reader].inputs):
            if operand is value:
                r.set_input(nodes[reader], i, made[value])
