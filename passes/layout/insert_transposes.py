"""insert-transposes: values are stored in the layouts that their types say, with Transposes where those meet.

    %y: f32[1,8,9,7]@NHWC = relu(%x)    becomes    %t = transpose(%x, [0,2,3,1]);  relu(%t): f32[1,9,7,8]

Each node is made anew under the orders of its results; constants are re-laid now, attributes follow. A value that some
take in another order than it is given in gets one Transpose for all of them, in several steps of one axis each where
those are faster; Transposes of the model that say no more than what the layouts say are gone.

**Why**    materializes ``assign-layout``.
**Needs**  layouts that are orders of axes.
**Leaves** nodes that cannot compute what their results' layouts say; graphs without layouts.
**Numbers** reassociates: sums run along another axis in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Graph
from ..core import GraphPass, Numbers
from ..rewrite.rewriter import Rewriter
from ..shared.layout.apply import Applied
from ..shared.layout.graphs import Layouts
from ..shared.layout.sizes import sizes_of
from ..shared.layout.solve import SECONDS
from ..shared.layout.targets import ways_on


@dataclass
class InsertTransposes(GraphPass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    seconds: float = SECONDS
    """What one integer program may take."""

    def run_graph(self, graph: Graph, r: Rewriter) -> None:
        said = [v for node in graph for v in node.outputs if v.tensor is not None and v.tensor.layout is not None]
        if not said:
            return
        sizes = sizes_of(graph, r.ctx)
        layouts = Layouts(graph, sizes, ways_on(r.ctx.target, sizes, r.ctx.race), annotated=True)
        try:
            solution = layouts.solution(seconds=self.seconds)
        except ValueError as error:
            r.ctx.note(f"graph @{graph.name}: {error}")
            return
        for node in layouts.refused:
            r.ctx.note(f"{node.op} {node.name!r} cannot give its results as their types say")
        changed = layouts.changed(solution)
        if not changed or not r.allow(changed[0][0]):
            return
        refused = {v for node in layouts.refused for v in node.outputs}
        for value in said:
            if value not in refused:
                r.lay_out(value, None)
        Applied(r, sizes).apply(changed)
        twice = len(solution.conversions)
        r.ctx.note(f"graph @{graph.name}: {len(changed)} nodes made anew, {twice} values stored in two orders")
