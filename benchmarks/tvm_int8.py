"""Quantized models on TVM beside their own floats there: time, size, and what the task loses.

    python -P benchmarks/tvm_int8.py --build W --models ppocr_cls,magika
    taskset -c 1 python -P benchmarks/tvm_int8.py --time W --markdown docs/results/tvm_int8.md

Layers are chosen by times that TVM takes (``planish optimize --quantize WAY --backend tvm``), within a budget: the
task's metric may fall by 0.005; without a metric of one input shape, outputs may be off by 5 % (``rms``). Extents are
those of the first sample. Times are the thread's CPU time, the least of many runs in turns.
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
from planish.driver.budget import Budget
from planish.driver.deploy import deploy, static_dims
from planish.driver.select import Goal
from planish.ir.errors import PlanishError
from planish.models import zoo

MODELS = "ppocr_cls,magika,minilm,nudenet"
WAYS = ("float", "int8", "int8-weights", "int4-weights")
CALIBRATION, HELD_OUT = 16, 4
LABELLED = {"magika": 60, "ppocr_cls": 40}
"""Inputs of task metrics, for models whose inputs have one shape."""
DROP, RMS = 0.005, 0.05


def built(entry: Any, way: str, folder: Path, seconds: float) -> dict[str, Any]:
    """One candidate in a folder of its own; what the report says of it."""
    samples = entry.samples(CALIBRATION, 0, uniform=True)
    options: dict[str, Any] = {"samples": samples, "dims": static_dims(planish.load(entry.path()), {}, samples[0])}
    count = LABELLED.get(entry.name)
    if way != "float":
        metric = Budget(DROP, lambda run: entry.metric(run, count), runs=True) if count else Budget(RMS, "rms")
        minimize = "time" if way == "int8" else "bytes"
        options |= {"budget": metric, "quantize": way, "goal": Goal(minimize=minimize, seconds=seconds), "cache": False}
    start = time.process_time()
    made = deploy(entry.path(), **options)
    made.artifact.save(folder / "out")
    ledger = made.result.report.budget
    offered = sum(e.offered for e in ledger.entries) if ledger is not None else 0
    return {
        "seconds": time.process_time() - start,
        "taken": len(ledger.taken) if ledger is not None else 0,
        "offered": offered,
        "because": ledger.because if ledger is not None else "",
    }


def timed(name: str, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """All candidates of a model in turns, ONNX Runtime on the original first."""
    entry = zoo.get(name)
    every = entry.samples(CALIBRATION + HELD_OUT, 0, uniform=True)
    sample, held = every[0], every[CALIBRATION:]
    plain = Session(entry.path(), SessionSettings(threads=1))
    rows: list[dict[str, Any]] = [{"way": "ONNX Runtime", "bytes": Path(entry.path()).stat().st_size}]
    runs: list[Callable[[Any], Any]] = [plain.run]
    for way in WAYS:
        if (folder / way / "row.json").exists():
            rows.append({"way": way, **json.loads((folder / way / "row.json").read_text())})
            runs.append(planish.load_artifact(folder / way / "out").run)
            rows[-1]["bytes"] = sum((folder / way / "out" / f).stat().st_size for f in ("lib.so", "params.bin"))
    for row, run in zip(rows, runs, strict=True):
        row["error"] = max(_error(run(s), plain.run(s)) for s in held)
        count = LABELLED.get(name)
        row["metric"] = entry.metric(run, count) if count else None
        row["ms"] = float("inf")
    end, turns = time.monotonic() + seconds, 0
    while time.monotonic() < end or turns < 5:
        for row, run in zip(rows, runs, strict=True):
            begin = time.thread_time()
            run(sample)
            row["ms"] = min(row["ms"], (time.thread_time() - begin) * 1e3)
        turns += 1
    return rows


def _error(found: list[Any], wanted: list[Any]) -> float:
    """Root mean square of the difference over that of the output; of the worst output."""
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(found, wanted, strict=True)]
    return max(float(np.sqrt(((a - b) ** 2).mean() / max((b**2).mean(), 1e-30))) for a, b in pairs)


def page(tables: dict[str, list[dict[str, Any]]]) -> str:
    assert __doc__
    lines = ["# Quantized models on TVM", "", *__doc__.splitlines()[2:], ""]
    lines += [
        "One thread of a Zen 4 core with VNNI. `of ORT` is relative to ONNX Runtime on the original, `of float` to our",
        "own float library on TVM; below 1 is faster. Size: weights and code (ONNX Runtime's: the file). Layers: taken",
        "of those that were offered. The error is of samples that no selection saw.",
        "",
        "| model | | ms | of ORT | of float | size MB | metric | error | layers | made in s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in tables.items():
        own = next((r["ms"] for r in rows if r["way"] == "float"), float("nan"))
        for r in rows:
            ours = r["way"] != "ONNX Runtime"
            cells = [name, r["way"], f"{r['ms']:.2f}", f"{r['ms'] / rows[0]['ms']:.2f}"]
            cells += [f"{r['ms'] / own:.2f}" if ours else "", f"{r['bytes'] / 1e6:.2f}"]
            cells += ["" if r["metric"] is None else f"{r['metric']:.4f}", f"{r['error']:.1e}"]
            cells += [f"{r['taken']} of {r['offered']}" if r.get("offered") else ""]
            cells += [f"{r['seconds']:.0f}" if ours else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, metavar="FOLDER", help="makes what is not there yet")
    parser.add_argument("--time", type=Path, metavar="FOLDER", help="times what lies there")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--select-seconds", type=float, default=40.0, help="of processor time, for each selection")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing, for each model")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    names = options.models.split(",")
    for name in names if options.build else ():
        for way in options.ways.split(","):
            folder = options.build / name / way
            if (folder / "row.json").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            try:
                row = built(zoo.get(name), way, folder, options.select_seconds)
            except PlanishError as error:
                sys.stdout.write(f"{name} {way}: {error}\n")
                continue
            (folder / "row.json").write_text(json.dumps(row))
            sys.stdout.write(f"{name} {way}: {row}\n")
            sys.stdout.flush()
    if options.time is not None:
        text = page({name: timed(name, options.time / name, options.seconds) for name in names})
        if options.markdown:
            options.markdown.write_text(text, "utf-8")
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
