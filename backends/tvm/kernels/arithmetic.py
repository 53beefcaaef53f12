"""What one step of a product is: single precision, or integers of 8 bits summed exactly in 32.

Integer processors take several neighbours of the reduction at once: ``vpdpbusd`` (VNNI) and ``sdot``, ``usdot`` (ARM)
four, ``vpmaddwd`` two that were widened to 16 bits. ``vpmaddubsw`` of AVX2 adds two products in 16 bits and
saturates; it is used only where the weights are known to stay within 7 bits, where it cannot. All are exact.
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

    def zero_point(self, zero_point: int) -> int:
        """Where the inputs' zero point lies as the products see it."""
        moved = -128 if self.inputs == "uint8" else 128
        return zero_point + moved if self.flipped else zero_point

    def value(self, read: Read, start: Expr, count: int) -> Expr:
        """One row's neighbours, the same for ``count`` columns."""
        if self.depth == 4:
            return spread(self._turned(tir.reinterpret("int32", read(start, 4))), count)
        if self.depth == 2:
            return spread(tir.reinterpret("int32", tir.Cast("int16x2", read(start, 2))), count)
        return spread(self.widened(read(start, 1), 1), count)

    def constant(self, value: int, count: int) -> Expr:
        """What ``value`` gives where every neighbour is the same number."""
        if self.depth == 1:
            return const(value, self.sums, count)
        bits = 8 if self.depth == 4 else 16
        word = sum((value % (1 << bits)) << (bits * i) for i in range(self.depth))
        return spread(tir.const(word - (1 << 32) * (word >> 31), "int32"), count)

    def column(self, read: Read, start: Expr, count: int) -> Expr:
        """Weights of ``count`` columns, ``depth`` neighbours of each."""
        loaded = read(start, count * self.depth)
        if self.depth == 2:
            return tir.Cast(f"int16x{2 * count}", loaded)
        return loaded if self.depth == 4 else self.widened(loaded, count)

    def add(self, total: Expr, a: Expr, w: Expr, count: int) -> Expr:
        """``total`` plus the products of one step."""
        if self.depth == 1:
            return total + a * w
        name = dict(self.intrinsics)[count]
        wide, narrow = f"int16x{2 * count}", f"int8x{4 * count}"
        if self.depth == 2:
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
        bits = 32 // self.depth
        mask = tir.const((1 << bits) - 1, "int32")
        word = tir.const(0, "int32")
        for i in range(left):
            one = tir.bitwise_and(tir.Cast("int32", read(start + i, 1)), mask)
            word = tir.bitwise_or(word, tir.shift_left(one, tir.const(bits * i, "int32")))
        return spread(self._turned(word), count)

    def _turned(self, word: Expr) -> Expr:
        return tir.bitwise_xor(word, tir.const(0x80808080 - (1 << 32), "int32")) if self.flipped else word

    def widened(self, value: Expr, count: int) -> Expr:
        """Elements in the type of the sums."""
        wanted = self.sums if count == 1 else f"{self.sums}x{count}"
        return value if self.sums == self.inputs == self.weights else tir.Cast(wanted, value)


FLOAT = Arithmetic("float", "float32", "float32", "float32", 1)
_MADDWD = ((16, "llvm.x86.avx512.pmaddw.d.512"), (8, "llvm.x86.avx2.pmadd.wd"), (4, "llvm.x86.sse2.pmadd.wd"))
_MADDUBS = (
    (16, "llvm.x86.avx512.pmaddubs.w.512"),
    (8, "llvm.x86.avx2.pmadd.ub.sw"),
    (4, "llvm.x86.ssse3.pmadd.ub.sw.128"),
)
_VNNI = ((16, "llvm.x86.avx512.vpdpbusd.512"), (8, "llvm.x86.avx512.vpdpbusd.256"), (4, "llvm.x86.avx512.vpdpbusd.128"))


def arithmetic_of(dtype: str, machine: Machine, *, narrow: bool = False) -> Arithmetic:
    """The fastest exact way to multiply inputs of ``dtype`` (``float32``, ``uint8``, ``int8``) by weights: ``float32``
    or ``int8``. ``narrow``: weights are within -64 to 63."""
    if dtype == "float32":
        return FLOAT
    unsigned = dtype == "uint8"
    if machine.processor.arch == "x86_64":
        if machine.has("vnni"):
            return Arithmetic("vnni", dtype, "int8", "int32", 4, _VNNI, flipped=not unsigned)
        if unsigned and narrow:
            return Arithmetic("maddubs", dtype, "int8", "int32", 4, _MADDUBS)
        return Arithmetic("maddwd", dtype, "int8", "int32", 2, _MADDWD)
    if machine.processor.arch == "aarch64":
        if unsigned and machine.has("i8mm"):
            return Arithmetic("usdot", dtype, "int8", "int32", 4, ((4, "llvm.aarch64.neon.usdot.v4i32.v16i8"),))
        if machine.has("dotprod"):
            name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
            return Arithmetic("sdot", dtype, "int8", "int32", 4, ((4, name),), flipped=unsigned)
    return widened(dtype)


def widened(dtype: str) -> Arithmetic:
    """One reduction index at a time, in the type of the sums: on every machine and in every layout."""
    return FLOAT if dtype == "float32" else Arithmetic("widened", dtype, "int8", "int32", 1)


def in_float(dtype: str, products: int) -> Arithmetic:
    """Sums of few products of bytes in single precision, which is exact below 2^24 and faster than multiplying in 32
    bits; ``widened`` where there are more."""
    exact = dtype != "float32" and products * 255 * 128 < 1 << 24
    return Arithmetic("in-float", dtype, "int8", "float32", 1) if exact else widened(dtype)


def requantized(total: Expr, scale: Expr, zero_point: int, dtype: str) -> Expr:
    """An exact sum of 32 bits as ONNX's QuantizeLinear stores it: times ``scale``, to the nearest (ties to even), plus
    the zero point, kept within the type."""
    low, high = (0, 255) if dtype == "uint8" else (-128, 127)
    rounded: Any = tir.nearbyint(tir.Cast("float32", total) * scale) + tir.const(float(zero_point), "float32")
    kept = tir.max(tir.min(rounded, tir.const(float(high), "float32")), tir.const(float(low), "float32"))
    return tir.Cast(dtype, kept)
