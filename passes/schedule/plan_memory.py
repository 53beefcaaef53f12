"""plan-memory: an offset for every intermediate value, in one memory or several.

The plan goes into the model's metadata under ``planish.memory_plan`` (JSON, see ``shared/memory_plan.py``), which files
keep and engines without a planner of their own read.

**Why**    values that do not live at the same time share bytes; where all lie is known before the model runs.
**Needs**  sizes that are numbers (``--dim``), and the final order of the nodes: it is the last pass.
**Leaves** the graph. With several memories the fastest takes what is used most, as far as it fits; where all are
           limited and too small together nothing is written.
**Numbers** exact.
**Source** ``shared/arena``; which values share memory is said by ``shared/liveness.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Model
from ..core import Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..shared.arena.place import NODES
from ..shared.arena.spaces import Space
from ..shared.liveness import liveness
from ..shared.memory_plan import KEY, plan_data, planned, spaces_of
from ..shared.quant.statistics import value_names


@dataclass
class PlanMemory(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.EXACT

    alignment: int = 64
    """Of the offsets, bytes."""
    memories: tuple[str, ...] = ()
    """The fastest first, with their bytes: ``[tcm:262144, dram]``; without any the target's, or one without a limit."""
    nodes: int = NODES
    """How long to search for the lowest placement."""

    def run(self, model: Model, r: Rewriter) -> None:
        live = liveness(model.graph)
        if live.unknown:
            r.ctx.note(f"no plan: {len(live.unknown)} sizes are no numbers, as %{live.unknown[0].name}'s")
            return
        given = r.ctx.target.memories if r.ctx.target is not None else ()
        spaces = spaces_of(self.memories) or [Space(*memory) for memory in given] or [Space("arena")]
        found = planned(live, self.alignment, spaces, nodes=self.nodes, progress=r.ctx.progress)
        if not found.fits:
            r.ctx.note(f"no plan: {found.space.count(-1)} of {len(found.space)} buffers have no place in any memory")
            return
        for value, name in value_names(model).items():
            value.name = name  # what the plan calls it, and what the file will
        text = json.dumps(plan_data(model.graph, live, found, self.alignment, spaces), separators=(",", ":"))
        if model.metadata.get(KEY) == text or not r.allow(model.graph.ret):
            return
        model.metadata[KEY] = text
        r.changes += 1
        used = ", ".join(f"{n:,} bytes of {space.name}" for n, space in zip(found.used, spaces, strict=True))
        r.ctx.note(f"plan of {len(found.space)} buffers: {used}; {live.peak:,} are alive at the peak")
