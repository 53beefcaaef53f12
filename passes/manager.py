"""Runs pipelines: passes in order, with instruments around each, and a report of what each one did."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..ir.collector import collector_paused
from ..ir.errors import PassError, PlanishError
from ..ir.graph import Model
from .core import Application, Context, Pass, RewritePass, bound_rules, pass_name
from .pipeline import REPEAT_LIMIT, Repeat, Step, Together, flatten, parse_pipeline, pipeline_text
from .registry import find
from .rewrite.greedy import apply_rules
from .rewrite.rewriter import Rewriter


@dataclass
class PassRecord:
    """What one pass (or group of passes) did."""

    name: str
    """Its pipeline text."""
    seconds: float
    """CPU time."""
    changes: int
    nodes_before: int
    nodes_after: int
    hits: dict[str, int] = field(default_factory=dict[str, int])
    """Applications per rule."""


@dataclass
class RunRecord:
    """What a pipeline did."""

    pipeline: str
    passes: list[PassRecord] = field(default_factory=list[PassRecord])
    applications: list[Application] = field(default_factory=list[Application])
    """Filled where the context keeps a log."""

    @property
    def changes(self) -> int:
        return sum(p.changes for p in self.passes)

    @property
    def seconds(self) -> float:
        return sum(p.seconds for p in self.passes)


class Instrument:
    """Sees every pass before and after it runs. Errors it raises stop the pipeline."""

    def before(self, model: Model, step: Step, ctx: Context) -> None:
        """Called with the model as the pass will get it."""

    def after(self, model: Model, step: Step, record: PassRecord, ctx: Context) -> None:
        """Called with the model as the pass left it."""

    def failed(self, step: Step, done: Sequence[Step], error: PlanishError, ctx: Context) -> None:
        """Called when a pass or an instrument failed; ``done`` are the steps that went well before."""


class Pipeline:
    """An executable pipeline: ``Pipeline("clean,fold-constants").run(model)``; ``str`` gives the text back."""

    def __init__(self, text: str | Sequence[Step] = "default") -> None:
        """Raises ``PipelineError`` for malformed text or an unknown pass or option."""
        self.steps: list[Step] = parse_pipeline(text, find) if isinstance(text, str) else list(text)

    def __str__(self) -> str:
        return pipeline_text(self.steps)

    def run(self, model: Model, ctx: Context | None = None, instruments: Sequence[Instrument] = ()) -> RunRecord:
        """Transforms ``model`` in place.

        Raises whatever a pass or an instrument raises; a pass's unexpected exception becomes a
        ``PassError`` that names it. After an error the model is in an unspecified state.
        """
        ctx = ctx or Context()
        record = RunRecord(str(self))
        if ctx.log is not None:
            record.applications = ctx.log
        runner = _Runner(model, ctx, instruments, record)
        for step in self.steps:
            runner.step(step)
        return record


class _Runner:
    def __init__(self, model: Model, ctx: Context, instruments: Sequence[Instrument], record: RunRecord) -> None:
        self.model, self.ctx, self.instruments, self.record = model, ctx, instruments, record
        self.done: list[Step] = []
        self.changes = 0
        """Of all steps so far: the version of the model."""
        self.texts: dict[int, str] = {}
        self.quiet: dict[object, int] = {}
        """By step the version that it left as it is: on that version it has nothing to do again."""

    def step(self, step: Step) -> int:
        """Runs one step; returns the number of changes it made."""
        if isinstance(step, Repeat):
            return self._repeat(step)
        text = self._text(step)
        if self.ctx.progress is not None:
            self.ctx.progress(text, len(self.done), 0)
        try:
            for instrument in self.instruments:
                instrument.before(self.model, step, self.ctx)
            record = self._run(step, text)
            self.record.passes.append(record)
            for instrument in self.instruments:
                instrument.after(self.model, step, record, self.ctx)
        except PlanishError as error:
            error.where = error.where or text
            for instrument in self.instruments:
                instrument.failed(step, self.done, error, self.ctx)
            raise
        self.done.append(step)
        return record.changes

    def _repeat(self, step: Repeat) -> int:
        """Runs the steps round after round until each of them, but for the last that changed anything, changed nothing.

        That one need not run again: every pass leaves nothing for itself to do.
        """
        total, quiet = 0, 0
        for _ in range(REPEAT_LIMIT):
            for inner in step.steps:
                if quiet >= len(step.steps) - (total > 0) or self.ctx.fuel.empty:
                    return total
                changed = self.step(inner)
                total += changed
                quiet = 0 if changed else quiet + 1
        return total

    def _text(self, step: Step) -> str:
        text = self.texts.get(id(step))
        if text is None:
            text = self.texts[id(step)] = str(step)
        return text

    def _run(self, step: Pass | Together, text: str) -> PassRecord:
        nodes = self.record.passes[-1].nodes_after if self.record.passes else count_nodes(self.model)
        key = (text, *map(type, flatten([step])))
        # A pass is a function of the model, its options and the context; only reasons are wanted from every run.
        if self.quiet.get(key) == self.changes and not self.ctx.trace:
            return PassRecord(text, 0.0, 0, nodes, nodes)
        r = Rewriter(self.ctx, text)
        r.nodes = nodes
        start = time.process_time()
        with collector_paused():  # per step: what a step erased is collected behind it
            self._apply(step, r)
        seconds = time.process_time() - start
        self.changes += r.changes
        if not r.changes:
            self.quiet[key] = self.changes
        after = count_nodes(self.model) if r.changes else nodes
        return PassRecord(text, seconds, r.changes, nodes, after, r.hits)

    def _apply(self, step: Pass | Together, r: Rewriter) -> None:
        try:
            if isinstance(step, Together):
                apply_rules(self.model, list(bound_rules(step.passes)), r)
                return
            r.owner = pass_name(type(step))
            if isinstance(step, RewritePass) or step.proposes or not step.lossy or r.take(r.owner, r.owner):
                step.run(self.model, r)
                r.settle()
        except PlanishError:
            raise
        except Exception as error:
            raise PassError(
                f"{type(error).__name__}: {error}",
                where=str(step),
                help="the pass is at fault; leave it out of the pipeline and report it",
            ) from error


def count_nodes(model: Model) -> int:
    """Nodes of the model, those in bodies and functions included."""
    return sum(graph.count for graph in model.all_graphs())
