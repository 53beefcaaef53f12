"""Functions of single precision that vectorize: TVM hands them to libm, one element at a time.

Errors are the largest ones over all inputs sampled by tests/tvm/test_kernels_schedule.py, in units in the last place.
Infinities and NaN go through as in libm; results below the smallest normal number are right to their last digit.
"""

from __future__ import annotations

from collections.abc import Callable
from graphlib import TopologicalSorter
from typing import Any

import tvm_ffi
from tvm import ir

from .emit import VECTORIZED, Expr, alloc, local, seq, store, tir, tir_stmt
from .machine import Machine
from .stages import named_apart, rewritten, variables

_ffi: Any = tvm_ffi


def _named(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """``body`` of a value that it reads several times."""
    name = tir.Var("t", value.ty)
    return tir.Let(name, value, body(name))


def _f(value: float) -> Expr:
    return tir.const(value, "float32")


def _polynomial(x: Expr, *coefficients: float) -> Expr:
    """Highest power first."""
    total = _f(coefficients[0])
    for c in coefficients[1:]:
        total = total * x + _f(c)
    return total


def exp(x: Expr, *, scales: bool = False) -> Expr:
    """e^x. ``x = n ln 2 + r``, a polynomial for ``e^r`` (a minimax fit of relative error 2^-28), times ``2^n``; with
    ``scales`` the processor has an instruction for that, else it takes two steps, so that neither overflows before the
    result does. Error 1 ulp."""

    def of(c: Expr) -> Expr:
        return _named(tir.floor(c * _f(1.44269504088896341) + _f(0.5)), lambda n: split(c, n))

    def split(c: Expr, n: Expr) -> Expr:
        rest = (c - n * _f(0.693359375)) - n * _f(-2.12194440e-4)
        return _named(rest, lambda r: scaled(tir.Cast("int32", n), power(r)))

    def power(r: Expr) -> Expr:
        return _polynomial(r, 1.38145988e-3, 8.36871658e-3, 4.16683890e-2, 0.166665211, 0.49999994, 1.0, 1.0)

    def scaled(n: Expr, power: Expr) -> Expr:
        if scales:
            return tir.call_llvm_pure_intrin("float32", "llvm.ldexp", power, n)
        half = tir.shift_right(n, tir.const(1, "int32"))
        return power * _power_of_two(half) * _power_of_two(n - half)

    # LLVM's code takes the second where either is NaN, so that NaN goes through.
    return _named(tir.max(_f(-104.0), tir.min(_f(89.0), x)), of)


def _power_of_two(n: Expr) -> Expr:
    return tir.reinterpret("float32", _exponent(n + tir.const(127, "int32")))


def _exponent(n: Expr) -> Expr:
    """At the place of a number's exponent."""
    return tir.shift_left(n, tir.const(23, "int32"))


def sigmoid(x: Expr, *, scales: bool = False) -> Expr:
    """1 / (1 + e^-x), for negative x as e^x / (1 + e^x). Error 3 ulp."""

    def of(x: Expr) -> Expr:
        power = exp(_f(0.0) - tir.abs(x), scales=scales)
        return _named(power, lambda e: tir.Select(x < _f(0.0), e, _f(1.0)) / (e + _f(1.0)))

    return _named(x, of)


def tanh(x: Expr) -> Expr:
    """An odd polynomial over an even one, +-1 beyond 9 (coefficients of Eigen's ``ptanh``, which ONNX Runtime has too).
    Error 5 ulp."""

    def of(x: Expr) -> Expr:
        clamped = tir.max(_f(-9.0), tir.min(_f(9.0), x))
        return _named(clamped, lambda c: _named(c * c, lambda s: whole(c, s)))

    def whole(c: Expr, s: Expr) -> Expr:
        p = _polynomial(
            s,
            -2.76076847742355e-16,
            2.00018790482477e-13,
            -8.60467152213735e-11,
            5.12229709037114e-08,
            1.48572235717979e-05,
            6.37261928875436e-04,
            4.89352455891786e-03,
        )
        q = _polynomial(s, 1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
        return c * p / q

    return of(x)


def erf(x: Expr) -> Expr:
    """The error function: an odd polynomial below 0.9277, above it ``1 - 2^p(|x|)``, which is 1 from 4 on; minimax fits
    of relative errors below 2^-24. Error 2 ulp."""

    def small(x: Expr) -> Expr:
        coefficients = (-5.95986028e-4, 4.98714298e-3, -2.67625395e-2, 0.112817049, -0.376124829, 0.128379151)
        return _named(x * x, lambda s: _polynomial(s, *coefficients) * x + x)

    def large(x: Expr, a: Expr) -> Expr:
        coefficients = (-1.77887676e-3, 2.22656596e-2, -0.130799025, -0.939802766, -1.61539328, -2.90829292e-3)
        exponent = _named(tir.min(_f(4.0), a), lambda c: _polynomial(c, *coefficients))
        return _copysign(_f(1.0) - _named(exponent, power), x)

    def power(q: Expr) -> Expr:
        """2^q for -25 < q < 0: the whole part of q goes straight into the exponent."""
        return _named(tir.floor(q + _f(0.5)), lambda n: _raised(exp2(q - n), tir.Cast("int32", n)))

    def exp2(r: Expr) -> Expr:
        coefficients = (1.32764492e-3, 9.67556424e-3, 5.55071346e-2, 0.240221187, 0.693146944, 1.00000012)
        return _named(r, lambda r: _polynomial(r, *coefficients))

    def of(x: Expr) -> Expr:
        return _named(tir.abs(x), lambda a: tir.Select(a < _f(0.9277), small(x), large(x, a)))

    return _named(x, of)


def _raised(value: Expr, n: Expr) -> Expr:
    """``value * 2^n`` where both are normal numbers."""
    return tir.reinterpret("float32", tir.reinterpret("int32", value) + _exponent(n))


def _copysign(magnitude: Expr, sign: Expr) -> Expr:
    bits = tir.bitwise_and(tir.reinterpret("int32", sign), tir.const(-(1 << 31), "int32"))
    return tir.reinterpret("float32", tir.bitwise_or(tir.reinterpret("int32", magnitude), bits))


_KNOWN: dict[str, Callable[..., Expr]] = {
    "tirx.exp": exp,
    "tirx.sigmoid": sigmoid,
    "tirx.tanh": tanh,
    "tirx.erf": erf,
    "tirx.nearbyint": tir.round,  # ties to even as well, and it vectorizes
}
_SCALING = (exp, sigmoid)


def scales(machine: Machine) -> bool:
    """Whether a power of two is multiplied in by an instruction (``vscalefps``), which LLVM takes for ``ldexp``."""
    return machine.has("avx512")


def with_math(node: Any, machine: Machine) -> Any:
    """A function, statement or expression with its calls of libm replaced, as far as they are here."""
    option = {"scales": scales(machine)}

    def call(node: Any) -> Any:
        own = _KNOWN.get(getattr(node.op, "name", ""))
        if own is None or node.ty.dtype != "float32":
            return node
        return own(node.args[0], **(option if own in _SCALING else {}))

    found = _ffi.structural_map(named_apart(node), (ir.Call, call))
    return _ffi.structural_map(found, (tir.For, _laid_down))


def _laid_down(made: Any) -> Any:
    """A loop of one store with the names in its value as small buffers, which LLVM keeps in registers: TVM's passes
    look at the value of a name once for every name around it, which takes them minutes where names nest."""
    if not isinstance(made.body, tir.BufferStore) or made.annotations:
        return made
    bound: dict[Expr, Expr] = {}
    guarded = False

    def let(found: Any) -> Any:
        bound[found.var] = found.value
        return found.body

    def call(found: Any) -> None:
        nonlocal guarded
        guarded = guarded or getattr(found.op, "name", "").endswith(".if_then_else")

    _ffi.structural_walk(made.body.value, (ir.Call, call))
    value = _ffi.structural_map(made.body.value, (tir.Let, let))
    if guarded or not bound:  # what stands behind a condition may be read only where it holds
        return made
    vector = made.kind == VECTORIZED
    place: Expr = made.loop_var if vector else 0
    buffers = {name: local(name.name, int(made.extent) if vector else 1, str(name.ty.dtype)) for name in bound}
    at = {name: buffer[place] for name, buffer in buffers.items()}
    read = {name: [v for v in variables(of) if v in bound] for name, of in bound.items()}
    names: list[Expr] = list(TopologicalSorter(read).static_order())
    stores = [store(buffers[name], rewritten(bound[name], at), place) for name in names]
    last = store(made.body.buffer, rewritten(value, at), *made.body.indices)
    room = [alloc(b) for b in buffers.values()]
    body = seq(stores, last) if vector else seq(room, stores, last)
    whole = tir_stmt.For(made.loop_var, made.min, made.extent, made.kind, body)
    return seq(room, whole) if vector else whole
