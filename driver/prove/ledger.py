"""What was shown of the rewrites of a run, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..document import Document, Table, Text

PROVED, CHECKED, TESTED, UNCHECKED, DIFFERENT = "proved", "exactly checked", "tested", "unchecked", "different"
KINDS = (PROVED, CHECKED, TESTED, UNCHECKED, DIFFERENT)


@dataclass(frozen=True)
class Verdict:
    """What is known of one rewrite."""

    kind: str
    """One of ``KINDS``."""
    how: str = ""
    """By what it was shown, or why not (lower case)."""


@dataclass
class Ledger:
    """Rewrites by rule and by how much is known of each."""

    asked: str = ""
    """The level: ``each-rewrite:all``, or how many of each rule."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict[str, "dict[str, int]"])
    """Numbers of rewrites by rule (``pass/Rule``) and kind."""
    reasons: dict[str, dict[str, int]] = field(default_factory=dict[str, "dict[str, int]"])
    """By rule: how, or why not, with numbers of rewrites."""
    seconds: float = 0.0
    """CPU time of the checks."""

    def add(self, rule: str, verdict: Verdict, count: int = 1) -> None:
        kinds = self.counts.setdefault(rule, {})
        kinds[verdict.kind] = kinds.get(verdict.kind, 0) + count
        reasons = self.reasons.setdefault(rule, {})
        text = f"{verdict.kind}: {verdict.how}" if verdict.how else verdict.kind
        reasons[text] = reasons.get(text, 0) + count

    def merge(self, other: Ledger) -> None:
        """Takes in what another run found."""
        for mine, theirs in ((self.counts, other.counts), (self.reasons, other.reasons)):
            for rule, numbers in theirs.items():
                row = mine.setdefault(rule, {})
                for key, n in numbers.items():
                    row[key] = row.get(key, 0) + n
        self.seconds += other.seconds

    def total(self, kind: str) -> int:
        return sum(kinds.get(kind, 0) for kinds in self.counts.values())

    @property
    def sentence(self) -> str:
        """The totals in words."""
        whole = sum(map(self.total, KINDS))
        parts = [f"{self.total(kind)} {kind}" for kind in KINDS if self.total(kind) or kind in KINDS[:4]]
        return f"{whole} rewrites: {', '.join(parts)}"

    def by_pass(self) -> dict[str, dict[str, int]]:
        """The counts with the rules of one pass taken together."""
        found: dict[str, dict[str, int]] = {}
        for rule, kinds in self.counts.items():
            row = found.setdefault(rule.partition("/")[0], dict.fromkeys(KINDS, 0))
            for kind, n in kinds.items():
                row[kind] += n
        return found

    def to_dict(self) -> dict[str, Any]:
        totals = {kind: self.total(kind) for kind in KINDS}
        return {
            "asked": self.asked,
            "totals": totals,
            "rules": self.counts,
            "reasons": self.reasons,
            "seconds": self.seconds,
        }

    def document(self) -> Document:
        return list(self._parts())

    def _parts(self) -> Iterator[Text | Table]:
        if not self.counts:
            return
        yield Text(f"{self.sentence} ({self.asked}, {self.seconds:.1f} s)")
        columns = ("pass", *(f"{kind}>" for kind in KINDS))
        rows = [(name, *(str(row[kind] or "") for kind in KINDS)) for name, row in self.by_pass().items()]
        yield Table("rewrites by what is known of them", columns, rows)
        for rule, reasons in self.reasons.items():
            for text, n in reasons.items():
                if text.startswith((UNCHECKED, DIFFERENT)):
                    yield Text(f"  {rule} ({n}): {text}", "yellow")
