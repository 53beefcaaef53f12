"""What one step of a product is: single precision, half precision, or integers of 8 bits summed exactly in 32.

Integer processors take several neighbours of the reduction at once: ``vpdpbusd`` (VNNI) and ``sdot``, ``usdot`` (ARM)
four, ``vpmaddwd`` two that were widened to 16 bits, ``smull`` and ``sadalp`` (ARM) two; ``smmla`` and ``usmmla`` (ARM)
eight, of two rows and two columns.
``vpmaddubsw`` of AVX2 adds two products in 16 bits and
saturates; it is used only where the weights are known to stay within 7 bits, where it cannot. All are exact.

Half precision is summed in single precision. Processors with arithmetic of 16 bits (ARMv8.2) multiply and add up to
``BURST`` products in it, twice as many at a time, before they add those sums in single precision (``bursts.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .emit import Expr, const, spread, tir
from .machine import Machine

Read = Callable[[Expr, int], Expr]
"""``read(start, count)``: that many neighbours of the reduction from ``start`` on."""
Combine = Callable[[Expr, Expr, Expr], Expr]


@dataclass(frozen=True)
class Arithmetic:
    """Steps of ``depth`` reduction indices. ``inputs`` and ``weights`` are element types in memory."""

    name: str
    inputs: str
    weights: str
    sums: str
    depth: int
    intrinsics: tuple[tuple[int, str], ...] = ()
    """LLVM's name by the number of sums in a register."""
    flipped: bool = False
    """The instruction wants the other sign: inputs have their highest bit turned over, which moves them by 128."""
    word: int = 8
    """Bits of a neighbour as the instruction takes it."""
    bursts: bool = False
    """Sums are added up elsewhere, in single precision, after some products."""
    rows: int = 1
    """Rows whose sums share a register: 2 where an instruction multiplies matrices (``pairs.py``)."""

    @property
    def bits(self) -> int:
        """Of a sum in a register."""
        return 16 if self.sums == "float16" else 32

    def zero_point(self, zero_point: int) -> int:
        """Where the inputs' zero point lies as the products see it."""
        moved = -128 if self.inputs == "uint8" else 128
        return zero_point + moved if self.flipped else zero_point

    def value(self, read: Read, start: Expr, count: int) -> Expr:
        """One row's neighbours, the same for ``count`` columns; as one word of 64 bits where rows share registers."""
        if self.rows > 1:
            return tir.reinterpret("int64", read(start, self.depth))
        if self.word == 16:
            return spread(tir.reinterpret("int32", tir.Cast("int16x2", read(start, 2))), count)
        if self.depth > 1:
            return spread(self._turned(tir.reinterpret(f"int{8 * self.depth}", read(start, self.depth))), count)
        return spread(self.widened(read(start, 1), 1), count)

    def constant(self, value: int, count: int) -> Expr:
        """What ``value`` gives where every neighbour is the same number."""
        if self.depth == 1:
            return const(value, self.sums, count)
        bits, size = self.word, self.word * self.depth
        word = sum((value % (1 << bits)) << (bits * i) for i in range(self.depth))
        return self._spread(tir.const(word - (1 << size) * (word >> (size - 1)), f"int{size}"), count)

    def column(self, read: Read, start: Expr, count: int) -> Expr:
        """Weights of ``count`` columns, ``depth`` neighbours of each."""
        loaded = read(start, count * self.depth)
        if self.word == 16:
            return tir.Cast(f"int16x{2 * count}", loaded)
        return loaded if self.depth > 1 else self.widened(loaded, count)

    def add(self, total: Expr, a: Expr, w: Expr, count: int) -> Expr:
        """``total`` plus the products of one step."""
        if self.depth == 1:
            return total + a * w
        name = dict(self.intrinsics)[count]
        wide, narrow = f"int16x{2 * count}", f"int8x{4 * count}"
        if self.name == "smull":
            pairs = tir.call_llvm_pure_intrin(wide, name, tir.reinterpret(f"int8x{2 * count}", a), w)
            return total + tir.call_llvm_pure_intrin(f"int32x{count}", "llvm.aarch64.neon.saddlp.v4i32.v8i16", pairs)
        if self.word == 16:
            product = tir.call_llvm_pure_intrin(f"int32x{count}", name, tir.reinterpret(wide, a), w)
            return total + product
        bytes_ = tir.reinterpret(narrow, a)
        if self.name == "maddubs":
            pairs = tir.call_llvm_pure_intrin(wide, name, bytes_, w)
            one = const(1, "int16", 2 * count)
            return total + tir.call_llvm_pure_intrin(f"int32x{count}", dict(_MADDWD)[count], pairs, one)
        return tir.call_llvm_pure_intrin(f"int32x{count}", name, total, bytes_, w)

    def part(self, read: Read, start: Expr, left: int, count: int) -> Expr:
        """``value`` of the last ``left`` neighbours, fewer than ``depth``: what would be beyond them is 0."""
        bits, dtype = self.word, f"int{self.word * self.depth}"
        mask, word = tir.const((1 << bits) - 1, dtype), tir.const(0, dtype)
        for i in range(left):
            one = tir.bitwise_and(tir.Cast(dtype, read(start + i, 1)), mask)
            word = tir.bitwise_or(word, tir.shift_left(one, tir.const(bits * i, dtype)))
        return self._spread(self._turned(word), count)

    def _spread(self, word: Expr, count: int) -> Expr:
        return word if self.rows > 1 else spread(word, count)

    def _turned(self, word: Expr) -> Expr:
        if not self.flipped:
            return word
        bits = 8 * self.depth
        signs = sum(0x80 << (8 * i) for i in range(self.depth)) - (1 << bits)
        return tir.bitwise_xor(word, tir.const(signs, f"int{bits}"))

    def widened(self, value: Expr, count: int) -> Expr:
        """Elements in the type of the sums."""
        wanted = self.sums if count == 1 else f"{self.sums}x{count}"
        return value if self.sums == self.inputs == self.weights else tir.Cast(wanted, value)


