"""The search for the fastest plan: stages of candidates against the best so far, measured in turns.

A candidate replaces the best only where the whole confidence interval of the ratio lies below 1 by a margin, and only
where its outputs are found equivalent: on one sample before it is timed, in full before it may win. Each stage halves
its field once: all candidates share the first part of the stage's time, the better half of them the rest. Since the
best of many noisy candidates looks better than it is, the winner must beat the plan that would be taken without a
search once more, in fresh sessions; otherwise that one stays. What runs and measures is given (``Lab``), so that tests
need no clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ...backends.measure import CONFIDENCE
from ...backends.ort.choices import combined, memory_choices, speed_choices
from ...backends.ort.session import SessionSettings
from ..plans import Plan, drops_of_groups, pass_names, short, without_passes
from .laboratory import Built, Lab
from .record import (
    EVEN,
    FASTER,
    NO_SAVING,
    OFFERED,
    REFUSED,
    SAME,
    SAVES,
    SLOWER,
    START,
    STOPPED,
    UNMEASURED,
    UNSURE,
    Trial,
    Tuning,
)

MARGIN = 0.01
"""A candidate must be faster by at least this fraction."""
SAVING = 0.1
"""Memory settings that cost no time are taken for at least this fraction less memory."""
FIELD = 12
"""Candidates of one stage."""
UNTIL = {"pipeline": 0.25, "passes": 0.4, "rules": 0.5, "session": 0.75, "memory": 1.0}
"""When a stage must end, as a fraction of all time but the last two stages'; what one leaves goes to the next."""
TURNS = 18
"""Runs of each session that a measurement takes at least, warm-up included."""
PATIENCE = 2.0
"""How many times the least a measurement of long runs may take."""
QUICK = 0.05
"""The start is validated in full right away where its first check took at most this fraction of all time; else only if
it is chosen, by whoever runs the search."""
OFFER = 0.1
"""Memory settings that cost at most this fraction of time are offered, not chosen."""
PROOF = 0.2
"""Of all time, kept for the proof."""
LOADING = 0.1
"""Of all time, kept for making sessions."""
LOADING_MARGIN = 0.05
"""Making a session must not take longer than the original's by more than this fraction."""
SCOUT = 0.3
"""Of a stage's time, for the whole field; the better half gets the rest."""

Progress = Callable[[str, int, int], None]


@dataclass
class _Entry:
    plan: Plan
    built: Built
    trial: Trial


