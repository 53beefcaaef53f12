"""Random models, and models near the golden cases, through every pass alone, every pipeline and every target.

    scripts/fuzz [--models 2000] [--seed 5000000] [--jobs 1] [--log FILE] [--out docs/results/fuzz.md]

What is checked of each is written in ``driver/fuzz/check.py``. Failures are shrunk and printed; the exit code says
whether there were any. The same seed draws the same models (near golden cases: as long as these stay as they are).
``--log FILE`` keeps what each portion gave, and a run that was cut short goes on behind it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from planish.driver.document import plain
from planish.driver.fuzz.campaign import Campaign, Found, Tally, default_pipelines, fuzz
from planish.driver.versions import versions
from planish.passes.target import TARGETS

HEADER = """# Random models through every pass, pipeline and target

Written by `scripts/fuzz --models {models} --seed {seed}` with onnxruntime {onnxruntime}. A row is a pass alone, a
pipeline, or a pipeline for one target (`@`); the others take `generic` standard operators and x86-64-v3 in turn.
`changed` counts models in which something was rewritten, `rewrites` the rewrites; every named pipeline also ran with
a limit on rewrites, so that it stopped on its way. Each result was verified with types inferred anew, written, and
run on at least three samples; behind named pipelines, and for a third of the models behind passes, also printed and
parsed, read back, and made a second time. See `driver/fuzz/check.py`.
"""
GOLDEN = Path("tests/golden")
PORTION = 100
"""A multiple of the periods of sizes and targets, so that portions draw what one run would."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2000, help="random ones, and as many near golden cases")
    parser.add_argument("--seed", type=int, default=5_000_000)
    parser.add_argument("--jobs", type=int, default=1, help="processes; the result is the same for any number")
    parser.add_argument("--log", type=Path, help="keeps what each portion gave, and goes on behind it")
    parser.add_argument("--repro-dir", type=Path, help="where reproducers go")
    parser.add_argument("--out", type=Path, default=Path("docs/results/fuzz.md"))
    args = parser.parse_args()
    random, near = Campaign(args.seed), Campaign(args.seed)
    done = 0
    for done, parts in portions(args.models, args.seed, args.repro_dir, args.jobs, args.log):
        random.add(parts[0])
        near.add(parts[1])
        print(f"{done}: {random.failures} and {near.failures} failures", file=sys.stderr, flush=True)
        head = HEADER.format(models=done, seed=args.seed, onnxruntime=versions()["onnxruntime"])
        args.out.write_text("\n".join([head, *table(random, near), "", *rules(random, near)]) + "\n", "utf-8")
    print(plain([*random.document(), *near.document()]))
    return 1 if random.found or near.found else 0


Task: TypeAlias = tuple[int, int, Path | None, Path | None]
"""Seed, models, source, where reproducers go."""


def portions(
    models: int, seed: int, keep: Path | None, jobs: int, log: Path | None
) -> Iterator[tuple[int, list[Campaign]]]:
    """What portions of random models and of models near golden cases gave, spread over processes; seeds in order.

    The table is written after each, so that one that is cut short holds what was done.
    """
    sizes = [(start, min(PORTION, models - start)) for start in range(0, models, PORTION)]
    tasks: list[Task] = [(seed + start, size, source, keep) for start, size in sizes for source in (None, GOLDEN)]
    known = logged(log)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        results = pool.imap(portion, [task for task in tasks if name_of(task) not in known])
        for i, task in enumerate(tasks):
            if name_of(task) not in known:
                known[name_of(task)] = next(results)
                write(log, task, known[name_of(task)])
            if i % 2:
                start, size = sizes[i // 2]
                yield start + size, [known[name_of(t)] for t in tasks[i - 1 : i + 1]]


def name_of(task: Task) -> str:
    return f"{task[0]} {task[1]} {task[2] or 'random'}"


def logged(log: Path | None) -> dict[str, Campaign]:
    """The portions of earlier runs by name; a line that was cut short is none."""
    lines = log.read_text("utf-8").splitlines() if log is not None and log.exists() else []
    found: dict[str, Campaign] = {}
    for line in lines:
        try:
            name, plain_data = json.loads(line)
        except ValueError:
            continue
        found[name] = campaign_of(plain_data)
    return found


def campaign_of(data: dict[str, Any]) -> Campaign:
    parts: dict[str, Any] = {
        "tallies": {name: Tally(**tally) for name, tally in data["tallies"].items()},
        "found": [Found(**found) for found in data["found"]],
    }
    return Campaign(**{**data, **parts})


def write(log: Path | None, task: Task, campaign: Campaign) -> None:
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name_of(task), asdict(campaign)]) + "\n")


def portion(task: Task) -> Campaign:
    """One portion, in a process of the pool."""
    seed, models, source, keep = task
    plans = [*default_pipelines(), *(f"default@{name}" for name in TARGETS)]
    return fuzz(models=models, pipelines=plans, seed=seed, source=source, keep=keep)


def table(random: Campaign, near: Campaign) -> Iterator[str]:
    """Pipelines, with both sources side by side."""
    for title, c in (("Random models", random), ("Models near golden cases", near)):
        yield f"{title}: {c.models} (of {c.nodes / max(1, c.models):.0f} nodes), {c.failures} failures."
        for reason, times in c.rejected.items():
            yield f"Refused by the runtime or by inference before any pass: {times} ({reason.splitlines()[0][:70]})."
        yield ""
    columns = ("models", "changed", "rewrites", "failures")
    yield f"| pass or pipeline | {' | '.join(columns)} | near golden: {' | '.join(columns)} |"
    yield "|---|" + "---:|" * 8
    for name, a in random.tallies.items():
        b = near.tallies[name]
        cells = [*(getattr(a, c) for c in columns), *(getattr(b, c) for c in columns)]
        yield f"| {name} | {' | '.join(map(str, cells))} |"


def rules(random: Campaign, near: Campaign) -> Iterator[str]:
    """How often rules fired, and which never did."""
    total = {label: (n, near.rules.get(label, 0)) for label, n in random.rules.items()}
    idle = [label for label, n in total.items() if not any(n)]
    only_near = [label for label, n in total.items() if n[1] and not n[0]]
    fired = sum(map(sum, total.values()))
    yield f"{len(total)} rules fired {fired} times in all."
    yield f"Never fired: {', '.join(idle) or 'none'}."
    yield f"Fired near golden cases only: {', '.join(only_near) or 'none'}."


if __name__ == "__main__":
    sys.exit(main())
