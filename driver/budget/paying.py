"""Measuring selections of lossy units: what they spend, and what they gain in time on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...backends.measure import Run, compare
from ...backends.ort.session import Session, SessionSettings
from ...ir.errors import BackendError
from ...passes.choices import Choices, Unit
from ..inputs.samples import Samples
from ..measuring import MEASURING
from ..select import Goal, Timing
from ..sizes import Runnable
from .holdout import few
from .judge import OPTIMIZED, Judge, OutputJudge, Spending, TaskJudge, spending_of
from .limits import Budget
from .stages import Stages

if TYPE_CHECKING:
    from ...ir.graph import Model
    from ..unit_times import TimesFile

SECONDS = 1.5
"""For one timing: both models in turns."""
FEW = 8
"""Samples by which many units are weighed."""
TURNS = 7
"""That one timing takes at least: the interval is all of them then, with 98 % confidence. Many selections are timed,
the fastest of them again."""


class Stopwatch(Protocol):
    """Times models as another backend than ONNX Runtime's sessions runs them on this machine."""

    @property
    def name(self) -> str:
        """The backend with its version and whatever else decides its times: those of others are kept apart."""
        ...

    def timing(self, base: Model, candidate: Model) -> Timing | None:
        """The candidate's time over that of ``base``, the model without lossy units, which is the same object every
        time; ``None`` where nothing can be measured. Raises ``BackendError`` where the candidate does not run."""
        ...


@dataclass(frozen=True)
class Paying:
    """How gains are judged."""

    goal: Goal | None = None
    timed: bool = False
    """Whether this machine stands for the target and times may be measured."""
    settings: SessionSettings = MEASURING
    progress: Callable[[str, int, int], None] | None = None
    times: TimesFile | None = None
    """Where times of units are kept between runs, if they are."""
    stopwatch: Stopwatch | None = None
    """Who measures; without one sessions of ONNX Runtime are timed."""


class PayingLab:
    """See ``select.Lab``."""

    def __init__(
        self,
        stages: Stages,
        units: Sequence[Unit],
        judge: Judge,
        samples: Samples,
        runnable: Callable[[Model, str], Runnable],
        paying: Paying,
        base_spent: float,
    ) -> None:
        self.stages, self.keys, self.judge = stages, {u.key for u in units}, judge
        self.samples, self.runnable = samples, runnable
        self.base_spent, self.timed, self.settings = base_spent, paying.timed, paying.settings
        self.fine: Judge = OutputJudge(Budget(1.0, "rms"), judge.reference) if isinstance(judge, TaskJudge) else judge
        self._few: Judge | None = None
        """By few samples, chosen when some selection was measured by all."""
        self.least_error = paying.goal is not None and paying.goal.minimize == "error"
        self.stopwatch = paying.stopwatch
        self.levels: Sequence[str] = (OPTIMIZED,)
        """Optimization levels of the runtime at which errors are judged."""
        self._base: Session | None = None
        self._base_model: Model | None = None
        self._built: tuple[frozenset[str], Model, Runnable] | None = None
        self._judged: dict[tuple[frozenset[str], Judge, tuple[str, ...]], Spending] = {}
        """Kept from one selection to the next: limits change, what a model spends does not."""

    def spent(self, taken: frozenset[str]) -> float:
        """Share of the budget, with the model as users run it."""
        return self.base_spent if not taken else self._spending(taken, self.judge, self.levels).spent

    def weight(self, taken: frozenset[str]) -> float:
        """What outputs are off by as a whole, over all samples, where the least error is wanted; what they are off by
        where the budget is in a task's metric, which few units do not move."""
        levels = self.levels if self.fine is self.judge else (OPTIMIZED,)
        found = self._spending(taken, self.fine, levels)
        if self.least_error:
            return found.typical
        return max(found.spent - (self.base_spent if self.fine is self.judge else 0.0), 0.0)

    def rough(self, taken: frozenset[str]) -> float:
        """``weight``, where the least error is wanted, by few of the samples."""
        if not self.least_error:
            return self.weight(taken)
        if self._few is None:
            measured = next((s for (units, *_), s in self._judged.items() if units and s.each), None)
            reference = few(self.fine.reference, FEW, measured.each if measured is not None else ())
            self._few = OutputJudge(self.fine.budget, reference)
        return self._spending(taken, self._few, (OPTIMIZED,)).typical

    def _spending(self, taken: frozenset[str], judge: Judge, levels: Sequence[str]) -> Spending:
        key = taken, judge, tuple(levels)
        if key not in self._judged:
            self._judged[key] = spending_of(judge, self._source(taken), levels)
        return self._judged[key]

    def timing(self, taken: frozenset[str]) -> Timing | None:
        """In turns with the model without lossy units, on the ordinary samples."""
        if not self.timed:
            return None
        try:
            return self._timed_by(self.stopwatch, taken) if self.stopwatch is not None else self._timed(taken)
        except BackendError:
            return Timing(2.0, 2.0, 2.0, 1e6)  # what does not run is no gain; ``spent`` says why

    def _timed_by(self, stopwatch: Stopwatch, taken: frozenset[str]) -> Timing | None:
        if self._base_model is None:
            self._base_model = self.stages.build(Choices(lossless=True))[0]
        self._source(taken)
        assert self._built is not None
        return stopwatch.timing(self._base_model, self._built[1])

    def _timed(self, taken: frozenset[str]) -> Timing:
        """By sessions."""
        if self._base is None:
            base = self.stages.build(Choices(lossless=True))[0]
            self._base = Session(self.runnable(base, "candidate"), self.settings)
        ours = Session(self._source(taken), self.settings)
        items = self.samples.ordinary.items

        def runner(session: Session) -> Run:
            return lambda turn: session.run(items[turn % len(items)])

        clock = self.settings.threads == 1
        runs = [runner(self._base), runner(ours)]
        found = compare(runs, seconds=SECONDS, cpu_clock=clock, least_turns=TURNS)[0]
        return Timing(found.ratio, found.low, found.high, found.times[0].time_us * 1e3)

    def _source(self, taken: frozenset[str]) -> Runnable:
        if self._built is None or self._built[0] != taken:
            model = self.stages.build(Choices(self.keys - taken))[0]
            self._built = taken, model, self.runnable(model, "candidate")
        return self._built[2]
