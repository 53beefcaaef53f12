"""Kernels of the TVM backend beside ONNX Runtime's, one thread, and beside the processor's peak.

    python -P benchmarks/kernels.py [--only conv matmul rows int8] [--out docs/results/kernels.md]

Every kernel is built with its best guess and with the best of three candidates by measuring (the Chooser). Ours and
ONNX Runtime's run in turns; a figure is the best of several rounds. The peak is measured by multiply-adds on registers
alone. ONNX Runtime gets a model of the one operator with what follows it (bias, ReLU, requantization).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime as ort
import tvm
from onnx import helper as h
from onnx import numpy_helper as nh

from planish.backends.tvm.kernels import conv as convs
from planish.backends.tvm.kernels import emit, transposed
from planish.backends.tvm.kernels import matmul as products
from planish.backends.tvm.kernels.arithmetic import requantized
from planish.backends.tvm.kernels.conv import Conv
from planish.backends.tvm.kernels.machine import Machine, block_of
from planish.backends.tvm.kernels.matmul import MatMul
from planish.backends.tvm.kernels.tile import Epilogue, Registers, Tile
from planish.backends.tvm.kernels.transposed import Transposed
from planish.backends.tvm.lower.program import Module
from planish.backends.tvm.tune.choose import Chooser, local_runner
from planish.backends.tvm.tune.database import Database
from planish.backends.tvm.tune.measure import operands_of
from planish.driver.versions import versions
from planish.ir.onnx_reader import read_model
from planish.passes.context import Context
from planish.passes.manager import Pipeline
from planish.passes.target import get_target, native

Array = np.ndarray[Any, Any]
tirx = tvm.tirx
MACHINE = Machine(get_target(native()))
RNG = np.random.default_rng(0)
ROUNDS = 9
BLOCK_SECONDS = 0.006


@dataclass
class Row:
    """A line of the table."""

    part: str
    name: str
    work: float
    """Floating-point (integer) operations, or bytes moved for kernels that are bound by memory."""
    guess: Callable[[], object]
    chosen: Callable[[], object]
    tile: str
    build_s: float
    peer: Callable[[], object]
    times: tuple[float, float, float] = (0.0, 0.0, 0.0)


def prepared(kernel: Any) -> tuple[Callable[[], object], float]:
    begin = time.process_time()
    built: Any = tvm.compile(kernel, target=MACHINE.target())
    seconds = time.process_time() - begin
    function = built[str(kernel.attrs["global_symbol"])]
    operands = [tvm.runtime.tensor(a) for a in operands_of(kernel)]
    return lambda: function(*operands), seconds


def session(nodes: list[Any], inputs: dict[str, Array], constants: dict[str, Array]) -> Callable[[], object]:
    """ONNX Runtime with a model of these nodes; the last one's output is the result."""
    return peer_of(model_of(nodes, inputs, constants), inputs)


def model_of(nodes: list[Any], inputs: dict[str, Array], constants: dict[str, Array]) -> bytes:
    """The nodes as a model, as it is in a file."""
    values = [h.make_tensor_value_info(k, h.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()]
    out = onnx.ValueInfoProto(name=nodes[-1].output[0])
    graph = h.make_graph(nodes, "one", values, [out], [nh.from_array(v, k) for k, v in constants.items()])
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 20)], ir_version=9).SerializeToString()


