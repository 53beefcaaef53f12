"""The TVM backend beside ONNX Runtime: models of the zoo, one thread, in turns, with build times.

    python -P benchmarks/tvm.py --build W
    taskset -c 1 python -P benchmarks/tvm.py --time W --markdown docs/results/tvm.md

``ORT`` runs the original at its own full optimization, ``ours on ORT`` our optimized model likewise, ``TVM`` what we
built from that: with the best guesses at schedules, and with the shipped database of them. Times are the thread's CPU
time, the least of many runs in turns; several timings of one folder are put together by their least.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np

import planish
from planish.backends.ort.session import Session, SessionSettings
from planish.backends.tvm import backend
from planish.backends.tvm.kernels.machine import Machine
from planish.driver.deploy import for_passes, legalized, static_dims
from planish.driver.optimize import optimize
from planish.models import zoo
from planish.passes.context import Context
from planish.passes.manager import Pipeline
from planish.passes.target import get_target

MODELS = (
    "ppocr_cls ppocr_rec ppocr_det nudenet magika minilm silero_vad silero_vad_sequence basic_pitch "
    "seeded_squeezenet seeded_shufflenet seeded_densenet121 seeded_inception_v1 seeded_inception_v2 seeded_resnet50 "
    "light_bvlc_alexnet light_zfnet512 light_vgg19"
).split()
SETTINGS = SessionSettings(threads=1)
SAMPLES = 4
"""On which outputs are compared, beside the one that is timed, where they have its extents."""


WAYS = ("guess", "shipped")


def built(name: str, folder: Path, way: str) -> dict[str, Any]:
    """The library of one way; the optimized model and the sample lie in the folder, too."""
    written = folder / "row.json"
    row: dict[str, Any] = json.loads(written.read_text()) if written.exists() else {"model": name}
    if not written.exists():
        optimized(name, folder)
    target = replace(get_target("native"), runtime="tvm", contrib=False)
    begin = time.process_time()
    model = planish.load(folder / "model.onnx")
    Pipeline("clean").run(model, Context(target=target))  # weights of one number are written as nodes
    model = legalized(model, target)
    with guessing() if way == "guess" else nullcontext():
        artifact = backend.TvmBackend().lower(model, target)
    artifact.save(folder / way)
    row |= {f"{way}_s": time.process_time() - begin}
    memory = artifact.manifest["memory"].values()
    row |= {
        "library_kb": (folder / way / "lib.so").stat().st_size / 1024,
        "arena_kb": sum(m["arena_bytes"] for m in memory) / 1024,
        "live_kb": sum(m["live_bytes"] for m in memory) / 1024,
        "scratch_kb": sum(m["scratch_bytes"] for m in memory) / 1024,
        "pieces": [step["backend"] for step in artifact.manifest["steps"]],
    }
    written.write_text(json.dumps(row))
    return row


def optimized(name: str, folder: Path) -> None:
    """Our model, extents being those of the first sample."""
    entry = zoo.get(name)
    sample = entry.samples(1, 0)[0]
    dims = static_dims(planish.load(entry.path()), {}, sample)
    wanted = for_passes(get_target("native"))
    result = optimize(entry.path(), wanted, dims=dims, measure=False, validate="structure", pipeline="default")
    folder.mkdir(parents=True, exist_ok=True)
    result.save(folder / "model.onnx")
    arrays: dict[str, Any] = dict(sample)
    np.savez(folder / "sample.npz", **arrays)


@contextmanager
def guessing() -> Iterator[None]:
    """Builds as on a machine that nothing was measured on."""
    known, backend.informed = backend.informed, lambda target, schedules=None: Machine(target)
    try:
        yield
    finally:
        backend.informed = known


def timed(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """All in turns, and how far the outputs lie apart."""
    row = json.loads((folder / "row.json").read_text())
    with np.load(folder / "sample.npz") as file:
        sample = {key: file[key] for key in file.files}
    plain, ours = Session(zoo.get(name).path(), SETTINGS), Session(folder / "model.onnx", SETTINGS)
    ways = [way for way in WAYS if f"{way}_s" in row]
    artifacts = [planish.load_artifact(folder / way) for way in ways]
    runs: list[Callable[[Any], Any]] = [plain.run, ours.run, *(artifact.run for artifact in artifacts)]
    error = max(differs(run(s), plain.run(s)) for s in samples_like(name, sample) for run in runs[2:])
    best = [float("inf")] * len(runs)
    end = time.monotonic() + seconds
    turns = 0
    while time.monotonic() < end or turns < 5:
        for i, run in enumerate(runs):
            begin = time.thread_time()
            run(sample)
            best[i] = min(best[i], time.thread_time() - begin)
        turns += 1
    found = dict(zip(("ort_ms", "ours_ms", *(f"{way}_ms" for way in ways)), (b * 1e3 for b in best), strict=True))
    return row | {"error": error} | {key: min(ms, row.get(key, ms)) for key, ms in found.items()}


def samples_like(name: str, sample: dict[str, Any]) -> list[dict[str, Any]]:
    """Samples of the extents that kernels were made for."""
    shapes = {key: array.shape for key, array in sample.items()}
    every = [sample, *zoo.get(name).samples(SAMPLES, 1)]
    return [s for s in every if {key: array.shape for key, array in s.items()} == shapes]


def differs(found: list[Any], wanted: list[Any]) -> float:
    """The largest difference, relative to the largest element."""
    return max(
        float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(b).max(), 1e-30))
        for a, b in zip(found, wanted, strict=True)
    )


def page(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# The TVM backend beside ONNX Runtime",
        "",
        "Made by `benchmarks/tvm.py`; one thread of a Zen 4 core with AVX-512. `ORT` is ONNX Runtime on the original",
        "at its full optimization, `ours on ORT` the same on our optimized model, `TVM` the library built from that:",
        "`guess` without anything measured, `shipped` with the database of schedules that is in the package.",
        "Milliseconds of CPU time, the least of runs in turns; a quotient below 1 is faster. The error is the largest",
        "difference from ORT's outputs on up to five samples, of both libraries, relative to the largest element.",
        "Build: CPU seconds from the optimized model to the linked folder. Arena: planned bytes; the bound is what",
        "lives at one moment; scratch is what one kernel at most takes beside it. The light_* models have one number",
        "for all weights: their outputs say little.",
        "",
        "| model | ORT ms | ours on ORT ms | TVM ms, guess | of ORT | shipped ms | of ORT | error | build s "
        "| shipped s | library KB | arena KB | arena / bound | scratch KB |",
        f"| --- |{' ---: |' * 13}",
    ]
    for r in rows:
        ort = r["ort_ms"]
        cells = [r["model"], f"{ort:.2f}", f"{r['ours_ms']:.2f}"]
        for way in WAYS:
            cells += [f"{r[f'{way}_ms']:.2f}", f"{r[f'{way}_ms'] / ort:.2f}"] if f"{way}_ms" in r else ["", ""]
        cells += [f"{r['error']:.1e}", *(f"{r[f'{way}_s']:.1f}" if f"{way}_s" in r else "" for way in WAYS)]
        cells += [f"{r['library_kb']:,.0f}", f"{r['arena_kb']:,.0f}", f"{r['arena_kb'] / max(r['live_kb'], 1e-9):.3f}"]
        cells.append(f"{r['scratch_kb']:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description="TVM beside ONNX Runtime.")
    parser.add_argument("--build", type=Path, help="build the models into this folder")
    parser.add_argument("--ways", default=",".join(reversed(WAYS)))
    parser.add_argument("--time", type=Path, help="time what lies in this folder")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seconds", type=float, default=3.0, help="for each model")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    names = options.models.split(",")
    for way, name in itertools.product(options.ways.split(","), names) if options.build else ():
        if not (options.build / name / way / "manifest.json").exists():
            row = built(name, options.build / name, way)
            sys.stdout.write(f"{name} {way}: built in {row[f'{way}_s']:.1f} s, pieces {row['pieces'] or 'one'}\n")
            sys.stdout.flush()
    if options.time is not None:
        present = [name for name in names if (options.time / name / "row.json").exists()]
        for name in present:
            row = timed(name, options.time / name, options.seconds)
            (options.time / name / "row.json").write_text(json.dumps(row))
        everyone = [json.loads(path.read_text()) for path in options.time.glob("*/row.json")]
        rows = sorted((r for r in everyone if "error" in r), key=lambda r: MODELS.index(r["model"]))
        text = page(rows)
        if options.markdown:
            options.markdown.write_text(text, "utf-8")
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
