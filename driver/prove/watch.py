"""Sees every rewrite of a run and has it checked."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence

import numpy as np

from ...backends.core import Sample
from ...ir.errors import NotEquivalentError
from ...ir.graph import Model
from ...passes.core import Context, Fuel, Numbers, Pass, pass_name
from ...passes.manager import Instrument, PassRecord
from ...passes.pipeline import Step, flatten
from .differential import Recorder, bits_differ, tested
from .exact import only_moves
from .judge import Effort, judge
from .ledger import CHECKED, DIFFERENT, UNCHECKED, Ledger, Verdict
from .opsets import OPSET
from .snapshot import Change, Snapshot

SECONDS = 120.0
"""CPU time for the checks of one run."""
NOT_ASKED = "not drawn; each-rewrite:all checks every one"


class Watch(Instrument):
    """An instrument that is also the context's witness: ``Context(witness=watch)`` and ``run(..., [watch])``."""

    def __init__(
        self,
        *,
        each: int | None = None,
        seconds: float = SECONDS,
        samples: Sequence[Sample] = (),
        run: bool = True,
        refuse: bool = False,
    ) -> None:
        """``each`` rewrites of each rule are checked (``None``: all), within ``seconds`` of CPU time.

        Which ones is drawn with the context's seed: any rewrite of a rule is as likely as another (see ``_drawn``).
        ``samples``: real inputs of the model, for the rewrites on which the exact check cannot decide. ``run``: whether
        these are run at all. ``refuse``: raise ``NotEquivalentError`` for a rewrite that changes what is computed.
        """
        self.each, self.seconds, self.samples, self.run, self.refuse = each, seconds, samples, run, refuse
        self.ledger = Ledger(f"each-rewrite:{'all' if each is None else each}")
        self.effort = Effort()
        self.snapshot: Snapshot | None = None
        self.recorder: Recorder | None = None
        self.promises: dict[str, Numbers] = {}
        self.fuel, self.spent = Fuel(), 0
        self.met: dict[str, int] = {}
        """Rewrites of each rule so far."""
        self.seed, self.chance = 0, dict[str, np.random.Generator]()
        self.working = False
        """Whether a pass is at work."""

    def __call__(self, label: str) -> None:
        """Whatever changed since the last call is the doing of ``label``."""
        if self.snapshot is None or (self.working and self.snapshot.between_opsets):
            return  # until all nodes have followed a new opset, the model is none
        start = time.process_time()
        change = self.snapshot.change(label)
        # The engine tells of each rewrite after it, passes in plain code before the next one.
        count = self.fuel.spent - self.spent
        self.spent = self.fuel.spent
        if change.changed or count:
            verdict = self._verdict(change)
            self.ledger.add(label, verdict, max(count, 1))
            if verdict.kind == DIFFERENT and self.refuse:
                raise NotEquivalentError(
                    f"this rewrite changes what is computed: {verdict.how}",
                    where=label,
                    origin=_origin(change),
                    help=f"the rule is at fault, leave it out with `--disable {label}` and report it",
                )
        self.ledger.seconds += time.process_time() - start

    def _verdict(self, change: Change) -> Verdict:
        if not self._drawn(change.label):
            return Verdict(UNCHECKED, NOT_ASKED)
        if self.ledger.seconds > self.seconds:
            return Verdict(UNCHECKED, f"the {self.seconds:g} s for checks were spent")
        try:
            return self._checked(change)
        except Exception as error:  # a fault of the check must not become one of the run
            return Verdict(UNCHECKED, f"the check itself failed: {type(error).__name__}: {error}")

    def _drawn(self, label: str) -> bool:
        """Whether a rewrite comes into the sample.

        A reservoir: the n-th of a rule replaces one of ``each`` with probability ``each / n``, so that those which are
        left in the end are a uniform sample, whatever their number. All that come in are checked, also those replaced.
        """
        n = self.met[label] = self.met.get(label, 0) + 1
        if self.each is None or n <= self.each:
            return True
        if label not in self.chance:
            self.chance[label] = np.random.default_rng([self.seed, zlib.crc32(label.encode())])
        return bool(self.chance[label].integers(n) < self.each)

    def _checked(self, change: Change) -> Verdict:
        verdict, made = judge(change, self.effort)
        if not self.run or verdict.how.startswith(OPSET):
            return verdict
        if verdict.kind == UNCHECKED and self._promise(change.label) is Numbers.APPROXIMATES:
            return Verdict(UNCHECKED, "its pass promises an approximation only, which the error budget judges")
        if verdict.kind == UNCHECKED:
            return tested(change, self.recorder, verdict.how)
        exact = self._promise(change.label) is Numbers.EXACT
        if verdict.kind == CHECKED and exact and made is not None and not only_moves(made):
            other = bits_differ(made)
            if other is not None:
                return Verdict(CHECKED, f"{verdict.how}; bits differ for {other}")
        return verdict

    def _promise(self, label: str) -> Numbers | None:
        return self.promises.get(label.partition("/")[0])

    def before(self, model: Model, step: Step, ctx: Context) -> None:
        self.snapshot, self.fuel, self.spent = Snapshot(model), ctx.fuel, ctx.fuel.spent
        self.working, self.seed = True, ctx.seed
        self.recorder = Recorder(model, self.samples) if self.run and self.samples else None
        self.promises = {pass_name(type(p)): type(p).numbers for p in flatten([step])}

    def after(self, model: Model, step: Step, record: PassRecord, ctx: Context) -> None:
        self.working = False
        self(pass_name(type(step)) if isinstance(step, Pass) else str(step))
        self.snapshot = self.recorder = None


def _origin(change: Change) -> str | None:
    names = [node.name for node in change.changed if change.before.state(node) is not None and node.name]
    return names[0] if names else None