def peer_of(model: bytes, inputs: dict[str, Array]) -> Callable[[], object]:
    """The model on ONNX Runtime, one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    found = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: found.run(None, inputs)


def rectified(channel: Callable[[tuple[Any, ...]], tuple[Any, ...]], shape: tuple[int, ...]) -> Epilogue:
    """Bias by channel and ReLU."""
    return Epilogue(lambda v, i, e: tirx.max(v + e[0][channel(i)], 0.0), ((shape, "float32"),))


def to_bytes() -> Epilogue:
    return Epilogue(lambda v, i, e: requantized(v, tirx.const(0.001, "float32"), 3, "uint8"), dtype="uint8")


def templated(part: str, name: str, spec: Any, family: Any, epilogue: Epilogue, peer: Callable[[], object]) -> Row:
    chooser = Chooser(MACHINE, Database(), local_runner(MACHINE), seconds=math.inf)
    first: Tile = family.tiles(spec, MACHINE)[0]
    guess, seconds = prepared(family.build(spec, MACHINE, first, epilogue))
    best = chooser.tile(spec)
    chosen = guess if best == first else prepared(family.build(spec, MACHINE, best, epilogue))[0]
    work = 2 * (spec.products * spec.batch if isinstance(spec, Conv) else _products(spec))
    return Row(part, name, work, guess, chosen, str(best), seconds, peer)


def _products(spec: MatMul) -> int:
    return math.prod((*spec.batch, spec.rows, spec.depth, spec.columns))


def conv_row(c: int, size: int, m: int, k: int, stride: int, groups: int = 1) -> Row:
    spec = _conv(c, size, m, k, stride, groups, "float32")
    w = RNG.standard_normal((m, c // groups, k, k)).astype(np.float32)
    x = RNG.standard_normal((1, c, size, size)).astype(np.float32)
    conv = h.make_node("Conv", ["x", "w", "b"], ["c"], strides=[stride] * 2, pads=list(spec.pads), group=groups)
    constants = {"w": w, "b": np.zeros(m, np.float32)}
    peer = session([conv, h.make_node("Relu", ["c"], ["y"])], {"x": x}, constants)
    epilogue = rectified(lambda i: (i[1], i[4]), (m // spec.out_block, spec.out_block))
    return templated("conv", _conv_name(spec), spec, convs, epilogue, peer)


def transposed_row(c: int, size: int, m: int, k: int, stride: int, more: int = 0) -> Row:
    """With windows that overlap: the padding makes the output ``stride`` times as large."""
    pad = (k - stride + more) // 2
    blocks = [block_of(n, MACHINE) for n in (c, m)]
    spec = Transposed(1, c, size, size, m, (k, k), (stride,) * 2, (pad,) * 2, (0, 0), 1, *blocks)
    w = RNG.standard_normal((c, m, k, k)).astype(np.float32)
    x = RNG.standard_normal((1, c, size, size)).astype(np.float32)
    options = {"strides": [stride] * 2, "pads": [pad] * 4, "output_padding": [more] * 2}
    peer = session([h.make_node("ConvTranspose", ["x", "w"], ["y"], **options)], {"x": x}, {"w": w})
    guess = transposed.tiles_of(spec, MACHINE)
    chooser = Chooser(MACHINE, Database(), local_runner(MACHINE), seconds=math.inf)
    best = transposed.tiles_of(spec, replace(MACHINE, choose=chooser.tile))
    first, seconds = prepared(transposed.build(spec, MACHINE, guess))
    second = first if best == guess else prepared(transposed.build(spec, MACHINE, best))[0]
    name = f"transposed {k}x{k} stride {stride}, {c}x{size}x{size} to {m}"
    return Row("conv", name, 2 * c * m * k * k * size * size, first, second, str(best[0]), seconds, peer)


def int8_conv_row(c: int, size: int, m: int, k: int, stride: int, groups: int = 1) -> Row:
    spec = _conv(c, size, m, k, stride, groups, "uint8")
    w = RNG.integers(-100, 100, (m, c // groups, k, k)).astype(np.int8)
    x = RNG.integers(0, 256, (1, c, size, size)).astype(np.uint8)
    scalars = {"s": np.float32(0.1), "z": np.uint8(3), "ws": np.full(m, 0.1, np.float32), "wz": np.zeros(m, np.int8)}
    names = ["x", "s", "z", "w", "ws", "wz", "s", "z"]
    node = h.make_node("QLinearConv", names, ["y"], strides=[stride] * 2, pads=list(spec.pads), group=groups)
    constants = {"w": w, **{k: np.asarray(v) for k, v in scalars.items()}}
    return templated("int8", _conv_name(spec), spec, convs, to_bytes(), session([node], {"x": x}, constants))


def _conv(c: int, size: int, m: int, k: int, stride: int, groups: int, dtype: str) -> Conv:
    blocks = [4 if n == 3 and dtype != "float32" else block_of(n, MACHINE) for n in (c, m)]
    shape = ((k, k), (stride, stride), (k // 2,) * 4)
    return Conv(1, c, size, size, m, *shape, groups=groups, in_block=blocks[0], out_block=blocks[1], dtype=dtype)


def _conv_name(c: Conv) -> str:
    kind = "depthwise" if c.groups > 1 else "convolution"
    shape = f"{c.channels}x{c.height}x{c.width}" + ("" if c.groups > 1 else f" to {c.outputs}")
    return f"{kind} {c.kernel[0]}x{c.kernel[1]}{f' stride {c.strides[0]}' if c.strides[0] > 1 else ''}, {shape}"


def matmul_row(m: int, k: int, n: int) -> Row:
    a, b = RNG.standard_normal((m, k)).astype(np.float32), RNG.standard_normal((k, n)).astype(np.float32)
    peer = session([h.make_node("Gemm", ["a", "b", "c"], ["y"])], {"a": a}, {"b": b, "c": np.zeros(n, np.float32)})
    bias = Epilogue(lambda v, i, e: v + e[0][i[1]], (((n,), "float32"),))
    return templated("matmul", f"product {m}x{k}x{n}", MatMul((), m, k, n), products, bias, peer)


def attention_row(heads: int, length: int, size: int, *, scores: bool) -> Row:
    m, k, n = (length, size, length) if scores else (length, length, size)
    a, b = [RNG.standard_normal((heads, *s)).astype(np.float32) for s in ((m, k), (k, n))]
    spec = MatMul((heads,), m, k, n, packed=False, b_axes=(0, 2, 1) if scores else ())
    nodes = [h.make_node("MatMul", ["a", "b"], ["y"])]
    if scores:
        nodes = [h.make_node("Transpose", ["b"], ["t"], perm=[0, 2, 1]), h.make_node("MatMul", ["a", "t"], ["y"])]
        b = np.ascontiguousarray(b.transpose(0, 2, 1))
    name = f"attention {'scores' if scores else 'values'}, {heads} heads, {m}x{k}x{n}"
    return templated("matmul", name, spec, products, Epilogue(), session(nodes, {"a": a, "b": b}, {}))


def int8_matmul_row(m: int, k: int, n: int) -> Row:
    a = RNG.integers(0, 256, (m, k)).astype(np.uint8)
    names = ["a", "s", "z", "b", "s", "bz", "s", "z"]
    constants = {
        "b": RNG.integers(-100, 100, (k, n)).astype(np.int8),
        "s": np.asarray(np.float32(0.1)),
        "z": np.asarray(np.uint8(3)),
        "bz": np.asarray(np.int8(0)),
    }
    peer = session([h.make_node("QLinearMatMul", names, ["y"])], {"a": a}, constants)
    return templated("int8", f"product {m}x{k}x{n}", MatMul((), m, k, n, dtype="uint8"), products, to_bytes(), peer)


def rows_row(name: str, node: Any, *shape: int) -> Row:
    """A kernel of the scheduler, made by the operator's rule; its work is bytes."""
    x = RNG.standard_normal(shape).astype(np.float32)
    weights = {name: np.full(shape[-1], 0.5, np.float32) for name in node.input[1:]}
    model = model_of([node], {"x": x}, weights)
    made = read_model(model)
    Pipeline("clean").run(made, Context())
    kernel = Module(MACHINE).lower(made.graph, "main").calls[-1].kernel.function()
    run, seconds = prepared(kernel)
    moved = sum(math.prod(int(e) for e in p.shape) * 4 for p in kernel.params)
    return Row("rows", f"{name} {'x'.join(map(str, shape))}", moved, run, run, "", seconds, peer_of(model, {"x": x}))


