"""Random models through the TVM backend, each against ONNX Runtime on samples of several extents and on odd numbers.

    python -P scripts/tvm_fuzz.py --models 500 --quantized 200 --elsewhere rpi5:60 --out docs/results/tvm_fuzz.md

The same seed draws the same models. What is wrong, crashes or is refused is printed with its seed, and the exit code
says whether there was any. Models for a target that is not this machine are built, not run.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from planish.driver.fuzz.compiled import CRASH, KINDS, RUNTIME, WRONG, Compiled, Draw, compiled_cases, quantized_case
from planish.driver.versions import versions
from planish.models.random import random_case
from planish.passes.target import get_target

WAYS = (("", False), ("default", False), ("default", True))
"""Pipelines in front, and whether extents are those of the first sample; in turn."""
SIZES = (3, 6, 12)
"""Motifs per model, in turn."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--quantized", type=int, default=0, help="quantized models beside them")
    parser.add_argument("--elsewhere", help="TARGET:N builds N models, and half as many quantized ones, for a target")
    parser.add_argument("--seed", type=int, default=7_000_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: dict[str, list[Compiled]] = {}
    for way, done in campaign(args.models, args.quantized, args.elsewhere or "", args.seed):
        rows.setdefault(way, []).append(done)
        if done.kind in (WRONG, CRASH) or done.message:
            sys.stdout.write(f"{done.seed} ({way}) {done.kind}: {done.message[:600]}\n")
            sys.stdout.flush()
    elsewhere = f" --elsewhere {args.elsewhere}" if args.elsewhere else ""
    arguments = f"--models {args.models} --quantized {args.quantized}{elsewhere} --seed {args.seed}"
    text = "\n".join(page(rows, arguments)) + "\n"
    if args.out:
        args.out.write_text(text, "utf-8")
    sys.stdout.write(text)
    return 1 if any(done.kind in (WRONG, CRASH) for row in rows.values() for done in row) else 0


def campaign(models: int, quantized: int, elsewhere: str, seed: int) -> Iterator[tuple[str, Compiled]]:
    """What became of each model, with what it is counted under."""
    target, _, number = elsewhere.partition(":")
    yield from drawn(models, "native", seed)
    yield from drawn(quantized, "native", seed, quantized_case)
    yield from drawn(int(number or 0), target, seed)
    yield from drawn(int(number or 0) // 2, target, seed, quantized_case)


def drawn(models: int, name: str, seed: int, draw: Draw | None = None) -> Iterator[tuple[str, Compiled]]:
    for i in range(models):
        (pipeline, fixed), size = WAYS[i % len(WAYS)], SIZES[i // len(WAYS) % len(SIZES)]
        way = f"{pipeline or 'none'}, {'fixed' if fixed else 'open'}"
        if draw is not None:
            way = f"quantized, {pipeline or 'none'}"
        if name != "native":
            way = f"{name}: {way}"
        source = draw or partial(random_case, size=size)
        for done in compiled_cases([seed + i], get_target(name), source, pipeline=pipeline, fixed=fixed):
            yield way, done


def page(rows: dict[str, list[Compiled]], arguments: str) -> Iterator[str]:
    yield "# Random models on TVM"
    yield ""
    yield f"Written by `python -P scripts/tvm_fuzz.py {arguments}` with onnxruntime"
    yield f"{versions()['onnxruntime']}. Each model is built once and runs on its samples, whose extents differ where"
    yield "the model leaves them open (*open*), without passes also on signed zeros, infinities, NaN and subnormals;"
    yield f"outputs are compared as `optimize` compares them. *{RUNTIME}*: ONNX Runtime does not load the piece"
    yield "that is left to it. *built*: for a target that is not this machine, with nothing to compare."
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