class Search:
    """One search."""

    def __init__(
        self,
        lab: Lab,
        start: Plan,
        *,
        seconds: float,
        field: int = FIELD,
        threads: bool = False,
        progress: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``start`` is what would be taken without a search; ``seconds`` of wall time include building and checking;
        ``field`` is how many candidates may be in memory at a time; ``threads``: fewer threads are tried as well."""
        self.lab, self.start, self.field, self.progress, self.clock = lab, start, field, progress, clock
        self.threads = threads
        self.begin = clock()
        self.seconds = seconds
        self.deadline = self.begin + seconds * (1 - PROOF - LOADING)
        self.trials: list[Trial] = []
        self.because = ""
        self.memory = 0
        """Bytes at the peak of what is best so far, where it was looked at."""

    def run(self, pipelines: Sequence[str]) -> Tuning:
        """Tries ``pipelines`` in place of the start's, leaves passes and rules out, varies the session's settings."""
        best = first = self._entry("pipeline", short(self.start.pipeline), self.start)
        first.trial.verdict = START
        self.trials.append(first.trial)
        checked = self.clock()
        wrong = first.built.problem or self.lab.problem(first.built, first.plan)
        quick = self.clock() - checked <= self.seconds * QUICK
        if wrong or (quick and not self._holds(first)):
            first.built = replace(first.built, problem=wrong or first.trial.because)
            first.trial.verdict, first.trial.because = REFUSED, first.built.problem
        others = [(short(p), replace(self.start, pipeline=p)) for p in pipelines if p != self.start.pipeline]
        best = self._stage("pipeline", best, others)
        if first.built.problem and best is first:
            return self._tuning(first, self.because or "no candidate is equivalent")
        best = self._without("passes", best)
        best = self._without("rules", best)
        found = speed_choices(best.plan.settings, best.built.ops, threads=self.threads)
        best = self._stage("session", best, self._sessions(best, found), _joined_settings)
        best = self._memory(best)
        return self._tuning(self._loading(first, self._proved(first, best)), self.because)

    def _tuning(self, entry: _Entry, because: str) -> Tuning:
        plan = entry.plan
        seconds = self.clock() - self.begin
        disabled = sorted(plan.disabled)
        return Tuning(plan.pipeline, disabled, plan.settings, self.trials, CONFIDENCE, seconds, because)

    # -- candidates

    def _entry(self, stage: str, label: str, plan: Plan) -> _Entry:
        built = self.lab.build(plan.pipeline, plan.disabled)
        return _Entry(plan, built, Trial(stage, label, UNMEASURED))

    def _without(self, stage: str, best: _Entry) -> _Entry:
        plan, hits = best.plan, dict(best.built.fired)
        found: list[tuple[str, Plan]] = []
        if stage == "passes":
            drops = drops_of_groups(hits)
            counts = _by_pass(hits)
            drops += [(f"without {name}", frozenset({name})) for name in sorted(counts, key=lambda n: -counts[n])]
            found = [(label, replace(plan, pipeline=without_passes(plan.pipeline, names))) for label, names in drops]
        else:
            several = _rules_of_busy_passes(hits)
            found = [(f"without {r}", replace(plan, disabled=plan.disabled | {r})) for r in several]
        return self._stage(stage, best, found, _joined_drops)

    def _sessions(self, best: _Entry, choices: Iterable[tuple[str, SessionSettings]]) -> list[tuple[str, Plan]]:
        return [(label, replace(best.plan, settings=settings)) for label, settings in choices]

    # -- stages

    def _left(self, stage: str) -> float:
        """Seconds that the stage may still take."""
        return max(0.0, self.begin + (self.deadline - self.begin) * UNTIL[stage] - self.clock())

    def _room(self, seconds: float) -> int:
        """How many candidates can be measured in that time, beside two sessions of the best."""
        each = TURNS * self.lab.run_seconds()
        return self.field if each <= 0 else min(self.field, int(seconds / each) - 2)

    def _enough(self, candidates: int) -> float:
        """Seconds that candidates with long runs get: what others leave is for the stages behind."""
        least = (candidates + 2) * TURNS * self.lab.run_seconds()
        return self.seconds if least < self.seconds * QUICK else PATIENCE * least

    def _stage(
        self,
        stage: str,
        best: _Entry,
        candidates: Sequence[tuple[str, Plan]],
        join: Callable[[Plan, Sequence[Plan]], Plan] | None = None,
    ) -> _Entry:
        if not candidates:
            return best
        left = self._left(stage)
        if not left:
            self.because = f"there was too little time for stage {stage!r}"
            return best
        until = self.clock() + left
        live = self._field(stage, best, candidates, until)
        if not live:
            return best
        if best.built.problem:  # nothing to compare with: the first sound one takes its place
            sound = next((e for e in live if self._holds(e)), None)
            if sound is None:
                return best
            best, live = sound, [e for e in live if e is not sound and e.trial.verdict != REFUSED]
        found = sorted(self._halve(stage, best, live, until, join is not None), key=lambda e: e.trial.ratio)
        winners = self._holding(found, len(found) if join is not None else 1)
        if not winners:
            return best
        winner = winners[0]
        if join is not None and len(winners) > 1:
            winner = self._together(stage, best, winners, winner, join, until)
        winner.trial.chosen = True
        return winner

    def _field(self, stage: str, best: _Entry, candidates: Sequence[tuple[str, Plan]], until: float) -> list[_Entry]:
        """Those candidates that run, and are not the same as another."""
        live: list[_Entry] = []
        seen = {(best.built.key, best.plan.settings)}
        room = self._room(until - self.clock())
        for i, (label, plan) in enumerate(candidates):
            if len(live) >= room or self.clock() > until:
                why = "memory" if len(live) >= self.field else "time"
                self.because = f"there was too little {why} for {len(candidates) - i} candidates of stage {stage!r}"
                break
            self._tell(f"tuning: {label}", i, len(candidates))
            entry = self._entry(stage, label, plan)
            self.trials.append(entry.trial)
            problem = entry.built.problem
            if (entry.built.key, plan.settings) in seen:
                entry.trial.verdict = SAME
                continue
            seen.add((entry.built.key, plan.settings))
            problem = problem or self.lab.problem(entry.built, plan)
            if problem:
                entry.trial.verdict, entry.trial.because = REFUSED, problem
                continue
            live.append(entry)
        return live

    def _holds(self, entry: _Entry) -> bool:
        """Whether the outputs are equivalent, on all samples."""
        self._tell(f"tuning: validating {entry.trial.label}", 0, 0)
        wrong = self.lab.refutation(entry.built, entry.plan)
        if wrong:
            entry.trial.verdict, entry.trial.because = REFUSED, wrong
        return not wrong

    def _holding(self, entries: Iterable[_Entry], count: int) -> list[_Entry]:
        """The first ``count`` of the entries that are equivalent."""
        found: list[_Entry] = []
        for entry in entries:
            if len(found) < count and self._holds(entry):
                found.append(entry)
        return found

    def _halve(self, stage: str, best: _Entry, live: list[_Entry], until: float, joined: bool) -> list[_Entry]:
        """Measures the field, then its better half again; returns those that are faster beyond doubt.

        Where winners can be joined, none of those that look faster is given up early.
        """
        for last in (False, True):
            left = until - self.clock()
            if not live:
                return []
            if left <= 0 and last:
                break
            if not last and left * SCOUT < (len(live) + 2) * TURNS * self.lab.run_seconds():
                continue  # long runs: one measurement for all
            self._tell(f"tuning: measuring {stage}", 0, 0)
            self._measure(best, live, max(min(left if last else left * SCOUT, self._enough(len(live))), 0.05))
            if not last and len(live) > 1:
                live.sort(key=lambda e: e.trial.ratio)
                half = (len(live) + 1) // 2
                rest = [e for e in live[half:] if joined and e.trial.verdict == FASTER]
                for entry in live[half:]:
                    if entry not in rest and entry.trial.verdict == FASTER:
                        entry.trial.verdict = STOPPED
                live = [e for e in live[:half] if e.trial.low < 1] + rest
        return [e for e in live if e.trial.verdict == FASTER]

    def _measure(self, best: _Entry, live: Sequence[_Entry], seconds: float) -> None:
        # A second session of the best is the yardstick: what it is off by, the machine did.
        plans = [(e.built, e.plan) for e in (best, best, *live)]
        again, *found = self.lab.compare(plans, seconds)
        margin = max(MARGIN, min(abs(again.low - 1), abs(again.high - 1), abs(again.ratio - 1)))
        for entry, comparison in zip(live, found, strict=True):
            entry.trial.measured(comparison)
            entry.trial.verdict = _verdict(entry.trial, margin)

    def _together(
        self,
        stage: str,
        best: _Entry,
        winners: Sequence[_Entry],
        winner: _Entry,
        join: Callable[[Plan, Sequence[Plan]], Plan],
        until: float,
    ) -> _Entry:
        """All winners in one, where that is faster still."""
        joined = join(best.plan, [e.plan for e in winners])
        entry = self._entry(stage, "these together", joined)
        same = any(entry.built.key == w.built.key and joined.settings == w.plan.settings for w in winners)
        if same or entry.built.problem or self.lab.problem(entry.built, joined) or not self._holds(entry):
            return winner
        self.trials.append(entry.trial)
        self._measure(winner, [entry], max(until - self.clock(), 0.2))
        entry.trial.label += f", against {winner.trial.label}"
        return entry if entry.trial.verdict == FASTER else winner

    def _memory(self, best: _Entry) -> _Entry:
        """The setting with the smallest peak among those that cost no time."""
        choices = self._sessions(best, memory_choices(best.plan.settings))
        if not choices or self._left("memory") <= 0:
            return best
        until = self.clock() + self._left("memory")
        before = self.lab.peak_bytes(best.built, best.plan)
        if before is None:
            return best
        best.trial.peak_bytes = self.memory = before
        live = self._small(best, choices, (1 - SAVING) * before, until)
        if not live:
            return best
        self._measure(best, live, max(self._left("memory"), 0.05))
        for entry in live:
            if entry.trial.high < 1 + MARGIN and entry.trial.confidence >= CONFIDENCE:
                entry.trial.verdict = SAVES
        saving = sorted((e for e in live if e.trial.verdict == SAVES), key=lambda e: e.trial.peak_bytes or 0)
        found = self._holding(saving, 1)
        for winner in found:
            winner.trial.chosen = True
            self.memory = winner.trial.peak_bytes or before
        self._offer([e for e in live if e.trial.verdict not in (SAVES, REFUSED)])
        return found[0] if found else best

    def _small(self, best: _Entry, choices: Sequence[tuple[str, Plan]], limit: float, until: float) -> list[_Entry]:
        """Those that run and take at most ``limit`` bytes, smallest first, as many as there is time to measure."""
        found: list[_Entry] = []
        half = (self.clock() + until) / 2
        for label, plan in choices:
            if self.clock() > half:
                self.because = "there was too little time to look at the memory of all settings"
                break
            self._tell(f"tuning: memory of {label}", 0, 0)
            entry = self._entry("memory", label, plan)
            self.trials.append(entry.trial)
            entry.trial.peak_bytes = self.lab.peak_bytes(entry.built, plan)
            if entry.trial.peak_bytes is not None and entry.trial.peak_bytes <= limit:
                found.append(entry)
            else:
                entry.trial.verdict = NO_SAVING
        found.sort(key=lambda e: e.trial.peak_bytes or 0)
        live: list[_Entry] = []
        for entry in found[: max(self._room(until - self.clock()), 1)]:
            problem = self.lab.problem(entry.built, entry.plan)
            if problem:
                entry.trial.verdict, entry.trial.because = REFUSED, problem
            else:
                live.append(entry)
        return live

    def _offer(self, entries: Iterable[_Entry]) -> None:
        """Names those that take less memory than what was chosen, for little more time."""
        for e in entries:
            saved = 1 - (e.trial.peak_bytes or self.memory) / max(self.memory, 1)
            if saved >= SAVING and e.trial.confidence >= CONFIDENCE and e.trial.ratio <= 1 + OFFER and self._holds(e):
                e.trial.verdict, e.trial.settings = OFFERED, e.plan.settings.to_dict()
                e.trial.because = f"{saved:.0%} less memory for {e.trial.ratio - 1:+.1%} time"

    def _proved(self, first: _Entry, best: _Entry) -> _Entry:
        """``best`` where it beats the first plan in a measurement that chose nothing, else the first."""
        if best is first or first.built.problem:
            return best
        self._tell("tuning: proving the winner", 0, 0)
        proof = _Entry(best.plan, best.built, Trial("proof", f"the winner against {first.trial.label}", EVEN))
        self.trials.append(proof.trial)
        left = self.begin + self.seconds * (1 - LOADING) - self.clock()
        self._measure(first, [proof], max(left, self.seconds * PROOF / 2))
        saves = best.trial.verdict == SAVES and proof.trial.high < 1 + MARGIN
        if proof.trial.verdict == FASTER or saves:
            proof.trial.chosen = True
            return best
        for trial in self.trials:
            trial.chosen = False
        proof.trial.because = "the plan without a search stays"
        if best.trial.verdict == SAVES:  # that it costs no time could not be repeated: an offer
            self.memory = max((t.peak_bytes or 0 for t in self.trials if t.stage != "memory"), default=0)
            self._offer([best])
        return first

    def _loading(self, first: _Entry, best: _Entry) -> _Entry:
        """``best`` where making its session takes no longer than the original's, or no longer than the first plan's."""
        entries = [first] if best is first else [first, best]
        if any(e.built.problem for e in entries):
            return best
        self._tell("tuning: making sessions", 0, 0)
        compared = self.lab.loading([(e.built, e.plan) for e in entries], max(self.seconds * LOADING, 0.05))
        for entry, comparison in zip(entries, compared, strict=True):
            trial = Trial("loading", "the start" if entry is first else "the winner", EVEN)
            trial.measured(comparison)
            trial.verdict = _verdict(trial, LOADING_MARGIN)
            self.trials.append(trial)
        verdicts = [t.verdict for t in self.trials[-len(entries) :]]
        if best is first or verdicts[1] != SLOWER or verdicts[0] == SLOWER:
            return best
        self.trials[-1].because = "the plan without a search stays"
        for trial in self.trials:
            trial.chosen = False
        return first

    def _tell(self, label: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(label, done, total)


def _verdict(trial: Trial, margin: float = MARGIN) -> str:
    if trial.confidence < CONFIDENCE:
        return UNSURE
    return FASTER if trial.high < 1 - margin else SLOWER if trial.low > 1 + margin else EVEN


def _by_pass(hits: dict[str, int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for label, count in hits.items():
        name = label.split("/")[0]
        counts[name] = counts.get(name, 0) + count
    return counts


def _rules_of_busy_passes(hits: dict[str, int]) -> list[str]:
    """Rules of passes of which more than one rule fired; a pass of one rule was tried as a whole."""
    passes = [label.split("/")[0] for label in hits]
    return [label for label in sorted(hits, key=lambda n: (-hits[n], n)) if passes.count(label.split("/")[0]) > 1]


def _joined_settings(base: Plan, winners: Sequence[Plan]) -> Plan:
    return replace(base, settings=combined(base.settings, [w.settings for w in winners]))


def _joined_drops(base: Plan, winners: Sequence[Plan]) -> Plan:
    """Without everything that any of the winners is without."""
    kept = [pass_names(w.pipeline) for w in winners]
    gone = {name for name in pass_names(base.pipeline) if any(name not in k for k in kept)}
    disabled = base.disabled.union(*(w.disabled for w in winners))
    return replace(base, pipeline=without_passes(base.pipeline, gone) if gone else base.pipeline, disabled=disabled)
