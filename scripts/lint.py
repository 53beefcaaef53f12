"""Quantizes the zoo in many ways and holds the linter's predictions against what sessions make of each model.

    scripts/lint [--full] [--model minilm] [--mode u8s8] [--random 300] [--folder FOLDER] [--out docs/results/lint.md]

The quantizers are ONNX Runtime's own, static with one sample (ranges do not matter here, forms do), dynamic, and of
weights only, and planish's. A node counts as predicted right where the model that the session saves computes it on
integers and the linter said so, or neither. What a quantizer cannot do, or the runtime refuses, is counted apart.
``--folder`` keeps the quantized models from one run to the next.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime

from planish.backends.findings import Finding
from planish.backends.ort.lint import Agreement, agree, lint, observe
from planish.driver.calibrate import observer
from planish.ir.errors import PlanishError
from planish.ir.graph import Model
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import write_model
from planish.models import zoo
from planish.models.random.quantized import random_quantized
from planish.passes.core import Context
from planish.passes.manager import Pipeline
from planish.passes.pipelines import QUANTIZE
from planish.passes.target import get_target

MODELS = ("ppocr_det", "ppocr_rec", "ppocr_cls", "magika", "minilm", "nudenet", "basic_pitch", "silero_vad_sequence")
SMALL = ("ppocr_cls", "magika")
"""Models for modes that differ in types only, unless ``--full`` asks for all."""
TYPES_ONLY = ("static s8s8", "static u8u8", "static u8s8, symmetric, reduced", "static u16s8")
TARGET = get_target("x86-64-v3")
HEADER = """# What the linter predicts, and what sessions do

Written by `scripts/lint{arguments}` with ONNX Runtime {onnxruntime}. Models of the zoo, quantized by ONNX
Runtime's own tools and by planish, and random models whose pairs match, differ, are shared, doubled or missing
(`models/random/quantized.py`). For every node `planish lint` predicts whether a session computes it on integers; the
model that the session saves tells the truth. *False "fused"* is a node said to run on integers that runs in floats,
*false "not fused"* the reverse. *Pairs* is how often the number of QuantizeLinear and DequantizeLinear nodes left was
predicted exactly. *Refused* counts models that the runtime does not load, *foreseen* those of them that the linter
calls an error.

"""


@dataclass
class Row:
    """Agreement over several models."""

    models: int = 0
    refused: int = 0
    foreseen: int = 0
    failed: int = 0
    """Models that the quantizer could not make."""
    integer: int = 0
    other: int = 0
    pairs: int = 0
    false_integer: list[Finding] = field(default_factory=list[Finding])
    false_float: list[Finding] = field(default_factory=list[Finding])
    why: Counter[str] = field(default_factory=Counter[str])
    """Reasons for floats."""

    def add(self, found: Agreement) -> None:
        self.models += 1
        self.integer += found.integer
        self.other += found.other
        self.pairs += found.pairs[0] == found.pairs[1]
        self.false_integer += found.false_integer
        self.false_float += found.false_float

    def merge(self, other: Row) -> None:
        for name in ("models", "refused", "foreseen", "failed", "integer", "other", "pairs"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.false_integer += other.false_integer
        self.false_float += other.false_float
        self.why += other.why


def judge(row: Row, model: Model) -> None:
    """Adds one model to a row."""
    report = lint(model, TARGET)
    try:
        observed = observe(model)
    except PlanishError:
        row.refused += 1
        row.foreseen += report.worst == "error"
        return
    row.add(agree(report, observed))
    row.why.update(f.rule for f in report.findings if f.rule and f.runs.value == "float")


class _Samples:
    """What ONNX Runtime's calibration reads."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self._rest = iter(samples)

    def get_next(self) -> Any:
        return next(self._rest, None)


def _static(activations: str, weights: str, **options: Any) -> Callable[[zoo.ZooModel, Path], None]:
    def run(entry: zoo.ZooModel, out: Path) -> None:
        from onnxruntime import quantization as q

        kinds = {"u8": q.QuantType.QUInt8, "s8": q.QuantType.QInt8, "u16": q.QuantType.QUInt16}
        types = {"activation_type": kinds[activations], "weight_type": kinds[weights]}
        reader: Any = _Samples(entry.samples(1, uniform=True))
        q.quantize_static(str(entry.path()), str(out), reader, **types, **options)

    return run


def _dynamic(entry: zoo.ZooModel, out: Path) -> None:
    from onnxruntime import quantization as q

    q.quantize_dynamic(str(entry.path()), str(out), per_channel=True, weight_type=q.QuantType.QInt8)


def _weights(bits: int, *, pairs: bool) -> Callable[[zoo.ZooModel, Path], None]:
    def run(entry: zoo.ZooModel, out: Path) -> None:
        import onnx
        from onnx import version_converter
        from onnxruntime.quantization import QuantFormat
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        form = QuantFormat.QDQ if pairs else QuantFormat.QOperator
        model: Any = onnx.load(entry.path())
        if pairs:
            model = version_converter.convert_version(model, 21)
        quantizer: Any = MatMulNBitsQuantizer(model, block_size=32, bits=bits, quant_format=form)
        quantizer.process()
        onnx.save(quantizer.model.model, out)

    return run


