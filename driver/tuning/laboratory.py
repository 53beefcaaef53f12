"""What the search needs done: models built, checked and measured. ``job.py`` does it, tests make it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ...backends.measure import Comparison
from ..plans import Plan


@dataclass(frozen=True)
class Built:
    """A model made by one pipeline."""

    key: str
    """Hash of the model: equal keys, equal models."""
    problem: str = ""
    """Why it cannot win: a pass failed, or the file grew."""
    fired: tuple[tuple[str, int], ...] = ()
    """Fusions that changed something: ``pass/Rule`` and how often."""
    ops: frozenset[str] = frozenset()
    handle: object = None
    """The lab's own."""


class Lab(Protocol):
    """Builds, checks and measures."""

    def build(self, pipeline: str, disabled: frozenset[str]) -> Built:
        """The model of a pipeline."""
        ...

    def problem(self, built: Built, plan: Plan) -> str:
        """Why the model cannot be timed with these settings: it does not load, or its outputs differ. Empty: it can."""
        ...

    def run_seconds(self) -> float:
        """The shortest run that ``problem`` saw; 0 before the first."""
        ...

    def refutation(self, built: Built, plan: Plan) -> str:
        """Why the model is not equivalent to the original, on all samples and with these settings. Empty if it is."""
        ...

    def compare(self, plans: Sequence[tuple[Built, Plan]], seconds: float) -> list[Comparison]:
        """Each further plan with the first, in turns, in fresh sessions."""
        ...

    def loading(self, plans: Sequence[tuple[Built, Plan]], seconds: float) -> list[Comparison]:
        """Making a session of each plan, in turns with one of the original under the runtime's defaults."""
        ...

    def peak_bytes(self, built: Built, plan: Plan) -> int | None:
        """Memory at its peak."""
        ...
