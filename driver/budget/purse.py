"""Spends a budget on one model: judges it, selects lossy units, keeps the ledger, retreats, or refuses with reasons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from ...ir.clone import clone_model
from ...ir.errors import BudgetError
from ...ir.graph import Model
from ...passes.choices import Choices, Unit
from ...passes.core import Context, Numbers, pass_name
from ...passes.manager import Pipeline, RunRecord
from ...passes.pipeline import Step, flatten
from ..checks.contract import leaf_steps
from ..checks.reference import Reference
from ..factor import ranks_of
from ..inputs.samples import Samples
from ..plans import Plan, without_passes
from ..select import Choice, Goal, Known, Problem, make_problem, operations, select
from ..sizes import Runnable, constant_bytes, file_bytes
from .holdout import split
from .judge import OPTIMIZED, WRITTEN, Judge, Spending, make_judge, spending_of
from .ledger import LOSSY, ROUNDING, Entry, Ledger, percent
from .limits import Budget
from .paying import Paying, PayingLab
from .search import Outcome, search
from .stages import Stages, Watch

if TYPE_CHECKING:
    from ..calibrate import Observer

PARTS = 4
"""Into how many parts the units of the only lossy pass are taken to see whether their costs add up."""
TRIFLE = 1e-3
"""Share of the budget that is not worth finding out who spent it: each answer takes a run over all samples."""
WORRYING_NOISE = 0.25
"""Share of the budget above which the original's own rounding noise is worth a warning."""
BESIDE_BYTES = 1024
"""Names and nodes of a unit take no more."""
_ROUNDS = 3
"""How often a selection is made anew because its file, or its operations, are more than what the units said."""
BOTH = (OPTIMIZED, WRITTEN)
FACTORIZES = "factorize-"
"""Passes whose layers can be fitted again."""


class BudgetedJob(Protocol):
    """What is needed of a job."""

    base: Model
    observe: Observer | None

    @property
    def paying(self) -> Paying: ...
    def steps_of(self, pipeline: Pipeline) -> list[Step]: ...
    def context(self, disabled: frozenset[str], choices: Choices) -> Context: ...
    def runnable(self, model: Model, name: str) -> Runnable: ...


@dataclass
class Spent:
    """What the budget bought. ``model`` is ``None`` where nothing lossy was taken."""

    ledger: Ledger
    model: Model | None = None
    record: RunRecord | None = None


