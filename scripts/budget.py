"""Optimizes real models within several error budgets and writes down what each bought.

    scripts/budget [NAME ...] [--samples 6] [--labelled 32] [--out docs/results]

The table goes to ``OUT/budget.md``. Samples and task metrics are those of ``models/zoo.py``.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import planish
from planish.driver.budget import Budget, Ledger
from planish.driver.budget.ledger import percent
from planish.driver.document import bytes_text
from planish.driver.report import Size
from planish.driver.versions import versions
from planish.ir.errors import BudgetError
from planish.models import zoo

NAMES = ("magika", "ppocr_rec", "minilm")
NAMED = [("relative", 1e-2), ("relative", 1e-3), ("relative", 1e-4), ("snr", 70)]
DROPS = (0.0,)
HEADER = """# Error budgets on real models

Written by `scripts/budget` with onnxruntime {onnxruntime}: the pipeline `default,lossy`, whose lossy pass is
`store-float16` (one unit a weight), {samples} real samples, task metrics on {labelled} labelled ones. *Taken* counts
lossy units; *measured* is the share of the budget that the result spends, *sum* what its parts spend alone, added up;
*tried* is how many selections were measured, of at most how many; *noise* is what rounding noise in the original
spends. A budget below the original's own noise is refused.

| model | budget | taken | file | sum | measured | worst output, or score before and now | tried | noise |
|---|---|---|---|---|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--labelled", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    rows: list[str] = []
    for name in args.names or NAMES:
        model = zoo.get(name)
        budgets = [Budget(error, metric) for metric, error in NAMED]
        if model.metric is not None:
            scored = partial(task, model.metric, args.labelled)
            budgets += [Budget(drop, scored, runs=True) for drop in DROPS]
        for budget in budgets:
            print(f"{name}, {budget.sentence} ...", file=sys.stderr, flush=True)
            rows.append(row(model, budget, args.samples))
            print(rows[-1], flush=True)
    if not args.names:
        head = HEADER.format(onnxruntime=versions()["onnxruntime"], samples=args.samples, labelled=args.labelled)
        (args.out / "budget.md").write_text(head + "\n".join(rows) + "\n", "utf-8")
    return 0


def task(metric: zoo.Metric, labelled: int, run: Any) -> float:
    """The zoo's metric on ``labelled`` samples."""
    return metric(run, labelled)


def row(model: zoo.ZooModel, budget: Budget, samples: int) -> str:
    """The table's row of one budget."""
    words = "its task's score may drop by " + f"{budget.max_error:g}" if budget.runs else budget.sentence.split(",")[0]
    try:
        result = planish.optimize(model.path(), samples=model.samples(samples), budget=budget, measure=False)
    except BudgetError as error:
        return f"| {model.name} | {words} | refused: {error.message.split(': ', 1)[-1]} | | | | | | |"
    ledger, report = result.report.budget, result.report
    assert ledger is not None
    units = len(ledger.taken) + len(ledger.left)
    cells = [
        model.name,
        words,
        f"{len(ledger.taken)} of {units}",
        saved(report.before, report.after),
        percent(ledger.estimate),
        percent(ledger.spent),
        outcome(ledger),
        f"{ledger.evaluations} of {ledger.max_evaluations}",
        percent(ledger.noise),
    ]
    return f"| {' | '.join(cells)} |"


def saved(before: Size, after: Size) -> str:
    change = (after.file_bytes - before.file_bytes) / before.file_bytes * 100
    return f"{bytes_text(before.file_bytes)} -> {bytes_text(after.file_bytes)} ({change:+.0f} %)"


def outcome(ledger: Ledger) -> str:
    if ledger.score is not None and ledger.baseline is not None:
        return f"{ledger.baseline:.4f}, {ledger.score:.4f}"
    worst = max(ledger.outputs, key=lambda o: o.spent)
    return f"{worst.output}: {worst.error:.2g}"


if __name__ == "__main__":
    sys.exit(main())
