"""One artifact for any extents beside artifacts for fixed ones and ONNX Runtime, at several extents.

    taskset -c 1 python -P benchmarks/tvm_open.py --build W
    taskset -c 1 python -P benchmarks/tvm_open.py --time W --markdown docs/results/tvm_open.md

Times are the thread's CPU time, the least of many runs in turns; ``W`` keeps what was built.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np

import planish
from planish.backends.ort.session import Session, SessionSettings
from planish.driver.deploy import build, for_passes
from planish.driver.optimize import optimize
from planish.models import zoo
from planish.passes.target import get_target

SETTINGS = SessionSettings(threads=1)
FLOOR = 1e-6
"""Outputs that are all smaller (of detectors that find nothing) are compared by differences of this."""
Extents = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A model, the names of its open extents, those that both builds are timed at, and further ones."""

    name: str
    symbols: tuple[str, ...]
    fixed: tuple[Extents, ...]
    more: tuple[Extents, ...]
    always: tuple[tuple[str, int], ...] = ()
    """Extents that are fixed in every build."""


CASES = (
    Case("minilm", ("N", "L"), ((1, 16), (2, 64)), ((1, 1), (1, 7), (3, 33), (1, 128), (1, 511))),
    Case(
        "ppocr_rec",
        ("p2o.DynamicDimension.0", "p2o.DynamicDimension.1"),
        ((1, 320),),
        ((1, 17), (1, 33), (2, 100), (1, 321), (1, 640)),
        (("?x.2", 48),),
    ),
    Case("silero_vad_sequence", ("sequence_length",), ((32,),), ((1,), (7,), (31,))),
    Case(
        "ppocr_det",
        ("p2o.DynamicDimension.0", "p2o.DynamicDimension.1", "p2o.DynamicDimension.2"),
        (),
        ((1, 32, 32), (1, 320, 320), (2, 96, 160), (1, 352, 480)),
    ),
    Case("nudenet", ("batch", "height", "width"), ((1, 320, 320),), ((1, 160, 320), (2, 224, 224), (1, 480, 640))),
)


def folder_of(root: Path, case: Case, extents: Extents | None) -> Path:
    return root / case.name / ("open" if extents is None else "x".join(map(str, extents)))


def built(case: Case, extents: Extents | None, folder: Path) -> None:
    """An artifact, open where no extents are given."""
    target = get_target("native")
    chosen = dict(zip(case.symbols, extents, strict=True)) if extents is not None else {}
    dims = dict(case.always) | chosen
    result = optimize(
        zoo.get(case.name).path(),
        for_passes(target),
        dims=dims,
        measure=False,
        validate="structure",
        pipeline="default",
    )
    begin = time.process_time()
    folder.parent.mkdir(parents=True, exist_ok=True)
    build(result, target).save(folder)
    sys.stdout.write(f"{case.name} {extents or 'open'}: {time.process_time() - begin:.1f} s\n")
    sys.stdout.flush()


def feeds(case: Case, specs: Sequence[dict[str, Any]], extents: Extents) -> dict[str, Any]:
    """The zoo's sample, repeated and cut to the extents."""
    known = dict(zip(case.symbols, extents, strict=True))
    sample = zoo.get(case.name).samples(1, 0)[0]
    found: dict[str, Any] = {}
    for spec in specs:
        array = sample[spec["name"]]
        wanted = [known[d.strip("'")] if isinstance(d, str) else d for d in spec["shape"]]
        places = [np.arange(n) % have for n, have in zip(wanted, array.shape, strict=True)]
        found[spec["name"]] = np.ascontiguousarray(array[np.ix_(*places)])
    return found


def timed(case: Case, extents: Extents, root: Path, plain: Session, seconds: float) -> str:
    """A row of the table."""
    artifacts = [planish.load_artifact(folder_of(root, case, None))]
    if extents in case.fixed:
        artifacts.append(planish.load_artifact(folder_of(root, case, extents)))
    given = feeds(case, artifacts[0].manifest["inputs"], extents)
    wanted, found = plain.run(given), artifacts[0].run(given)
    error = max(
        float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(b).max(), FLOOR))
        for a, b in zip(found, wanted, strict=True)
    )
    runs = [lambda: plain.run(given), *(lambda a=a: a.run(given) for a in artifacts)]
    best = [float("inf")] * len(runs)
    end, turns = time.monotonic() + seconds, 0
    while time.monotonic() < end or turns < 5:
        for i, run in enumerate(runs):
            begin = time.thread_time()
            run()
            best[i] = min(best[i], time.thread_time() - begin)
        turns += 1
    fixed = f"{best[2] * 1e3:.2f} | {best[1] / best[2]:.2f}" if len(best) > 2 else " | "
    said, slower = " x ".join(map(str, extents)), best[1] / best[0]
    return (
        f"| {case.name} | {said} | {best[0] * 1e3:.2f} | {fixed} | {best[1] * 1e3:.2f} | {slower:.2f} | {error:.1e} |"
    )


def page(rows: list[str]) -> str:
    return "\n".join(
        [
            "# One artifact for any extents",
            "",
            "Made by `benchmarks/tvm_open.py`; one thread of a Zen 4 core with AVX-512, without per-model tuning.",
            "`ORT` is ONNX Runtime on the original at its full optimization, `fixed` an artifact built for just these",
            "extents, `open` the one artifact for all rows of a model. Milliseconds of CPU time, the least of runs in",
            "turns. The error is the largest difference from ORT's outputs, relative to the largest element; inputs",
            "are the zoo's sample, repeated and cut to the extents. (ppocr_rec's 8e-4 is one letter of 80 that lies",
            "between two; artifacts for fixed extents have the same there.)",
            "",
            "| model | extents | ORT ms | fixed ms | open / fixed | open ms | open / ORT | error |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="One artifact for any extents.")
    parser.add_argument("--build", type=Path, help="build into this folder what is not there")
    parser.add_argument("--time", type=Path, help="time what lies in this folder")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    for case in CASES if options.build else ():
        for extents in (None, *case.fixed):
            folder = folder_of(options.build, case, extents)
            if not folder.exists():
                built(case, extents, folder)
    if options.time:
        rows: list[str] = []
        for case in CASES:
            plain = Session(zoo.get(case.name).path(), SETTINGS)
            rows += [timed(case, e, options.time, plain, options.seconds) for e in (*case.fixed, *case.more)]
        text = page(rows)
        if options.markdown:
            options.markdown.write_text(text, "utf-8")
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