def unary(op: str, *shape: int) -> Row:
    return rows_row(op.lower(), h.make_node(op, ["x"], ["y"]), *shape)


def cases() -> dict[str, list[Callable[[], Row]]]:
    return {
        "conv": [
            lambda: conv_row(3, 224, 64, 7, 2),
            lambda: conv_row(3, 320, 32, 3, 2),
            lambda: conv_row(64, 56, 64, 3, 1),
            lambda: conv_row(64, 56, 128, 3, 2),
            lambda: conv_row(128, 28, 128, 3, 1),
            lambda: conv_row(256, 14, 256, 3, 1),
            lambda: conv_row(512, 7, 512, 3, 1),
            lambda: conv_row(256, 56, 64, 1, 1),
            lambda: conv_row(24, 40, 96, 1, 1),
            lambda: conv_row(512, 13, 1000, 1, 1),
            lambda: conv_row(64, 56, 64, 3, 1, 64),
            lambda: conv_row(480, 14, 480, 5, 1, 480),
            lambda: transposed_row(128, 32, 64, 4, 2),
            lambda: transposed_row(64, 64, 32, 4, 2),
            lambda: transposed_row(256, 16, 128, 3, 2, more=1),
            lambda: transposed_row(24, 160, 24, 2, 2),
            lambda: transposed_row(24, 320, 1, 2, 2),
            lambda: transposed_row(64, 64, 3, 4, 2),
        ],
        "matmul": [
            lambda: matmul_row(128, 384, 1536),
            lambda: matmul_row(1024, 1024, 1024),
            lambda: matmul_row(45, 384, 384),
            lambda: matmul_row(1, 2048, 1000),
            lambda: attention_row(12, 128, 32, scores=True),
            lambda: attention_row(12, 128, 32, scores=False),
        ],
        "int8": [
            lambda: int8_conv_row(3, 224, 32, 3, 2),
            lambda: int8_conv_row(64, 56, 64, 3, 1),
            lambda: int8_conv_row(256, 56, 64, 1, 1),
            lambda: int8_conv_row(64, 56, 64, 3, 1, 64),
            lambda: int8_matmul_row(128, 384, 1536),
        ],
        "rows": [
            lambda: unary("Softmax", 1536, 128),
            lambda: rows_row(
                "layer normalization", h.make_node("LayerNormalization", ["x", "g", "b"], ["y"]), 128, 384
            ),
            lambda: unary("Sigmoid", 1, 64, 40, 40),
            lambda: unary("Tanh", 1, 64, 40, 40),
            lambda: unary("Gelu", 128, 1536),
        ],
    }


