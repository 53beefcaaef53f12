"""What share of a budget a model spends: its outputs, or its task's score, beside the original's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ...backends.core import Outputs, Sample
from ...backends.ort.session import EXACT, Session
from ...ir.errors import BudgetError, PlanishError
from ..checks.compare import leaves
from ..sizes import Runnable
from .holdout import Measured
from .limits import Budget
from .metrics import METRICS, output_error, whole_error

Run = Callable[[Sample], Outputs]
REPEATS = 3
"""How often a task's metric is asked about the original."""
REMEMBERED_BYTES = 256 << 20
"""Of the original's outputs, between these calls."""
WRITTEN, OPTIMIZED = EXACT.optimization_level, "all"
"""Optimization levels of the runtime: the model as it is written, and as users run it."""


@dataclass
class OutputSpending:
    """How far one output is off, over all samples."""

    output: str
    error: float
    """In the metric's unit."""
    spent: float
    """Share of the output's limit."""
    where: str
    """Sample and slice of the largest error."""


@dataclass
class Spending:
    """What one model costs."""

    spent: float
    """Share of the budget: above 1 is over it."""
    outputs: list[OutputSpending] = field(default_factory=list[OutputSpending])
    score: float | None = None
    """Of a task's metric."""
    problem: str = ""
    """Why nothing could be measured; ``spent`` is infinite then."""
    typical: float = 0.0
    """Root mean square over samples of how far outputs are off as a whole: the worst of few samples is chance, the
    worst slice may hold nothing. In no unit but its own."""
    each: list[float] = field(default_factory=list[float])
    """The same of every sample."""

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        if self.score is not None:
            return f"score {self.score:.6g}"
        worst = max(self.outputs, key=lambda o: o.spent, default=None)
        return (
            f"output {worst.output}: {worst.error:.3g} at {worst.where}" if worst is not None else "nothing is judged"
        )


class Judge(Protocol):
    """Measures runs against the original's."""

    budget: Budget
    reference: Measured

    def spending(self, run: Run) -> Spending: ...
    @property
    def baseline(self) -> float | None: ...


def make_judge(budget: Budget, reference: Measured) -> Judge:
    """Raises ``BudgetError`` where the task's metric fails on the original."""
    return OutputJudge(budget, reference) if isinstance(budget.metric, str) else TaskJudge(budget, reference)


def spending_of(judge: Judge, source: Runnable, levels: Sequence[str]) -> Spending:
    """The largest of what the model spends at several optimization levels of the runtime."""
    found = Spending(0.0)
    for level in levels:
        try:
            session = Session(source, EXACT.with_level(level))
            here = judge.spending(session.run)
        except BudgetError:
            raise
        except PlanishError as error:
            return Spending(math.inf, problem=f"it fails where the original runs: {error.message}", typical=math.inf)
        if here.spent > found.spent or (found.score is None and not found.outputs):
            found = here
    return found


class OutputJudge:
    """By a named metric."""

    baseline: float | None = None

    def __init__(self, budget: Budget, reference: Measured) -> None:
        self.budget, self.reference = budget, reference
        assert isinstance(budget.metric, str)
        self.metric = budget.metric
        labels = [label for label, _ in leaves(reference.names, reference.outputs(0))]
        unknown = [name for name in budget.outputs if name not in {*reference.names, *labels}]
        if unknown:
            raise BudgetError(
                f"the budget limits output {unknown[0]!r}, which the model has not",
                where="budget",
                help=f"its outputs: {', '.join(reference.names)}",
            )

    def spending(self, run: Run) -> Spending:
        """Raises ``BackendError``."""
        found: dict[str, OutputSpending] = {}
        each: list[float] = []
        for i, sample in enumerate(self.reference.samples):
            outputs = run(sample)
            each.append(self._whole(i, outputs))
            for one in self._sample(i, outputs):
                before = found.get(one.output)
                if before is None or one.spent > before.spent:
                    found[one.output] = one
        typical = float(np.sqrt(np.mean(np.square(each)))) if each else 0.0
        return Spending(
            max((o.spent for o in found.values()), default=0.0), list(found.values()), typical=typical, each=each
        )

    def _whole(self, i: int, outputs: Outputs) -> float:
        """Over all outputs that are limited."""
        expected, actual = (
            leaves(self.reference.names, self.reference.outputs(i)),
            leaves(self.reference.names, outputs),
        )
        found = dict(actual)
        limited = [(label, array) for label, array in expected if not math.isinf(self.budget.limit(label))]
        return math.hypot(*(whole_error(array, found.get(label)) for label, array in limited))

    def _sample(self, i: int, outputs: Outputs) -> list[OutputSpending]:
        expected = leaves(self.reference.names, self.reference.outputs(i))
        actual = dict(leaves(self.reference.names, outputs))
        found: list[OutputSpending] = []
        for label, array in expected:
            limit = self.budget.limit(label)
            if math.isinf(limit):
                continue
            if label not in actual:
                found.append(OutputSpending(label, math.inf, math.inf, f"sample {i}: missing"))
                continue
            error, where = output_error(
                self.metric, array, actual[label], resolution=self.reference.resolutions.get(label, 0.0)
            )
            found.append(OutputSpending(label, error, self._share(error, limit), f"sample {i}, {where or 'equal'}"))
        return found

    def _share(self, error: float, limit: float) -> float:
        amplitude = METRICS[self.metric].amplitude
        return _ratio(amplitude(error), amplitude(limit))


