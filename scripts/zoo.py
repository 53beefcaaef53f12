"""Optimizes every model of the zoo and writes down what came of it.

    scripts/zoo [NAME ...] [--target x86-64-v3] [--samples 4] [--labelled 32] [--out docs/results]

A report a model goes to ``OUT/zoo/NAME.txt``, a table of all to ``OUT/zoo.md``. Task metrics are those of
``models/zoo.py``, of the original and of the optimized model on the same labelled samples.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import planish
from planish.driver.document import bytes_text
from planish.driver.report import Report
from planish.driver.versions import versions
from planish.ir.errors import PlanishError
from planish.models import zoo
from planish.models.ort_runner import ort_runner
from planish.passes.target import native

HEADER = """# The zoo, optimized

Written by `scripts/zoo{arguments}` with onnxruntime {onnxruntime} on {machine}. One thread; original and
result are timed in turns in one process, the ratio is of medians with a 99 % interval (below 1 is faster).
Every result was compared with the original on {samples} real samples; the whole reports are in `zoo/`.

| model | file | nodes | time ratio (interval) | decision | compared | task metric |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--target", default="generic")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--labelled", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    names = args.names or zoo.available()
    folder = args.out / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows.append(one(zoo.get(name), folder, args))
        print(rows[-1], flush=True)
    if not args.names:
        text = HEADER.format(
            arguments="" if args.target == "generic" else f" --target {args.target}",
            onnxruntime=versions()["onnxruntime"],
            machine=f"a machine of target {native()}",
            samples=args.samples,
        )
        (args.out / "zoo.md").write_text(text + "\n".join(rows) + "\n")
    return 0


def one(model: zoo.ZooModel, folder: Path, args: argparse.Namespace) -> str:
    """The table's row of one model; its report is written."""
    samples = model.samples(args.samples)
    try:
        result = planish.optimize(model.path(), target=args.target, samples=samples)
    except PlanishError as error:
        (folder / f"{model.name}.txt").write_text(f"{error}\n")
        return f"| {model.name} | | | | refused: {error.message.splitlines()[0]} | | |"
    report = result.report
    (folder / f"{model.name}.txt").write_text(f"{report}\n")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "model.onnx")
        result.save(out)
        metric = metrics(model, out, args.labelled)
    return row(model.name, report, metric)


def metrics(model: zoo.ZooModel, optimized: Path, count: int) -> str:
    """Task metric before and after."""
    if model.metric is None:
        return "-"
    before = model.metric(ort_runner(model.path()), count)
    after = model.metric(ort_runner(optimized), count)
    return f"{before:.4f} -> {after:.4f}"


def row(name: str, report: Report, metric: str) -> str:
    before, after, measured = report.before, report.after, report.measured
    ratio = f"{measured.ratio:.3f} ({measured.low:.3f} to {measured.high:.3f})" if measured.done else "not measured"
    verdict = "equivalent" if report.validation.equivalent else "NOT equivalent"
    size = f"{bytes_text(before.file_bytes)} -> {bytes_text(after.file_bytes)}"
    return f"| {name} | {size} | {before.nodes} -> {after.nodes} | {ratio} | {report.decision} | {verdict} | {metric} |"


if __name__ == "__main__":
    sys.exit(main())