def peak_flops() -> float:
    """Multiply-adds on registers alone, 12 of them in flight: as many operations a second as there can be."""
    steps, width = 1 << 14, MACHINE.lanes()
    a = emit.parameter("a", (2, width), "float32")
    registers = Registers(12, 1, width)
    at = emit.lanes(0, width)
    step = registers.step(lambda r: a[0, at], lambda v: a[1, at])
    body = emit.loop(steps, lambda i: emit.seq([step, step]))
    out = emit.parameter("out", (12, width), "float32")
    kept = [emit.store(out, registers.buffers[r][0][at], r, at) for r in range(12)]
    run, _ = prepared(emit.function([a, out], emit.seq(registers.start(), body, kept), "peak"))
    return 2 * 24 * width * steps / min(timed(run, 1) for _ in range(30))


def timed(run: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - begin) / repeats


def measure(rows: list[Row]) -> None:
    for row in rows:
        runs = (row.guess, row.chosen, row.peer)
        repeats = []
        for run in runs:
            run()
            repeats.append(max(1, math.ceil(BLOCK_SECONDS / timed(run, 1))))
        times = [[timed(run, n) for run, n in zip(runs, repeats, strict=True)] for _ in range(ROUNDS)]
        row.times = tuple(min(column) for column in zip(*times, strict=True))  # type: ignore[assignment]


def table(rows: list[Row], peak: float) -> list[str]:
    lines = [
        f"Peak in single precision: {peak / 1e9:.0f} GF/s, one thread.",
        "",
        "| kernel | best guess, G/s | chosen, G/s | of the peak | ONNX Runtime, G/s | times faster | tile | build, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in (r for r in rows if r.part != "rows"):
        guess, chosen, peer = [row.work / t / 1e9 for t in row.times]
        share = f"{100 * chosen * 1e9 / peak:.0f} %" if row.part != "int8" else ""
        name = f"int8 {row.name}" if row.part == "int8" else row.name
        figures = f"{guess:.0f} | {chosen:.0f} | {share} | {peer:.0f} | {chosen / peer:.2f}"
        lines.append(f"| {name} | {figures} | {row.tile} | {row.build_s:.2f} |")
    others = [r for r in rows if r.part == "rows"]
    if others:
        lines += ["", "| kernel | us | GB/s | ONNX Runtime, us | times faster |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in others:
        ours, _, peer = row.times
        lines.append(
            f"| {row.name} | {ours * 1e6:.1f} | {row.work / ours / 1e9:.1f} | {peer * 1e6:.1f} | {peer / ours:.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="parts: conv, matmul, int8, rows")
    parser.add_argument("--out", type=Path, help="write the page there")
    arguments = parser.parse_args()
    wanted = [make for part, makes in cases().items() if part in (arguments.only or cases()) for make in makes]
    rows: list[Row] = []
    for make in wanted:
        rows.append(make())
        print(f"built {rows[-1].name}", file=sys.stderr, flush=True)
    peak = peak_flops()
    measure(rows)
    lines = table(rows, peak)
    print("\n".join(lines))
    if arguments.out is not None:
        head = ["# Kernels of the TVM backend", "", *_introduction(), ""]
        arguments.out.write_text("\n".join([*head, *lines, ""]))


def _introduction() -> list[str]:
    known = versions()
    named = ", ".join(f"{key} {value}" for key, value in known.items() if key in ("onnxruntime", "numpy"))
    return [
        "    python -P benchmarks/kernels.py --out docs/results/kernels.md",
        "",
        f"Target `{MACHINE.processor.name}`, one thread, TVM {tvm.__version__}, {named}. G/s are 10^9 operations",
        "(a multiply-add is two) of the operator as it is defined: at borders fewer are done, so that a figure can",
        "lie above the peak. Ours have blocked layouts (`NCHW16c`) and packed weights, as in a compiled model; ONNX",
        "Runtime's figures include its own change of layout for a single convolution, which a whole model pays at its",
        "ends only. Products have a bias, convolutions bias and ReLU; int8 is u8 by s8 with requantization to u8. A",
        "tile is rows x vectors x lanes, steps written out (u), reduction indices a step (d).",
        "",
        "Measured with other jobs on the machine, where the best of several rounds still differs by 10 %.",
    ]


if __name__ == "__main__":
    main()
