"""The kernels of processors with NEON, with dot products and with 8-bit matrix instructions: numbers, and assembly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends.tvm.api import relax, tvm
from planish.backends.tvm.kernels import conv as convs
from planish.backends.tvm.kernels import matmul as products
from planish.backends.tvm.kernels.conv import Conv
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.matmul import MatMul
from planish.backends.tvm.kernels.tile import Epilogue
from planish.backends.tvm.link import export_library
from planish.passes.target import get_target

from .emulation import Emulation

IMAGE, CHANNELS, OUTPUTS, ZERO_POINT = (7, 9), 16, 24, 9
ROWS, DEPTH, COLUMNS = 7, 37, 20


@dataclass(frozen=True)
class Case:
    """A kernel, its operands as it takes them, and its exact result."""

    function: Any
    arrays: tuple[np.ndarray, ...]
    expected: np.ndarray

    def build(self, target: str) -> Any:
        """Compiled, in a program that calls it."""
        return relax.build(self._module(), Machine(get_target(target)).target())

    def save(self, executable: Any, target: str, folder: Path) -> Path:
        """The folder of an artifact whose inputs are all operands."""
        folder.mkdir()
        export_library(executable, folder / "lib.so", get_target(target))
        (folder / "params.bin").write_bytes(b"")
        inputs = [{"name": f"p{i}", "dtype": str(a.dtype), "shape": [*a.shape]} for i, a in enumerate(self.arrays)]
        outputs = [{"name": "y", "dtype": str(self.expected.dtype), "shape": [*self.expected.shape]}]
        manifest = {"backend": "tvm", "inputs": inputs, "outputs": outputs, "params": []}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    def _module(self) -> Any:
        builder = relax.BlockBuilder()
        variables = [relax.Var(f"p{i}", relax.TensorType(a.shape, str(a.dtype))) for i, a in enumerate(self.arrays)]
        name = builder.add_func(self.function, "kernel")
        with builder.function("main", variables):
            with builder.dataflow():
                wanted = relax.TensorType(self.expected.shape, str(self.expected.dtype))
                result = builder.emit_output(relax.call_tir(name, variables, wanted))
            builder.emit_func_output(result)
        return builder.get()


def integer_conv(target: str) -> Case:
    """A 3x3 convolution of u8 with zero point 9 by s8, in blocks of channels."""
    return _integer_conv(target, Machine(get_target(target)).block, "uint8", ZERO_POINT)


def narrow_conv(target: str) -> Case:
    """The same in blocks of four channels, which instructions for eight do not take."""
    return _integer_conv(target, 4, "uint8", ZERO_POINT)


def signed_conv(target: str) -> Case:
    """The same of s8 with a zero point below 0."""
    return _integer_conv(target, Machine(get_target(target)).block, "int8", -ZERO_POINT)


def _integer_conv(target: str, block: int, dtype: str, zero_point: int) -> Case:
    machine = Machine(get_target(target))
    draw = np.random.default_rng(11)
    known = np.iinfo(dtype)
    x = draw.integers(known.min, known.max + 1, (1, CHANNELS, *IMAGE)).astype(dtype)
    w = draw.integers(-128, 128, (OUTPUTS, CHANNELS, 3, 3)).astype(np.int8)
    spec = Conv(1, CHANNELS, *IMAGE, OUTPUTS, (3, 3), pads=(1, 1, 1, 1), in_block=block, out_block=block)
    spec = replace(spec, dtype=dtype, zero_point=zero_point)
    tile = convs.tiles(spec, machine)[0]
    padded = np.pad(x.astype(np.int32) - zero_point, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.int32))
    # Kernels sum what is stored; the epilogue takes off the zero point that they see.
    sums += convs.seen_zero_point(spec, machine, tile) * w.sum((1, 2, 3), dtype=np.int32)[:, None, None]
    function = convs.build(spec, machine, tile, Epilogue(dtype="int32"), name="kernel")
    return Case(function, (blocked(x, block), convs.pack(w, spec, tile)), blocked(sums.astype(np.int32), block))


def integer_product(target: str) -> Case:
    """A matrix product of s8 by s8 whose depth no instruction divides, with an odd number of rows."""
    return _integer_product(target, ROWS)


def integer_row(target: str) -> Case:
    """A single row, which needs no instruction for two."""
    return _integer_product(target, 1)


def _integer_product(target: str, rows: int) -> Case:
    machine = Machine(get_target(target))
    draw = np.random.default_rng(12)
    a = draw.integers(-128, 128, (rows, DEPTH)).astype(np.int8)
    b = draw.integers(-128, 128, (DEPTH, COLUMNS)).astype(np.int8)
    spec = MatMul((), rows, DEPTH, COLUMNS, dtype="int8")
    assert products.seen_zero_point(spec, machine, 0) == 0
    tile = products.tiles(spec, machine)[0]
    function = products.build(spec, machine, tile, Epilogue(dtype="int32"), name="kernel")
    return Case(function, (a, products.pack(b, spec, tile)), a.astype(np.int32) @ b.astype(np.int32))


def half_conv(target: str) -> Case:
    """A 3x3 convolution of half precision, in blocks of channels; sums as they are."""
    machine = Machine(get_target(target))
    block = machine.block
    draw = np.random.default_rng(13)
    x = draw.standard_normal((1, CHANNELS, *IMAGE)).astype(np.float16)
    w = draw.standard_normal((OUTPUTS, CHANNELS, 3, 3)).astype(np.float16)
    spec = Conv(1, CHANNELS, *IMAGE, OUTPUTS, (3, 3), pads=(1, 1, 1, 1), in_block=block, out_block=block)
    spec = replace(spec, dtype="float16")
    tile = convs.tiles(spec, machine)[0]
    padded = np.pad(x.astype(np.float32), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.float32))
    function = convs.build(spec, machine, tile, name="kernel")
    return Case(function, (blocked(x, block), convs.pack(w, spec, tile)), blocked(sums, block))


def half_product(target: str) -> Case:
    """A matrix product of half precision that bursts do not divide."""
    machine = Machine(get_target(target))
    draw = np.random.default_rng(14)
    a, b = (draw.standard_normal(shape).astype(np.float16) for shape in ((ROWS, 333), (333, COLUMNS)))
    spec = MatMul((), ROWS, 333, COLUMNS, dtype="float16")
    tile = products.tiles(spec, machine)[0]
    function = products.build(spec, machine, tile, name="kernel")
    return Case(function, (a, products.pack(b, spec, tile)), a.astype(np.float32) @ b.astype(np.float32))


def blocked(x: np.ndarray, block: int) -> np.ndarray:
    n, c, h, w = x.shape
    return np.ascontiguousarray(x.reshape(n, c // block, block, h, w).transpose(0, 1, 3, 4, 2))


@cache
def built(make: Callable[[str], Case], target: str) -> tuple[Case, Any]:
    """A case and its executable, compiled once."""
    case = make(target)
    return case, case.build(target)


def assembly(executable: Any) -> str:
    """Of all kernels in what ``relax.build`` or ``tvm.compile`` gave."""
    queue, found = [getattr(executable, "mod", executable)], ""
    while queue:
        module = queue.pop()
        found += str(module.inspect_source("asm")) if module.kind == "llvm" else ""
        queue.extend(module.imports)
    return found


def innermost(text: str) -> list[str]:
    """The instructions of the loop with the largest share of multiply-adds: up to a branch back, from its label on."""
    lines = text.splitlines()
    places = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.L\w+:", line)}
    best: list[str] = []
    for i, line in enumerate(lines):
        branch = re.match(r"\t(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)
        start = places.get(branch[1], i) if branch else i
        body = [inner.split()[0] for inner in lines[start:i] if re.match(r"\t[a-z]", inner)]
        if body and share(body) > (share(best) if best else 0):
            best = body
    return best


def share(body: list[str]) -> float:
    return sum(word in ("fmla", "sdot", "udot", "usdot", "smlal", "smlal2") for word in body) / max(len(body), 1)


@pytest.mark.parametrize(
    ("make", "target", "processor"),
    [
        (integer_conv, "rpi4", "cortex-a53"),
        (signed_conv, "rpi3", "cortex-a53"),
        (integer_conv, "rpi5", "cortex-a76"),
        (integer_conv, "aarch64-i8mm", "max"),
        (signed_conv, "neoverse-v1", "max"),
        (narrow_conv, "aarch64-i8mm", "max"),
        (integer_product, "aarch64-i8mm", "max"),
        (integer_product, "rpi4", "cortex-a72"),
        (integer_product, "rpi5", "neoverse-n1"),
    ],
)
def test_integers_are_exact(
    make: Callable[[str], Case], target: str, processor: str, emulation: Emulation, tmp_path: Path
) -> None:
    case, executable = built(make, target)
    status, said, outputs = emulation.model(
        processor, case.save(executable, target, tmp_path / "model"), list(case.arrays)
    )
    assert status == 0, said
    assert np.array_equal(outputs[0], case.expected)


@pytest.mark.parametrize(
    ("make", "target", "wanted", "absent"),
    [
        (integer_conv, "rpi4", ("smull", "sadalp"), ("sdot", "udot", "usdot", "smmla")),
        (integer_product, "rpi4", ("smull", "sadalp"), ("sdot", "udot", "usdot", "smmla")),
        (integer_conv, "rpi5", ("sdot",), ("usdot", "smmla")),
        (integer_product, "rpi5", ("sdot",), ("usdot", "smmla")),
        (integer_conv, "aarch64-i8mm", ("usmmla",), ("usdot",)),
        (signed_conv, "neoverse-v1", ("smmla",), ("sdot",)),
        (integer_product, "aarch64-i8mm", ("smmla",), ("sdot",)),
        (narrow_conv, "aarch64-i8mm", ("usdot",), ("usmmla",)),
        (integer_row, "aarch64-i8mm", ("sdot",), ("smmla",)),
    ],
)
def test_integer_instructions(
    make: Callable[[str], Case], target: str, wanted: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    text = assembly(built(make, target)[1])
    counts = {word: len(re.findall(rf"^\t{word}\b", text, re.M)) for word in (*wanted, *absent)}
    assert all(counts[word] for word in wanted), counts
    assert not any(counts[word] for word in absent), counts


@pytest.mark.parametrize("make", [half_conv, half_product])
@pytest.mark.parametrize(
    ("target", "processor", "rounding"), [("rpi4", "cortex-a72", 2**-20), ("rpi5", "cortex-a76", 2**-8)]
)
def test_half_precision(
    make: Callable[[str], Case],
    target: str,
    processor: str,
    rounding: float,
    emulation: Emulation,
    tmp_path: Path,
) -> None:
    """Summed in single precision where there is no other, else in bursts; operands are about 1, sums about 15."""
    case, executable = built(make, target)
    status, said, outputs = emulation.model(
        processor, case.save(executable, target, tmp_path / "model"), list(case.arrays)
    )
    assert status == 0, said
    assert abs(outputs[0] - case.expected).max() < rounding * abs(case.expected).max()
    instructions = len(re.findall(r"^\tfmla\tv\d+\.8h", assembly(executable), re.M))
    assert bool(instructions) == (target == "rpi5")


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)])
def test_float_convolutions_stay_in_registers(kernel: tuple[int, int]) -> None:
    """Most of the innermost loop are multiply-adds, and sums hardly leave their registers: a Cortex-A76 starts four
    instructions and two multiply-adds a cycle, so that half of them being multiply-adds keeps it busy."""
    machine = Machine(get_target("rpi5"))
    pad = kernel[0] // 2
    spec = Conv(1, 64, 28, 28, 64, kernel, pads=(pad, pad, pad, pad), in_block=machine.block, out_block=machine.block)
    function = convs.build(spec, machine, convs.tiles(spec, machine)[0], name="kernel")
    body = innermost(assembly(tvm.compile(function, target=machine.target())))
    assert share(body) > 0.55, body
    assert sum(word.startswith("st") for word in body) <= len(body) / 10, body
