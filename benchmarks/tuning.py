"""What a search for the fastest plan finds on models of the zoo: ``planish optimize --tune``, in a table.

    python -P benchmarks/tuning.py [NAME ...] [--seconds 60] [--target native] [--out docs/results/tuning.md]

For each model the plan that was chosen, its time, the time to make its session and its memory at the peak beside the
original's under ONNX Runtime's defaults, what other settings would save, and every candidate with its interval.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import planish
from planish.backends.core import Sample
from planish.backends.ort.choices import settings_text
from planish.backends.ort.session import SessionSettings
from planish.driver.document import bytes_text
from planish.driver.peak_memory import peak_bytes
from planish.driver.plans import pass_names
from planish.driver.tuning.record import Trial, Tuning
from planish.driver.tuning.search import CONFIDENCE
from planish.driver.versions import versions
from planish.models import zoo
from planish.passes.target import native

NAMES = ("ppocr_det", "ppocr_cls", "silero_vad")
HEADER = """# Tuned models

Written by `python -P benchmarks/tuning.py{arguments}` with onnxruntime {onnxruntime} on a machine of target
{machine}. Ratios are against the original under ONNX Runtime's defaults (one thread, in turns, medians with a
{confidence:.0%} interval; below 1 is better), memory is the growth of a process of its own at its peak. *Offers* take
less memory than what was chosen for some more time.

| model | time | making a session | peak memory | session settings | passes left out | offers |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--target", default="native")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: list[str] = []
    details: list[str] = []
    for name in args.names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        model = zoo.get(name)
        row, detail = tuned(model, args)
        print(row, flush=True)
        rows.append(row)
        details.append(f"## {name}\n\n```\n{detail.rstrip()}\n```")
    given = sys.argv[1 : sys.argv.index("--out")] if "--out" in sys.argv else sys.argv[1:]
    text = HEADER.format(
        arguments="".join(f" {a}" for a in given),
        onnxruntime=versions()["onnxruntime"],
        machine=native(),
        confidence=CONFIDENCE,
    )
    if args.out is not None:
        args.out.write_text(text + "\n".join(rows) + "\n\n" + "\n\n".join(details) + "\n", "utf-8")
    return 0


def tuned(model: zoo.ZooModel, args: argparse.Namespace) -> tuple[str, str]:
    """The table's row, and all candidates."""
    samples = model.samples(args.samples)
    result = planish.optimize(
        model.path(), args.target, samples=samples, tune=True, tune_seconds=args.seconds, cache=False
    )
    found, measured = result.report.tuning, result.report.measured
    assert found is not None
    time = f"{measured.ratio:.3f} ({measured.low:.3f} to {measured.high:.3f})" if measured.done else "as it was"
    start = planish.Pipeline("default")
    gone = sorted(pass_names(str(start)) - pass_names(found.pipeline))
    offers = "; ".join(f"{t.label}: {t.because}" for t in found.offers)
    settings = settings_text(SessionSettings.from_dict(result.report.session))
    cells = [model.name, time, loading(found), peaks(model, result, samples[0]), settings]
    cells += [", ".join([*gone, *found.disabled]) or "-", offers or "-"]
    return f"| {' | '.join(cells)} |", str(result.report)


def loading(found: Tuning) -> str:
    trials: list[Trial] = [t for t in found.trials if t.stage == "loading"]
    stays = not trials or trials[-1].because or not any(t.chosen for t in found.trials)
    trial = trials[0] if stays and trials else trials[-1] if trials else None
    return f"{trial.ratio:.3f} ({trial.low:.3f} to {trial.high:.3f})" if trial is not None else "-"


def peaks(model: zoo.ZooModel, result: planish.Result, sample: Sample) -> str:
    """At the peak, before and after."""
    from planish.ir.onnx_writer import model_to_bytes

    plain = SessionSettings(threads=1)
    chosen = SessionSettings.from_dict(result.report.session | {"threads": 1})
    after = model_to_bytes(result.model) if result.source is None else result.source
    found = [peak_bytes(Path(model.path()), plain, [sample]), peak_bytes(after, chosen, [sample])]
    return " -> ".join("-" if b is None else bytes_text(b) for b in found)


if __name__ == "__main__":
    sys.exit(main())
