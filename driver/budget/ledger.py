"""The ledger: what every pass that may change numbers spent of the budget and what it gained, as data and document."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..document import Document, Table, Text, bytes_text, count_text
from ..factor import PREFIX, Rank, ranks_table
from ..select import Front
from .judge import OutputSpending

ROUNDING, LOSSY = "rounding", "lossy"
_SHOWN = 6
"""Units left out that are printed; JSON has all."""


@dataclass
class Entry:
    """One pass, or a part of the units of the only lossy one."""

    name: str
    kind: str
    """``rounding``: promises to reassociate only; ``lossy``."""
    spent: float
    """Share of the budget, measured: for rounding what outputs move further behind the pass, for lossy units what they
    cost alone, with nothing else that is lossy."""
    offered: int = 0
    taken: int = 0
    saved_bytes: int = 0
    saved_flops: int = 0


@dataclass
class Ledger:
    """Everything that was spent."""

    budget: str
    """In words."""
    metric: str
    max_error: float
    entries: list[Entry] = field(default_factory=list[Entry])
    spent: float = 0.0
    """Share of the budget that the result spends, measured on all samples."""
    outputs: list[OutputSpending] = field(default_factory=list[OutputSpending])
    """With a named metric: every judged output of the result."""
    baseline: float | None = None
    """With a task's metric: the original's score."""
    score: float | None = None
    """And the result's."""
    noise: float = 0.0
    """Share that rounding noise in the original spends by itself."""
    taken: list[str] = field(default_factory=list[str])
    """Keys of the lossy units in the result."""
    left: dict[str, str] = field(default_factory=dict[str, str])
    """Keys of the others, and why."""
    dropped: list[str] = field(default_factory=list[str])
    """Passes that only round and were left out all the same."""
    steps: list[str] = field(default_factory=list[str])
    """What the retreat tried."""
    evaluations: int = 0
    """Selections that were measured."""
    max_evaluations: int = 0
    """How many there might have been."""
    samples: int = 0
    held: int = 0
    """Of these samples so many were not used to select by: 0 where there were too few, or what was selected by the
    others did not fit with them."""
    warnings: list[str] = field(default_factory=list[str])
    front: Front | None = None
    """Of error, time and size, where times were measured."""
    because: str = ""
    """Why nothing was taken, where nothing paid."""
    ranks: list[Rank] = field(default_factory=list[Rank])
    """Layers for which ranks were offered."""

    @property
    def estimate(self) -> float:
        """The sum of what the entries spent alone: what errors that add up would spend together."""
        return sum(e.spent for e in self.entries)

    def document(self) -> Document:
        """What is printed."""
        return list(_parts(self))


def _parts(ledger: Ledger) -> Iterator[Text | Table]:
    yield Text(f"error budget: {ledger.budget}; {percent(ledger.spent)} spent on {_samples(ledger)}", "green")
    if ledger.entries:
        columns = ("pass", "kind", "units>", "saves>", "of budget>")
        yield Table("", columns, [_row(e) for e in ledger.entries])
    yield Text(f"  sum {percent(ledger.estimate)}, measured together {percent(ledger.spent)}{_worst(ledger)}")
    yield Text(
        f"  {ledger.evaluations} selections measured, at most {ledger.max_evaluations}; "
        f"rounding noise of the original: {percent(ledger.noise)}"
    )
    for step in ledger.steps:
        yield Text(f"  {'selection' if ledger.front is not None else 'retreat'}: {step}", "dim")
    if ledger.because:
        yield Text(f"  nothing taken: {ledger.because}", "yellow")
    if ledger.front is not None:
        yield from ledger.front.document()
    if ledger.ranks:
        yield ranks_table(ledger.ranks)
    for name in ledger.dropped:
        yield Text(f"  left out: {name}, although it only rounds", "yellow")
    left = {key: because for key, because in ledger.left.items() if not (ledger.ranks and key.startswith(PREFIX))}
    for key, because in list(left.items())[:_SHOWN]:
        yield Text(f"  left out: {key}: {because}", "yellow")
    if len(left) > _SHOWN:
        yield Text(f"  left out: {len(left) - _SHOWN} more", "yellow")
    for warning in ledger.warnings:
        yield Text(f"  warning: {warning}", "yellow")


def _samples(ledger: Ledger) -> str:
    held = f", {ledger.held} of them not used to select by" if ledger.held else ""
    return f"{ledger.samples} samples{held}"


def _worst(ledger: Ledger) -> str:
    if ledger.score is not None and ledger.baseline is not None:
        return f" (score {ledger.baseline:.6g} before, {ledger.score:.6g} now)"
    worst = max(ledger.outputs, key=lambda o: o.spent, default=None)
    return f" (output {worst.output}: {worst.error:.3g}, {worst.where})" if worst is not None else ""


def _row(e: Entry) -> tuple[str, ...]:
    saves = [bytes_text(e.saved_bytes)] if e.saved_bytes else []
    saves += [f"{count_text(e.saved_flops)} operations"] if e.saved_flops > e.taken else []  # 1 each: unknown
    units = f"{e.taken} of {e.offered}" if e.kind == LOSSY else ""
    name = e.name if len(e.name) <= 60 or "," not in e.name else f"({e.name.count(',') + 1} passes together)"
    return (name, e.kind, units, ", ".join(saves), percent(e.spent))


def percent(share: float) -> str:
    """``12.3 %``."""
    return f"{share * 100:.3g} %" if math.isfinite(share) else "more than all"
