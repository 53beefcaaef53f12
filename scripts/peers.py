"""Lets other optimizers loose on the random models and the zoo, and shrinks what they get wrong.

    scripts/peers [--models 300] [--seed 0] [--tool onnxslim] [--no-zoo] [--out docs/results/peers.md]

Only models that onnx's checker takes with full type inference, and samples without empty tensors. A tool runs in a
process of its own. A fault is what ``planish bisect MODEL --command`` calls one: the tool fails or takes over a minute
of processor time, the runtime refuses its result, the interface changes, or an output differs beyond the rounding noise
of the original.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from planish.driver.bisect.judge import INTERFACE, KINDS, Fault
from planish.driver.bisect.tool import ToolBisection, ToolTrial, bisect_tool
from planish.ir.errors import PlanishError
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes
from planish.models import zoo
from planish.models.onnx_tests import passes_checker
from planish.models.random import random_case
from planish.models.random.draft import SAMPLES

SIZES = (3, 6, 12, 12, 20)
SECONDS = 60.0
"""A tool that takes more processor time has failed."""
SHRINK_SECONDS = 300.0
MAX_LINES = 40
MAX_SAMPLE = 300
"""A sample whose text is longer is not shown."""
HEADER = """# What bisecting finds in other optimizers

Written by `scripts/peers --models {models} --seed {seed} --shrink {shrink}`.
Those of the {models} random models (`models/random`) that onnx's checker takes{zoo}
went through each tool as it is by default. Each result was compared with the original, both run by ONNX Runtime
{onnxruntime} without its own optimizations, with the bounds of `planish validate`.
planish's own default pipeline is the control. `interface` counts results whose inputs or outputs differ (mostly
tools that take out inputs which nothing uses); they are not shrunk. The random models are made to be hard: they are
valid, but rarer than what people export. Reproducers are the smallest models that the search found; with a file of it,
`planish bisect MODEL.onnx --command "onnxslim {{before}} {{after}}"` shows the same.

