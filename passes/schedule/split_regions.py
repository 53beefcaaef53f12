"""split-regions: where most memory is alive, some layers run a few rows at a time.

    y = f(x)    becomes    y = concat(f_1(rows of x), f_2(rows of x), ...)

where f is a chain or a small net of convolutions, poolings, elementwise operators and products of matrices between a
value and a smaller one: what is wide inside exists only for a few rows at once. Windows that reach over a part's end
need rows of its neighbour (a halo), which are computed twice: the note says how many operations that adds.

**Why**    models for small memories: the first layers of an image network take most of it, the feed-forward layers of a
           transformer four times its width.
**Needs**  a limit in bytes (``max-bytes``), sizes that are numbers, opset 10.
**Leaves** graphs below the limit. Every candidate is tried on a copy and judged by what is then alive; the one with the
           fewest operations below the limit is taken, else the one with the least memory, until nothing is gained. The
           note says where the limit stays out of reach.
**Numbers** reassociates: a runtime may sum in another order for other extents.
**Source** ``shared/regions/region.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.clone import clone_model
from ...ir.cost import total_flops
from ...ir.errors import PassError
from ...ir.graph import Model, Node
from ..core import Context, Numbers, Pass
from ..rewrite.rewriter import Rewriter
from ..rewrite.rule import NoMatch
from ..shared.liveness import Liveness, liveness
from ..shared.regions.region import Region, regions_over, split

_ROUNDS = 24
_ESTIMATED = 80
"""Regions whose needs are estimated."""
_TRIED = 6
"""Those of them that are tried."""
_PARTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class _Trial:
    """What a split would give."""

    positions: tuple[int, ...]
    """Indices of the region's nodes."""
    parts: int
    peak: int
    """Bytes alive at the most while the parts run."""
    flops: int


@dataclass
class SplitRegions(Pass):
    """See the module."""

    numbers: ClassVar[Numbers] = Numbers.REASSOCIATES

    max_bytes: int = 0
    """What may be alive at once; 0: no limit, nothing is done."""

    def run(self, model: Model, r: Rewriter) -> None:
        graph = model.graph
        live = liveness(graph)
        if not self.max_bytes or live.unknown or graph.opsets.get("", 0) < 10:
            r.ctx.note("nothing is split: " + self._because(live))
            return
        before, start = _flops(model), live.peak
        for i in range(_ROUNDS):
            if live.peak <= self.max_bytes:
                break
            if r.ctx.progress is not None:
                r.ctx.progress("splitting regions", i, _ROUNDS)
            trial = self._best(model, live)
            if trial is None or not r.allow(live.nodes[trial.positions[-1]]):
                break
            split(r, Region(tuple(live.nodes[i] for i in trial.positions)), trial.parts)
            live = liveness(graph)
        more = f"{_flops(model) / before - 1:.1%} more operations" if before else "no operations"
        reached = "" if live.peak <= self.max_bytes else f"; the limit {self.max_bytes:,} is not reached"
        r.ctx.note(f"{start:,} bytes at the peak became {live.peak:,} by parts of regions, {more}{reached}")

    def _because(self, live: Liveness) -> str:
        if not self.max_bytes:
            return "no limit was given (max-bytes)"
        return f"{len(live.unknown)} sizes are no numbers" if live.unknown else "Slice before opset 10 has no operands"

    def _best(self, model: Model, live: Liveness) -> _Trial | None:
        """The split of what lies over the peak that is to be made."""
        profile = live.profile
        at = profile.index(max(profile))
        index = {node: i for i, node in enumerate(live.nodes)}
        found = [region for region in regions_over(model.graph, at) if region.outer_bytes < profile[at]]
        found.sort(key=lambda region: (max(region.outer_bytes, self.max_bytes), len(region.nodes)))
        ranked = sorted(found[:_ESTIMATED], key=self._rank)
        trials: list[_Trial] = []
        for region in ranked[:_TRIED]:
            trials += self._tried(model, tuple(index[node] for node in region.nodes), profile[at])
        if not trials:
            return None
        return min(trials, key=lambda t: (max(t.peak, self.max_bytes), t.flops, t.parts))

    def _rank(self, region: Region) -> tuple[float, float]:
        """How little it may take in parts (below the limit all are alike), and how much is made twice."""
        best = float("inf"), float("inf")
        for parts in _PARTS:
            try:
                size, work = region.estimate(parts)
            except NoMatch:
                break
            best = min(best, (max(size, self.max_bytes), work))
            if size <= self.max_bytes:
                break
        return best

    def _tried(self, model: Model, positions: tuple[int, ...], peak: int) -> list[_Trial]:
        """In more and more parts, until the limit is reached or nothing is gained."""
        found: list[_Trial] = []
        worse = 0
        for parts in _PARTS:
            trial = _try(model, positions, parts)
            if trial is None:
                break
            worse += trial.peak >= min([peak, *(t.peak for t in found)])
            if worse > 1:
                break
            if trial.peak < peak:
                found.append(trial)
            if trial.peak <= self.max_bytes:
                break
        return found


def _try(model: Model, positions: tuple[int, ...], parts: int) -> _Trial | None:
    """On a copy."""
    copy = clone_model(model)
    nodes = [node for node in copy.graph if not node.is_return]
    known: set[Node] = set(nodes)
    r = Rewriter(Context(), "split-regions")
    try:
        split(r, Region(tuple(nodes[i] for i in positions)), parts)
    except (NoMatch, PassError):
        return None
    live = liveness(copy.graph)
    profile = live.profile
    fresh = [i for i, node in enumerate(live.nodes) if node not in known]
    return _Trial(positions, parts, max(profile[fresh[0] : fresh[-1] + 1]), _flops(copy))


def _flops(model: Model) -> int:
    found, _ = total_flops([node for node in model.all_nodes() if not node.is_return])
    return found if isinstance(found, int) else 0
