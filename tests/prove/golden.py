"""What is known of every rule, from the golden cases on which it fires."""

from __future__ import annotations

import contextlib
import sys

from planish.driver.prove.ledger import Ledger
from planish.driver.prove.watch import Watch
from planish.ir.clone import clone_model
from planish.ir.errors import PlanishError
from planish.ir.graph import Model
from planish.ir.text import parse_model
from planish.models.random import random_case
from planish.passes.core import Context, Fuel, Numbers, RewritePass
from planish.passes.manager import Pipeline
from planish.passes.registry import entries
from planish.passes.rewrite.rule import RuleBase
from planish.passes.target import get_target
from planish.tests.bisect.planted import PIPELINE, shown_by
from planish.tests.golden.suite import Case, cases, suite_files
from planish.tests.golden.test_golden import observe_of

OPEN: dict[str, str] = {}
"""Rules for which some golden case is neither proved nor exactly checked, and why."""
RIGHT_IN_A_PLACE = {"lose-upper-bound"}
"""Planted faults that one of the model's places bears out: a tighter bound stands behind the one that was lost."""


def rules() -> list[str]:
    """Every rule of every pass (``pass/Rule``), those that an option brings in too; passes in plain code by name."""
    found: list[str] = []
    for entry in entries().values():
        if entry.owner != "planish":
            continue
        loaded = entry.load()
        if not issubclass(loaded, RewritePass):
            found.append(entry.name)
            continue
        own = vars(sys.modules[loaded.__module__]).values()
        written = [c.__name__ for c in own if isinstance(c, type) and issubclass(c, RuleBase)]
        given = [type(rule).__name__ for rule in loaded().rules()]
        found.extend(
            f"{entry.name}/{name}" for name in [*given, *written] if name not in ("Rule", "NodeRule", "RuleBase")
        )
    return list(dict.fromkeys(found))


def approximations() -> set[str]:
    """Rules of passes that promise no more than an approximation: there is no identity to check."""
    lossy = {entry.name for entry in entries().values() if entry.load().numbers is Numbers.APPROXIMATES}
    return {rule for rule in rules() if rule.partition("/")[0] in lossy}


def case_ledger(case: Case, *, run: bool = True) -> Ledger:
    """The rewrites of one golden case."""
    options = case.options
    watch = Watch(run=run)
    watch.effort.seconds = 60.0  # what is known must not depend on how busy the machine is
    target = get_target(options["target"]) if "target" in options else None
    fuel = Fuel(int(options["fuel"])) if "fuel" in options else Fuel()
    model = parse_model(case.before)
    ctx = Context(target=target, fuel=fuel, witness=watch, observe=observe_of(case, model))
    Pipeline(case.pipeline).run(model, ctx, [watch])
    return watch.ledger


def golden_ledger(*, run: bool = True) -> Ledger:
    """The rewrites of all golden cases."""
    whole = Ledger("golden cases")
    for file in suite_files():
        for case in cases(file):
            whole.merge(case_ledger(case, run=run))
    return whole


def random_ledger(models: int, pipeline: str = "default", *, size: int = 16, run: bool = True) -> Ledger:
    """The rewrites of random models."""
    whole = Ledger(f"{models} random models")
    for seed in range(models):
        whole.merge(model_ledger(clone_model(random_case(seed, size).model), pipeline, run=run))
    return whole


def model_ledger(model: Model, pipeline: str, *, run: bool = False) -> Ledger:
    """The rewrites that a pipeline makes in one model, as far as it comes."""
    watch = Watch(run=run)
    with contextlib.suppress(PlanishError):
        Pipeline(pipeline).run(model, Context(witness=watch), [watch])
    return watch.ledger


def planted_ledger(name: str) -> dict[str, int]:
    """What the exact check alone makes of a planted fault, where it shows: rewrites of the wrong rule by verdict.

    Nothing where the rule fails before anything can be checked, or leaves no wrong computation behind.
    """
    ledger = model_ledger(clone_model(shown_by(name, 8).model), PIPELINE.format(name))
    return {
        kind: n for rule, kinds in ledger.counts.items() if rule.startswith(f"{name}/") for kind, n in kinds.items()
    }