class Purse:
    """A budget, the original it is judged by, and the job that builds models."""

    def __init__(self, job: BudgetedJob, budget: Budget, reference: Reference, samples: Samples) -> None:
        """Raises ``BudgetError`` where the budget cannot be judged on this model."""
        self.job, self.budget, self.samples = job, budget, samples
        random = reference.is_random()
        if random is not None:
            raise BudgetError(f"the budget cannot be judged: {random}", where="budget", help="remove what is random")
        self.judge = make_judge(budget, reference)
        """By all samples."""
        parts = split(budget, reference)
        self.held = 0 if parts is None else parts[2]
        """How many samples are held back, so that what was selected is checked on others as well."""
        self.selector = self.judge if parts is None else make_judge(*parts[:2])
        """By the others."""
        self.noise = self._noise(reference)
        self.dropped: list[str] = []
        self.steps: list[str] = []
        self.evaluations = self.limit = 0
        self.base = Spending(0.0)
        """What the last plan spends without lossy passes."""

    def _noise(self, reference: Reference) -> float:
        """What rounding noise in the original spends. Raises ``BudgetError`` where that is more than there is."""
        worst = Spending(0.0)
        for run in reference.noisy_runs():
            found = self.judge.spending(run)
            worst = max(worst, found, key=lambda s: s.spent)
        if worst.spent > 1:
            raise BudgetError(
                f"the budget ({self.budget.sentence}) cannot be judged, the model is unstable: rounding noise in the "
                f"original alone spends {percent(worst.spent)} of it ({worst})",
                where="budget",
                help="allow more, judge by a task's metric, or leave the output out with Budget(outputs={NAME: inf})",
            )
        return worst.spent

    # -- rewrites that only round

    def affordable(self, plan: Plan, source: Runnable, record: RunRecord) -> tuple[Plan, Spending]:
        """The plan, less the rounding passes that the budget does not allow, and what is spent without lossy passes.

        Raises ``BudgetError`` where not even the plan without all of them fits.
        """
        base = spending_of(self.judge, source, BOTH)
        if base.spent <= 1:
            return plan, base
        names = self._rounding(plan, record)
        outcome = search(
            [Unit(name) for name in names],
            lambda kept: spending_of(self.judge, self._lossless(self._kept(plan, names, kept)), BOTH).spent,
            max_evaluations=self.budget.max_evaluations,
        )
        self._count(outcome)
        if outcome.base > 1:
            raise BudgetError(
                f"the budget ({self.budget.sentence}) cannot be met: the pipeline spends {percent(base.spent)} of it "
                f"without lossy passes ({base}), and {percent(outcome.base)} without those that round",
                where="budget",
                help=f"allow more: rounding noise alone spends {percent(self.noise)}",
            )
        self.dropped = list(outcome.left)
        plan = self._kept(plan, names, frozenset(outcome.taken))
        return plan, spending_of(self.judge, self._lossless(plan), BOTH)

    def _rounding(self, plan: Plan, record: RunRecord) -> list[str]:
        """Passes that changed something and promise no more than equality but for rounding."""
        changed = {p.name for p in record.passes if p.changes}
        found: dict[str, None] = {}
        for step in leaf_steps(Pipeline(plan.pipeline).steps):
            if str(step) in changed:
                found.update((pass_name(type(p)), None) for p in flatten([step]) if p.numbers is Numbers.REASSOCIATES)
        return list(found)

    def _kept(self, plan: Plan, names: Sequence[str], kept: frozenset[str]) -> Plan:
        return replace(plan, pipeline=without_passes(plan.pipeline, [n for n in names if n not in kept]))

    def _lossless(self, plan: Plan) -> Runnable:
        return self.job.runnable(self._stages(plan).build(Choices(lossless=True))[0], "candidate")

    # -- lossy passes

    def spend(self, plan: Plan, base: Spending) -> Spent:
        """Takes what fits. ``base``: what the plan spends without lossy passes."""
        self.base = base
        watch = Watch(partial(self._watched, base))
        stages = self._stages(plan, watch)
        units = _units(stages)
        ledger = self._ledger(base)
        found = watch.found if base.spent > TRIFLE else {", ".join(watch.found): base.spent}
        ledger.entries = [Entry(name, ROUNDING, spent) for name, spent in found.items() if name]
        if not units:
            ledger.because = "no lossy pass proposed anything, the notes say why" if stages.lossy else ""
            return Spent(ledger)
        goal = self._goal(units)
        if goal is not None:
            outcome, final, source = self._pay(stages, units, base, goal, ledger)
        else:
            outcome, final, source = self._select(stages, units, base)
        ledger.taken, ledger.left = outcome.taken, outcome.left
        ledger.entries += self._parts(stages, units, outcome, base, final)
        self._conclude(ledger, final)
        if not outcome.taken:
            return Spent(ledger)
        model, record = source
        return Spent(ledger, model, record)

    def _watched(self, base: Spending, model: Model) -> float:
        if base.spent <= TRIFLE:
            return 0.0
        return spending_of(self.judge, self.job.runnable(model, "watched"), [WRITTEN]).spent

    def _goal(self, units: Sequence[Unit]) -> Goal | None:
        """What the selection is for, where time is to be measured; ``None`` where gains are counted as predicted."""
        paying = self.job.paying
        if paying.goal is None and paying.timed and any(u.saved_flops for u in units):
            return Goal()
        return paying.goal

    def _pay(
        self, stages: Stages, units: list[Unit], base: Spending, goal: Goal, ledger: Ledger
    ) -> tuple[Outcome, Spending, tuple[Model, RunRecord]]:
        """By measured time as well: what fits and pays."""
        problem, asked = make_problem(units, stages.model, self._shapes()), goal
        if goal.max_bytes is not None:
            goal = replace(goal, min_saved_bytes=self._to_save(stages, units, problem, goal.max_bytes))
        lab = PayingLab(stages, units, self.selector, self.samples, self.job.runnable, self.job.paying, base.spent)
        final, times = base, self.job.paying.times
        for lab.levels, lab.judge in self._rounds():
            known = times.read() if times is not None else Known()
            choice, goal = self._select_within(goal, problem, lab, known, stages, units)
            if times is not None:
                times.write(choice.learned)
            outcome = _outcome(units, choice, base.spent)
            self._count(outcome)
            built, final = self._built(stages, units, outcome, base)
            ledger.front, ledger.because = choice.front, choice.because
            ledger.ranks = ranks_of(problem, choice, stages.model)
            self._require(asked, choice, stages, units)
            if final.spent <= 1:
                return outcome, final, built
            self._again(final, built[0])
        raise self._fickle(final)

    def _select_within(
        self, goal: Goal, problem: Problem, lab: PayingLab, known: Known, stages: Stages, units: Sequence[Unit]
    ) -> tuple[Choice, Goal]:
        """A selection whose file, and whose operations, are as few as was asked for; what units save is an estimate,
        what comes out is counted."""
        progress, asked = self.job.paying.progress, goal
        choice = select(problem, lab, goal, known=known, progress=progress)
        for _ in range(_ROUNDS):
            tighter = self._tighter(goal, asked, choice, stages, units)
            if tighter is None:
                break
            goal = tighter
            choice = select(problem, lab, goal, known=choice.learned, progress=progress)
        return choice, goal

    def _tighter(self, goal: Goal, asked: Goal, choice: Choice, stages: Stages, units: Sequence[Unit]) -> Goal | None:
        """The goal under which a selection should keep what was asked for; ``None`` where this one does."""
        if not choice.taken:
            return None
        left = _left(units, choice.taken)
        bytes_above = self._bytes(stages, left) - asked.max_bytes if asked.max_bytes is not None else 0
        share_above = self._operations(stages, left) - asked.max_flops if asked.max_flops < 1 else 0.0
        if bytes_above > 0:
            self.steps.append(f"the file is {bytes_above} bytes too large: selected again for as many less")
            said = sum(u.saved_bytes for u in units if u.key in choice.taken)
            return replace(goal, min_saved_bytes=said + bytes_above)
        if share_above > 0:
            self.steps.append(f"{share_above:.2%} of the operations too many: selected again for as many less")
            return replace(goal, max_flops=goal.max_flops - share_above)
        return None

    def _operations(self, stages: Stages, choices: Choices) -> float:
        """Of a run, relative to the model without any unit: those that what is emitted has beside, too."""
        shapes = self._shapes()
        whole = operations(stages.build(Choices(lossless=True))[0], shapes)
        return operations(stages.build(choices)[0], shapes) / whole if whole else 1.0

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.samples.ordinary.items[0].items()}

    def _to_save(self, stages: Stages, units: Sequence[Unit], problem: Problem, max_bytes: int) -> int:
        """Bytes by what units say; files hold names and nodes of what they emit as well."""
        whole = self._bytes(stages, Choices(lossless=True))
        if whole <= max_bytes:
            return 0
        every = problem.everything()
        said = sum(u.saved_bytes for u in units if u.key in every)
        beside = said - (whole - self._bytes(stages, _left(units, every)))
        return whole - max_bytes + min(max(beside, 0), BESIDE_BYTES * len(problem.places))

    def _built(
        self, stages: Stages, units: Sequence[Unit], outcome: Outcome, base: Spending
    ) -> tuple[tuple[Model, RunRecord], Spending]:
        """The model of a selection, and what it spends by all samples; with layers fitted again where that is less."""
        built = stages.build(_left(units, outcome.taken))
        if not outcome.taken:
            return built, base
        final = spending_of(self.judge, self.job.runnable(built[0], "candidate"), BOTH)
        observe = self.job.observe
        if observe is None or not any(key.startswith(FACTORIZES) for key in outcome.taken):
            return built, final
        again = stages.build(_left(units, outcome.taken), refit=observe.run)
        found = spending_of(self.judge, self.job.runnable(again[0], "candidate"), BOTH)
        better = found.spent <= max(final.spent, 1) and found.typical < final.typical
        self.steps.append(
            f"layers fitted again to what those in front of them give: {percent(found.spent)} of the budget in place "
            f"of {percent(final.spent)}, {found.typical:.4g} off as a whole in place of {final.typical:.4g}"
            + ("" if better else ": not kept")
        )
        return (again, found) if better else (built, final)

    def _rounds(self) -> list[tuple[Sequence[str], Judge]]:
        """How selections are measured: as users run the model, by what is not held back; then by everything."""
        return [((OPTIMIZED,), self.selector), (BOTH, self.judge)]

    def _again(self, final: Spending, model: Model) -> None:
        """Says why a selection that fitted does not, and that the next one is made by everything."""
        why = "when the runtime optimizes nothing"
        if self.held and spending_of(self.judge, self.job.runnable(model, "candidate"), [OPTIMIZED]).spent > 1:
            why, self.held = "with the samples that were held back", 0
        self.steps.append(f"{percent(final.spent)} {why}: selected again by everything")

    def _require(self, goal: Goal, choice: Choice, stages: Stages, units: Sequence[Unit]) -> None:
        """Raises ``BudgetError`` where a limit that was asked for is not met."""
        because = choice.because
        if goal.max_bytes is not None and choice.taken:
            size = self._bytes(stages, _left(units, choice.taken))
            because = f"the file has {size} bytes" if size > goal.max_bytes else ""
        if goal.max_flops < 1 and choice.taken and not because:
            share = self._operations(stages, _left(units, choice.taken))
            because = f"{share:.2%} of the operations are left" if share > goal.max_flops else ""
        limits = [f"{goal.max_bytes} bytes"] if goal.max_bytes is not None else []
        limits += [f"{goal.max_time:g} of the time"] if goal.max_time < 1 else []
        limits += [f"{goal.max_flops:g} of the operations"] if goal.max_flops < 1 else []
        limits += [f"{goal.max_us:g} us"] if math.isfinite(goal.max_us) else []
        if because and limits:
            raise BudgetError(
                f"{' and '.join(limits)} cannot be had within the budget ({self.budget.sentence}): {because}",
                where="budget",
                help="allow more error, or less of the other limits",
            )

    def _bytes(self, stages: Stages, choices: Choices) -> int:
        model = stages.build(choices)[0]
        return file_bytes(model, self.job.runnable(model, "candidate"))

    def _select(
        self, stages: Stages, units: list[Unit], base: Spending
    ) -> tuple[Outcome, Spending, tuple[Model, RunRecord]]:
        """Searches with the model as users run it; where the result does not hold as written, or on the samples that
        were held back, again with all that."""
        final = base
        for levels, judge in self._rounds():
            outcome = search(
                units,
                partial(self._spent, stages, units, base, levels, judge),
                total_bytes=constant_bytes(stages.model),
                total_flops=sum(u.saved_flops for u in units),
                max_evaluations=self.budget.max_evaluations,
            )
            self._count(outcome)
            built, final = self._built(stages, units, outcome, base)
            if final.spent <= 1:
                return outcome, final, built
            self._again(final, built[0])
        raise self._fickle(final)

    def _fickle(self, final: Spending) -> BudgetError:
        return BudgetError(
            f"the selection spends {percent(final.spent)} of the budget now and did not before: {final}",
            where="budget",
            help="the metric or the runtime gives other numbers for equal models; fix its seed, or use one thread",
        )

    def _spent(
        self,
        stages: Stages,
        units: list[Unit],
        base: Spending,
        levels: Sequence[str],
        judge: Judge,
        taken: frozenset[str],
    ) -> float:
        if not taken:
            return base.spent
        model, _ = stages.build(_left(units, taken))
        return spending_of(judge, self.job.runnable(model, "candidate"), levels).spent

    def _parts(
        self, stages: Stages, units: list[Unit], outcome: Outcome, base: Spending, final: Spending
    ) -> list[Entry]:
        """Each lossy pass alone; the only one in parts. Together they give an estimate to compare the whole with."""
        chosen = set(outcome.taken)
        owners = list(dict.fromkeys(u.owner for u in units))
        found: list[Entry] = []
        idle = final.spent - base.spent <= TRIFLE
        for name, offered in (
            [(o, [u for u in units if u.owner == o]) for o in owners] if idle else _split(owners, units)
        ):
            part = [u for u in offered if u.key in chosen]
            alone = base.spent
            if part and not idle:
                alone = self._spent(stages, units, base, (OPTIMIZED,), self.judge, frozenset(u.key for u in part))
                self.evaluations, self.limit = self.evaluations + 1, self.limit + 1
            entry = Entry(name, LOSSY, max(alone - base.spent, 0.0), len(offered), len(part))
            entry.saved_bytes = sum(u.saved_bytes for u in part)
            entry.saved_flops = sum(u.saved_flops for u in part)
            found.append(entry)
        return found

    # -- the ledger

    def refunded(self, ledger: Ledger, because: str) -> Ledger:
        """The ledger where nothing lossy is kept after all."""
        left = {**ledger.left, **dict.fromkeys(ledger.taken, because)}
        entries = [e for e in ledger.entries if e.kind == ROUNDING]
        found = replace(ledger, taken=[], left=left, entries=entries)
        self._conclude(found, self.base)
        return found

    def _stages(self, plan: Plan, *watch: Watch) -> Stages:
        steps = self.job.steps_of(Pipeline(plan.pipeline))
        ctx = self.job.context(plan.disabled, Choices(lossless=True))
        return Stages(clone_model(self.job.base), steps, ctx, watch)

    def _count(self, outcome: Outcome) -> None:
        self.evaluations += outcome.evaluations
        self.limit += outcome.limit
        if len(outcome.left) or len(self.steps):
            self.steps += outcome.steps

    def _ledger(self, base: Spending) -> Ledger:
        ledger = Ledger(self.budget.sentence, self.budget.name, self.budget.max_error)
        ledger.noise, ledger.samples = self.noise, len(self.samples)
        ledger.baseline, ledger.dropped = self.judge.baseline, self.dropped
        if self.noise > WORRYING_NOISE:
            ledger.warnings.append(
                f"the model is nearly unstable by this measure: rounding noise alone spends {percent(self.noise)}"
            )
        if self.samples.ranges:
            ledger.warnings.append("the samples were made up from the input types; give real ones for a real budget")
        self._conclude(ledger, base)
        return ledger

    def _conclude(self, ledger: Ledger, final: Spending) -> None:
        ledger.spent, ledger.outputs, ledger.score = final.spent, final.outputs, final.score
        ledger.steps, ledger.evaluations, ledger.max_evaluations = self.steps, self.evaluations, self.limit
        ledger.held = self.held if ledger.taken else 0


