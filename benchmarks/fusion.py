"""What fusion buys: run time of real models under ONNX Runtime, planish beside other optimizers.

    python benchmarks/fusion.py [--models minilm,magika] [--extra NAME=FILE.onnx=ZOO_MODEL]
                                [--targets native,native+smallest,generic,generic+smallest]
                                [--pipeline default] [--seconds 1] [--rounds 5] [--work FOLDER] [--json RESULTS.json]
                                [--markdown OUT.md] [--stage write|measure|table] [--peer-python /path/to/python]

Every model of the zoo that is installed (trained ones, and with seeded and constant weights), a small Llama-style
decoder with seeded weights, and what ``--extra`` adds (another graph that takes the inputs of a zoo model, as
benchmarks/export_minilm.py makes one) runs as it is under ONNX Runtime's default settings, which is 1.00, as planish
writes it for each target, and as each peer writes it. All candidates of a model run in turns on real samples in one
process, single-threaded and kept on one processor, so that a slow second hits all of them; times are the thread's CPU
time. Sessions are made anew in each round, in another random order, because speed also depends on where a session's
weights happen to lie in memory (5 to 10 % of a model bound by memory). Where the sessions of all candidates would take
more than ``--memory``, the plain model runs beside a few at a time. Figures: the median over the rounds of the
ratio to the plain model, with the smallest and the largest of them, nodes that run, how many of them are ONNX Runtime's
own, the largest difference of an output element relative to the largest one, and the processor time to make a session
(the shortest: what disturbs only adds to it).

A target may name a pipeline of its own behind a plus: ``native+smallest`` is what has the fewest nodes.

A long run can be made in parts: ``--stage write`` keeps the candidates in the folder ``--work`` (what peers wrote
there before is taken again), ``--stage measure`` measures what is there, ``--json`` adds to the results that the file
has, ``--stage table`` prints the table of that file.

Peers (``pip install -e .[bench]``; what is missing is left out): onnxslim, onnxsim, onnxscript's optimizer
with its ONNX Runtime fusions, and ONNX Runtime's own offline optimizer for transformers. Each runs in a
process of its own with a time limit. ``--peer-python`` runs them with another interpreter.
"""

from __future__ import annotations

import argparse
import math
import platform
import random
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # also where ``python -P`` leaves it out

from fusion_peers import FAILED, PEERS, run_peer
from fusion_table import OURS, PREFACE, Result, Row, load, save, table

TRIES = 3
"""How often a session of each candidate is made in a round, in turns, to time that."""


@dataclass
class Subject:
    """A model with inputs."""

    name: str
    trained: bool
    path: Path
    samples: list[dict[str, Any]]


@dataclass
class Timed:
    """One candidate in one round."""

    ratio: float
    plain_us: float
    load_ms: float
    error: float


def subjects(wanted: list[str], extra: list[str], folder: Path) -> list[Subject]:
    """The zoo's installed models, the decoder, and others on a zoo model's samples (``NAME=FILE=ZOO_MODEL``)."""
    from planish.ir.onnx_writer import write_model
    from planish.models.llama import LlamaConfig, llama, llama_inputs
    from planish.models.zoo import ZOO, get

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
    for text in extra:
        name, file, source = text.split("=")
        if not wanted or name in wanted:
            # Not trained once more: in the mean of the trained models each stands once.
            found.append(Subject(name, False, Path(file), get(source).samples(4)))
    return found


def write_ours(source: Path, pipeline: str, target: str, out: Path) -> str:
    """Writes what the pipeline makes of a model; why not, or nothing."""
    from planish.ir.errors import PlanishError
    from planish.ir.infer import infer_model
    from planish.ir.onnx_reader import read_model
    from planish.ir.onnx_writer import write_model
    from planish.passes.core import Context
    from planish.passes.manager import Pipeline
    from planish.passes.target import get_target

    try:
        chosen = get_target(target)
        model = read_model(source)
        infer_model(model)
        Pipeline(pipeline).run(model, Context(target=chosen))
        write_model(model, out, value_info=chosen.value_info)
    except PlanishError as error:
        return f"{FAILED}{error.message.splitlines()[0][:70]}"
    return ""


