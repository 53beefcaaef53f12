"""Random models, and models near the golden cases, through every pass alone, every pipeline and every target.

    scripts/fuzz [--models 2000] [--seed 5000000] [--jobs 1] [--out docs/results/fuzz.md]

What is checked of each is written in ``driver/fuzz/check.py``. Failures are shrunk and printed; the exit code says
whether there were any. The same seed draws the same models (near golden cases: as long as these stay as they are).
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

from planish.driver.document import plain
from planish.driver.fuzz.campaign import Campaign, default_pipelines, fuzz
from planish.driver.report import versions
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
    parser.add_argument("--repro-dir", type=Path, help="where reproducers go")
    parser.add_argument("--out", type=Path, default=Path("docs/results/fuzz.md"))
    args = parser.parse_args()
    random, near = Campaign(args.seed), Campaign(args.seed)
    done = 0
    for done, parts in portions(args.models, args.seed, args.repro_dir, args.jobs):
        random.add(parts[0])
        near.add(parts[1])
        print(f"{done}: {random.failures} and {near.failures} failures", file=sys.stderr, flush=True)
        head = HEADER.format(models=done, seed=args.seed, onnxruntime=versions()["onnxruntime"])
        args.out.write_text("\n".join([head, *table(random, near), "", *rules(random, near)]) + "\n", "utf-8")
    print(plain([*random.document(), *near.document()]))
    return 1 if random.found or near.found else 0


def portions(models: int, seed: int, keep: Path | None, jobs: int) -> Iterator[tuple[int, list[Campaign]]]:
    """What portions of random models and of models near golden cases gave, spread over processes; seeds in order.

    The table is written after each, so that one that is cut short holds what was done.
    """
    sizes = [(start, min(PORTION, models - start)) for start in range(0, models, PORTION)]
    tasks = [(seed + start, size, source, keep) for start, size in sizes for source in (None, GOLDEN)]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        results = pool.imap(portion, tasks)
        for start, size in sizes:
            yield start + size, [next(results), next(results)]


def portion(task: tuple[int, int, Path | None, Path | None]) -> Campaign:
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
