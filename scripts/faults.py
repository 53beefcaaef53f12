"""Plants wrong rules in a pipeline, one at a time, and lets ``bisect`` find them in models of 500 nodes.

    scripts/faults [NAME ...] [--jobs 1] [--out docs/results/faults.md]

The rules are in ``tests/bisect/mutants.py``. A fault is planted in a random model where its rule makes one wrong, else
beside one in which it does (`grafted`). The exit code says whether all were caught, traced to their rule and shrunk to
at most five nodes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from planish.driver.versions import versions
from planish.ir.limits import current_limits
from planish.tests.bisect.mutants import MUTANTS
from planish.tests.bisect.planted import LARGE, Traced, registered, shown_large, trace

MAX_NODES = 5
TRIAL_SECONDS = 600.0
HEADER = """# Planted faults: caught, traced, shrunk

Written by `scripts/faults` with onnxruntime {onnxruntime}. Each row is a wrong rule of `tests/bisect/mutants.py`,
hidden among right passes that ran on a model of at least {large} nodes: how the fault was caught, whether the rule that
`planish bisect` named is the planted one, CPU seconds for finding it and shrinking the model, and the nodes
of the reproducer.

{summary}

| wrong rule | host | nodes | caught by | traced to | seconds | reproducer |
|---|---|---:|---|---|---:|---:|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MUTANTS, []], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("docs/results/faults.md"))
    args = parser.parse_args()
    found: list[Traced] = []
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for traced in pool.imap(one, args.names or MUTANTS):
            found.append(traced)
            print(row(traced), flush=True)
            if not args.names:
                args.out.write_text(page(found), "utf-8")
    print(summary(found))
    return 0 if all(t.right and t.repro_nodes <= MAX_NODES for t in found) else 1


def one(name: str) -> Traced:
    """One fault, in a process of the pool. Its host is ours: a busy machine may take long for the first run."""
    current_limits.set(replace(current_limits.get(), trial_seconds=TRIAL_SECONDS))
    with registered():
        return trace(name, *shown_large(name))


def page(found: list[Traced]) -> str:
    """The table so far: one that is cut short holds what was done, and says so."""
    head = HEADER.format(onnxruntime=versions()["onnxruntime"], large=LARGE, summary=summary(found))
    return head + "\n".join(map(row, found)) + "\n"


def row(t: Traced) -> str:
    traced = t.rule if t.right else f"NOT IT: {t.rule}" if t.rule else "nothing"
    cells = (t.name, t.host, t.nodes, t.caught or "NOT CAUGHT", traced, f"{t.cpu_seconds:.1f}", t.repro_nodes)
    return f"| {' | '.join(map(str, cells))} |"


def summary(found: list[Traced]) -> str:
    right, nodes = sum(t.right for t in found), [t.repro_nodes for t in found if t.repro_nodes]
    seconds = sorted(t.cpu_seconds for t in found)
    caught = sum(bool(t.caught) for t in found)
    return (
        f"{len(found)} of {len(MUTANTS)} faults were run: {caught} caught, {right} traced to their rule, "
        f"reproducers of {statistics.median(nodes or [0]):.0f} nodes (at most {max(nodes, default=0)}), "
        f"{statistics.median(seconds):.1f} s each (median; at most {seconds[-1]:.1f} s)."
    )


if __name__ == "__main__":
    sys.exit(main())
