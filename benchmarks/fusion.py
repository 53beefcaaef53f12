"""What fusion buys: run time of real models under ONNX Runtime, planish beside other optimizers.

    python benchmarks/fusion.py [--models minilm,magika] [--pipeline default] [--seconds 4] [--rounds 2]
                                [--markdown OUT.md] [--json OUT.json] [--peer-python /path/to/python]

Every model of the zoo that is installed (and a small Llama-style decoder with seeded weights) runs as it is
under ONNX Runtime's default settings, which is 1.00, as planish writes it, and as each peer writes it. All
candidates of a model run in turns on real samples in one process, single-threaded and kept on one processor,
so that a slow second hits all of them; times are the thread's CPU time. Sessions are made anew in each round,
in another random order, because speed also depends on where a session's weights happen to lie in memory (5 to 10 %
of a model bound by memory). Figures: the median over the rounds of the ratio to the plain model, with the
smallest and the largest of them, nodes in the file, the largest difference of an
output element relative to the largest one, and the time to make a session.

Peers (``pip install -e .[bench]``; what is missing is left out): onnxslim, onnxsim, onnxscript's optimizer
with its ONNX Runtime fusions, and ONNX Runtime's own offline optimizer for transformers. Each runs in a
process of its own with a time limit. ``--peer-python`` runs them with another interpreter.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PEERS = ("onnxslim", "onnxsim", "onnxscript", "transformers")
TARGET = {"x86_64": "x86-64-v3", "AMD64": "x86-64-v3", "aarch64": "aarch64", "arm64": "aarch64"}
_FAILED = "failed: "


@dataclass
class Row:
    """One candidate on one model."""

    tool: str
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    nodes: int = 0
    error: float = math.nan
    """Largest difference of an output element, relative to the largest one."""
    load_ms: float = math.nan
    note: str = ""


@dataclass
class Result:
    """One model."""

    model: str
    trained: bool
    plain_us: float
    rows: list[Row] = field(default_factory=list[Row])


# -- peers, each in a process of its own


def _onnxslim(source: str, out: str) -> None:
    import onnxslim

    onnxslim.slim(source, out)


def _onnxsim(source: str, out: str) -> None:
    import onnx
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], out)


def _onnxscript(source: str, out: str) -> None:
    import onnx
    import onnx_ir
    from onnxscript import optimizer
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model = onnx_ir.serde.deserialize_model(onnx.load(source))
    optimizer.optimize(model)
    fused: Any = optimize_for_ort(model)
    model = fused[0] if isinstance(fused, tuple) else fused
    onnx.save(onnx_ir.serde.serialize_model(model), out)


def _transformers(source: str, out: str) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    optimize_model(source, model_type="bert", opt_level=0).save_model_to_file(out)


def worker(tool: str, source: str, out: str) -> None:
    """Runs one peer; its exit status says whether it went well."""
    globals()[f"_{tool}"](source, out)


def run_peer(tool: str, source: Path, out: Path, timeout: float, python: str) -> str:
    """Why there is no result; empty where there is one."""
    command = [python, __file__, "--worker", tool, str(source), str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"{_FAILED}more than {timeout:.0f} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        return "not installed" if "ModuleNotFoundError" in last else f"{_FAILED}{last[:70]}"
    return "" if out.exists() else f"{_FAILED}wrote nothing"


# -- models


@dataclass
class Subject:
    """A model with inputs."""

    name: str
    trained: bool
    path: Path
    samples: list[dict[str, Any]]


def subjects(wanted: list[str], folder: Path) -> list[Subject]:
    """The zoo's installed models, and the decoder."""
    from planish.ir.onnx_writer import write_model
    from planish.models.llama import LlamaConfig, llama, llama_inputs
    from planish.models.zoo import ZOO

    found = [
        Subject(z.name, z.trained, z.path(), z.samples(4))
        for z in ZOO.values()
        if z.installed and (not wanted or z.name in wanted)
    ]
    if not wanted or "llama_step" in wanted:
        path = folder / "llama.onnx"
        write_model(llama(LlamaConfig()), path)
        steps = [llama_inputs(LlamaConfig(), length=1, past=64, seed=seed) for seed in range(2)]
        found.append(Subject("llama_step", False, path, steps))
    return found


