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


def exp(x: Expr) -> Expr:
    """e^x. ``x = n ln 2 + r``, a polynomial for ``e^r`` (coefficients of Cephes' ``expf``), times ``2^n`` in two steps,
    so that neither overflows before the result does. Error 1 ulp."""

    def of(x: Expr) -> Expr:
        clamped = tir.max(tir.min(x, _f(89.0)), _f(-104.0))
        return _named(
            clamped, lambda c: _named(tir.floor(c * _f(1.44269504088896341) + _f(0.5)), lambda n: split(x, c, n))
        )

    def split(x: Expr, c: Expr, n: Expr) -> Expr:
        rest = (c - n * _f(0.693359375)) - n * _f(-2.12194440e-4)
        return _named(rest, lambda r: scaled(x, n, r))

    def scaled(x: Expr, n: Expr, r: Expr) -> Expr:
        p = _polynomial(r, 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
        power = p * (r * r) + r + _f(1.0)
        whole = tir.Cast("int32", n)

        def times(k: Expr) -> Expr:
            half = tir.shift_right(k, tir.const(1, "int32"))
            return tir.Select(x <= tir.infinity("float32"), power * _power_of_two(half) * _power_of_two(k - half), x)

        return _named(whole, times)

    return _named(x, of)


def _power_of_two(n: Expr) -> Expr:
    bits = tir.shift_left(n + tir.const(127, "int32"), tir.const(23, "int32"))
    return tir.reinterpret("float32", bits)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x), for negative x as e^x / (1 + e^x). Error 3 ulp."""

    def of(x: Expr) -> Expr:
        power = exp(_f(0.0) - tir.abs(x))
        return _named(power, lambda e: tir.Select(x < _f(0.0), e, _f(1.0)) / (e + _f(1.0)))

    return _named(x, of)


def tanh(x: Expr) -> Expr:
    """An odd polynomial over an even one, +-1 beyond 9 (coefficients of Eigen's ``ptanh``, which ONNX Runtime has too).
    Error 5 ulp."""

    def of(x: Expr) -> Expr:
        clamped = tir.max(tir.min(x, _f(9.0)), _f(-9.0))
        return _named(clamped, lambda c: _named(c * c, lambda s: whole(x, c, s)))

    def whole(x: Expr, c: Expr, s: Expr) -> Expr:
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
        return tir.Select(x <= tir.infinity("float32"), c * p / q, x)

    return _named(x, of)


def erf(x: Expr) -> Expr:
    """The error function: an odd polynomial below 0.9277, above it ``1 - e^-p(|x|)``; coefficients by N. Juffa (Stack
    Overflow, question 35148198). Error 2 ulp."""

    def of(x: Expr) -> Expr:
        small = _named(
            x * x,
            lambda s: (
                _polynomial(
                    s,
                    -5.96761703e-4,
                    4.99119423e-3,
                    -2.67681349e-2,
                    1.12819925e-1,
                    -3.76125336e-1,
                    1.28379166e-1,
                )
                * x
                + x
            ),
        )
        return _named(tir.abs(x), lambda a: tir.Select(a < _f(0.927734375), small, large(x, a)))

    def large(x: Expr, a: Expr) -> Expr:
        p = _polynomial(
            tir.min(a, _f(4.0)),
            -1.72853470e-5,
            3.83197126e-4,
            -3.88396438e-3,
            2.42546219e-2,
            -1.06777877e-1,
            -6.34846687e-1,
            -1.28717512e-1,
            0.0,
        )
        power = p - tir.min(a, _f(4.0))
        return tir.Select(x <= tir.infinity("float32"), _copysign(_f(1.0) - exp(power), x), x)

    return _named(x, of)


def _copysign(magnitude: Expr, sign: Expr) -> Expr:
    bits = tir.bitwise_and(tir.reinterpret("int32", sign), tir.const(-(1 << 31), "int32"))
    return tir.reinterpret("float32", tir.bitwise_or(tir.reinterpret("int32", magnitude), bits))


_KNOWN = {
    "tirx.exp": exp,
    "tirx.sigmoid": sigmoid,
    "tirx.tanh": tanh,
    "tirx.erf": erf,
    "tirx.nearbyint": tir.round,  # ties to even as well, and it vectorizes
}


def with_math(node: Any) -> Any:
    """A function, statement or expression with its calls of libm replaced, as far as they are here."""

    def call(node: Any) -> Any:
        own = _KNOWN.get(getattr(node.op, "name", ""))
        return own(node.args[0]) if own is not None and node.ty.dtype == "float32" else node

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
        guarded = guarded or getattr(found.op, "name", "") == "tirx.if_then_else"

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
