"""CUDA kernels of zoo models: what is built without a GPU, and with one how fast they run beside ONNX Runtime.

    python benchmarks/cuda.py [--models ppocr_cls,magika] [--target cuda-sm_90] [--markdown docs/results/cuda.md]

Without a GPU only the building is shown: kernels, how they are scheduled, time to build and to compile, machine code.
With one every model also runs there, is compared with ONNX Runtime on the processor, and timed beside ONNX Runtime's
CUDA provider where that is installed (onnxruntime-gpu).
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from planish.backends.measure import measure
from planish.backends.ort.session import Session, SessionSettings
from planish.backends.tvm import cuda, cuda_compile
from planish.backends.tvm.api import tvm
from planish.backends.tvm.artifact import Artifact
from planish.backends.tvm.backend import TvmBackend
from planish.driver.dims import with_dims
from planish.ir.clone import clone_model
from planish.ir.errors import BackendError
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.models.zoo import get
from planish.passes.manager import Pipeline
from planish.passes.pipelines import PIPELINES
from planish.passes.target import Target, get_target

MODELS = "ppocr_cls,ppocr_rec,magika,minilm,light_squeezenet,light_resnet50"


@dataclass
class Row:
    """One model's figures."""

    model: str
    nodes: int
    kernels: int
    tiled: int
    """Kernels that work through shared memory."""
    shuffled: int
    """Kernels that reduce among the threads of a warp."""
    build_s: float
    compile_s: float | None
    code_kib: float | None
    error: float | None = None
    """Largest difference over the largest output."""
    time_us: float | None = None
    ort_us: float | None = None


def static(name: str) -> tuple[Model, dict[str, np.ndarray]]:
    """A zoo model at the extents of its first sample."""
    entry = get(name)
    model, sample = read_model(entry.path()), dict(entry.samples(1)[0])
    dims = {
        str(dim).strip("'"): extent
        for value in model.graph.inputs
        for dim, extent in zip(value.shape or (), sample[value.name].shape, strict=True)
        if not isinstance(dim, int)
    }
    return (with_dims(model, dims) if dims else model), sample


def processor_seconds() -> float:
    """Of this process and those that it ran."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def build(name: str, target: Target, folder: Path) -> tuple[Row, Model, dict[str, np.ndarray]]:
    model, sample = static(name)
    lowered, backend = clone_model(model), TvmBackend()
    Pipeline(PIPELINES["default"]).run(lowered)
    Pipeline(backend.legalize(lowered, target)).run(lowered)
    start = time.process_time()
    artifact = backend.lower(lowered, target)
    seconds = time.process_time() - start
    text = cuda.source(artifact.executable)
    kernels = cuda.kernels_of(text)
    start = processor_seconds()
    code = cuda_compile.compile_cubin(text, target.mcpu) if cuda_compile.compiler() else None
    compiling = processor_seconds() - start
    if device_of_machine().exist:
        artifact.save(folder)
    row = Row(
        name,
        sum(1 for _ in lowered.graph),
        len(kernels),
        sum("__shared__" in k.body and "__shfl" not in k.body for k in kernels),
        sum("__shfl" in k.body for k in kernels),
        seconds,
        compiling if code else None,
        len(code) / 1024 if code else None,
    )
    return row, model, sample


def run(row: Row, model: Model, sample: dict[str, np.ndarray], folder: Path) -> None:
    """Adds what only a GPU can tell."""
    artifact = Artifact.load(folder)
    expected, found = Session(model).run(sample), artifact.run(sample)
    row.error = max(float(abs(a - b).max() / max(abs(a).max(), 1e-30)) for a, b in zip(expected, found, strict=True))
    row.time_us = measure(lambda _: artifact.run(sample), seconds=2.0).time_us
    try:
        session = Session(model, SessionSettings(provider="CUDAExecutionProvider"))
    except BackendError:
        return
    row.ort_us = measure(lambda _: session.run(sample), seconds=2.0).time_us


def device_of_machine() -> Any:
    return tvm.cuda(0)


def table(rows: list[Row], target: Target, gpu: bool) -> str:
    heads = "model, nodes, kernels, tiles in shared memory, warp reductions, build s, compile s, code KiB".split(", ")
    heads += ["error", "us", "ONNX Runtime us"] if gpu else []

    def text(x: float | None, form: str) -> str:
        return "-" if x is None else format(x, form)

    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for r in rows:
        cells = [r.model, str(r.nodes), str(r.kernels), str(r.tiled), str(r.shuffled), f"{r.build_s:.1f}"]
        cells += [text(r.compile_s, ".1f"), text(r.code_kib, ".0f")]
        cells += [text(r.error, ".1e"), text(r.time_us, ".0f"), text(r.ort_us, ".0f")] if gpu else []
        lines.append("| " + " | ".join(cells) + " |")
    where = "on this machine's GPU" if gpu else "no GPU was there: nothing ran"
    title = f"# CUDA kernels for {target.mcpu}\n\n    python benchmarks/cuda.py --target {target.name}\n\n"
    compiler = cuda_compile.compiler() or "nobody: no nvcc, no NVRTC"
    note = f"Compiled by {compiler}; {where}. Every group of operators is one kernel; views are none.\n"
    note += (
        "Build, compile: processor seconds, from the optimized graph to CUDA source and from there to machine code.\n\n"
    )
    return title + note + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--target", default="cuda-sm_90")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    target, gpu = replace(get_target(options.target), contrib=False), bool(device_of_machine().exist)
    if not gpu:
        print("no NVIDIA GPU here (TVM finds none): building only", file=sys.stderr)
    rows: list[Row] = []
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            row, model, sample = build(name, target, Path(folder) / "model")
            if gpu:
                run(row, model, sample, Path(folder) / "model")
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    page = table(rows, target, gpu)
    print(page)
    if options.markdown:
        options.markdown.write_text(page)


if __name__ == "__main__":
    main()
