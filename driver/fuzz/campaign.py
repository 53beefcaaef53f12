"""``fuzz``: random models through pipelines until the time is over; what fails is shrunk and kept as a reproducer."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from ...backends.core import Sample
from ...ir.errors import PlanishError, UsageError
from ...ir.graph import Model
from ...models.random import Case, random_case
from ...passes.core import Context, Fuel, Numbers, RewritePass, bound_rules, pass_name
from ...passes.instruments import reproducer_text
from ...passes.manager import Pipeline
from ...passes.pipeline import flatten
from ...passes.pipelines import PIPELINES
from ...passes.registry import entries
from ...passes.target import Target, get_target
from ..bisect.judge import cause_of
from ..bisect.reduce import Reduced, reduce_model
from ..bisect.reproducer import with_sample
from ..document import SCHEMA, Document, Table, Text, plain_data
from .check import Failure, Subject
from .mutants import Mutants

Progress = Callable[[str, int, int], None]
Draw = Callable[[int, int], Case]
"""A model for a seed and a size. Raises ``PlanishError`` where there is none."""
SIZES = (3, 6, 12, 12, 20)
"""Motifs per model, in turn: small models show a failure clearly, large ones let passes meet."""
TARGETS = ("", "x86-64-v3")
"""Targets in turn; none stands for standard operators only."""
SHRINK_SECONDS = 20.0
SHOWN = 12
"""How many rules that never fired a report names; ``to_dict`` has all."""
THOROUGH_SHARE = 3
"""One in so many models is checked thoroughly behind single passes and targets too, each behind named pipelines."""
THOROUGH_KINDS = ("claims", "restless", "undetermined", "text", "file")


@dataclass
class Tally:
    """What one pipeline went through."""

    models: int = 0
    changed: int = 0
    """Models that it changed."""
    rewrites: int = 0
    failures: int = 0


@dataclass
class Found:
    """One kind of failure, with the first model that showed it."""

    pipeline: str
    kind: str
    message: str
    seed: int
    size: int
    target: str
    times: int = 1
    text: str = ""
    """The shrunk model as a reproducer."""
    nodes: int = 0
    """Nodes of the shrunk model."""
    file: str = ""
    """Where the reproducer was written."""


@dataclass
class Campaign:
    """What a run of the fuzzer saw."""

    seed: int
    models: int = 0
    rejected: dict[str, int] = field(default_factory=dict[str, int])
    """Drawn models that the runtime or type inference refuses, by reason: faults of the generator, or of inference."""
    nodes: int = 0
    seconds: float = 0.0
    tallies: dict[str, Tally] = field(default_factory=dict[str, Tally])
    rules: dict[str, int] = field(default_factory=dict[str, int])
    """Rewrites by rule, over all pipelines; rules of the pipelines that never fired with 0."""
    found: list[Found] = field(default_factory=list[Found])

    @property
    def idle(self) -> list[str]:
        """Rules that never fired: nothing is known about them."""
        return [label for label, n in self.rules.items() if not n]

    @property
    def failures(self) -> int:
        return sum(f.times for f in self.found)

    def add(self, other: Campaign) -> None:
        """Takes in what another run saw, of other seeds through the same pipelines."""
        self.models, self.nodes = self.models + other.models, self.nodes + other.nodes
        self.seconds = max(self.seconds, other.seconds)
        for mine, theirs in ((self.rejected, other.rejected), (self.rules, other.rules)):
            for label, times in theirs.items():
                mine[label] = mine.get(label, 0) + times
        for name, tally in other.tallies.items():
            mine = vars(self.tallies.setdefault(name, Tally()))
            mine.update({key: n + mine[key] for key, n in vars(tally).items()})
        self.found += other.found

    def to_dict(self) -> dict[str, Any]:
        return plain_data({"schema": SCHEMA, **asdict(self)})

    def document(self) -> Document:
        verdict = f"{self.failures} failures" if self.found else "no failure"
        mean = self.nodes / max(1, self.models)
        head = f"{self.models} random models of {mean:.0f} nodes in {self.seconds:.0f} s: {verdict}"
        document: Document = [Text(head, "red" if self.found else "green")]
        rows = [(name, *map(str, (t.models, t.changed, t.rewrites, t.failures))) for name, t in self.tallies.items()]
        document.append(Table("", ("pipeline", "models>", "changed>", "rewrites>", "failures>"), rows))
        if self.idle:
            more = f" and {len(self.idle) - SHOWN} others" if len(self.idle) > SHOWN else ""
            shown = f"{', '.join(self.idle[:SHOWN])}{more}"
            document.append(Text(f"{len(self.idle)} of {len(self.rules)} rules never fired: {shown}"))
        for reason, times in self.rejected.items():
            document.append(Text(f"  {times} drawn models were refused: {reason}", "yellow"))
        for f in self.found:
            document.append(
                Text(f"{f.pipeline or 'no pass'}: {f.kind}, {f.times} times, first with seed {f.seed}", "red")
            )
            document.append(Text(f"  {f.message}"))
            document.append(Text(f.text if not f.file else f"  planish run {f.file}   ({f.nodes} nodes)"))
        return document


def fuzz(
    minutes: float = 1.0,
    *,
    pipelines: Sequence[str] | None = None,
    seed: int = 0,
    models: int | None = None,
    source: str | os.PathLike[str] | None = None,
    keep: str | os.PathLike[str] | None = None,
    shrink: bool = True,
    progress: Progress | None = None,
) -> Campaign:
    """Draws models from ``seed`` on and runs each through the pipelines, for ``minutes`` or ``models`` models.

    ``pipelines``: all registered passes, each alone, and the named pipelines; ``default@aarch64`` is for that target,
    else targets take turns. ``source``: a file or folder of models
    (golden suites, texts, ONNX files), random edits of which are drawn instead. ``keep``: a folder for reproducers.
    The same seed draws the same models. Raises ``PipelineError`` for a pipeline that does not parse, ``UsageError``
    for a source without models and an unknown target.
    """
    names = list(pipelines) if pipelines else default_pipelines()
    plans = [Plan.parse(name) for name in names]
    if minutes <= 0 and models is None:
        raise UsageError("nothing to do", where="fuzz", help="give --minutes above 0, or --models")
    folder = Path(keep) if keep is not None else None
    with contextlib.ExitStack() as stack:
        draw: Draw = random_case if source is None else stack.enter_context(Mutants(Path(source))).case
        return _Run(plans, seed, draw, folder, shrink, progress).run(minutes * 60, models)


def default_pipelines() -> list[str]:
    """Every registered pass alone, then every named pipeline; none that computes something else on purpose."""
    return [name for name in (*entries(), *PIPELINES) if name != "none" and _is_lossless(name)]


def _is_lossless(pipeline: str) -> bool:
    return all(type(one).numbers is not Numbers.APPROXIMATES for one in flatten(Pipeline(pipeline).steps))


@dataclass(frozen=True)
class Plan:
    """A pipeline with the target it runs for; none stands for targets in turn."""

    name: str
    pipeline: str
    parsed: Pipeline
    target: Target | None = None

    @classmethod
    def parse(cls, name: str) -> Plan:
        """``PIPELINE`` or ``PIPELINE@TARGET``. Raises ``PipelineError``, ``UsageError`` for an unknown target."""
        pipeline, _, target = name.partition("@")
        return cls(name, pipeline, Pipeline(pipeline), get_target(target) if target else None)


def rule_labels(pipeline: str) -> list[str]:
    """``pass/Rule`` of all rules of a pipeline's passes, and the names of passes without rules."""
    found: dict[str, None] = {}
    for one in flatten(Pipeline(pipeline).steps):
        rules = bound_rules([one]) if isinstance(one, RewritePass) else ()
        labels = [f"{rule.owner}/{type(rule).__name__}" for rule in rules]
        found.update(dict.fromkeys(labels or [pass_name(type(one))]))
    return list(found)


