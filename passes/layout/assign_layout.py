"""assign-layout: in which order of axes each value is stored so that the whole graph takes least time on the target.

    minimize  sum_nodes time(node, orders of its operands)  +  sum_values time(Transpose between given and taken order)

Operators that have kernels of different speed for different orders (convolutions: ``shared/layout/convolutions.py``)
offer each with its time on the target; operators that follow an order cost what their elements cost to move; all
others take and give the written order. The pass writes the choice into the values' types (``@NHWC``, ``@NCWH``);
``insert-transposes`` makes it so.

**Why**    a convolution with a long, padded kernel along the last axis is 1.3 times as fast on ONNX Runtime with its
           spatial axes exchanged; what stands in front and behind can follow for nothing.
**Needs**  a target of whose kernels there is a table (x86-64 with AVX-512 on ONNX Runtime), or this machine to be the
           target: what the table's model proposes is timed then (``Context.race``). Constant weights.
**Leaves** other targets; convolutions whose gain is within the table's error of 10 %, or that won no race.
**Numbers** exact: only types change.
**Source** ``shared/layout/solve.py``, which also proves the choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.graph import Graph
from ..core import GraphPass
from ..rewrite.rewriter import Rewriter
from ..shared.layout.costs import Sizes
from ..shared.layout.graphs import Extra, Layouts
from ..shared.layout.orders import layout_of
from ..shared.layout.sizes import sizes_of
from ..shared.layout.solve import SECONDS
from ..shared.layout.targets import has_table, ways_on


@dataclass
class AssignLayout(GraphPass):
    """See the module."""

    seconds: float = SECONDS
    """What one integer program may take."""

    def run_graph(self, graph: Graph, r: Rewriter) -> None:
        target = r.ctx.target
        race = r.ctx.race
        if target is None or (race is None and not has_table(target)):
            self._declined(r, "the target has no table of what kernels take under other layouts, and cannot be asked")
            return
        sizes = sizes_of(graph, r.ctx)
        ways = ways_on(target, sizes, race)
        if not self._hopeful(graph, sizes, ways):
            self._declined(r, f"graph @{graph.name}: no operator is faster under another layout")
            return
        layouts = Layouts(graph, sizes, ways)
        solution = layouts.solution(seconds=self.seconds)
        changed = layouts.changed(solution)
        if not changed:
            self._declined(r, f"graph @{graph.name}: no other layout is faster, {solution.verdict}")
            return
        if not r.allow(changed[0][0]):
            return
        for node, move in changed:
            for value, order in zip(node.outputs, move.gives, strict=True):
                r.lay_out(value, layout_of(order))
        gain, source = layouts.written() - solution.cost, "table" if race is None else "clock"
        r.ctx.note(f"graph @{graph.name}: other layouts save {gain / 1e3:,.1f} us by the {source}, {solution.verdict}")

    def _hopeful(self, graph: Graph, sizes: Sizes, ways: Extra) -> bool:
        """Whether an operator is faster otherwise by itself, or works in an order in which Transposes would vanish."""
        found = [(node, cost, move) for node in graph for cost, move in ways(node)]
        if any(cost < 0 for _, cost, _ in found):
            return True
        orders = Layouts(graph, sizes).spread() if found else {}
        return any(
            move.gives[0] in orders.get(node.output, ()) or (x is not None and move.takes[0] in orders.get(x, ()))
            for node, _, move in found
            for x in node.inputs[:1]
        )

    def _declined(self, r: Rewriter, reason: str) -> None:
        if r.ctx.trace:
            r.ctx.note(reason)
