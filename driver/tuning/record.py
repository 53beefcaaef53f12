"""What a search for the fastest way to run a model tried and chose: data, JSON and a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ...backends.measure import Comparison
from ...backends.ort.session import SessionSettings
from ...ir.errors import PlanishError
from ..document import Document, Table, Text, bytes_text, plain_data
from ..plans import Plan

FASTER, SAVES, OFFERED, SLOWER, EVEN, SAME, REFUSED, STOPPED, START, UNSURE, UNMEASURED, NO_SAVING = (
    "faster",
    "saves memory",
    "offered",
    "slower",
    "no difference",
    "same model",
    "refused",
    "given up early",
    "the start",
    "too few turns",
    "not measured",
    "no saving",
)


@dataclass
class Trial:
    """One candidate and how it fared."""

    stage: str
    """``pipeline``, ``passes``, ``rules``, ``session``, ``memory``, ``proof``; ``loading`` (its figures are those of
    making a session, against the original's under the runtime's defaults); or ``estimate``: by the table of costs."""
    label: str
    verdict: str
    because: str = ""
    """Of a refusal, or what an offer saves and costs."""
    ratio: float = 1.0
    """Its time over the time of what was best when it was tried; below 1 is faster."""
    low: float = 1.0
    high: float = 1.0
    confidence: float = 0.0
    turns: int = 0
    peak_bytes: int | None = None
    """Memory that loading and running takes at its peak, where it was looked at."""
    chosen: bool = False
    settings: dict[str, Any] | None = None
    """Of an offer: the session settings (``SessionSettings.from_dict``)."""

    def measured(self, c: Comparison) -> None:
        """Takes over the figures of a measurement."""
        self.ratio, self.low, self.high = c.ratio, c.low, c.high
        self.confidence, self.turns = c.confidence, c.turns

    @property
    def row(self) -> tuple[str, ...]:
        figures = f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})" if self.turns else ""
        if self.stage == "estimate" and self.verdict != REFUSED:
            figures = f"{self.ratio:.3f}"
        peak = bytes_text(self.peak_bytes) if self.peak_bytes is not None else ""
        verdict = "chosen" if self.chosen else self.verdict
        if self.because and not (self.chosen and self.verdict != REFUSED):
            verdict += f": {self.because}"
        return (self.stage, self.label, figures, str(self.turns or ""), peak, verdict)


@dataclass
class Tuning:
    """The outcome of a search."""

    pipeline: str
    """Chosen, expanded."""
    disabled: list[str] = field(default_factory=list[str])
    settings: SessionSettings = field(default_factory=SessionSettings)
    trials: list[Trial] = field(default_factory=list[Trial])
    confidence: float = 0.0
    """Every choice was measured to be faster than what it replaced with this confidence."""
    seconds: float = 0.0
    """Wall time of the search."""
    because: str = ""
    """Why there was no search, or why it ended early."""
    cached: bool = False

    @property
    def offers(self) -> list[Trial]:
        """Settings that take less memory for some more time: not chosen, but there to be."""
        return [t for t in self.trials if t.verdict == OFFERED]

    @property
    def plan(self) -> Plan:
        return Plan(self.pipeline, frozenset(self.disabled), self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that ``from_dict`` takes back."""
        plain = plain_data(asdict(self))
        plain["settings"] = self.settings.to_dict()
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Tuning:
        """Raises ``ValueError`` for what is not one."""
        try:
            known = dict(plain)
            known["settings"] = SessionSettings.from_dict(known["settings"])
            known["trials"] = [Trial(**t) for t in known["trials"]]
            return cls(**known)
        except (KeyError, TypeError, AttributeError, PlanishError) as error:
            raise ValueError(str(error)) from error

    def document(self) -> Document:
        """What is printed."""
        how = f"not tuned: {self.because}" if not self.trials and self.because else f"tuned: {self.plan}"
        parts: Document = [Text(how)]
        if self.cached:
            parts.append(Text("  from the cache (--no-cache measures again)"))
        elif self.because and self.trials:
            parts.append(Text(f"  {self.because}", "yellow"))
        if self.trials:
            columns = ("stage", "candidate", "ratio (interval)>", "turns>", "peak memory>", "verdict")
            title = "candidates, by the table of costs"
            if self.confidence:
                title = f"candidates, against the best so far ({self.confidence:.0%} confidence)"
            parts.append(Table(title, columns, [t.row for t in self.trials]))
        return parts