class _Run:
    def __init__(
        self,
        plans: list[Plan],
        seed: int,
        draw: Draw,
        keep: Path | None,
        shrink: bool,
        progress: Progress | None,
    ) -> None:
        self.plans, self.draw, self.keep, self.shrink, self.progress = plans, draw, keep, shrink, progress
        rules = dict.fromkeys((label for plan in plans for label in rule_labels(plan.pipeline)), 0)
        self.campaign = Campaign(seed, tallies={plan.name: Tally() for plan in plans}, rules=rules)
        self.known: dict[tuple[str, str, str], Found] = {}

    def run(self, seconds: float, models: int | None) -> Campaign:
        start = time.monotonic()
        c = self.campaign
        for i in count():
            c.seconds = time.monotonic() - start
            if (models is not None and i >= models) or (models is None and c.seconds >= seconds):
                return c
            if self.progress is not None:
                self.progress(f"{c.failures} failures, models", c.models, models or 0)
            self._one(c.seed + i, SIZES[i % len(SIZES)], TARGETS[i % len(TARGETS)])
        return c

    def _one(self, seed: int, size: int, target: str) -> None:
        c = self.campaign
        try:
            case = self.draw(seed, size)
            chosen = get_target(target) if target else None
            subject = Subject(case.model, case.samples, chosen, special=case.special)
        except PlanishError as error:
            reason = re.sub(r"'[^']*'|%\S+|\d+", "_", error.message)[:120]
            c.rejected[reason] = c.rejected.get(reason, 0) + 1
            return
        c.models += 1
        c.nodes += sum(1 for _ in case.model.all_nodes())
        failure = subject.original_failure()
        if failure is not None:
            self._found(case, size, subject, failure)
            return
        for plan in self.plans:
            subject.target = plan.target or chosen
            failure = self._checked(plan, subject, seed)
            if failure is not None:
                c.tallies[plan.name].failures += 1
                self._found(case, size, subject, failure)

    def _checked(self, plan: Plan, subject: Subject, seed: int) -> Failure | None:
        """One pipeline, and one that stops on its way."""
        tally, rules = self.campaign.tallies[plan.name], self.campaign.rules
        thorough = plan.name in PIPELINES or seed % THOROUGH_SHARE == 0
        failure = checked(subject, plan.pipeline, parsed=plan.parsed, thorough=thorough)
        tally.models += 1
        tally.changed += bool(subject.hits)
        for label, hits in subject.hits.items():
            tally.rewrites += hits
            rules[label] = rules.get(label, 0) + hits
        if failure is None and plan.pipeline in PIPELINES and subject.hits and not subject.known:
            failure = checked(subject, plan.pipeline, parsed=plan.parsed, fuel=seed % 23 + 1)
        return failure

    def _found(self, case: Case, size: int, subject: Subject, failure: Failure) -> None:
        key = (failure.pipeline, failure.kind, signature(failure))
        if key in self.known:
            self.known[key].times += 1
            return
        target = subject.target.name if subject.target is not None else ""
        found = Found(failure.pipeline, failure.kind, failure.message, case.seed, size, target)
        self.known[key] = found
        self.campaign.found.append(found)
        small = shrunk(subject, failure) if self.shrink else Reduced(case.model, list(case.samples), 0, 0.0)
        found.nodes = sum(1 for _ in small.model.all_nodes())
        found.text = with_sample(reproducer(small.model, failure, subject.target), small.samples)
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            digest = hashlib.blake2b(found.text.encode(), digest_size=4).hexdigest()
            path = self.keep / f"{failure.pipeline.replace(',', '-')[:40] or 'original'}-{failure.kind}-{digest}.ir"
            path.write_text(found.text, "utf-8")
            found.file = str(path)


