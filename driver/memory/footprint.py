"""What ``--memory`` found: the peaks of the original, of the result and of the session settings that were tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..document import Document, Table, Text, bytes_text
from ..measuring import Measured


@dataclass
class Candidate:
    """Settings, and what they took."""

    label: str
    peak_bytes: int | None
    arena_bytes: int | None = None
    verdict: str = "not tried, one that takes less was chosen"
    time: Measured = field(default_factory=Measured)
    """Against the settings that were chosen before."""


@dataclass
class Footprint:
    """Memory of the model at run time."""

    original_bytes: int | None = None
    """At the peak, of the original with the runtime's own settings."""
    before_bytes: int | None = None
    """Of the optimized model with the settings that were chosen for time."""
    after_bytes: int | None = None
    """With those that were chosen here."""
    arena_bytes: int | None = None
    """What the runtime's arena took for values, of the optimized model without the memory pattern."""
    ordered_bytes: int | None = None
    """The same where the runtime follows the file's order of the nodes, which is ours."""
    candidates: list[Candidate] = field(default_factory=list[Candidate])
    because: str = ""
    """Why nothing was measured."""

    def document(self) -> Document:
        """What is printed."""
        return list(self._document())

    def _document(self) -> Iterator[Text | Table]:
        if self.because:
            yield Text(f"memory at run time: not measured, {self.because}")
            return
        first, before, after = (bytes_text(n or 0) for n in (self.original_bytes, self.before_bytes, self.after_bytes))
        if self.before_bytes == self.after_bytes:
            said = f"{first} of the original, {after} now; no other settings take less without costing time"
        else:
            said = f"{first} of the original, {before} optimized, {after} with the settings chosen for memory"
        yield Text(f"memory at run time, with weights, at the peak: {said}")
        if self.order:
            yield Text(self.order)
        rows = [
            (c.label, _bytes(c.peak_bytes), _bytes(c.arena_bytes), _ratio(c.time), c.verdict) for c in self.candidates
        ]
        yield Table("settings of the session", ("settings", "peak>", "arena>", "time>", ""), rows)

    @property
    def order(self) -> str:
        """What the order of the nodes does at run time; empty where it is not known."""
        a, b = self.arena_bytes, self.ordered_bytes
        if not a or not b:
            return ""
        if a == b:
            return f"our order of the nodes changes nothing at run time: the runtime's arena takes {bytes_text(a)}"
        return f"where the runtime follows our order its arena takes {bytes_text(b)} for values, else {bytes_text(a)}"


def _bytes(size: int | None) -> str:
    return "?" if size is None else bytes_text(size)


def _ratio(time: Measured) -> str:
    return f"{time.ratio:.3f}" if time.done else ""


def plain_footprint(found: Footprint | None) -> dict[str, Any] | None:
    """For JSON."""
    if found is None:
        return None
    return {
        "original_bytes": found.original_bytes,
        "before_bytes": found.before_bytes,
        "after_bytes": found.after_bytes,
        "arena_bytes": found.arena_bytes,
        "order": found.order,
        "because": found.because,
        "candidates": [
            {
                "settings": c.label,
                "peak_bytes": c.peak_bytes,
                "arena_bytes": c.arena_bytes,
                "verdict": c.verdict,
                "time": c.time.ratio,
            }
            for c in found.candidates
        ],
    }