def planish_model(path: Path, pipeline: str, out: Path) -> str:
    """Writes what the pipeline makes of a model; why not, or nothing."""
    from planish.ir.errors import PlanishError
    from planish.ir.infer import infer_model
    from planish.ir.onnx_reader import read_model
    from planish.ir.onnx_writer import write_model
    from planish.passes.core import Context
    from planish.passes.manager import Pipeline
    from planish.passes.target import get_target

    try:
        model = read_model(path)
        infer_model(model)
        Pipeline(pipeline).run(model, Context(target=get_target(TARGET.get(platform.machine(), "generic"))))
        write_model(model, out)
    except PlanishError as error:
        return f"{_FAILED}{error.message.splitlines()[0][:70]}"
    return ""


# -- measuring


def session(path: Path) -> Any:
    """A session with the runtime's default optimizations on one thread."""
    from planish.backends.ort.session import Session, SessionSettings

    return Session(path, SessionSettings(threads=1))


def load_ms(path: Path, times: int = 3) -> float:
    """Median time to make a session, milliseconds."""
    taken: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        session(path)
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)


def difference(reference: list[Any], found: list[Any]) -> float:
    """Largest difference of an element, relative to the largest element of its output."""
    import numpy as np

    worst = 0.0
    for a, b in zip(reference, found, strict=True):
        if a.shape != b.shape:
            return math.inf
        if a.size:
            x, y = a.astype(np.float64), b.astype(np.float64)
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            gap = float(np.max(np.where(same, 0, np.abs(x - y))))
            worst = max(worst, gap / max(float(np.nanmax(np.abs(x))), 1e-30) if gap == gap else math.inf)
    return worst


def measure(subject: Subject, files: dict[str, Path], seconds: float, rounds: int) -> tuple[float, list[Row]]:
    """Microseconds of the plain model, and a row for each candidate."""
    from planish.backends.measure import compare

    rows = {tool: Row(tool, load_ms=load_ms(path)) for tool, path in files.items()}
    ratios: dict[str, list[float]] = {tool: [] for tool in files}
    plain: list[float] = []
    for turn in range(rounds):
        order = random.Random(turn).sample(list(files), len(files))
        sessions = {tool: session(files[tool]) for tool in order}
        base = [sessions["plain"].run(sample) for sample in subject.samples]
        for tool, made in sessions.items():
            outputs = [made.run(sample) for sample in subject.samples]
            rows[tool].error = max(difference(a, b) for a, b in zip(base, outputs, strict=True))
        others = [tool for tool in order if tool != "plain"]
        runs = [_runner(sessions[tool], subject.samples) for tool in ("plain", *others)]
        for tool, found in zip(others, compare(runs, seconds=seconds), strict=True):
            ratios[tool].append(found.ratio)
            plain.append(found.times[0].time_us)
    for tool, found in ratios.items():
        if found:
            rows[tool].ratio, rows[tool].low, rows[tool].high = statistics.median(found), min(found), max(found)
    rows["plain"].ratio = rows["plain"].low = rows["plain"].high = 1.0
    return (statistics.median(plain) if plain else math.nan), list(rows.values())


def _runner(made: Any, samples: list[dict[str, Any]]) -> Any:
    return lambda turn: made.run(samples[turn % len(samples)])


def count_nodes(path: Path) -> int:
    """Nodes of the file, those of bodies and functions included."""
    from planish.ir.onnx_reader import read_model
    from planish.passes.manager import count_nodes as count

    return count(read_model(path))