"""


def _onnxslim(data: bytes) -> bytes:
    import onnx
    import onnxslim

    return onnxslim.slim(onnx.load_from_string(data)).SerializeToString()


def _onnxsim(data: bytes) -> bytes:
    import onnx
    import onnxsim

    return onnxsim.simplify(onnx.load_from_string(data))[0].SerializeToString()


def _onnxscript(data: bytes) -> bytes:
    import onnx
    from onnxscript import optimizer

    return optimizer.optimize(onnx.load_from_string(data)).SerializeToString()


def _onnxoptimizer(data: bytes) -> bytes:
    import onnx
    import onnxoptimizer

    return onnxoptimizer.optimize(onnx.load_from_string(data)).SerializeToString()


def _onnxruntime(data: bytes) -> bytes:
    import onnxruntime as ort

    with TemporaryDirectory() as scratch:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(scratch, "after.onnx"))
        ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return Path(scratch, "after.onnx").read_bytes()


def _planish(data: bytes) -> bytes:
    from planish.passes.manager import Pipeline

    model = read_model(data)
    Pipeline("default").run(model)
    return model_to_bytes(model)


TOOLS: dict[str, Callable[[bytes], bytes]] = {
    "planish": _planish,
    "onnxslim": _onnxslim,
    "onnxsim": _onnxsim,
    "onnxscript": _onnxscript,
    "onnxoptimizer": _onnxoptimizer,
    "onnxruntime": _onnxruntime,
}


class Apart:
    """A tool in a process of its own, which is made anew when it ends or hangs."""

    def __init__(self, name: str) -> None:
        self.function = TOOLS[name]
        self.pool: ProcessPoolExecutor | None = None

    def __call__(self, data: bytes) -> bytes:
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _quiet)
        try:
            return self.pool.submit(limited, self.function, data).result()
        except BrokenProcessPool:
            self.close()
            raise RuntimeError(f"the process ended: it crashed, or took over {SECONDS:.0f} s") from None

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)
        self.pool = None


def limited(function: Callable[[bytes], bytes], data: bytes) -> bytes:
    """Runs in the tool's process, which ends when the time is over."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return function(data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _quiet() -> None:
    """What tools print is not ours."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


@dataclass
class Tally:
    """What a tool did."""

    models: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    zoo_models: int = 0
    zoo: dict[str, str] = field(default_factory=dict)
    """Faults in models of the zoo, by name."""
    found: dict[tuple[str, ...], ToolBisection] = field(default_factory=dict)
    """Shrunk faults, by kind and operators."""
    seeds: dict[tuple[str, ...], list[str]] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tool", action="append", choices=[*TOOLS])
    parser.add_argument("--zoo", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--shrink", type=int, default=8, help="shrink at most so many faults a tool")
    parser.add_argument("--out", type=Path, default=Path("docs/results/peers.md"))
    args = parser.parse_args()
    head = HEADER.format(
        models=args.models, seed=args.seed, shrink=args.shrink, onnxruntime=_version("onnxruntime"),
        zoo=", and the models of the zoo with two real samples each," if args.zoo else "",
    )  # fmt: skip
    tallies: dict[str, Tally] = {}
    for name in args.tool or [t for t in TOOLS if t == "planish" or _version(t)]:
        tool = Apart(name)
        tallies[name] = tally = Tally()
        try:
            for seed, model, samples in drawn(args.models, args.seed):
                one(tally, name, tool, str(seed), model, samples, args.shrink)
            for item in map(zoo.get, zoo.available()) if args.zoo else ():
                on_zoo(tally, tool, item)
        finally:
            tool.close()
        print(row(name, tally), flush=True)
        args.out.write_text(head + "\n".join(report(tallies)) + "\n", "utf-8")
    control = tallies.get("planish")
    return 1 if control is not None and control.faults else 0


def drawn(count: int, seed: int) -> Iterator[tuple[int, Model, list[dict[str, Any]]]]:
    """Random models that the checker takes, with samples that the runtime takes."""
    import onnx

    for i in range(count):
        try:
            case = random_case(seed + i, SIZES[(seed + i) % len(SIZES)])
            for port, value in zip(case.model.graph.ports, case.model.graph.outputs, strict=True):
                port.declared = value.type  # the checker wants extents, known or not
            data = model_to_bytes(case.model)
        except PlanishError:
            continue
        if passes_checker(onnx.load_from_string(data), types=True):
            yield case.seed, case.model, case.samples[:SAMPLES]


def one(
    tally: Tally, name: str, tool: Apart, label: str, model: Model, samples: list[dict[str, Any]], shrink: int
) -> None:
    """One random model."""
    tally.models += 1
    fault = ToolTrial(tool).fault(model, samples)
    if fault is None:
        return
    tally.faults[fault.kind] += 1
    print(f"{name} {label}: {fault}"[:200], file=sys.stderr, flush=True)
    if len(tally.found) >= shrink or fault.kind == INTERFACE:
        return
    small = bisect_tool(model, tool, samples, name=name, seconds=SHRINK_SECONDS)
    if small.fault is None or not small.text:
        return
    key = (small.fault.kind, *sorted(_ops(small.text)))
    tally.found.setdefault(key, small)
    if small.nodes < tally.found[key].nodes:
        tally.found[key] = small
    tally.seeds.setdefault(key, []).append(label)
    print(f"{small.nodes} nodes: {' '.join(key)}", file=sys.stderr, flush=True)


def _ops(text: str) -> list[str]:
    return [op for op in re.findall(r"= ([\w.:]+)\(", text) if op != "const"]


def on_zoo(tally: Tally, tool: Apart, item: zoo.ZooModel) -> None:
    """One trained model."""
    tally.zoo_models += 1
    try:
        fault: Fault | None = ToolTrial(tool).fault(read_model(item.path()), item.samples(2))
    except PlanishError as error:
        tally.zoo[item.name] = f"not compared: {error.message}"
        return
    if fault is not None:
        tally.zoo[item.name] = str(fault)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def row(name: str, t: Tally) -> str:
    counts = [str(t.faults[kind]) for kind in _shown()]
    zoo_faults = ", ".join(t.zoo) or (f"none of {t.zoo_models} models" if t.zoo_models else "not run")
    return f"| {name} {_version(name)}".rstrip() + f" | {t.models} | {' | '.join(counts)} | {zoo_faults} |"


def _shown() -> list[str]:
    return [kind for kind in KINDS if kind not in ("invalid", "slow")]


def report(tallies: dict[str, Tally]) -> Iterator[str]:
    yield f"| tool | models | {' | '.join(_shown())} | faults in the zoo |"
    yield "|---|---:|" + "---:|" * len(_shown()) + "---|"
    yield from (row(name, t) for name, t in tallies.items())
    for name, t in tallies.items():
        for model, fault in t.zoo.items():
            yield f"\n{name} on {model}: {fault}"
    for name, t in tallies.items():
        for key, small in t.found.items():
            yield from _finding(name, key, small, t.seeds[key])


def _finding(name: str, key: tuple[str, ...], small: ToolBisection, seeds: list[str]) -> Iterator[str]:
    yield f"\n## {name}: {key[0]}, {small.nodes} nodes ({', '.join(key[1:]) or 'no operator'})\n"
    yield f"From random model {', '.join(seeds[:6])}. {small.fault}\n"
    lines = [line for line in small.text.strip().splitlines() if not line.startswith("// ") or len(line) <= MAX_SAMPLE]
    yield "\n".join(["```ir", *lines, "```"])
    if small.after and small.after.count("\n") <= MAX_LINES:
        yield f"\nbecomes\n\n```ir\n{small.after.strip()}\n```"
    if small.alignment is not None and small.alignment.first:
        yield f"\nThe first value that differs is `{small.alignment.first}`."


if __name__ == "__main__":
    sys.exit(main())
