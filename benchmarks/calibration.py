"""Time and memory of calibration beside plain inference and ONNX Runtime's own calibrators.

    python -P benchmarks/calibration.py [NAME ...] [--counts 10,1000] [--out docs/results/calibration.md]

Every figure comes from a process of its own on one core: CPU time per sample, and by how much the process grew at its
peak since the samples were there. Samples are repeated to make up their number.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from planish.backends.core import Sample
from planish.backends.ort.session import Session, SessionSettings
from planish.driver.calibrate import calibrate
from planish.driver.document import bytes_text
from planish.driver.versions import versions
from planish.models import zoo

NAMES = ("ppocr_cls", "ppocr_rec", "minilm", "nudenet")
TOOLS = ("plain", "planish", "MinMax", "Entropy", "Percentile")
SECONDS, MEMORY_BYTES = 20, 16 << 30
HEADER = """# Calibration

Written by `python -P benchmarks/calibration.py{arguments}` with onnxruntime {onnxruntime}, one core, {day}. `plain` is
inference alone, `planish` observes every float value of the model with its histogram (limit 1 GiB), the others are the
calibrators of `onnxruntime.quantization`, which observe the operands of the operators that they would quantize. Time is
CPU time per sample with everything that is done once, memory the growth of the process at its peak; `-` where it
failed: the reason stands below. The last two columns compare a sample of planish with a plain one once sessions are
made (the least of several turns of each sample), as it is and without the constant of {constant:g} us for each value.

| model | values | samples | {titles} | time / plain | without the constant |
|---|---|---|{rules}---|---|
"""
CONSTANT_US = 30.0
"""What one value costs a sample whatever its size: an output of the session, numpy, some 2,000 numbers counted."""


class Drawn:
    """Samples in turn, and the CPU time that each took: until the next one was asked for."""

    def __init__(self, samples: Sequence[Sample], count: int) -> None:
        self.samples, self.count = samples, count
        self.seconds: list[float] = []

    def __iter__(self) -> Iterator[Sample]:
        for i in range(self.count):
            start = time.process_time()
            yield self.samples[i % len(self.samples)]
            self.seconds.append(time.process_time() - start)

    @property
    def steady_ms(self) -> float:
        """Of a sample once every session is there: the least of each, their mean."""
        turns = [self.seconds[i :: len(self.samples)] for i in range(len(self.samples))]
        return 1e3 * sum(map(min, turns)) / len(turns)


def measure(name: str, tool: str, count: int) -> dict[str, Any]:
    """In this process."""
    entry = zoo.get(name)
    drawn = Drawn(entry.samples(4), count)
    before, start, values = peak_bytes(), time.process_time(), 0
    if tool == "plain":
        session = Session(entry.path(), SessionSettings("all", threads=1))
        for sample in drawn:
            session.run(sample)
    elif tool == "planish":
        values = len(calibrate(entry.path(), drawn).statistics.values)
    else:
        peer(entry.path(), tool, iter(drawn))
    steady = drawn.steady_ms
    seconds = time.process_time() - start
    return {"ms": 1e3 * seconds / count, "steady": steady, "bytes": peak_bytes() - before, "values": values}


def peer(path: Path, method: str, samples: Iterator[Sample]) -> None:
    """One of ONNX Runtime's calibrators, as ``quantize_static`` runs them."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator as create  # pyright: ignore[reportUnknownVariableType]

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(samples, None)

    with TemporaryDirectory() as folder:
        chosen = getattr(CalibrationMethod, method)
        calibrator = create(path, None, str(Path(folder) / "augmented.onnx"), calibrate_method=chosen)
        calibrator.collect_data(Reader())
        calibrator.compute_data()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(name: str, tool: str, count: int) -> dict[str, Any]:
    """In a process of its own, within time and memory."""
    command = [sys.executable, "-P", __file__, "--one", name, tool, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGXCPU:
        return {"failed": f"more than {SECONDS} s of CPU time"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1][:160]}
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, count: int, failures: list[str]) -> str:
    found = {tool: measured(name, tool, count) for tool in TOOLS}
    cells: list[str] = []
    for tool, figures in found.items():
        if "failed" in figures:
            failures.append(f"{name}, {count} samples, {tool}: {figures['failed']}")
            cells.append("-")
        else:
            cells.append(f"{figures['ms']:.3g} ms, {bytes_text(figures['bytes'])}")
    values = found["planish"]["values"]
    plain, ours = found["plain"]["steady"], found["planish"]["steady"]
    rest = max(ours - 1e-3 * CONSTANT_US * values, 0.0)
    return f"| {name} | {values} | {count} | {' | '.join(cells)} | {ours / plain:.2f} | {rest / plain:.2f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--counts", default="10,1000")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.one:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        if args.one[1] not in ("plain", "planish"):
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        print(json.dumps(measure(args.one[0], args.one[1], int(args.one[2]))))
        return 0
    rows: list[str] = []
    failures: list[str] = []
    for name in args.names:
        for count in map(int, args.counts.split(",")):
            rows.append(row(name, count, failures))
            print(rows[-1], flush=True)
    given = sys.argv[1 : sys.argv.index("--out")] if "--out" in sys.argv else sys.argv[1:]
    head = HEADER.format(
        arguments="".join(f" {a}" for a in given),
        onnxruntime=versions()["onnxruntime"],
        day=time.strftime("%Y-%m-%d"),
        titles=" | ".join(TOOLS),
        rules="---|" * len(TOOLS),
        constant=CONSTANT_US,
    )
    text = head + "\n".join(rows) + "\n\n" + "".join(f"* {line}\n" for line in failures)
    if args.out:
        args.out.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
