"""From a guilty rewrite to a model of a few nodes that shows it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...backends.core import Sample
from ...ir.clone import clone_model
from ...ir.errors import PlanishError
from ...ir.graph import Model, Node
from ...ir.text.printer import print_node
from ...passes.context import Context, Fuel
from ...passes.instruments import reproducer_text
from ...passes.manager import Pipeline
from ..inputs.sample_text import KEY, sample_line
from .judge import CRASH, SLOW, SLOWER, Fault, Judge, reference_for
from .reduce import reduce_model
from .search import Guilty, Search

MAX_LINES = 24
"""Lines of a textual difference that a report shows."""


@dataclass
class Reproducer:
    """A small model with a pipeline that fails on it."""

    model: Model
    samples: list[Sample]
    pipeline: str
    disabled: frozenset[str]
    """Rules that are not needed for the failure."""
    fault: Fault
    nodes: int
    tests: int
    """Models that were tried on the way."""
    text: str
    """The file for ``planish run``."""


@dataclass(frozen=True)
class _Trial:
    """One way to bring the failure about."""

    model: Model
    pipeline: str
    disabled: frozenset[str]
    context: Callable[[], Context]
    judge: Judge

    def ctx(self, samples: Sequence[Sample] = ()) -> Context:
        """Samples of another interface are left out: a pass must not see what does not fit the model."""
        base = self.context()
        return replace(
            base, fuel=Fuel(), log=None, disabled=base.disabled | self.disabled, samples=list(map(dict, samples))
        )

    def fault(self, model: Model, samples: Sequence[Sample]) -> Fault | None:
        """What is wrong behind the pipeline; ``None`` also where the model itself does not run."""
        reference = reference_for(model, samples)
        if reference is None:
            return None
        after = clone_model(model)
        try:
            Pipeline(self.pipeline).run(after, self.ctx(samples))
        except PlanishError as error:
            return Fault(CRASH, error.message, error.where or "")
        judge = Judge(reference, tolerance=self.judge.tolerance, slower=self.judge.slower, race=self.judge.race)
        return judge.fault(after)


def make_reproducer(search: Search, guilty: Guilty, *, seconds: float = 60.0) -> Reproducer | None:
    """The smallest model found within ``seconds``; ``None`` where the failure does not show outside of its pipeline."""
    samples = search.judge.reference.samples
    other: tuple[_Trial, Fault] | None = None
    for trial in _trials(search, guilty):
        found = trial.fault(trial.model, samples)
        if found is not None and found.kind == guilty.kind:
            return _reduced(trial, found, samples, seconds, _concerned(search, guilty, trial.model))
        # A broken graph may show as a crash of the pass behind: the rule alone shows the cause.
        other = other or ((trial, found) if found is not None else None)
    return None if other is None else _reduced(*other, samples, seconds)


def _trials(search: Search, guilty: Guilty) -> list[_Trial]:
    """The rule alone on the model as it found it; its step alone; the whole pipeline on the original."""
    trials = [_Trial(search.model, search.pipeline, frozenset(), search.context, search.judge)]
    if not guilty.number:
        return trials
    before = search.attempt(guilty.number - 1)
    if before.fault is not None:
        return trials
    others = frozenset(label for label in search.attempt(guilty.number).labels if label != guilty.rule)
    alone = [
        _Trial(before.model, p, frozenset(), search.context, search.judge) for p in (guilty.pass_name, guilty.step)
    ]
    narrow = [replace(trial, disabled=others) for trial in alone[:1]]
    return [*narrow, *alone, *trials]


def _sharper(trial: _Trial, samples: Sequence[Sample]) -> _Trial:
    """With twice the delay as the fault, where the model shows as much: what is shrunk to where it barely shows would
    not show again the next time."""
    judge = trial.judge
    twice = Judge(judge.reference, tolerance=judge.tolerance, slower=2 * (judge.slower or 1.0) - 1, race=judge.race)
    found = replace(trial, judge=twice)
    shown = found.fault(trial.model, samples)
    return found if shown is not None and shown.kind == SLOW else trial


def _concerned(search: Search, guilty: Guilty, model: Model) -> list[Node]:
    """Nodes of the main graph (``model`` is as the rewrite found it) that it changed, or at which it failed."""
    if not guilty.number or model is not search.attempt(guilty.number - 1).model:
        return []
    nodes = list(model.graph)
    if guilty.kind == CRASH:
        return [n for n in nodes if guilty.at and guilty.at in (n.name, *(out.name for out in n.outputs))]
    after = Counter(map(print_node, search.attempt(guilty.number).model.graph))
    before = [(n, print_node(n)) for n in nodes]
    return [n for n, line in before if not after[line]]


def _reduced(
    trial: _Trial, shown: Fault, samples: Sequence[Sample], seconds: float, near: Sequence[Node] = ()
) -> Reproducer:
    judged = _sharper(trial, samples) if shown.kind == SLOW else trial

    def fails(model: Model, samples: Sequence[Sample]) -> bool:
        found = judged.fault(model, samples)
        return found is not None and found.kind == shown.kind

    small = reduce_model(trial.model, samples, fails, seconds=seconds, near=near)
    fault = trial.fault(small.model, small.samples) or shown
    text = with_sample(
        reproducer_text(small.model, trial.pipeline, trial.ctx(), PlanishError(str(fault))), small.samples
    )
    if fault.kind == SLOW:
        text = f"// {SLOWER}: {trial.judge.slower}\n{text}"
    nodes = sum(1 for _ in small.model.all_nodes())
    return Reproducer(small.model, small.samples, trial.pipeline, trial.disabled, fault, nodes, small.tests, text)


def with_sample(text: str, samples: Sequence[Sample]) -> str:
    """The reproducer with the sample on which it fails in its header, where that is small."""
    line = sample_line(samples[0]) if len(samples) == 1 else None
    return text if line is None else f"// {KEY}: {line}\n{text}"


def lines_around(search: Search, guilty: Guilty) -> list[str]:
    """The lines of the textual form that the guilty rewrite changed, ``-`` before and ``+`` after."""
    if not guilty.number:
        return []
    before, after = search.attempt(guilty.number - 1), search.attempt(guilty.number)
    if guilty.kind == CRASH:
        return [line.strip() for line in str(before.model).splitlines() if guilty.at and guilty.at in line][:MAX_LINES]
    difference = difflib.unified_diff(str(before.model).splitlines(), str(after.model).splitlines(), n=0, lineterm="")
    lines = [line for line in difference if not line.startswith(("---", "+++", "@@"))]
    return [f"{line[0]} {line[1:].strip()}" for line in lines[:MAX_LINES]]
