"""What operators compute along axes: reductions, products, windows and norms, on exact numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node
from ...passes.shared.kernels import axis_attr
from . import number as N
from .number import Array, Number, Undecided
from .operators import Item, exp, int_items, log, maybe, num, operator, own, positive, sqrt
from .windows import conv, conv_transpose, pool

# -- along axes


@operator("Softmax", "LogSoftmax")
def _softmax(node: Node, items: list[Item]) -> list[Item]:
    x, old = num(items, 0), node.version < 13
    shape = x.shape
    axis = axis_attr(node, len(shape), 1 if old else -1)
    if old:  # all axes from this one on are one
        x, axis = x.map(lambda a: a.reshape(math.prod(shape[:axis]), -1)), 1
    parts = exp(x)
    found = N.divide(parts, N.total(parts, axis).map(lambda a: np.expand_dims(a, axis)))
    found = log(found) if node.op == "LogSoftmax" else found
    return [found.map(lambda a: a.reshape(shape))]


@operator("TopK")
def _top(node: Node, items: list[Item]) -> list[Item]:
    """The largest or smallest, in order. Numbers that are equal are not told apart by their places."""
    x, k = num(items, 0), int_items(items, 1)
    if not node.attr("sorted", 1):
        raise Undecided("TopK in no order")
    axis, count = axis_attr(node, len(x.shape), -1), k[0] if k else int(node.attr("k"))
    places = np.argsort(-x.near if node.attr("largest", 1) else x.near, axis, kind="stable")
    whole = x.map(lambda a: np.take_along_axis(a, places, axis))
    front, behind = (whole.map(lambda a, s=s: a.take(range(*s), axis)) for s in ((0, count), (1, count + 1)))
    if N.close(front.map(lambda a: a.take(range(behind.shape[axis]), axis)), behind).any():
        raise Undecided("numbers that are ordered are too close")
    return [front, places.take(range(count), axis)]


_REDUCTIONS = tuple(f"Reduce{n}" for n in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"))


@operator(*_REDUCTIONS, "ReduceLogSum")
def _reduce(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    axes = _reduced_axes(node, items, len(x.shape))
    if node.op == "ReduceLogSumExp":
        x = exp(x)
    elif node.op in ("ReduceL2", "ReduceSumSquare"):
        x = N.multiply(x, x)
    elif node.op == "ReduceL1":
        x = N.choose(positive(x), x, N.negative(x))
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    count = math.prod(n for i, n in enumerate(x.shape) if i in axes)
    for axis in sorted(axes, reverse=True):
        x = _reduce_one(node.op, x, axis)
    if node.op == "ReduceMean" and axes:
        x = N.divide(x, N.number(count))
    elif node.op == "ReduceL2":
        x = sqrt(x)
    elif node.op in ("ReduceLogSum", "ReduceLogSumExp"):
        x = log(x)
    return [x.map(lambda a: a.reshape(kept)) if node.attr("keepdims", 1) else x]


def _reduce_one(op: str, x: Number, axis: int) -> Number:
    pairwise = {"ReduceMax": N.largest, "ReduceMin": N.smallest, "ReduceProd": N.multiply}.get(op)
    if pairwise is None:
        return N.total(x, axis)
    if not x.shape[axis]:
        raise Undecided("nothing to reduce")
    found = x.map(lambda a: a.take(0, axis))
    for i in range(1, x.shape[axis]):
        found = pairwise(found, x.map(lambda a, i=i: a.take(i, axis)))
    return found


def _reduced_axes(node: Node, items: list[Item], rank: int) -> set[int]:
    given: Any = node.attrs.get("axes")
    axes = list(given) if given is not None else int_items(items, 1) or []
    if not axes:
        return set() if node.attr("noop_with_empty_axes", 0) else set(range(rank))
    return {a % rank for a in axes} if rank else set()


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    flat = x.map(lambda a: a.reshape(*a.shape[:2], -1))
    found = _reduce_one("ReduceMax" if node.op == "GlobalMaxPool" else "ReduceSum", flat, 2)
    if node.op == "GlobalAveragePool":
        found = N.divide(found, N.number(flat.shape[2]))
    return [found.map(lambda a: a.reshape(*a.shape, *[1] * (len(x.shape) - 2)))]


# -- products


def _stacked(a: Number, b: Number) -> Number:
    """MatMul with vectors taken as matrices for the while."""
    if not a.shape or not b.shape:
        raise Undecided("MatMul of scalars")
    left = a.map(lambda v: v[None, :]) if len(a.shape) == 1 else a
    right = b.map(lambda v: v[:, None]) if len(b.shape) == 1 else b
    found = N.matmul(left, right)
    if len(b.shape) == 1:
        found = found.map(lambda v: v[..., 0])
    return found.map(lambda v: v[..., 0, :] if len(b.shape) > 1 else v[..., 0]) if len(a.shape) == 1 else found


@operator("MatMul")
def _matmul(node: Node, items: list[Item]) -> list[Item]:
    return [_stacked(num(items, 0), num(items, 1))]


@operator("Gemm")
def _gemm(node: Node, items: list[Item]) -> list[Item]:
    a, b, c = num(items, 0), num(items, 1), maybe(items, 2)
    a = a.map(np.transpose) if node.attr("transA", 0) else a
    b = b.map(np.transpose) if node.attr("transB", 0) else b
    found = _scaled(node, N.matmul(a, b), "alpha")
    return [found if c is None else N.add(found, _scaled(node, c, "beta"))]


def _scaled(node: Node, x: Number, name: str) -> Number:
    factor = float(node.attr(name, 1.0))
    return x if factor == 1 else N.multiply(x, own(node, factor))


@operator("Einsum")
def _einsum(node: Node, items: list[Item]) -> list[Item]:
    """Products of all operands along all labels, then sums over those that the result does not have."""
    terms, out = _labels(
        str(node.attr("equation")).replace(" ", ""), [len(num(items, i).shape) for i in range(len(items))]
    )
    labels = sorted({s for term in terms for s in term})
    extents = dict.fromkeys(labels, 1)
    for i, term in enumerate(terms):
        extents.update((s, n) for s, n in zip(term, num(items, i).shape, strict=True) if n != 1)
    if math.prod(extents.values()) > 1 << 20:
        raise Undecided("an Einsum of many products")
    order = [*out, *(s for s in labels if s not in out)]
    found: Number | None = None
    for i, term in enumerate(terms):
        part = num(items, i).map(lambda a, t=term: _along(a, t, order))
        found = part if found is None else N.multiply(found, part)
    assert found is not None
    found = found.map(lambda a: np.broadcast_to(a, [extents[s] for s in order]))
    for _ in order[len(out) :]:
        found = N.total(found, -1)
    return [found]


def _labels(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The labels of each operand and of the result; digits stand for the axes of an ellipsis, the last one is 0."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    rests = [rank - len(t) + 3 if "..." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    terms = [t.replace("...", _DIGITS[10 - rest :]) for t, rest in zip(terms, rests, strict=True)]
    letters = "".join(terms)
    if min(rests) < 0 or not letters.isalnum() or any(len(set(t)) < len(t) for t in terms):
        raise Undecided(f"equation {equation}")
    shared = _DIGITS[10 - max(rests) :]
    once = "".join(s for s in sorted(set(letters)) if letters.count(s) == 1 and s.isalpha())
    return terms, right.replace("...", shared) if arrow else shared + once


_DIGITS = "9876543210"


def _along(a: Array, term: str, order: list[str]) -> Array:
    """The operand with its axes in this order, and axes of extent 1 for labels that it lacks."""
    a = a.transpose([term.index(s) for s in order if s in term])
    return a.reshape([a.shape[[s for s in order if s in term].index(o)] if o in term else 1 for o in order])


@operator("Conv")
def _conv(node: Node, items: list[Item]) -> list[Item]:
    return [conv(node, num(items, 0), num(items, 1), maybe(items, 2))]


@operator("ConvTranspose")
def _conv_transpose(node: Node, items: list[Item]) -> list[Item]:
    return [conv_transpose(node, num(items, 0), num(items, 1), maybe(items, 2))]


@operator("MaxPool", "AveragePool")
def _pool(node: Node, items: list[Item]) -> list[Item]:
    if any(out.uses for out in node.outputs[1:]):
        raise Undecided("the positions of maxima are used")
    return [pool(node, num(items, 0))]


# -- norms


def _column(x: Number, rank: int) -> Number:
    return x.map(lambda a: a.reshape(-1, *[1] * (rank - 2)))


@operator("BatchNormalization")
def _batchnorm(node: Node, items: list[Item]) -> list[Item]:
    if node.attr("training_mode", 0) or any(out.uses for out in node.outputs[1:]):
        raise Undecided("BatchNormalization in training mode")
    x = num(items, 0)
    scale, shift, mean, var = (_column(num(items, i), len(x.shape)) for i in range(1, 5))
    root = sqrt(N.add(var, own_float(node.attr("epsilon"))))
    return [N.add(N.multiply(N.divide(N.subtract(x, mean), root), scale), shift)]


def own_float(x: float) -> Number:
    """An attribute, which is a float32 whatever the operands are."""
    return N.number(float(x), DType.F32)


def normalized(x: Number, axes: tuple[int, ...], epsilon: float) -> Number:
    """``(x - mean) / sqrt(var + epsilon)`` over ``axes``."""
    deviation = N.subtract(x, _mean(x, axes))
    variance = _mean(N.multiply(deviation, deviation), axes)
    return N.divide(deviation, sqrt(N.add(variance, own_float(epsilon))))


def _mean(x: Number, axes: tuple[int, ...]) -> Number:
    count = math.prod(x.shape[a] for a in axes)
    for axis in axes:
        x = N.total(x, axis).map(lambda a, axis=axis: np.expand_dims(a, axis))
    return N.divide(x, N.number(count))


@operator("InstanceNormalization")
def _instance_norm(node: Node, items: list[Item]) -> list[Item]:
    x = num(items, 0)
    y = normalized(x, tuple(range(2, len(x.shape))), float(node.attr("epsilon")))
    scale, bias = (_column(num(items, i), len(x.shape)) for i in (1, 2))
    return [N.add(N.multiply(y, scale), bias)]
