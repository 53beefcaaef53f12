"""Sees every rewrite of a run and has it checked."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...ir.graph import Model
from ...passes.core import Context, Pass, pass_name
from ...passes.manager import Instrument, PassRecord
from ...passes.pipeline import Step
from .judge import Effort, judge
from .ledger import UNCHECKED, Ledger, Verdict
from .snapshot import Change, Snapshot

Judge = Callable[[Change], Verdict]


class Watch(Instrument):
    """An instrument that is also the context's witness: ``Context(witness=watch)`` and ``run(..., [watch])``.

    ``each`` rewrites of each rule are checked (``None``: all), the first ones, within ``seconds`` of CPU time in all.
    """

    def __init__(self, *, each: int | None = None, seconds: float = 60.0, check: Judge | None = None) -> None:
        """``check`` gives the verdict; by default that of the exact check."""
        self.each, self.seconds = each, seconds
        self.check: Judge = check or (lambda change: judge(change, Effort())[0])
        self.ledger = Ledger(f"each-rewrite:{'all' if each is None else each}")
        self.snapshot: Snapshot | None = None

    def __call__(self, label: str) -> None:
        """Whatever changed since the last call is the doing of ``label``."""
        if self.snapshot is None:
            return
        start = time.process_time()
        change = self.snapshot.change(label)
        if (
            change.changed or "/" in label
        ):  # the engine tells of each rewrite, passes in plain code of any that may come
            self.ledger.add(label, self._verdict(change))
        self.ledger.seconds += time.process_time() - start

    def _verdict(self, change: Change) -> Verdict:
        seen = sum(self.ledger.counts.get(change.label, {}).values())
        if self.each is not None and seen >= self.each:
            return Verdict(UNCHECKED, "not among those that were asked for")
        if self.ledger.seconds > self.seconds:
            return Verdict(UNCHECKED, f"the {self.seconds:g} s for checks were spent")
        return self.check(change)

    def before(self, model: Model, step: Step, ctx: Context) -> None:
        self.snapshot = Snapshot(model)

    def after(self, model: Model, step: Step, record: PassRecord, ctx: Context) -> None:
        self(pass_name(type(step)) if isinstance(step, Pass) else str(step))
        self.snapshot = None
