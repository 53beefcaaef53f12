"""order-nodes: nodes in the order in which least memory is alive at the peak.

**Why**    a file's order is its exporter's: branches are computed side by side where one after the other would do, and
           what is needed late is computed early.
**Needs**  sizes that are numbers (``--dim``): an order for some of the values may be the worse one for all.
**Leaves** the order where no better one is found, random and stateful operators in their order among themselves, and
           operands: the same nodes compute the same values. Bodies are ordered by themselves, inner ones first.
           Runtimes that choose an order of their own do not follow it (``docs/memory.md``).
**Numbers** exact.
**Source** ``shared/order/search.py``; the memory that values take is that of ``shared/liveness.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Graph, Model
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..shared.liveness import Liveness, liveness
from ..shared.order.search import STEPS, best_order
from ..shared.order.tasks import tasks_of


@dataclass
class OrderNodes(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.EXACT

    steps: int = STEPS
    """How long to search in each graph: steps that are looked at."""

    def run(self, model: Model, r: Rewriter) -> None:
        for graph in reversed(list(model.all_graphs())):
            self._order(graph, liveness(graph), r)

    def _order(self, graph: Graph, live: Liveness, r: Rewriter) -> None:
        if live.unknown:
            first = live.unknown[0].name
            r.ctx.note(
                f"graph @{graph.name} stays in its order: {len(live.unknown)} sizes are no numbers, as %{first}'s"
            )
            return
        nodes, tasks = tasks_of(graph, live.workspace)
        found = best_order(tasks, steps=self.steps, progress=r.ctx.progress)
        least = f"none needs less than {found.bound:,}"
        if found.peak >= live.peak or not nodes:
            r.ctx.note(f"graph @{graph.name} stays in its order: {live.peak:,} bytes at the peak, {least}")
            return
        if not r.allow(nodes[0]):
            return
        for i in found.order:
            nodes[i].move_before(graph.ret)
        r.changes += 1
        r.ctx.note(f"graph @{graph.name}: {live.peak:,} bytes at the peak became {found.peak:,}, {least}")
