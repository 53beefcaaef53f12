"""What kernels for ARM are made of, and how exact half precision is there; nothing is timed.

scripts/arm prepare --python
python -P benchmarks/arm.py -o docs/results/arm.md
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planish.backends.tvm.api import tvm
from planish.backends.tvm.backend import TvmBackend
from planish.backends.tvm.kernels import conv as convs
from planish.backends.tvm.kernels import matmul as products
from planish.backends.tvm.kernels.arithmetic import is_integer
from planish.backends.tvm.kernels.conv import Conv
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.matmul import MatMul
from planish.backends.tvm.kernels.tile import Epilogue
from planish.ir import Builder, DType
from planish.ir.graph import Model
from planish.ir.onnx_writer import write_model
from planish.passes.target import get_target

SCRIPT = Path(__file__).parents[1] / "scripts" / "arm.py"
PRODUCTS = {"fmla": 1, "smlal": 1, "smlal2": 1, "smull": 1, "sdot": 4, "usdot": 4, "smmla": 8, "usmmla": 8}
"""Multiply-adds for each of the register's sums."""
SIZES = {"8h": 8, "4s": 4, "2d": 2}
IMAGE = Conv(1, 64, 28, 28, 64, (3, 3), pads=(1, 1, 1, 1), in_block=8, out_block=8)
KERNELS: dict[str, Conv | MatMul] = {
    "convolution 3x3": IMAGE,
    "convolution 1x1": replace(IMAGE, kernel=(1, 1), pads=(0, 0, 0, 0)),
    "product 64x256x64": MatMul((), 64, 256, 64),
}
TARGETS = ("cortex-a72", "cortex-a76", "neoverse-v1")
HEADER = """# Kernels for ARM

    python -P benchmarks/arm.py

The innermost loop of the kernels that planish takes without measuring, 64 channels of 28x28 pixels: multiply-adds for
each instruction of any kind, and with what. A processor starts a fixed number of instructions a cycle, so that more of
them is faster; how much faster only the board can tell.

"""
ERRORS = """
## Half precision

Products of random float16 matrices ({rows} rows, {columns} columns), run on the emulated processor: root of the mean
squared error beside exact products, of the results' size times 2^-11. Rounding exact results to float16 alone gives
0.41. ONNX Runtime's wheel for ARM has kernels of its own for float16, which sum in it.

| depth | planish for cortex-a72 | planish for cortex-a76 | ONNX Runtime on cortex-a76 |
| ---: | ---: | ---: | ---: |
"""
ROWS, COLUMNS = 16, 32


def innermost(text: str) -> list[list[str]]:
    """Instructions of the loop with the most products among them: up to a branch back, from its label on."""
    lines = text.splitlines()
    places = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.L\w+:", line)}
    best: list[list[str]] = []
    for i, line in enumerate(lines):
        branch = re.match(r"\t(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)
        start = places.get(branch[1], i) if branch else i
        body = [inner.split(None, 1) for inner in lines[start:i] if re.match(r"\t[a-z]", inner)]
        if body and share(body) > (share(best) if best else 0):
            best = body
    return best


def share(body: list[list[str]]) -> float:
    return sum(words[0] in PRODUCTS for words in body) / len(body)


def multiply_adds(words: list[str]) -> int:
    if words[0] not in PRODUCTS:
        return 0
    size = re.match(r"v\d+\.(\w+)", words[1])
    lanes = SIZES[size[1]] if size else 1
    return lanes * PRODUCTS[words[0]]


def cell(spec: Conv | MatMul, dtype: str, target: str) -> str:
    machine = Machine(get_target(target))
    spec = replace(spec, dtype=dtype)
    family: Any = convs if isinstance(spec, Conv) else products
    sums = "int32" if is_integer(dtype) else "float32"
    kernel = family.build(spec, machine, family.tiles(spec, machine)[0], Epilogue(dtype=sums), name="kernel")
    built: Any = tvm.compile(kernel, target=machine.target())
    body = innermost("".join(str(m.inspect_source("asm")) for m in modules(built.mod) if m.kind == "llvm"))
    used = Counter(w[0].rstrip("2") for w in body if w[0] in PRODUCTS)
    return f"{sum(map(multiply_adds, body)) / len(body):.1f} ({used.most_common(1)[0][0]})"


def modules(module: Any) -> list[Any]:
    return [module, *(inner for m in module.imports for inner in modules(m))]


def product(depth: int) -> tuple[Model, np.ndarray, np.ndarray]:
    """A model of one product of half precision, its input, and the exact result."""
    draw = np.random.default_rng(depth)
    x, w = (draw.standard_normal(shape).astype(np.float16) for shape in ((ROWS, depth), (depth, COLUMNS)))
    b = Builder()
    b.output(b.MatMul(b.input("x", DType.F16, (ROWS, depth)), b.const(w)), "y")
    return b.model(), x, x.astype(np.float64) @ w.astype(np.float64)


def error(found: np.ndarray, exact: np.ndarray) -> str:
    unit = 2.0**-11 * np.sqrt(np.mean(exact**2))
    return f"{np.sqrt(np.mean((found.astype(np.float64) - exact) ** 2)) / unit:.2f}"


def emulated(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-P", str(SCRIPT), *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def on_planish(model: Model, x: np.ndarray, target: str, folder: Path) -> np.ndarray:
    described = json.loads(subprocess.check_output([sys.executable, "-P", str(SCRIPT), "env"]))
    os.environ["PATH"] = f"{described['compilers']}{os.pathsep}{os.environ['PATH']}"
    chosen = replace(get_target(target), runtime="tvm", contrib=False)
    TvmBackend().lower(model, chosen).save(folder / target)
    np.save(folder / "x.npy", x)
    emulated("run", target, described["runner"], folder / target, folder / "x.npy", "-o", folder / "y")
    return np.load(folder / "y0.npy")


def on_wheel(model: Model, x: np.ndarray, folder: Path) -> np.ndarray:
    write_model(model, folder / "model.onnx")
    np.save(folder / "x.npy", x)
    lines = ["import sys, numpy, onnxruntime", "session = onnxruntime.InferenceSession(sys.argv[1])"]
    lines += ["numpy.save(sys.argv[3], session.run(None, {'x': numpy.load(sys.argv[2])})[0])"]
    (folder / "run.py").write_text("\n".join(lines))
    emulated("python", "cortex-a76", *(folder / n for n in ("run.py", "model.onnx", "x.npy", "z.npy")))
    return np.load(folder / "z.npy")


def row(depth: int) -> str:
    model, x, exact = product(depth)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs: list[Callable[[], np.ndarray]] = [
            lambda: on_planish(model, x, "cortex-a72", folder),
            lambda: on_planish(model, x, "cortex-a76", folder),
            lambda: on_wheel(model, x, folder),
        ]
        return f"| {depth} | {' | '.join(error(run(), exact) for run in runs)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    lines = [f"| kernel | {' | '.join(TARGETS)} |", f"| --- |{' --- |' * len(TARGETS)}"]
    for name, spec in KERNELS.items():
        for dtype in ("float32", "float16", "int8", "uint8"):
            lines.append(f"| {name}, {dtype} | {' | '.join(cell(spec, dtype, t) for t in TARGETS)} |")
    text = HEADER + "\n".join(lines) + "\n" + ERRORS.format(rows=ROWS, columns=COLUMNS)
    text += "\n".join(row(depth) for depth in (64, 576, 4096)) + "\n"
    if options.output is not None:
        options.output.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
