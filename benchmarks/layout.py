"""What the choice of layouts buys: run time of real models under ONNX Runtime with and without the layout passes.

    python -P benchmarks/layout.py [--models basic_pitch,ppocr_det] [--target native] [--seconds 2] [--rounds 4]
                                   --work FOLDER [--stage write|measure|table] [--markdown docs/results/layout.md]

Two comparisons for every model of the zoo that is installed: the pipeline ``default`` against itself without the layout
passes (``merge-deconvolutions``, ``cancel-transposes``, ``assign-layout``, ``insert-transposes``), and the plain model
after ``cancel-transposes`` alone against the plain model. Where the passes change nothing there is nothing to measure.
Both candidates run in turns on real samples in one process, single-threaded and kept on one processor; times are the
thread's CPU time; sessions are made anew in each round. ``--stage write`` makes the models, ``measure`` times them.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import planish
from planish.backends.measure import Run, compare
from planish.backends.ort.session import Session, SessionSettings
from planish.driver.deploy import static_dims
from planish.driver.dims import with_dims
from planish.driver.kernel_times import KernelTimes
from planish.driver.plans import expanded, without_passes
from planish.driver.versions import versions
from planish.ir.graph import Model
from planish.ir.onnx_writer import model_to_bytes
from planish.models import zoo
from planish.passes.core import Context
from planish.passes.shared.layout.graphs import Layouts
from planish.passes.shared.layout.sizes import sizes_of
from planish.passes.target import get_target, native

PASSES = {"merge-deconvolutions", "cancel-transposes", "assign-layout", "insert-transposes"}
HEADER = """# What the choice of layouts buys

Written by `python -P benchmarks/layout.py` with onnxruntime {onnxruntime}, one thread, on a machine of target {machine}
(models made for it). Ratios of run times, medians of {rounds} rounds with new sessions (smallest and largest in
brackets): below 1 is faster, *same model* where the passes changed nothing. Transposes: of the plain model, after the
default pipeline without layout passes, and with them. *Moves by the table*: what Transposes, concatenations, pieces and
reductions take by the table of costs, before and after the layout passes. *Races*: convolutions with their spatial axes
exchanged that the model of kernels proposed, timed beside the written ones (at the most, with 99 % confidence); what
gains 10 us is taken. Differences are the largest of any output element, relative to the largest element.

"""
COLUMNS = (
    "model",
    "Transposes",
    "moves by the table, us",
    "default with / without layout passes",
    "plain model after cancel-transposes",
    "difference",
    "races",
    "proof",
)
INTEGERS = """
## Convolutions on integers

Models of `--quantize int8`, as the runtime runs them (channels-last, by its `NhwcTransformer`) and without that: time
of the second over the first, medians of {rounds} rounds. A setting of the session that `--tune` tries.

| model | channels first / channels last |
|---|---|
"""
BLOCKS = """
## The TVM backend

Blocks of channels as `backends/tvm/layout.py` gives them, beside plain NCHW everywhere, with the kernels for each: time
of the first over the second, medians of {rounds} rounds in turns on one thread.

