"""What quantization buys and costs: run time, size and task metric of real models, planish beside other quantizers.

    python benchmarks/quantize.py [--models minilm,magika] [--target native] [--ways int8,dynamic]
                                  [--work FOLDER] [--json RESULTS.json] [--markdown OUT.md]
                                  [--stage write|measure|table] [--peer-python /path/to/python]

Every candidate of a model runs in turns in one process, one thread, kept on one processor, in fresh sessions in each
round (see benchmarks/fusion.py). The plain model under ONNX Runtime's default settings is 1.00. All quantizers see
the same calibration samples; errors are measured on others, and the task metric on its own labelled inputs.

Ours gets an error budget: the task metric may fall by ``--drop``. What cannot keep it is refused by planish, which
then writes its float form; peers have no such budget, so that theirs may lose everything: the metric tells.
``error`` is the root mean square error of the worst output slice relative to that slice, on samples that nobody
calibrated with (see ``Budget``, ``rms``; classes that a sample does not show make it large where scores are judged).
``made in`` is processor time.
Without a task metric our budget is 5 % of that error on the calibration samples.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # also where ``python -P`` leaves it out

from fusion import add_stages, machine, session
from quantize_peers import FAILED, PEERS, run_peer

MODELS = "ppocr_det,ppocr_rec,ppocr_cls,magika,minilm,nudenet,seeded_densenet121"
CALIBRATION, HELD_OUT, LABELLED = 16, 6, {"magika": 60, "minilm": 44, "ppocr_cls": 40, "ppocr_rec": 40}
PLAIN, FLOAT = "plain", "planish float"


@dataclass
class Row:
    """One candidate."""

    tool: str
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    metric: float | None = None
    error: float = 0.0
    bytes: int = 0
    seconds: float = 0.0
    """Of processor time to make it."""
    note: str = ""


@dataclass
class Result:
    model: str
    plain_us: float
    rows: list[Row] = field(default_factory=list[Row])


def write_ours(entry: Any, way: str, target: str, drop: float, out: Path, samples: list[Any], seconds: float) -> str:
    """Writes planish's result; what it has to say about it where it kept no lossy change."""
    import planish
    from planish.driver.budget import Budget
    from planish.driver.select import Goal
    from planish.ir.errors import PlanishError

    arguments: dict[str, Any] = {"samples": samples, "validate": "final", "output": out}
    if way != "float":
        count = LABELLED.get(entry.name, 12)
        budget = (
            Budget(drop, lambda run: entry.metric(run, count), runs=True)
            if entry.metric is not None
            else Budget(0.05, "rms")
        )
        arguments |= {"budget": budget, "quantize": way.split("+"), "goal": Goal(seconds=seconds)}
    try:
        result = planish.optimize(entry.path(), target, **arguments)
    except PlanishError as error:
        return f"{FAILED}{error.message.splitlines()[0][:100]}"
    ledger = result.report.budget
    out.with_suffix(".txt").write_text(str(result.report))
    if ledger is not None and not ledger.taken:
        because = ledger.because or "; ".join(dict.fromkeys(ledger.left.values()))
        return f"float kept: {because[:100]}"
    return ""


def write_all(entry: Any, args: argparse.Namespace, folder: Path) -> None:
    """All candidates of a model, those apart that are there already."""
    import numpy as np

    samples = entry.samples(CALIBRATION, 0, uniform=True)
    inputs = folder / f"{entry.name}-samples"
    inputs.mkdir(parents=True, exist_ok=True)
    for i, sample in enumerate(samples):
        np.savez(inputs / f"{i:04}.npz", **sample)
    for tool in tools_of(args):
        out, note = _paths(folder, entry.name, tool)
        if note.exists():
            continue
        start, peak = processor_seconds(), 0
        if tool.startswith("planish"):
            said = write_ours(entry, tool.split()[1], args.target, args.drop, out, samples, args.select_seconds)
        else:
            said, peak = run_peer(tool, entry.path(), out, inputs, args.timeout, args.peer_python)
        seconds = processor_seconds() - start
        note.write_text(json.dumps({"note": said, "seconds": seconds, "peak": peak}))
        print(f"{entry.name}: {tool}: {said or 'written'} ({seconds:.0f} s)", file=sys.stderr, flush=True)


