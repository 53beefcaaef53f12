"""Measures kernels of the zoo's models for the database of schedules that ships with the TVM backend.

    taskset -c 1 python -P scripts/tune_kernels.py ppocr_det nudenet --seconds 120
    python -P scripts/tune_kernels.py minilm --target rpi5 --board 192.168.0.2:9190/rpi5

`planish tune-kernels` does this for any model into a file of the user's. What is in the database is not measured
again: an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", "1")

import planish
from planish.driver.deploy import static_dims
from planish.driver.kernels import tune_kernels
from planish.models import zoo
from planish.passes.target import get_target

TUNE = Path(__file__).parents[1] / "backends" / "tvm" / "tune"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names of the zoo")
    parser.add_argument("--target", default="native")
    parser.add_argument("--seconds", type=float, default=120.0, help="for measuring each model")
    parser.add_argument("--trials", type=int, default=0, help="schedules of MetaSchedule for each other function")
    parser.add_argument("--board", help="HOST:PORT of a board's server, HOST:PORT/KEY of a tracker")
    parser.add_argument("--database", type=Path, help="not the one that is shipped")
    parser.add_argument("--open", action="store_true", help="extents stay open, as in builds without --dim")
    options = parser.parse_args()
    target = get_target(options.target)
    for name in options.models:
        entry = zoo.get(name)
        found = tune_kernels(
            entry.path(),
            target,
            options.database or TUNE / f"{target.name}.json",
            dims={} if options.open else static_dims(planish.load(entry.path()), {}, entry.samples(1, 0)[0]),
            seconds=options.seconds,
            trials=options.trials,
            board=options.board,
            progress=lambda line: print(line, flush=True),
        )
        print(f"{name}: {found.products} kernels known, {found.seconds:.0f} s of measuring", flush=True)


if __name__ == "__main__":
    main()
