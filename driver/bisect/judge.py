"""What can be wrong with a transformed model, in one word and one sentence."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...backends.core import Sample
from ...backends.ort.session import Session, SessionSettings
from ...ir.errors import BackendError, PlanishError
from ...ir.graph import Model
from ...ir.verify import verify
from ..checks.reference import Reference
from ..checks.validate import interface_problems

CRASH, INVALID, INTERFACE, REFUSED, DIFFERENT, SLOW = "crash", "invalid", "interface", "refused", "different", "slow"
KINDS = (CRASH, INVALID, INTERFACE, REFUSED, DIFFERENT, SLOW)
TIMED = SessionSettings("all", threads=1)
"""How models run that are timed: as users run them, on one thread."""
TIMED_RUNS = 7
"""Runs of each model that one comparison of times takes at least; the fastest counts."""
MIN_TIMED_SECONDS, MAX_TIMED_SECONDS = 0.1, 2.0
"""Fast models run more often, slow ones less."""
Race = Callable[[Model, Model, Sample], "tuple[float, float]"]
"""Seconds that the original and the transformed model take on a sample."""
SLOWER = "slower"
"""In the header of a reproducer of a slowdown: how many times the original's time is too much."""


@dataclass(frozen=True)
class Fault:
    """What is wrong."""

    kind: str
    """One of ``KINDS``."""
    message: str
    where: str = ""
    """For crashes: the rule or pass that failed."""
    at: str = ""
    """For crashes: the node at which it failed."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def cause_of(message: str) -> str:
    """What two errors of the same cause have in common: the first line without names and numbers."""
    return re.sub(r"%\S+|'[^']*'|\d+", "_", (message.splitlines() or [""])[0])[:60]


class Judge:
    """Compares models with one original on its samples."""

    def __init__(
        self,
        reference: Reference,
        *,
        tolerance: float = 0.0,
        slower: float | None = None,
        race: Race | None = None,
    ) -> None:
        """``slower``: a model that takes this many times as long as the original is at fault too, as ``race`` times
        them (by default the fastest of several runs in turns)."""
        self.reference, self.tolerance, self.slower, self.race = reference, tolerance, slower, race
        self.ratio = 0.0
        """What the last model that was judged took of the original's time; 0 where it was not timed."""
        self._original: Session | None = None

    def fault(self, model: Model) -> Fault | None:
        """The first thing that is wrong, or ``None``."""
        self.ratio = 0.0
        try:
            verify(model, types=True)
        except PlanishError as error:
            return Fault(INVALID, error.message, at=error.at or "")
        problems = interface_problems(self.reference.model, model)
        if problems:
            return Fault(INTERFACE, "; ".join(problems))
        try:
            return self._numbers(Session(model)) or self.slowness(model)
        except PlanishError as error:
            return Fault(REFUSED, error.message, at=error.origin or "")

    def _numbers(self, session: Session) -> Fault | None:
        for i, sample in enumerate(self.reference.samples):
            for check in self.reference.compare(i, session.run(sample), tolerance=self.tolerance):
                if not check.equivalent:
                    return Fault(DIFFERENT, str(check))
        return None

    def slowness(self, model: Model) -> Fault | None:
        """Whether it takes too long, where that counts. Raises ``BackendError`` where it does not run."""
        if self.slower is None:
            return None
        before, after = (self.race or self._fastest)(self.reference.model, model, self.reference.samples[0])
        self.ratio = after / before
        if self.ratio <= self.slower:
            return None
        return Fault(SLOW, f"takes {self.ratio:.2f} times as long as the original ({before * 1e6:.0f} us)")

    def _fastest(self, original: Model, model: Model, sample: Sample) -> tuple[float, float]:
        self._original = self._original or Session(original, TIMED)
        return fastest(self._original, Session(model, TIMED), sample)


def fastest(first: Session, second: Session, sample: Sample) -> tuple[float, float]:
    """Seconds of the fastest run of each, in turns, so that a busy moment hits all alike."""
    best = [float("inf")] * 2
    start, turn = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < MAX_TIMED_SECONDS or turn < 2:
        if turn > TIMED_RUNS and passed > MIN_TIMED_SECONDS:
            break
        for i, session in enumerate((first, second)):
            begin = time.thread_time()
            session.run(sample)
            if turn:  # the first run warms up
                best[i] = min(best[i], time.thread_time() - begin)
        turn += 1
    return best[0], best[1]


def reference_for(model: Model, samples: Sequence[Sample]) -> Reference | None:
    """A reference on those samples that the model takes; ``None`` where the runtime refuses it or all of them.

    The model is one that has run, or a part of one.
    """
    try:
        reference = Reference(model, optimizer_noise=False, trusted=True)
    except PlanishError:
        return None
    for sample in samples:
        reference.samples.append(sample)
        try:
            reference.outputs(len(reference.samples) - 1)
        except BackendError:
            reference.samples.pop()
    return reference if reference.samples else None
