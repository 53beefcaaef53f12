"""The TVM backend beside ONNX Runtime: models of the zoo, one thread, in turns, with build times.

    taskset -c 1 python -P benchmarks/tvm.py --build W --markdown docs/results/tvm.md
    taskset -c 1 python -P benchmarks/tvm.py --time W --markdown docs/results/tvm.md     # of what lies in W already

``ORT`` runs the original at its own full optimization, ``ours on ORT`` our optimized model likewise, ``TVM`` what we
built from that. Times are the thread's CPU time, the least of many runs in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np

import planish
from planish.backends.ort.session import Session, SessionSettings
from planish.driver.deploy import build, for_passes, static_dims
from planish.driver.dims import with_dims
from planish.driver.optimize import optimize
from planish.models import zoo
from planish.passes.target import get_target

MODELS = (
    "ppocr_cls ppocr_rec ppocr_det nudenet magika minilm silero_vad silero_vad_sequence basic_pitch "
    "seeded_squeezenet seeded_shufflenet seeded_densenet121 seeded_inception_v1 seeded_inception_v2 seeded_resnet50 "
    "light_bvlc_alexnet light_zfnet512 light_vgg19"
).split()
SETTINGS = SessionSettings(threads=1)
SAMPLES = 4
"""On which outputs are compared, beside the one that is timed, where they have its extents."""


def built(name: str, folder: Path) -> dict[str, Any]:
    """Optimizes and builds; the artifact, the optimized model and the sample go into the folder."""
    entry = zoo.get(name)
    sample = entry.samples(1, 0)[0]
    target = get_target("native")
    model = planish.load(entry.path())
    dims = static_dims(model, {}, sample)
    begin = time.process_time()
    result = optimize(
        entry.path(), for_passes(target), dims=dims, measure=False, validate="structure", pipeline="default"
    )
    middle = time.process_time()
    artifact = build(result, target)
    folder.mkdir(parents=True, exist_ok=True)
    artifact.save(folder / "out")
    end = time.process_time()
    result.save(folder / "model.onnx")
    arrays: dict[str, Any] = dict(sample)
    np.savez(folder / "sample.npz", **arrays)
    memory = artifact.manifest["memory"].values()
    row = {
        "model": name,
        "optimize_s": middle - begin,
        "build_s": end - middle,
        "library_kb": (folder / "out" / "lib.so").stat().st_size / 1024,
        "arena_kb": sum(m["arena_bytes"] for m in memory) / 1024,
        "live_kb": sum(m["live_bytes"] for m in memory) / 1024,
        "pieces": [step["backend"] for step in artifact.manifest["steps"]],
        "nodes": len(list(with_dims(model, dims).graph if dims else model.graph)),
    }
    (folder / "row.json").write_text(json.dumps(row))
    return row


def timed(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """All three in turns, and how far the outputs lie apart."""
    row = json.loads((folder / "row.json").read_text())
    with np.load(folder / "sample.npz") as file:
        sample = {key: file[key] for key in file.files}
    plain, ours = Session(zoo.get(name).path(), SETTINGS), Session(folder / "model.onnx", SETTINGS)
    artifact = planish.load_artifact(folder / "out")
    runs: list[Callable[[], Any]] = [lambda: plain.run(sample), lambda: ours.run(sample), lambda: artifact.run(sample)]
    error = max(differs(artifact.run(s), plain.run(s)) for s in samples_like(name, sample))
    best = [float("inf")] * 3
    end = time.monotonic() + seconds
    turns = 0
    while time.monotonic() < end or turns < 5:
        for i, run in enumerate(runs):
            begin = time.thread_time()
            run()
            best[i] = min(best[i], time.thread_time() - begin)
        turns += 1
    return row | {"ort_ms": best[0] * 1e3, "ours_ms": best[1] * 1e3, "tvm_ms": best[2] * 1e3, "error": error}


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


def page(rows: list[dict[str, Any]], *, shipped: bool) -> str:
    schedules = "with the shipped database of schedules" if shipped else "without per-model tuning"
    lines = [
        "# The TVM backend beside ONNX Runtime",
        "",
        f"Made by `benchmarks/tvm.py`; one thread of a Zen 4 core with AVX-512, {schedules}. `ORT` is ONNX",
        "Runtime on the original at its full optimization, `ours on ORT` the same on our optimized model, `TVM` the",
        "library built from that. Milliseconds of CPU time, the least of runs in turns; `TVM / ORT` below 1 is faster.",
        "The error is the largest difference from ORT's outputs on up to five samples, relative to the largest",
        "element. Build: CPU seconds from the optimized model to the linked folder. Arena: planned bytes; the bound is",
        "what lives at one moment. The light_* models have one number for all weights: their outputs say little.",
        "",
        "| model | ORT ms | ours on ORT ms | TVM ms | TVM / ORT | error | build s | library KB | arena / bound |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['ort_ms']:.2f} | {r['ours_ms']:.2f} | {r['tvm_ms']:.2f} "
            f"| {r['tvm_ms'] / r['ort_ms']:.2f} | {r['error']:.1e} | {r['build_s']:.1f} | {r['library_kb']:,.0f} "
            f"| {r['arena_kb'] / max(r['live_kb'], 1e-9):.3f} |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description="TVM beside ONNX Runtime.")
    parser.add_argument("--build", type=Path, help="build the models into this folder")
    parser.add_argument("--time", type=Path, help="time what lies in this folder")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seconds", type=float, default=3.0, help="for each model")
    parser.add_argument("--shipped", action="store_true", help="what lies there was built with the shipped database")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    names = options.models.split(",")
    for name in names if options.build else ():
        if not (options.build / name / "row.json").exists():
            row = built(name, options.build / name)
            sys.stdout.write(f"{name}: built in {row['build_s']:.1f} s, pieces {row['pieces'] or 'one'}\n")
            sys.stdout.flush()
    folder = options.time or (options.build if options.markdown else None)
    if folder is not None:
        rows = [timed(name, folder / name, options.seconds) for name in names if (folder / name / "row.json").exists()]
        text = page(rows, shipped=options.shipped)
        if options.markdown:
            options.markdown.write_text(text, "utf-8")
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