def benchmark(subject: Subject, args: argparse.Namespace, folder: Path) -> Result:
    """All candidates on one model."""
    files, notes = {"plain": subject.path}, {}
    out = folder / f"{subject.name}-planish.onnx"
    notes["planish"] = planish_model(subject.path, args.pipeline, out)
    if not notes["planish"]:
        files["planish"] = out
    for tool in args.peers.split(",") if args.peers else ():
        out = folder / f"{subject.name}-{tool}.onnx"
        notes[tool] = run_peer(tool, subject.path, out, args.timeout, args.peer_python)
        if not notes[tool]:
            try:
                session(out).run(subject.samples[0])
            except Exception as error:
                notes[tool] = f"{_FAILED}{str(error).splitlines()[0][:70]}"
            else:
                files[tool] = out
    plain_us, rows = measure(subject, files, args.seconds * len(files), args.rounds)
    for row in rows:
        row.nodes = count_nodes(files[row.tool])
    rows += [Row(tool, note=note) for tool, note in notes.items() if note]
    return Result(subject.name, subject.trained, plain_us, rows)


# -- tables


def table(results: list[Result], tools: list[str]) -> str:
    """Markdown: time relative to the plain model, then nodes, errors and session times."""
    head = "| model | plain, us | " + " | ".join(tools) + " |"
    lines = ["Time relative to the plain model (range over the rounds)", "", head, "|" + "---|" * (len(tools) + 2)]
    for r in results:
        cells = [_ratio(_row(r, tool)) for tool in tools]
        lines.append(f"| {r.model} | {r.plain_us:.0f} | " + " | ".join(cells) + " |")
    for label, chosen in (("geometric mean, trained", [r for r in results if r.trained]), ("geometric mean", results)):
        cells = [_mean([_row(r, tool) for r in chosen]) for tool in tools]
        lines.append(f"| {label} | | " + " | ".join(cells) + " |")
    for title, text in (
        ("Nodes", lambda row: f"{row.nodes}"),
        ("Largest difference", lambda row: f"{row.error:.1e}"),
        ("Time to make a session, ms", lambda row: f"{row.load_ms:.0f}"),
    ):
        lines += ["", title, "", "| model | plain | " + " | ".join(tools) + " |", "|" + "---|" * (len(tools) + 2)]
        for r in results:
            cells = [
                text(row) if row is not None and not row.note else "" for row in (_row(r, t) for t in ("plain", *tools))
            ]
            lines.append(f"| {r.model} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _row(result: Result, tool: str) -> Row | None:
    return next((row for row in result.rows if row.tool == tool), None)


def _ratio(row: Row | None) -> str:
    if row is None:
        return ""
    return row.note or f"{row.ratio:.3f} ({row.low:.3f}-{row.high:.3f})"


def _mean(rows: list[Row | None]) -> str:
    ratios = [row.ratio for row in rows if row is not None and not row.note and row.ratio == row.ratio]
    if not ratios:
        return ""
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"{mean:.3f}" + ("" if len(ratios) == len(rows) else f" ({len(ratios)} of {len(rows)})")


def machine() -> str:
    """Processor, runtime and versions, for the head of a saved table."""
    import onnxruntime

    name = next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return f"{name}; onnxruntime {onnxruntime.__version__}, one thread; python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="names from the zoo, and llama_step; all by default")
    parser.add_argument("--pipeline", default="default")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each candidate of a model, in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a peer to write one model")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(*args.worker)
        return
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for subject in subjects([m for m in args.models.split(",") if m], folder):
            results.append(benchmark(subject, args, folder))
            row = _row(results[-1], "planish")
            print(f"{subject.name}: {_ratio(row)}", file=sys.stderr, flush=True)
    tools = ["planish", *(t for t in args.peers.split(",") if t)]
    chosen = ((n, getattr(args, n)) for n in ("models", "pipeline", "peers", "seconds", "rounds"))
    command = "python benchmarks/fusion.py " + " ".join(f"--{n} {v}" for n, v in chosen if v != "")
    text = f"{machine()}\n\n    {command}\n\n{table(results, tools)}"
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine(), "results": [asdict(r) for r in results]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