def _units(stages: Stages) -> list[Unit]:
    """All that is proposed: where everything is taken, and, of options that exclude each other, where nothing is."""
    everything, nothing = Choices(), Choices(nothing=True)
    if stages.lossy:
        stages.build(everything, heard=True)
        stages.build(nothing)
    return list({**nothing.offered, **everything.offered}.values())


def _outcome(units: Sequence[Unit], choice: Choice, base: float) -> Outcome:
    taken = [u.key for u in units if u.key in choice.taken]
    return Outcome(
        taken,
        choice.spent,
        base,
        choice.reasons,
        choice.steps,
        evaluations=choice.evaluations,
        limit=choice.evaluations,
    )


def _left(units: Sequence[Unit], taken: Sequence[str] | frozenset[str]) -> Choices:
    return Choices({u.key for u in units} - set(taken))


def _split(owners: list[str], units: list[Unit]) -> list[tuple[str, list[Unit]]]:
    """By pass; the units of the only one in parts of about equal number."""
    if len(owners) > 1 or len(units) < 2 * PARTS:
        return [(owner, [u for u in units if u.owner == owner]) for owner in owners]
    bounds = [len(units) * i // PARTS for i in range(PARTS + 1)]
    return [(f"{owners[0]}, units {a + 1} to {b}", units[a:b]) for a, b in pairwise(bounds)]
