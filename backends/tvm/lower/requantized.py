"""What follows sums of integers, with fewer operations: it is rounded to steps, so that an error in the last place
moves only what lies on a tie."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..api import tirx, tvm_ffi
from .forms import Expr


def merged_constants(value: Expr) -> Expr:
    """Quotients by constants as products, which take a fifth of the time, and constant factors as one."""
    return tvm_ffi.structural_map(tvm_ffi.structural_map(value, (tirx.Div, _quotient)), (tirx.Mul, _product))


def _quotient(found: Any) -> Expr:
    divisor = _constant(found.b)
    return found if divisor is None or divisor == 0 else found.a * _single(1 / np.float32(divisor))


def _product(found: Any) -> Expr:
    (a, one), (b, other) = _factors(found.a), _factors(found.b)
    factor = one * other
    if b is None:
        a, b = b, a
    if a is not None and b is not None:
        return found if one == other == 1 else (a * b) * _single(factor)
    if b is None:
        return found
    added = _constant(b.b) if isinstance(b, tirx.Add) else None
    if added is None:
        return b * _single(factor)
    inner, own = _factors(b.a)
    return inner * _single(own * factor) + _single(added * factor)


def _factors(x: Any) -> tuple[Expr | None, float]:
    """What is multiplied, and the constant that it is multiplied by."""
    constant = _constant(x)
    if constant is not None:
        return None, constant
    constant = _constant(x.b) if isinstance(x, tirx.Mul) else None
    return (x, 1.0) if constant is None else (x.a, constant)


def _constant(x: Any) -> float | None:
    known = isinstance(x, tirx.FloatImm) and str(x.ty.dtype) == "float32"
    return float(x.value) if known else None


def _single(value: Any) -> Expr:
    return tirx.const(float(np.float32(value)), "float32")