FLOAT = Arithmetic("float", "float32", "float32", "float32", 1)
_HALF = Arithmetic("half", "float16", "float16", "float32", 1)
_HALF_BURSTS = Arithmetic("half bursts", "float16", "float16", "float16", 1, bursts=True)
_MADDWD = ((16, "llvm.x86.avx512.pmaddw.d.512"), (8, "llvm.x86.avx2.pmadd.wd"), (4, "llvm.x86.sse2.pmadd.wd"))
_MADDUBS = (
    (16, "llvm.x86.avx512.pmaddubs.w.512"),
    (8, "llvm.x86.avx2.pmadd.ub.sw"),
    (4, "llvm.x86.ssse3.pmadd.ub.sw.128"),
)
_VNNI = ((16, "llvm.x86.avx512.vpdpbusd.512"), (8, "llvm.x86.avx512.vpdpbusd.256"), (4, "llvm.x86.avx512.vpdpbusd.128"))


_SMULL = ((4, "llvm.aarch64.neon.smull.v8i16"),)


def _neon(name: str) -> tuple[tuple[int, str], ...]:
    return ((4, f"llvm.aarch64.neon.{name}.v4i32.v16i8"),)


def arithmetics(dtype: str, machine: Machine, *, narrow: bool = False) -> list[Arithmetic]:
    """Ways to multiply inputs of ``dtype`` (``float32``, ``float16``, ``uint8``, ``int8``) by weights (floats of the
    same type, or ``int8``), the fastest first; each has a ``depth`` of its own. ``narrow``: weights are within -64 to
    63."""
    if dtype == "float32":
        return [FLOAT]
    if dtype == "float16":
        return [_HALF_BURSTS if machine.processor.arch == "aarch64" and machine.has("fp16") else _HALF]
    found = [widened(dtype)]
    unsigned, arch = dtype == "uint8", machine.processor.arch
    if arch == "x86_64" and machine.has("vnni"):
        found.append(Arithmetic("vnni", dtype, "int8", "int32", 4, _VNNI, flipped=not unsigned))
    elif arch == "x86_64" and unsigned and narrow:
        found.append(Arithmetic("maddubs", dtype, "int8", "int32", 4, _MADDUBS))
    elif arch == "x86_64":
        found.append(Arithmetic("maddwd", dtype, "int8", "int32", 2, _MADDWD, word=16))
    elif arch == "aarch64" and machine.has("i8mm"):
        dot, product = ("usdot", "usmmla") if unsigned else ("sdot", "smmla")
        found.append(Arithmetic(dot, dtype, "int8", "int32", 4, _neon(dot)))
        found.append(Arithmetic(product, dtype, "int8", "int32", 8, _neon(product), rows=2))
    elif arch == "aarch64" and machine.has("dotprod"):
        found.append(Arithmetic("sdot", dtype, "int8", "int32", 4, _neon("sdot"), flipped=unsigned))
    elif arch == "aarch64":
        found.append(Arithmetic("smull", dtype, "int8", "int32", 2, _SMULL, flipped=unsigned))
    return found[::-1]


def arithmetic_of(dtype: str, machine: Machine, *, narrow: bool = False, rows: int = 2, block: int = 0) -> Arithmetic:
    """The fastest of them for ``rows`` rows whose neighbours lie in blocks of ``block`` (0: any number)."""
    ways = arithmetics(dtype, machine, narrow=narrow)
    return next(w for w in ways if w.rows <= rows and block % w.depth == 0)


def is_integer(dtype: str) -> bool:
    """Whether sums of products of such inputs are integers, for whoever takes them."""
    return dtype in ("uint8", "int8")


def widened(dtype: str) -> Arithmetic:
    """One reduction index at a time, in the type of the sums: on every machine and in every layout."""
    if dtype == "float16":
        return _HALF
    return FLOAT if dtype == "float32" else Arithmetic("widened", dtype, "int8", "int32", 1)


def in_float(dtype: str, products: int) -> Arithmetic:
    """Sums of few products of bytes in single precision, which is exact below 2^24 and faster than multiplying in 32
    bits; ``widened`` where there are more."""
    exact = is_integer(dtype) and products * 255 * 128 < 1 << 24
    return Arithmetic("in-float", dtype, "int8", "float32", 1) if exact else widened(dtype)


def requantized(total: Expr, scale: Expr, zero_point: int, dtype: str) -> Expr:
    """An exact sum of 32 bits as ONNX's QuantizeLinear stores it: times ``scale``, to the nearest (ties to even), plus
    the zero point, kept within the type."""
    low, high = (0, 255) if dtype == "uint8" else (-128, 127)
    rounded: Any = tir.nearbyint(tir.Cast("float32", total) * scale) + tir.const(float(zero_point), "float32")
    kept = tir.max(tir.min(rounded, tir.const(float(high), "float32")), tir.const(float(low), "float32"))
    return tir.Cast(dtype, kept)