def checked(
    subject: Subject,
    pipeline: str,
    *,
    thorough: bool = True,
    fuel: int | None = None,
    parsed: Pipeline | None = None,
) -> Failure | None:
    """:meth:`Subject.check`, with any exception taken for a failure."""
    try:
        return subject.check(pipeline, thorough=thorough, fuel=fuel, parsed=parsed)
    except Exception as error:
        return Failure(pipeline, "crash", f"{type(error).__name__}: {error}")


def signature(failure: Failure) -> str:
    """What two failures of the same cause have in common: the first line without names and numbers."""
    if failure.kind in ("different", "inexact", "special"):
        return ""
    return cause_of(failure.message)


def shrunk(subject: Subject, failure: Failure, seconds: float = SHRINK_SECONDS) -> Reduced:
    """The smallest model that fails in the same way."""
    thorough = failure.kind in THOROUGH_KINDS
    odd = failure.kind == "special"

    def fails(model: Model, samples: Sequence[Sample]) -> bool:
        try:
            smaller = Subject(model, samples, subject.target, special=samples if odd else ())
        except PlanishError:
            return False
        if not failure.pipeline:
            found = smaller.original_failure()
        else:
            found = checked(smaller, failure.pipeline, thorough=thorough, fuel=failure.fuel)
        return found is not None and found.kind == failure.kind and signature(found) == signature(failure)

    samples = [s for s, _ in subject.special] if odd else subject.reference.samples
    return reduce_model(subject.model, samples, fails, seconds=seconds)


def reproducer(model: Model, failure: Failure, target: Target | None) -> str:
    """A reproducer file for ``planish run``."""
    ctx = Context(target=target, fuel=Fuel(failure.fuel))
    return reproducer_text(model, failure.pipeline, ctx, PlanishError(str(failure)))
