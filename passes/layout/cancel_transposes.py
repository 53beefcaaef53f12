"""cancel-transposes: as few and as cheap Transposes as the graph can do with, all of them at once.

    transpose(f(transpose(x, p)), q)  =  f'(transpose(x, p[q]))        f' is f with its axes renamed

Every value may be stored in any order of its axes that makes a Transpose vanish; what an operator that follows an order
(``shared/layout/moves_*.py``) becomes then is known, any other one takes and gives the written order. Where a value is
given in one order and taken in another there is a Transpose, once for all users. The cheapest choice for the whole
graph is a minimum cut where two orders meet, an integer program where more do, and proved best by both.

**Why**    a Transpose copies its tensor. Exporters of channels-last models write one on each side of what they convert;
           local rules stop at the first joint of branches where not all carry the same one.
**Needs**  known ranks; constant axes; costs of the table (``shared/layout/costs.py``).
**Leaves** operators without a rule, annotated and captured values, loops' and branches' results; choices that gain less
           than 50 ns a node.
**Numbers** reassociates: sums may run along another axis in memory.
**Source** ``shared/layout/solve.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir.graph import Graph
from ..core import GraphPass, Numbers
from ..rewrite.rewriter import Rewriter
from ..shared.layout.apply import Applied
from ..shared.layout.graphs import Layouts
from ..shared.layout.sizes import sizes_of
from ..shared.layout.solve import SECONDS
from ..shared.layout.views import part_views

_ROUNDS = 4
"""Transposes in new places let other orders be thought of; rarely more than one round finds anything."""


@dataclass
class CancelTransposes(GraphPass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    seconds: float = SECONDS
    """What one integer program may take."""
    steps: bool = True
    """Whether a general Transpose becomes several of one axis each where the target is known to do those faster."""

    def run_graph(self, graph: Graph, r: Rewriter) -> None:
        if not any(node.op == "Transpose" and not node.domain for node in graph):
            return
        part_views(graph, r)
        for _ in range(_ROUNDS):
            if not self._improved(graph, r):
                return

    def _improved(self, graph: Graph, r: Rewriter) -> bool:
        """Solves the problem of the graph as it is and makes it so; ``False`` where it is best as it is."""
        sizes = sizes_of(graph, r.ctx)
        layouts = Layouts(graph, replace(sizes, steps=sizes.steps and self.steps))
        solution = layouts.solution(seconds=self.seconds)
        changed = layouts.changed(solution)
        if not changed or not r.allow(changed[0][0]):
            r.ctx.note(f"graph @{graph.name}: the Transposes stay, {solution.cost / 1e3:,.1f} us, {solution.verdict}")
            return False
        before = layouts.written()
        Applied(r, layouts.sizes).apply(changed)
        r.settle()
        r.ctx.note(f"graph @{graph.name}: {before / 1e3:,.1f} us of moves became {solution.cost / 1e3:,.1f}")
        return True
