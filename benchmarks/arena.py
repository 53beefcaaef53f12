"""Placing buffers: the challenging instances of google/minimalloc, processor time and nodes of the search.

    python benchmarks/arena.py [--minimalloc PROGRAM] [--out docs/results/arena.md]

``--minimalloc`` is the peer's program, built from its sources; without it its column is left out.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from planish.driver.memory.buffers import plan
from planish.passes.shared.arena.skyline import COMPILED

INSTANCES = sorted((Path(__file__).parents[1] / "tests/memory/minimalloc").glob("*.csv"))
CAPACITY = 1_048_576
NODES = 1_000_000


def peer_seconds(program: str, instance: Path) -> float | None:
    """Processor time of the peer, ``None`` where it finds nothing in ten minutes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out.csv"
        arguments = [f"--capacity={CAPACITY}", f"--input={instance}", f"--output={out}", "--timeout=10m"]
        done = subprocess.run([program, *arguments], capture_output=True, check=False)
        found = done.returncode == 0 and out.exists()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Places the instances of google/minimalloc.")
    parser.add_argument("--minimalloc", metavar="PROGRAM")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.process_time()
    plan(INSTANCES[0], CAPACITY, nodes=NODES)
    compiling = time.process_time() - start
    head = ["instance", "buffers", "bound", "greedy", "ours", "nodes", "seconds"]
    head += ["minimalloc"] if options.minimalloc else []
    rows: list[list[str]] = []
    sums = [0.0, 0.0]
    for instance in INSTANCES:
        start = time.process_time()
        found = plan(instance, CAPACITY, nodes=NODES)
        seconds = time.process_time() - start
        sums[0] += seconds
        p = found.placement
        parts = [f"{part / CAPACITY:.3f}" for part in (p.bound, p.greedy, p.height)]
        row = [instance.name[0], str(len(found.rows)), *parts, f"{p.nodes:,}", f"{seconds:.2f}"]
        if options.minimalloc:
            peer = peer_seconds(options.minimalloc, instance)
            sums[1] += peer or 0.0
            row.append("none" if peer is None else f"{peer:.2f}")
        rows.append(row)
    how = f"compiled (the first call took {compiling:.1f} s, compiling included)" if COMPILED else "interpreted"
    table = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    peer = f", minimalloc {sums[1]:.1f} s" if options.minimalloc else ""
    text = "\n".join(
        [
            "# Placing buffers in an arena",
            "",
            "The challenging instances of google/minimalloc. Bytes are shares of the capacity, 1,048,576; seconds are",
            f"processor time, reading included. The search was {how}.",
            "Made by `python benchmarks/arena.py --minimalloc PROGRAM --out docs/results/arena.md`.",
            "",
            *table,
            "",
            f"Together {sums[0]:.1f} s{peer}.",
            "",
        ]
    )
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