| model | blocks / plain |
|---|---|
"""
CHANNELS_FIRST = SessionSettings(threads=1, disabled_optimizers=("NhwcTransformer",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="")
    parser.add_argument("--target", default="native")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--quantized", type=Path, help="folder of NAME.onnx, made by --quantize int8")
    parser.add_argument("--stage", choices=("write", "measure", "tvm", "table"), help="tvm only where it is asked for")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.models.split(",") if args.models else zoo.available():
        if args.stage in (None, "write"):
            write(name, args)
        if args.stage in (None, "measure"):
            measure(name, args)
        if args.stage == "tvm":
            measure_tvm(name, args)
    if args.stage in (None, "table"):
        text = table(args)
        print(text)
        if args.markdown is not None:
            args.markdown.write_text(text, "utf-8")


def write(name: str, args: argparse.Namespace) -> None:
    """The four models, and what is known of them without running them."""
    entry, target = zoo.get(name), get_target(args.target)
    samples = entry.samples(1)
    found: dict[str, Any] = {"transposes": [], "moves_us": [], "proof": ""}
    without = without_passes(expanded("default"), PASSES)
    race = KernelTimes(target, SessionSettings(), cache=False)
    raced: list[list[float] | None] = []

    def noted(models: Sequence[Model]) -> list[float] | None:
        raced.append(race(models))
        return raced[-1]

    for kind, pipeline in (
        ("plain", "none"),
        ("cancel", "cancel-transposes"),
        ("without", without),
        ("with", "default"),
    ):
        model = planish.load(entry.path())
        notes: list[str] = []
        planish.Pipeline(pipeline).run(model, Context(target=target, samples=samples, sink=notes.append, race=noted))
        (args.work / f"{name}.{kind}.onnx").write_bytes(model_to_bytes(model))
        if kind != "cancel":
            found["transposes"].append(sum(node.op == "Transpose" for node in model.all_nodes()))
        if kind in ("without", "with"):
            found["moves_us"].append(moves_us(model, Context(samples=samples)))
        if kind == "with":
            proofs = [re.search(r"(no choice costs less|within \S+ of the bound).*", note) for note in notes]
            found["proof"] = "; ".join(proof.group() for proof in proofs if proof is not None)
    found["races"] = list(dict.fromkeys(round(times[1] / times[0], 2) for times in raced if times is not None))
    save(name, found, args)


def moves_us(model: Model, ctx: Context) -> float:
    layouts = [Layouts(graph, sizes_of(graph, ctx)) for graph in model.all_graphs()]
    return sum(found.written_cost(node) for found in layouts for node in found.graph) / 1e3


def measure(name: str, args: argparse.Namespace) -> None:
    found = load(name, args)
    sample = zoo.get(name).samples(1)[0]
    for key, pair in (("default", ("without", "with")), ("cancel", ("plain", "cancel"))):
        files = [(args.work / f"{name}.{kind}.onnx").read_bytes() for kind in pair]
        if files[0] != files[1]:
            found[key] = [ratio(files, sample, args.seconds) for _ in range(args.rounds)]
            found[f"{key}_difference"] = difference(files, sample)
    quantized = args.quantized / f"{name}.onnx" if args.quantized is not None else None
    if quantized is not None and quantized.exists():
        both = [SessionSettings(threads=1), CHANNELS_FIRST]
        content = quantized.read_bytes()
        found["integers"] = [ratio([content, content], sample, args.seconds, both) for _ in range(args.rounds)]
    save(name, found, args)


def measure_tvm(name: str, args: argparse.Namespace) -> None:
    """The TVM backend's layouts beside plain ones everywhere: its kernels in this process, on one thread."""
    from planish.backends.tvm import layout
    from planish.backends.tvm.backend import TvmBackend
    from planish.backends.tvm.lower import program
    from planish.backends.tvm.trial import Trials

    found, sample = load(name, args), zoo.get(name).samples(1)[0]
    target = replace(get_target(args.target), runtime="tvm")
    model = planish.load(zoo.get(name).path())
    model = with_dims(model, static_dims(model, {}, sample))
    context = Context(target=target, samples=[sample])
    planish.Pipeline("default").run(model, context)
    planish.Pipeline(TvmBackend().legalize(model, target)).run(model, context)
    trials = Trials(target, lambda piece: Session(piece, SessionSettings(threads=1)).run)
    chosen = trials.runner(model)

    def plain(groups: Any, _: Any, outputs: Any) -> layout.Layouts:
        return layout.assign_layouts(groups, lambda channels: 1, outputs)

    program.assign_layouts = plain
    beside = trials.runner(model)
    program.assign_layouts = layout.assign_layouts
    given = {k: np.ascontiguousarray(v) for k, v in sample.items()}
    runs: list[Run] = [lambda _: beside(given), lambda _: chosen(given)]
    found["tvm"] = [compare(runs, seconds=args.seconds)[0].ratio for _ in range(args.rounds)]
    save(name, found, args)


def ratio(files: list[bytes], sample: Any, seconds: float, settings: Sequence[SessionSettings] = ()) -> float:
    chosen = settings or [SessionSettings(threads=1)] * len(files)
    sessions = [Session(f, s) for f, s in zip(files, chosen, strict=True)]
    return compare([lambda _, s=s: s.run(sample) for s in sessions], seconds=seconds)[0].ratio


def difference(files: list[bytes], sample: Any) -> float:
    a, b = (Session(f, SessionSettings(threads=1)).run(sample) for f in files)
    pairs = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in zip(a, b, strict=True)]
    return max(float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-30)) for x, y in pairs)


def save(name: str, found: dict[str, Any], args: argparse.Namespace) -> None:
    (args.work / f"{name}.json").write_text(json.dumps(found))


def load(name: str, args: argparse.Namespace) -> dict[str, Any]:
    return json.loads((args.work / f"{name}.json").read_text())


def table(args: argparse.Namespace) -> str:
    lines: list[str] = []
    for name in zoo.available():
        if (args.work / f"{name}.json").exists():
            found = load(name, args)
            before, after = found["moves_us"]
            wrong = [found[key] for key in ("default_difference", "cancel_difference") if key in found]
            cells = [name, " -> ".join(map(str, found["transposes"])), f"{before:,.0f} -> {after:,.0f}"]
            cells += [ratio_text(found.get("default")), ratio_text(found.get("cancel"))]
            cells += [f"{max(wrong):.1e}" if wrong else "-", ", ".join(map(str, found["races"])) or "-"]
            cells += [found["proof"] or "no Transposes, nothing to choose"]
            lines.append(f"| {' | '.join(cells)} |")
    header = HEADER.format(onnxruntime=versions()["onnxruntime"], machine=native(), rounds=args.rounds)
    head = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return header + "\n".join([*head, *lines]) + "\n" + more(args, "integers", INTEGERS) + more(args, "tvm", BLOCKS)


def more(args: argparse.Namespace, key: str, head: str) -> str:
    """A further table; empty where nothing was measured."""
    rows = {n: load(n, args).get(key) for n in zoo.available() if (args.work / f"{n}.json").exists()}
    lines = [f"| {name} | {ratio_text(ratios)} |" for name, ratios in rows.items() if ratios]
    return head.format(rounds=args.rounds) + "\n".join(lines) + "\n" if lines else ""


def ratio_text(ratios: list[float] | None) -> str:
    if not ratios:
        return "same model"
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"


if __name__ == "__main__":
    main()
