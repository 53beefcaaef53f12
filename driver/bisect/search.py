"""Which single rewrite makes a model wrong: a binary search over ``fuel``.

Rewrites are counted in a fixed order, so that stopping after ``n`` of them is a model of its own. The search
keeps one ``n`` whose model is right and one whose model is wrong, until they are neighbours. A rewrite that fails
itself is not counted; it is the one behind the last that is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ...ir.clone import clone_model
from ...ir.errors import PlanishError
from ...ir.graph import Model
from ...passes.context import Application, Context, Fuel
from ...passes.manager import Instrument, PassRecord, Pipeline
from ...passes.pipeline import Step
from ..checks.reference import Reference
from .judge import CRASH, SLOW, Fault, Judge
from .source import Place, place_of


@dataclass
class Guilty:
    """The first rewrite after which the model is wrong."""

    number: int
    """Its number; 0: the pipeline is wrong before any rewrite that is counted."""
    total: int
    """Rewrites of the whole pipeline (as far as it came)."""
    rule: str
    at: str
    """Name of the node at which it fired."""
    origin: tuple[str, ...]
    """Nodes of the original model that it concerns."""
    problem: str
    kind: str = ""
    """One of ``judge.KINDS``."""
    step: str = ""
    """Pipeline text of the step (a pass, or passes that run together) in which it happened."""
    place: Place | None = None
    """Where the rule is written."""

    @property
    def pass_name(self) -> str:
        """The pass that the rule belongs to."""
        return self.rule.partition("/")[0] or self.step

    def __str__(self) -> str:
        if not self.number:
            return "wrong before the first rewrite: what planish writes of the model as it read it is wrong already"
        origin = f" (from {', '.join(map(repr, self.origin[:4]))})" if self.origin else ""
        return f"first wrong after rewrite {self.number} of {self.total}: {self.rule} at {self.at!r}{origin}"


@dataclass
class Attempt:
    """One run of the pipeline with limited fuel."""

    model: Model
    fault: Fault | None
    log: list[Application] = field(default_factory=list[Application])
    marks: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Steps with the number of rewrites after each."""
    labels: list[str] = field(default_factory=list[str])
    """All rules that were tried."""
    ratio: float = 0.0
    """What it takes of the original's time, where that is measured."""

    def step_of(self, number: int) -> str:
        """The step in which that rewrite happened."""
        return next((step for step, spent in self.marks if spent >= number), self.marks[-1][0] if self.marks else "")


class _Marks(Instrument):
    def __init__(self, marks: list[tuple[str, int]]) -> None:
        self.marks = marks

    def after(self, model: Model, step: Step, record: PassRecord, ctx: Context) -> None:
        self.marks.append((str(step), ctx.fuel.spent))

    def failed(self, step: Step, done: Sequence[Step], error: PlanishError, ctx: Context) -> None:
        self.marks.append((str(step), ctx.fuel.spent + 1))


class Search:
    """Runs of one pipeline on one model, judged."""

    def __init__(self, model: Model, pipeline: str, context: Callable[[], Context], judge: Judge) -> None:
        self.model, self.pipeline, self.context, self.judge = model, pipeline, context, judge
        self.runs = 0
        self._kept: dict[int | None, Attempt] = {}
        """The attempts on both sides of the guilty rewrite: whoever describes it asks for them again."""

    def attempt(self, limit: int | None) -> Attempt:
        """The model after at most ``limit`` rewrites, and what is wrong with it. The caller does not change it."""
        if limit in self._kept:
            return self._kept[limit]
        ctx = replace(self.context(), fuel=Fuel(limit), log=[])
        found = Attempt(clone_model(self.model), None, ctx.log if ctx.log is not None else [])
        self.runs += 1
        try:
            Pipeline(self.pipeline).run(found.model, ctx, [_Marks(found.marks)])
        except PlanishError as error:
            found.fault = Fault(CRASH, error.message, error.where or "", error.origin or error.at or "")
        else:
            found.fault, found.ratio = self.judge.fault(found.model), self.judge.ratio
        found.labels = list(ctx.statistics)
        return found

    def find(self, deadline: float) -> Guilty | None:
        """The first rewrite after which the model is wrong; ``None`` where it is right or the time runs out."""
        whole = self.attempt(None)
        if whole.fault is None:
            return None
        total, wrong = len(whole.log), whole
        if (start := self.attempt(0)).fault is not None and start.fault.kind != CRASH:
            return Guilty(0, total, "", "", (), start.fault.message, start.fault.kind)
        good, bad, right = 0, total, start
        if whole.fault.kind == CRASH:
            last = self.attempt(total)
            if last.fault is None or not total:
                self._kept = {total: last}
                return self._crash(whole, total + 1)
            wrong = last
        while bad - good > 1:
            if time.monotonic() > deadline:
                return None
            middle = (good + bad) // 2
            found = self.attempt(middle)
            if found.fault is None:
                good, right = middle, found
            else:
                bad, wrong = middle, found
        self._kept = {good: right, bad: wrong}
        found = self._guilty(wrong, bad, total) if bad else None
        if found is not None and found.kind == SLOW and right.ratio:
            found.problem += f", and {right.ratio:.2f} times without this rewrite"
        return found

    def _crash(self, whole: Attempt, number: int) -> Guilty:
        fault = whole.fault
        assert fault is not None
        step = whole.step_of(number)
        label = fault.where if "/" in fault.where else step
        return Guilty(number, number, label, fault.at, (), fault.message, fault.kind, step, place_of(label))

    def _guilty(self, wrong: Attempt, number: int, total: int) -> Guilty:
        fault = wrong.fault
        assert fault is not None
        if fault.kind == CRASH and len(wrong.log) < number:
            return replace(self._crash(wrong, len(wrong.log) + 1), total=total)
        a = wrong.log[number - 1]
        step = wrong.step_of(number)
        return Guilty(number, total, a.rule, a.at, a.origin, fault.message, fault.kind, step, place_of(a.rule))


def find_guilty(
    model: Model,
    pipeline: str,
    context: Callable[[], Context],
    reference: Reference,
    *,
    tolerance: float,
    seconds: float,
) -> tuple[Guilty | None, int]:
    """The guilty rewrite and the number of runs; ``None`` where the pipeline is right or time runs out."""
    search = Search(model, pipeline, context, Judge(reference, tolerance=tolerance))
    return search.find(time.monotonic() + seconds), search.runs