def _ours(quantize: str) -> Callable[[zoo.ZooModel, Path], None]:
    def run(entry: zoo.ZooModel, out: Path) -> None:
        model = read_model(entry.path())
        context = Context(target=get_target("x86-64-v4-vnni"), observe=observer(entry.samples(1)))
        Pipeline(f"default,{quantize}").run(model, context)
        write_model(model, out)

    return run


MODES: dict[str, Callable[[zoo.ZooModel, Path], None]] = {
    "static u8s8": _static("u8", "s8"),
    "static s8s8": _static("s8", "s8"),
    "static u8u8": _static("u8", "u8"),
    "static u8s8, per channel": _static("u8", "s8", per_channel=True),
    "static u8s8, products only": _static(
        "u8", "s8", per_channel=True, op_types_to_quantize=["Conv", "MatMul", "Gemm"]
    ),
    "static u8s8, symmetric, reduced": _static(
        "u8", "s8", reduce_range=True, extra_options={"ActivationSymmetric": True, "QuantizeBias": False}
    ),
    "static u16s8": _static("u16", "s8", extra_options={"UseQDQContribOps": True}),
    "dynamic": _dynamic,
    "weights, 4 bits": _weights(4, pairs=False),
    "weights, 4 bits, pairs": _weights(4, pairs=True),
    "planish int8": _ours(QUANTIZE["int8"]),
    "planish dynamic": _ours(QUANTIZE["dynamic"]),
    "planish weights": _ours(QUANTIZE["weights"]),
}


def zoo_rows(models: Sequence[str], modes: Sequence[str], folder: Path, *, full: bool) -> dict[str, Row]:
    """A row a mode."""
    rows: dict[str, Row] = {}
    for mode in modes:
        row = rows.setdefault(mode, Row())
        for name in models:
            if mode in TYPES_ONLY and name not in SMALL and not full:
                continue
            path = folder / f"{name}.{mode.replace(' ', '_').replace(',', '')}.onnx"
            if _made(mode, name, path):
                judge(row, read_model(path))
            else:
                row.failed += 1
        _say(mode, row)
    return rows


def _made(mode: str, name: str, path: Path) -> bool:
    missing = path.with_suffix(".failed")
    if not path.exists() and not missing.exists():
        try:
            MODES[mode](zoo.get(name), path)
        except Exception as error:
            missing.write_text(f"{type(error).__name__}: {error}\n")
            sys.stderr.write(f"  {name}: {type(error).__name__}: {str(error)[:150]}\n")
    return path.exists()


def random_row(count: int) -> Row:
    row = Row()
    for seed in range(count):
        judge(row, random_quantized(10_000 + seed))
    _say("random", row)
    return row


def _say(mode: str, row: Row) -> None:
    sys.stderr.write(f"{mode}: {row.integer} on integers, {row.other} in floats\n")
    for kind, findings in (("fused", row.false_integer), ("not fused", row.false_float)):
        for f in findings:
            sys.stderr.write(f"  false {kind!r}: {f}\n")


def table(rows: dict[str, Row]) -> str:
    """The rows with their sum."""
    lines = [
        '| quantized | models | integers | floats | false "fused" | false "not fused" | pairs | refused (foreseen) |',
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    total = Row()
    for name, row in rows.items():
        lines.append(_line(name, row))
        total.merge(row)
    return "\n".join([*lines, _line("all", total)]) + "\n"


def _line(name: str, row: Row) -> str:
    executed = row.integer + len(row.false_float)
    share = 100 * len(row.false_float) / max(executed, 1)
    return (
        f"| {name} | {row.models} | {row.integer} | {row.other} | {len(row.false_integer)} | "
        f"{len(row.false_float)} ({share:.2g} %) | {row.pairs} of {row.models} | {row.refused} ({row.foreseen}) |"
    )


def reasons(rows: dict[str, Row]) -> str:
    """Why nodes between pairs stay in floats, by mode."""
    lines = ["| quantized | why nodes beside pairs stay in floats |", "|---|---|"]
    for name, row in rows.items():
        found = ", ".join(f"{rule} {count}" for rule, count in row.why.most_common(6))
        lines.append(f"| {name} | {found} |")
    return "\n".join(lines) + "\n"


def _arguments() -> str:
    """Of the command line, but for folders of this machine."""
    given = sys.argv[1:]
    kept = [a for before, a in zip(["", *given], given, strict=False) if not {a, before} & {"--out", "--folder"}]
    return "".join(f" {shlex.quote(a)}" for a in kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="every mode on every model")
    parser.add_argument("--model", action="append", help="of the zoo; all that are installed by default")
    parser.add_argument("--mode", action="append", choices=list(MODES))
    parser.add_argument("--random", type=int, default=300)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results/lint.md"))
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    models = given.model or [name for name in MODELS if zoo.get(name).installed]
    with TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = zoo_rows(models, given.mode or list(MODES), folder, full=given.full)
    rows[f"random models ({given.random})"] = random_row(given.random)
    head = HEADER.format(arguments=_arguments(), onnxruntime=onnxruntime.__version__)
    text = f"{head}Models: {', '.join(models)}.\n\n{table(rows)}\n## Why not\n\n"
    text += f"`docs/lint.md` explains each.\n\n{reasons(rows)}"
    given.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
