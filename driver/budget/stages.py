"""A pipeline in two stages: what comes before its first lossy pass runs once, the rest for every selection of units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...ir.clone import clone_model
from ...ir.graph import Model, Value
from ...passes.choices import Choices
from ...passes.context import Before
from ...passes.core import Context, Fuel, Numbers
from ...passes.instruments import VerifyEach
from ...passes.manager import Instrument, PassRecord, Pipeline, RunRecord
from ...passes.pipeline import Step, flatten

if TYPE_CHECKING:
    from ..calibrate.observe import Observe


def is_lossy(step: Step) -> bool:
    """Whether the step holds a pass that draws on the budget."""
    return any(p.lossy for p in flatten([step]))


class Stages:
    """Models of one pipeline with several selections of units."""

    def __init__(self, model: Model, steps: Sequence[Step], ctx: Context, watch: Sequence[Instrument] = ()) -> None:
        """``model`` is changed: the first stage runs on it here. ``watch`` sees that stage."""
        cut = next((i for i, step in enumerate(steps) if is_lossy(step)), len(steps))
        self.model, self.rest, self.ctx = model, list(steps[cut:]), ctx
        self.record = Pipeline(list(steps[:cut])).run(model, ctx, [VerifyEach(), *watch])

    @property
    def lossy(self) -> bool:
        return bool(self.rest)

    def build(self, choices: Choices, *, refit: Observe | None = None, heard: bool = False) -> tuple[Model, RunRecord]:
        """The model with these choices; ``choices`` records what was proposed. With ``refit``, which observes models
        once, factorized layers are fitted to what those in front of them give: a run over the samples for each.
        ``heard``: what passes have to say goes to the report."""
        fuel = Fuel(self.ctx.fuel.limit, self.ctx.fuel.spent)
        sink = self.ctx.sink if heard else None
        ctx = replace(self.ctx, choices=choices, fuel=fuel, statistics={}, sink=sink)
        model = clone_model(self.model)
        steps = [s for s in self.rest if not all(p.lossy for p in flatten([s]))] if choices.lossless else self.rest
        cut = next((i for i, step in enumerate(steps) if _approximates(step)), len(steps))
        first = Pipeline(steps[:cut]).run(model, ctx, [VerifyEach()])
        before = clone_model(model)
        ctx.before = Before(before, dict(zip(_values(model), _values(before), strict=True)), refit)
        record = Pipeline(steps[cut:]).run(model, ctx, [VerifyEach()])
        record.passes = [*self.record.passes, *first.passes, *record.passes]
        return model, record


def _approximates(step: Step) -> bool:
    return any(p.numbers is Numbers.APPROXIMATES for p in flatten([step]))


def _values(model: Model) -> list[Value]:
    return [*model.graph.inputs, *(v for node in model.all_nodes() for v in node.outputs)]


class Watch(Instrument):
    """Measures, behind every pass that rounds, how far outputs are off by then."""

    def __init__(self, spent: Callable[[Model], float]) -> None:
        self.spent, self.so_far = spent, 0.0
        self.found: dict[str, float] = {}
        """What each pass added, by name; runs of one pass together."""

    def after(self, model: Model, step: Step, record: PassRecord, ctx: Context) -> None:
        if not record.changes or all(p.numbers is Numbers.EXACT for p in flatten([step])):
            return
        now = self.spent(model)
        self.found[record.name] = self.found.get(record.name, 0.0) + max(now - self.so_far, 0.0)
        self.so_far = now