def candidates(subject: Subject, args: argparse.Namespace, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The files to compare by the tool that wrote them, the plain one first; and why others are missing."""
    files, notes = {"plain": subject.path}, dict[str, str]()
    for tool in tools_of(args):
        out = folder / f"{subject.name}-{tool}.onnx"
        if args.stage == "measure":
            note = _note(out).read_text()
        elif tool.startswith(OURS):
            target, _, own = tool.partition(":")[2].partition("+")
            note = write_ours(subject.path, own or args.pipeline, target, out)
        else:
            note = write_peer(tool, subject, out, args)
        _note(out).write_text(note)
        if note:
            notes[tool] = note
        else:
            files[tool] = out
    return files, notes


def tools_of(args: argparse.Namespace) -> list[str]:
    """Names of the candidates beside the plain model: ours by target, then the peers."""
    return [*(f"{OURS}:{target}" for target in args.targets.split(",")), *(t for t in args.peers.split(",") if t)]


def write_peer(tool: str, subject: Subject, out: Path, args: argparse.Namespace) -> str:
    """Has a peer write its model, or finds what it wrote before; why there is none that runs, or nothing."""
    if _note(out).exists():
        return _note(out).read_text()
    note = run_peer(tool, subject.path, out, args.timeout, args.peer_python)
    if not note:
        try:
            session(out).run(subject.samples[0])
        except Exception as error:
            text = re.sub(r"/\S*|\|", "", str(error).splitlines()[0])  # no paths of this machine, no cells of a table
            note = f"{FAILED}{text[:70]}"
    return note


def _note(out: Path) -> Path:
    """Where it stands why there is no such candidate; empty where there is one."""
    return out.with_suffix(".note")


# -- measuring


def session(path: Path) -> Any:
    """A session with the runtime's default optimizations on one thread."""
    from planish.backends.ort.session import Session, SessionSettings

    return Session(path, SessionSettings(threads=1))


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


def measure(subject: Subject, files: dict[str, Path], args: argparse.Namespace) -> Result:
    """Times the files in turns; each candidate gets about ``args.seconds`` in each of the rounds."""
    rows = {tool: counted(tool, path) for tool, path in files.items()}
    seen: dict[str, list[Timed]] = {tool: [] for tool in files}
    together = at_once(subject, args.memory)
    for turn in range(args.rounds):
        others = random.Random(turn).sample(list(files)[1:], len(files) - 1)
        for start in range(0, max(len(others), 1), together):
            tools = ["plain", *others[start : start + together]]
            random.Random(turn).shuffle(tools)
            last = turn == args.rounds - 1
            for tool, timed in measure_together(subject, {t: files[t] for t in tools}, args.seconds, last).items():
                seen[tool].append(timed)
    for tool, row in rows.items():
        ratios = [one.ratio for one in seen[tool]]
        row.ratio, row.low, row.high = statistics.median(ratios), min(ratios), max(ratios)
        row.load_ms = min(one.load_ms for one in seen[tool])
        row.error = seen[tool][-1].error
    plain_us = statistics.median(one.plain_us for one in seen["plain"])
    return Result(subject.name, subject.trained, plain_us, list(rows.values()))


def measure_together(subject: Subject, files: dict[str, Path], seconds: float, check: bool) -> dict[str, Timed]:
    """Makes a session of each file and runs them in turns; ``plain`` is among them. ``check``: compares outputs."""
    from planish.backends.measure import compare

    sessions, loads = dict[str, Any](), dict.fromkeys(files, math.inf)
    for tool in [*files] * TRIES:
        sessions.pop(tool, None)
        start = time.thread_time()
        sessions[tool] = session(files[tool])
        loads[tool] = min(loads[tool], (time.thread_time() - start) * 1e3)
    samples = subject.samples if check else []
    base = [sessions["plain"].run(sample) for sample in samples]
    tools = ["plain", *(tool for tool in sessions if tool != "plain")]
    runs = [_runner(sessions[tool], subject.samples) for tool in tools]
    compared = compare(runs, seconds=seconds * len(runs))
    plain_us = statistics.median(one.times[0].time_us for one in compared) if compared else math.nan
    found: dict[str, Timed] = {}
    for tool, ratio in zip(tools, (1.0, *(one.ratio for one in compared)), strict=True):
        error = max(
            (difference(a, sessions[tool].run(b)) for a, b in zip(base, samples, strict=True)), default=math.nan
        )
        found[tool] = Timed(ratio, plain_us, loads[tool], error)
    return found


def at_once(subject: Subject, limit_mb: float) -> int:
    """Candidates whose sessions fit into memory beside the plain model's, by what the latter takes to run (one at
    least)."""
    before = resident_mb()
    one = session(subject.path)
    one.run(subject.samples[0])
    return max(1, int(limit_mb / max(resident_mb() - before, 1.0)) - 1)


def resident_mb() -> float:
    """Memory that this process holds now; 0 where the system does not tell."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * resource.getpagesize() / 1e6 if path.exists() else 0.0


def _runner(one: Any, samples: list[dict[str, Any]]) -> Callable[[int], object]:
    return lambda turn: one.run(samples[turn % len(samples)])


def counted(tool: str, path: Path) -> Row:
    """Nodes that run, those of bodies and functions included: what depends on constants alone does not, because the
    runtime computes it when it makes the session (some tools write large constants as ConstantOfShape or Expand)."""
    from planish.ir.onnx_reader import read_model
    from planish.ir.ops import is_pure

    model = read_model(path)
    row = Row(tool, opset=model.opsets.get("", 0))
    constant: set[Any] = set()
    for node in model.all_nodes():
        fixed = all(v is None or v.data is not None or v in constant for v in node.inputs)
        if fixed and not node.subgraphs and is_pure(node):
            constant.update(node.outputs)
        else:
            row.nodes += 1
            row.own += node.domain.startswith("com.microsoft")
    return row


def machine() -> str:
    """Processor, runtime and versions, for the head of a saved table."""
    import onnxruntime

    from planish.passes.target import native

    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    runtime = f"onnxruntime {onnxruntime.__version__}, one thread; python {platform.python_version()}"
    return f"{name} (native target: {native()}); {runtime}"


# -- command line


def add_stages(parser: argparse.ArgumentParser) -> None:
    """Options of benchmarks that write candidates, measure them and print a table, each by itself where wanted."""
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--work", type=Path, help="folder that keeps the candidates")
    parser.add_argument("--stage", choices=("all", "write", "measure", "table"), default="all")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path, help="results; those of other models stay in the file")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="names from the zoo, llama_step, those of --extra; all by default")
    parser.add_argument("--extra", action="append", default=[], metavar="NAME=FILE=ZOO_MODEL")
    parser.add_argument("--targets", default="native,native+smallest,generic,generic+smallest")
    parser.add_argument("--pipeline", default="default")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each candidate of a model, in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=float, default=4000, help="MB that the sessions of a model may take together")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a peer to write one model")
    add_stages(parser)
    return parser.parse_args()


def run(args: argparse.Namespace, folder: Path) -> list[Result]:
    """Writes and measures what is asked for, model by model."""
    results: list[Result] = []
    folder.mkdir(parents=True, exist_ok=True)
    for subject in subjects([m for m in args.models.split(",") if m], args.extra, folder):
        files, notes = candidates(subject, args, folder)
        if args.stage == "write":
            print(f"{subject.name}: {', '.join(files)}; {notes or ''}", file=sys.stderr, flush=True)
            continue
        result = measure(subject, files, args)
        result.rows += [Row(tool, note=note) for tool, note in notes.items()]
        results.append(result)
        text = ", ".join(f"{row.tool} {row.ratio:.3f} ({row.nodes})" for row in result.rows[1:] if not row.note)
        print(f"{subject.name}: {text}", file=sys.stderr, flush=True)
        if args.json:
            save(args.json, machine(), [result])
    return results


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
    chosen = ((n, getattr(args, n)) for n in ("models", "targets", "pipeline", "peers", "seconds", "rounds"))
    command = "python benchmarks/fusion.py " + " ".join(f"--{n} {v}" for n, v in chosen if v != "")
    extra = "".join(f" --extra {name}" for name in args.extra)
    text = f"{machine()}\n\n    {command}{extra}\n\n{PREFACE}\n\n{table(results, tools_of(args))}"
    print(text)
    if args.markdown:
        args.markdown.write_text(f"# What fusion buys\n\n{text}")


if __name__ == "__main__":
    main()