class TaskJudge:
    """By a callable of the user's."""

    def __init__(self, budget: Budget, reference: Measured) -> None:
        self.budget, self.reference = budget, reference
        run = remembered(reference.run)  # whether the model is random was asked before
        self.scores = [self._score(run) for _ in range(REPEATS)]
        odd = next((s for s in self.scores if isinstance(s, str)), None)
        if odd is not None:
            raise BudgetError(
                f"metric {budget.name} {odd} for the original", where="budget", help="the metric is at fault"
            )
        numbers = [float(s) for s in self.scores]
        self.baseline: float | None = float(np.mean(numbers))
        self.spread = max(numbers) - min(numbers)
        """How far calls on the same outputs differ."""
        if self.spread > budget.max_error / 2:
            raise BudgetError(
                f"metric {budget.name} gave {min(numbers):g} to {max(numbers):g} for the original in {REPEATS} calls: "
                f"a change of {budget.max_error:g} cannot be told from that",
                where="budget",
                help="give it a fixed seed, or allow more",
            )

    def spending(self, run: Run) -> Spending:
        """A score that is no number, or an error of the metric, spends everything."""
        score = self._score(run)
        if isinstance(score, str):
            return Spending(math.inf, problem=f"metric {self.budget.name} {score}", typical=math.inf)
        assert self.baseline is not None
        change = self.baseline - score if self.budget.higher_is_better else score - self.baseline
        # What calls on equal outputs differ by counts as lost, in favour of the original.
        spent = _ratio(max(change + self.spread, 0.0), self.budget.max_error)
        return Spending(spent, score=score, typical=spent)

    def _score(self, run: Run) -> float | str:
        """The metric's number, or what is wrong with it. Raises ``BackendError`` where the model does not run."""
        reference, metric = self.reference, self.budget.metric
        assert callable(metric)
        if self.budget.runs:
            arguments: tuple[Any, ...] = (run,)
        else:
            outputs = [dict(zip(reference.names, run(sample), strict=True)) for sample in reference.samples]
            arguments = (outputs, reference.samples if self.budget.labels is None else self.budget.labels)
        try:
            score = float(metric(*arguments))
        except PlanishError:
            raise
        except Exception as error:  # the user's code
            return f"raised {type(error).__name__}: {error}"
        return score if math.isfinite(score) else f"is {score}"


def remembered(run: Run) -> Run:
    """``run``, called once for equal samples, as far as their outputs take little memory."""
    known: dict[bytes, Outputs] = {}
    room = REMEMBERED_BYTES

    def found(sample: Sample) -> Outputs:
        nonlocal room
        digest = hashlib.blake2b(digest_size=16)
        for name, array in sorted(sample.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes() if array.dtype != object else repr(array.tolist()).encode())
        key = digest.digest()
        if key not in known:
            outputs = run(sample)
            size = sum(getattr(array, "nbytes", REMEMBERED_BYTES) for array in outputs)
            if size > room:
                return outputs
            room -= size
            known[key] = outputs
        return known[key]

    return found


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole > 0 else math.inf
