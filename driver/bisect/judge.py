"""What can be wrong with a transformed model, in one word and one sentence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ...backends.core import Sample
from ...backends.ort.session import EXACT, Session, SessionSettings
from ...ir.errors import BackendError, PlanishError
from ...ir.graph import Model
from ...ir.verify import verify
from ..reference import Reference
from ..validate import interface_problems

CRASH, INVALID, INTERFACE, REFUSED, DIFFERENT, SLOW = "crash", "invalid", "interface", "refused", "different", "slow"
KINDS = (CRASH, INVALID, INTERFACE, REFUSED, DIFFERENT, SLOW)
TIMED_RUNS = 7
"""Runs of each model that one comparison of times takes; the fastest counts."""
MAX_TIMED_SECONDS = 2.0


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


class Judge:
    """Compares models with one original on its samples."""

    def __init__(
        self,
        reference: Reference,
        *,
        tolerance: float = 0.0,
        slower: float | None = None,
        settings: SessionSettings = EXACT,
    ) -> None:
        """``slower``: a model that takes this many times as long as the original is at fault too. ``settings``: how
        the transformed model runs."""
        self.reference, self.tolerance, self.slower, self.settings = reference, tolerance, slower, settings

    def fault(self, model: Model) -> Fault | None:
        """The first thing that is wrong, or ``None``."""
        try:
            verify(model, types=True)
        except PlanishError as error:
            return Fault(INVALID, error.message, at=error.at or "")
        problems = interface_problems(self.reference.model, model)
        if problems:
            return Fault(INTERFACE, "; ".join(problems))
        try:
            session = Session(model, self.settings)
            return self._numbers(session) or self._time(session)
        except PlanishError as error:
            return Fault(REFUSED, error.message, at=error.origin or "")

    def _numbers(self, session: Session) -> Fault | None:
        for i, sample in enumerate(self.reference.samples):
            for check in self.reference.compare(i, session.run(sample), tolerance=self.tolerance):
                if not check.equivalent:
                    return Fault(DIFFERENT, str(check))
        return None

    def _time(self, session: Session) -> Fault | None:
        if self.slower is None:
            return None
        original = Session(self.reference.model, self.settings)
        sample = self.reference.samples[0]
        before, after = fastest([original, session], sample)
        if after <= self.slower * before:
            return None
        return Fault(SLOW, f"takes {after / before:.2f} times as long as the original ({before * 1e6:.0f} us)")


def fastest(sessions: Sequence[Session], sample: Sample) -> list[float]:
    """Seconds of the fastest run of each, in turns, so that a busy moment hits all alike."""
    best = [float("inf")] * len(sessions)
    start = time.perf_counter()
    for turn in range(TIMED_RUNS + 1):
        for i, session in enumerate(sessions):
            begin = time.thread_time()
            session.run(sample)
            if turn:  # the first run warms up
                best[i] = min(best[i], time.thread_time() - begin)
        if time.perf_counter() - start > MAX_TIMED_SECONDS:
            break
    return best


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
