"""Which single rewrite makes a model wrong: a binary search over ``fuel``.

Rewrites are counted in a fixed order, so that stopping after ``n`` of them is a model of its own. The search
keeps one ``n`` whose model is right and one whose model is wrong, until they are neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ...backends.ort.backend import Executor
from ...backends.ort.session import EXACT, Session
from ...ir.clone import clone_model
from ...ir.errors import PlanishError, UsageError
from ...ir.graph import Model
from ...passes.core import Application, Context, Fuel
from ...passes.instruments import VerifyEach
from ...passes.manager import Pipeline
from ...passes.target import Target, get_target
from ..document import SCHEMA, Document, Text, plain_data
from ..reference import Reference
from ..samples import Source
from ..validate import AnyModel, as_model, make_reference, make_samples

Check = Callable[[Model], str | None]
"""``None`` where the model is right, else what is wrong with it."""


@dataclass
class Guilty:
    """The first rewrite after which the model is wrong."""

    number: int
    """Its number; 0: the pipeline is wrong before any rewrite that is counted."""
    total: int
    """Rewrites of the whole pipeline."""
    rule: str
    at: str
    """Name of the node at which it fired."""
    origin: tuple[str, ...]
    """Nodes of the original model that it concerns."""
    problem: str

    def __str__(self) -> str:
        if not self.number:
            return "wrong before the first rewrite that is counted: a pass changes the model around the rewriter"
        origin = f" (from {', '.join(map(repr, self.origin[:4]))})" if self.origin else ""
        return f"first wrong after rewrite {self.number} of {self.total}: {self.rule} at {self.at!r}{origin}"


@dataclass
class Bisection:
    """The outcome of :func:`bisect`."""

    pipeline: str
    runs: int
    guilty: Guilty | None = None
    ranges: dict[str, str] = field(default_factory=dict[str, str])

    def to_dict(self) -> dict[str, Any]:
        return plain_data({"schema": SCHEMA, **asdict(self)})

    def document(self) -> Document:
        if self.guilty is None:
            return [Text("equivalent: there is nothing to find", "green")]
        return [
            Text(str(self.guilty), "bold"),
            Text(f"  {self.guilty.problem}"),
            Text(f"  leave it out with --disable {self.guilty.rule}; found in {self.runs} runs of the pipeline"),
        ]


class _Search:
    def __init__(self, model: Model, pipeline: str, context: Callable[[], Context], check: Check) -> None:
        self.model, self.pipeline, self.context, self.check = model, pipeline, context, check
        self.runs = 0

    def attempt(self, limit: int | None) -> tuple[str | None, list[Application]]:
        """What is wrong after ``limit`` rewrites, and the rewrites."""
        ctx = self.context()
        ctx.fuel = Fuel(limit)
        ctx.log = []
        model = clone_model(self.model)
        self.runs += 1
        try:
            Pipeline(self.pipeline).run(model, ctx, [VerifyEach()])
            return self.check(model), ctx.log
        except PlanishError as error:
            return error.message, ctx.log

    def find(self, deadline: float) -> Guilty | None:
        problem, log = self.attempt(None)
        if problem is None:
            return None
        good, bad = 0, len(log)
        if self.attempt(0)[0] is not None:
            return Guilty(0, len(log), "", "", (), problem)
        while bad - good > 1 and time.monotonic() < deadline:
            middle = (good + bad) // 2
            found, _ = self.attempt(middle)
            if found is None:
                good = middle
            else:
                bad, problem = middle, found
        if bad - good > 1 or not bad:
            return None
        last = log[bad - 1]
        return Guilty(bad, len(log), last.rule, last.at, last.origin, problem)


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
    search = _Search(model, pipeline, context, outputs_check(reference, tolerance))
    return search.find(time.monotonic() + seconds), search.runs


def outputs_check(reference: Reference, tolerance: float) -> Check:
    """Compares outputs as written on all samples of the reference."""

    def check(model: Model) -> str | None:
        session = Session(model, EXACT)
        for i, sample in enumerate(reference.samples):
            for found in reference.compare(i, session.run(sample), tolerance=tolerance):
                if not found.equivalent:
                    return str(found)
        return None

    return check


def bisect(
    model: AnyModel,
    pipeline: str = "default",
    samples: Source | None = None,
    *,
    target: str | Target = "generic",
    tolerance: float = 0.0,
    seconds: float = 600.0,
    seed: int = 0,
) -> Bisection:
    """Finds the rewrite of ``pipeline`` that makes ``model`` wrong (or fail) on ``samples``.

    Raises ``UsageError`` where the runtime cannot run the original, since then nothing can be compared.
    """
    original, source = as_model(model)
    reference = make_reference(original, source)
    if isinstance(reference, str):
        raise UsageError(f"nothing to compare with: {reference}", where="bisect", help="bisecting runs the original")
    made = make_samples(samples, original, reference, seed=seed)
    chosen = get_target(target) if isinstance(target, str) else target

    def context() -> Context:
        return Context(target=chosen, samples=[dict(s) for s in made.items], executor=Executor(), seed=seed)

    guilty, runs = find_guilty(original, pipeline, context, reference, tolerance=tolerance, seconds=seconds)
    return Bisection(pipeline, runs, guilty, made.ranges)
