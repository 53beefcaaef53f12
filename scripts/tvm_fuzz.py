"""Random models through the TVM backend, each against ONNX Runtime on samples of several extents and on odd numbers.

    python -P scripts/tvm_fuzz.py --models 500 --out docs/results/tvm_fuzz.md

The same seed draws the same models. What is wrong, crashes or is refused is printed with its seed, and the exit code
says whether there was any.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from planish.driver.fuzz.compiled import CRASH, KINDS, RUNTIME, WRONG, Compiled, compiled_cases
from planish.driver.versions import versions
from planish.passes.target import get_target

WAYS = (("", False), ("default", False), ("default", True))
"""Pipelines in front, and whether extents are those of the first sample; in turn."""
SIZES = (3, 6, 12)
"""Motifs per model, in turn."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7_000_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: dict[str, list[Compiled]] = {}
    for i in range(args.models):
        (pipeline, fixed), size = WAYS[i % len(WAYS)], SIZES[i // len(WAYS) % len(SIZES)]
        way = f"{pipeline or 'none'}, {'fixed' if fixed else 'open'}"
        target = get_target("native")
        for done in compiled_cases([args.seed + i], target, size=size, pipeline=pipeline, fixed=fixed):
            rows.setdefault(way, []).append(done)
            if done.kind in (WRONG, CRASH) or done.message:
                sys.stdout.write(f"{done.seed} ({way}, size {size}) {done.kind}: {done.message[:600]}\n")
                sys.stdout.flush()
    text = "\n".join(page(rows, args.models, args.seed)) + "\n"
    if args.out:
        args.out.write_text(text, "utf-8")
    sys.stdout.write(text)
    return 1 if any(done.kind in (WRONG, CRASH) for row in rows.values() for done in row) else 0


def page(rows: dict[str, list[Compiled]], models: int, seed: int) -> Iterator[str]:
    yield "# Random models on TVM"
    yield ""
    yield f"Written by `python -P scripts/tvm_fuzz.py --models {models} --seed {seed}` with onnxruntime"
    yield f"{versions()['onnxruntime']}. Each model is built once and runs on its samples, whose extents differ where"
    yield "the model leaves them open (*open*), without passes also on signed zeros, infinities, NaN and subnormals;"
    yield f"outputs are compared as `optimize` compares them. *{RUNTIME}*: ONNX Runtime does not load the piece"
    yield "that is left to it."
    yield ""
    yield f"| pipeline, extents | models | nodes | left to ONNX Runtime | samples | {' | '.join(KINDS)} |"
    yield "|---|" + "---:|" * (4 + len(KINDS))
    for way, done in sorted(rows.items()):
        kinds = Counter(d.kind for d in done)
        left = sum(sum(d.fallen_back.values()) for d in done)
        numbers = [len(done), sum(d.nodes for d in done), left, sum(d.samples for d in done)]
        yield f"| {way} | {' | '.join(map(str, [*numbers, *(kinds[k] for k in KINDS)]))} |"
    fallen: Counter[str] = Counter()
    for done in rows.values():
        for d in done:
            fallen.update(d.fallen_back)
    yield ""
    yield f"Left to ONNX Runtime: {', '.join(f'{op} {n}' for op, n in fallen.most_common()) or 'nothing'}."


if __name__ == "__main__":
    sys.exit(main())
