"""What MetaSchedule finds for functions without a template, beside planish's own schedules.

taskset -c 1 python -P benchmarks/functions.py --trials 64 -o docs/results/tvm_functions.md
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np

from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.lower.program import Module
from planish.backends.tvm.ready import readied
from planish.backends.tvm.tune.choose import Chooser, local_runner
from planish.driver.deploy import legalized
from planish.ir import Builder, DType
from planish.ir.graph import Model
from planish.passes.target import get_target, native

HEADER = """# Schedules that MetaSchedule finds

    {command}

Functions that no template computes, one thread of target {target}. `own`: the schedule that planish makes without any
search. `found`: the best of {trials} candidates of TVM's MetaSchedule, taken where at least 5 % faster (both timed
in turns at the end); CPU seconds are those of the whole search.

| function | own us | found us | own / found | taken | search s |
| --- | ---: | ---: | ---: | --- | ---: |
"""


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def cubes(b: Builder) -> None:
    x = b.input("x", DType.F32, (1, 16, 12, 24, 24))
    b.output(b.Relu(b.Conv(x, b.const(draw(32, 16, 3, 3, 3)))), "y")


def pooling(b: Builder) -> None:
    x = b.input("x", DType.F32, (1, 64, 28, 28))
    b.output(b.AveragePool(x, kernel_shape=(3, 3), pads=(1, 1, 1, 1), count_include_pad=1), "y")


def chain(b: Builder) -> None:
    x, y = (b.input(name, DType.F32, (1, 64, 56, 56)) for name in "xy")
    b.output(b.Mul(b.Sigmoid(b.Add(x, y)), b.Tanh(y)), "z")


def squares(b: Builder) -> None:
    x = b.input("x", DType.F32, (1, 256, 28, 28))
    b.output(b.ReduceSumSquare(x, axes=(2, 3), keepdims=0), "y")


def transposed(b: Builder) -> None:
    x = b.input("x", DType.F32, (8, 64, 128))
    b.output(b.Transpose(x, perm=(0, 2, 1)), "y")


FUNCTIONS: dict[str, Callable[[Builder], None]] = {
    "convolution 3x3x3, 16 to 32 channels, 12x24x24": cubes,
    "average of 3x3, 64 channels, 28x28": pooling,
    "sigmoid(x + y) * tanh(y), 200,704 elements": chain,
    "sums of squares of 28x28, 256 channels": squares,
    "transpose of 8 matrices 64x128": transposed,
}


def searched(make: Callable[[Builder], None], trials: int) -> list[tuple[float, float, bool, float]]:
    """Of the model's functions: times without and with a search, whether it is taken, CPU seconds."""
    b = Builder()
    make(b)
    model: Model = b.model()
    target = get_target(native())
    machine = Machine(target)
    chooser = Chooser(machine, runner=local_runner(machine), seconds=600, trials=trials)
    begin = time.process_time()
    machine = Machine(target, known=chooser.function)
    module = Module(machine)
    for i, piece in enumerate(readied(legalized(model, target), machine)[1]):
        module.lower(piece.model.graph, f"main{i}")
    spent = time.process_time() - begin
    return [(f.own_us, f.time_us, bool(f.trace), spent) for f in chooser.database.functions.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--only", help="functions with this word")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    command = f"taskset -c 1 python -P benchmarks/functions.py --trials {options.trials}"
    lines: list[str] = []
    for name, make in FUNCTIONS.items():
        for own, found, taken, spent in searched(make, options.trials) if (options.only or "") in name else ():
            cells = (name, f"{own:.1f}", f"{found:.1f}", f"{own / found:.2f}", "yes" if taken else "no", f"{spent:.0f}")
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if options.output is not None:
        head = HEADER.format(command=command, target=native(), trials=options.trials)
        options.output.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