def processor_seconds() -> float:
    """Of this process and of those that it waited for: other work on the machine does not count."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def tools_of(args: argparse.Namespace) -> list[str]:
    """Names of the candidates beside the plain model."""
    ours = [FLOAT, *(f"planish {way}" for way in args.ways.split(",") if way)]
    return [*ours, *(t for t in (args.peers.split(",") if args.peers else PEERS) if t != "none")]


def _paths(folder: Path, model: str, tool: str) -> tuple[Path, Path]:
    out = folder / f"{model}-{tool.replace(' ', '_')}.onnx"
    return out, out.with_suffix(".json")


# -- measuring


def measure(entry: Any, args: argparse.Namespace, folder: Path) -> Result:
    """Times, errors and metrics of what was written."""
    from planish.backends.measure import compare

    files: dict[str, Path] = {PLAIN: entry.path()}
    rows: dict[str, Row] = {PLAIN: Row(PLAIN, 1.0, 1.0, 1.0, bytes=entry.path().stat().st_size)}
    for tool in tools_of(args):
        out, note = _paths(folder, entry.name, tool)
        said = json.loads(note.read_text()) if note.exists() else {"note": "not written", "seconds": 0.0}
        rows[tool] = Row(tool, note=said["note"], seconds=said["seconds"])
        if out.exists():
            rows[tool].bytes = out.stat().st_size
            files[tool] = out
    held_out = entry.samples(HELD_OUT, 1, uniform=True)
    _judge(entry, files, rows, held_out)
    ratios: dict[str, list[float]] = {tool: [] for tool in files}
    plain: list[float] = []
    for turn in range(args.rounds):
        made = {tool: session(files[tool]) for tool in random.Random(turn).sample(list(files), len(files))}
        others = [tool for tool in made if tool != PLAIN]
        runs = [_runner(made[tool], held_out) for tool in (PLAIN, *others)]
        for tool, found in zip(others, compare(runs, seconds=args.seconds * len(runs)), strict=True):
            ratios[tool].append(found.ratio)
            plain.append(found.times[0].time_us)
    for tool, found in ratios.items():
        if found:
            row = rows[tool]
            row.ratio, row.low, row.high = statistics.median(found), min(found), max(found)
    return Result(entry.name, statistics.median(plain) if plain else math.nan, list(rows.values()))


def _judge(entry: Any, files: dict[str, Path], rows: dict[str, Row], held_out: list[Any]) -> None:
    """Errors and metrics; what does not load or run is taken out of ``files``."""
    from planish.driver.budget.metrics import output_error

    reference = [session(files[PLAIN]).run(sample) for sample in held_out]
    for tool in list(files):
        row = rows[tool]
        try:
            made = session(files[tool])
            outputs = [made.run(sample) for sample in held_out]
            if entry.metric is not None:
                row.metric = float(entry.metric(made.run, LABELLED.get(entry.name, 12)))
        except Exception as error:
            text = re.sub(r"/\S*|\|", "", str(error).splitlines()[0])  # no paths of this machine, no cells of a table
            row.note = f"{FAILED}{text[:110]}"
            del files[tool]
            continue
        pairs = [(a, b) for x, y in zip(reference, outputs, strict=True) for a, b in zip(x, y, strict=True)]
        row.error = max(output_error("rms", a, b)[0] for a, b in pairs)


def _runner(made: Any, samples: list[Any]) -> Callable[[int], object]:
    return lambda turn: made.run(samples[turn % len(samples)])


# -- the table


def table(results: list[Result], drop: float) -> str:
    """One table for each model: our rows, then the peers; the fastest that keeps the metric is bold."""
    parts: list[str] = []
    for result in results:
        plain = next(r for r in result.rows if r.tool == PLAIN)
        timed = [r for r in result.rows if math.isfinite(r.ratio)]
        kept = [r for r in timed if _keeps(r, plain, drop)]
        best = min(kept, key=lambda r: r.ratio, default=None)
        parts += [f"## {result.model}", "", f"Plain: {result.plain_us / 1e3:.3g} ms.", ""]
        parts += ["| | time | range | metric | error | size | made in |", "|---|---:|---:|---:|---:|---:|---:|"]
        for r in result.rows:
            if not math.isfinite(r.ratio):
                parts.append(f"| {r.tool} | {r.note or 'missing'} | | | | | {r.seconds:.0f} s |")
                continue
            mark = "**" if r is best else ""
            metric = "" if r.metric is None else f"{r.metric:.4f}"
            lost = "" if _keeps(r, plain, drop) else " (lost)"
            note = f" ({r.note})" if r.note else ""
            parts.append(
                f"| {r.tool}{note} | {mark}{r.ratio:.3f}{mark} | {r.low:.3f} to {r.high:.3f} | {metric}{lost} "
                f"| {r.error:.3g} | {r.bytes / 1e6:.2f} MB | {r.seconds:.0f} s |"
            )
        parts.append("")
    return "\n".join(parts)


def _keeps(row: Row, plain: Row, drop: float) -> bool:
    if row.metric is None or plain.metric is None:
        return row.error <= 0.05
    return row.metric >= plain.metric - drop - 1e-12


# -- command line


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--target", default="native")
    parser.add_argument("--ways", default="int8,dynamic", help="ours: names for `quantize`, joined by + to combine")
    parser.add_argument("--peers", default="", help="names, comma between; all by default, `none`")
    parser.add_argument("--drop", type=float, default=0.005, help="how far the task metric may fall")
    parser.add_argument("--select-seconds", type=float, default=120.0)
    parser.add_argument("--seconds", type=float, default=0.7, help="for each candidate of a model, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a peer to write one model")
    add_stages(parser)
    return parser.parse_args()


def run(args: argparse.Namespace, folder: Path) -> list[Result]:
    from planish.models.zoo import get

    results: list[Result] = []
    for name in args.models.split(","):
        entry = get(name)
        if not entry.installed:
            print(f"{name}: {entry.install_command}", file=sys.stderr)
            continue
        if args.stage != "measure":
            write_all(entry, args, folder)
        if args.stage != "write":
            results.append(measure(entry, args, folder))
            if args.json:
                save(args.json, results[-1:])
    return results


def load(path: Path) -> list[Result]:
    plain = json.loads(path.read_text()) if path.exists() else {}
    return [Result(name, r["plain_us"], [Row(**row) for row in r["rows"]]) for name, r in plain.items()]


def save(path: Path, results: list[Result]) -> None:
    found = {r.model: r for r in [*load(path), *results]}
    path.write_text(json.dumps({name: asdict(r) for name, r in found.items()}, indent=1))


def main() -> None:
    args = arguments()
    if args.stage == "table":
        results = load(args.json)
    else:
        with tempfile.TemporaryDirectory() as name:
            results = run(args, args.work or Path(name))
        if args.json and args.stage != "write":
            results = load(args.json)
    if not results:
        return
    chosen = " ".join(f"--{n} {getattr(args, n)}" for n in ("models", "target", "ways", "drop", "seconds", "rounds"))
    preface = (__doc__ or "").partition("The plain model")[2].strip()
    text = (
        f"# What quantization buys\n\n{machine()}\n\n    python benchmarks/quantize.py {chosen}\n\n"
        f"The plain model {preface}\n\n{table(results, args.drop)}"
    )
    print(text)
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    main()
