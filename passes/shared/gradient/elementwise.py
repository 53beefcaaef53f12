"""Derivatives of elementwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....ir.graph import Node, Value
from ...rewrite.rewriter import Rewriter
from ...rewrite.rule import NoMatch
from .rule import Parts, Rule, given, like_operand, operand

Slope = Callable[[Rewriter, Node, Value, Value, Value], Any]
"""The gradient of the operand ``x`` from that of the result: ``slope(r, node, x, y, g)``."""


def _mask(r: Rewriter, truth: Value, g: Value) -> Any:
    """``g`` where ``truth``, else 0 (so that what is infinite elsewhere is not multiplied by 0)."""
    return r.Where(truth, g, r.const(np.zeros((), _dtype(g))))


def _dtype(v: Value) -> Any:
    assert v.dtype is not None
    return v.dtype.numpy


def _number(r: Rewriter, x: Value, number: float) -> Value:
    return r.const(np.asarray(number, _dtype(x)))


def _hard_sigmoid(r: Rewriter, node: Node, x: Value, y: Value, g: Value) -> Any:
    inside = r.And(r.Greater(y, _number(r, y, 0)), r.Less(y, _number(r, y, 1)))
    return _mask(r, inside, r.Mul(g, float(node.attr("alpha", 0.2))))


def _leaky(r: Rewriter, node: Node, x: Value, y: Value, g: Value) -> Any:
    return r.Where(r.Greater(x, _number(r, x, 0)), g, r.Mul(g, float(node.attr("alpha", 0.01))))


def _elu(r: Rewriter, node: Node, x: Value, y: Value, g: Value) -> Any:
    return r.Where(r.Greater(x, _number(r, x, 0)), g, r.Mul(g, r.Add(y, float(node.attr("alpha", 1.0)))))


def _swish(r: Rewriter, node: Node, x: Value, y: Value, g: Value) -> Any:
    """``s + a y (1 - s)`` with ``s = sigmoid(a x)``."""
    alpha = float(node.attr("alpha", 1.0))
    s = r.Sigmoid(r.Mul(x, alpha))
    return r.Mul(g, r.Add(s, r.Mul(r.Mul(y, alpha), _one_less(r, s))))


def _one_less(r: Rewriter, y: Value) -> Any:
    return r.Sub(_number(r, y, 1), y)


_SLOPES: dict[str, Slope] = {
    "Identity": lambda r, node, x, y, g: g,
    "Cast": lambda r, node, x, y, g: r.Cast(g, to=_code(x)),
    "Neg": lambda r, node, x, y, g: r.Neg(g),
    "Abs": lambda r, node, x, y, g: r.Mul(g, r.Sign(x)),
    "Exp": lambda r, node, x, y, g: r.Mul(g, y),
    "Log": lambda r, node, x, y, g: r.Div(g, x),
    "Sqrt": lambda r, node, x, y, g: r.Div(g, r.Mul(y, 2.0)),
    "Reciprocal": lambda r, node, x, y, g: r.Neg(r.Mul(g, r.Mul(y, y))),
    "Sin": lambda r, node, x, y, g: r.Mul(g, r.Cos(x)),
    "Cos": lambda r, node, x, y, g: r.Neg(r.Mul(g, r.Sin(x))),
    "Erf": lambda r, node, x, y, g: r.Mul(g, r.Mul(r.Exp(r.Neg(r.Mul(x, x))), 2 / math.sqrt(math.pi))),
    "Tanh": lambda r, node, x, y, g: r.Mul(g, _one_less(r, r.Mul(y, y))),
    "Sigmoid": lambda r, node, x, y, g: r.Mul(g, r.Mul(y, _one_less(r, y))),
    "Softplus": lambda r, node, x, y, g: r.Mul(g, r.Sigmoid(x)),
    "Relu": lambda r, node, x, y, g: _mask(r, r.Greater(x, _number(r, x, 0)), g),
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Swish": _swish,
    "HardSigmoid": _hard_sigmoid,
    "Clip": lambda r, node, x, y, g: _mask(r, r.Equal(x, y), g),
    "Dropout": lambda r, node, x, y, g: g,
}


def _code(x: Value) -> int:
    assert x.dtype is not None
    return x.dtype.code


def _of_one(slope: Slope) -> Rule:
    def rule(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
        if any(wanted[1:]):
            raise NoMatch("has parameters that depend on it")
        if node.op == "Dropout" and len(node.inputs) > 2:
            raise NoMatch("may be in training mode")
        return [slope(r, node, operand(node, 0), node.output, given(parts)), *[None] * (len(node.inputs) - 1)]

    return rule


# -- of several operands


def _each(r: Rewriter, node: Node, wanted: Sequence[bool], part: Callable[[int, Value], Value]) -> Parts:
    """The gradients of the operands that are wanted, summed over broadcast axes."""
    found: Parts = []
    for i, mark in enumerate(wanted):
        x = operand(node, i)
        found.append(like_operand(r, part(i, x), node.output, x) if mark else None)
    return found


def _sum(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    g = given(parts)
    return _each(r, node, wanted, lambda i, x: g)


def _sub(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    g = given(parts)
    return _each(r, node, wanted, lambda i, x: r.Neg(g) if i else g)


def _mul(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    g = given(parts)
    return _each(r, node, wanted, lambda i, x: r.Mul(g, operand(node, 1 - i)))


def _div(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    g, divisor = given(parts), operand(node, 1)

    def part(i: int, x: Value) -> Value:
        share = r.Div(g, divisor)
        return r.Neg(r.Mul(share, node.output)) if i else share

    return _each(r, node, wanted, part)


def _pow(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    exponent = operand(node, 1)
    if wanted[1] or exponent.data is None:
        raise NoMatch("has an exponent that is no constant")
    power = np.asarray(exponent.data.numpy(), np.float64)

    def part(i: int, x: Value) -> Value:
        if power.size == 1 and power.item() == 2:
            slope = r.Mul(x, 2.0)
        else:
            slope = r.Mul(r.Pow(x, r.const((power - 1).astype(_dtype(x)))), r.const(power.astype(_dtype(x))))
        return r.Mul(given(parts), slope)

    return _each(r, node, wanted, part)


def _extreme(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    """Max and Min: to the operands that are the result."""
    g = given(parts)
    return _each(r, node, wanted, lambda i, x: _mask(r, r.Equal(x, node.output), g))


def _where(r: Rewriter, node: Node, parts: Sequence[Value | None], wanted: Sequence[bool]) -> Parts:
    g, condition = given(parts), operand(node, 0)
    zero = _number(r, g, 0)

    def part(i: int, x: Value) -> Value:
        return r.Where(condition, g, zero) if i == 1 else r.Where(condition, zero, g)

    return _each(r, node, wanted, part)


ELEMENTWISE: dict[str, Rule] = {
    **{op: _of_one(slope) for op, slope in _SLOPES.items()},
    "Add": _sum,
    "Sum": _sum,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Pow": _pow,
    "Max": _extreme,
    "Min": _extreme,
    "Where": _where,
}
