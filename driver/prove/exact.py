"""Shows that the two sides of a cut are equal: by structure, by the movement of elements, or over a finite field.

* *Proved*: both sides are the same expression, whatever the shapes; or all shapes are known, nothing but elements are
  moved, and every element of the results is the same element of the operands.
* *Exactly checked*: both sides have the same images in the field of ``2**61 - 1`` elements, for random operands (and
  several values of each symbol). If they were different rational functions of degree ``d`` (functions such as exp
  count as independent unknowns), they would agree with a probability of at most ``d / 2**61``: below 1e-12 for
  degrees up to a million. Branches (Relu, Max, Where) are those that the drawn numbers take.
* *Exactly checked up to the rounding of constants*: the rewrite made new constants (weights with a scale folded in),
  which had to be rounded. Then the difference must stay below ``ROUNDINGS`` times the roundoff of their type times
  the error unit of ``number.py``: what rounding each constant and each step of folding once moves the results.

All this is about real numbers: it says nothing about NaN and infinities, nor about the order in which floats are
summed. Passes that promise every bit are run besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np

from ...ir.constants import Constant
from ...ir.dims import SymDim, evaluate
from ...ir.dtypes import DType
from ...ir.graph import Graph, Model, Node, Value
from ...ir.ops import commutes, is_pure
from ...ir.types import TensorType
from . import number as N
from .cut import Cut
from .evaluate import Evaluation, Limits
from .movement import MOVES
from .number import Array, Number, Undecided
from .operators import Item

ROUNDINGS = 4.0
"""Roundings that folding may take for each constant: a root, a quotient, a product, a sum."""
TRIALS = 3
"""Evaluations that must succeed; one where there are neither symbols nor branches would do."""
ATTEMPTS = 14
SCALES = (1.0, 0.06, 8.0)
_INTEGERS = ((-4, 5), (0, 3), (0, 2), (-1, 1))
_ROUNDOFF = {DType.F32: 2.0**-24, DType.F16: 2.0**-11, DType.BF16: 2.0**-8}


@dataclass(frozen=True)
class Finding:
    """What the exact check found."""

    equal: bool | None
    """``None``: undecided."""
    proved: bool = False
    how: str = ""


def check(cut: Cut, limits: Limits | None = None) -> Finding:
    """Compares the two sides of a cut."""
    if _same_structure(cut):
        return Finding(True, True, "the same expression")
    for a, b in zip(cut.before.graph.outputs, cut.after.graph.outputs, strict=True):
        if a.dtype is not b.dtype and a.dtype is not None and b.dtype is not None:
            return Finding(False, how=f"{a.dtype.text} became {b.dtype.text}")
    if only_moves(cut):
        found = _trials(cut, limits, ids=True)
        if found.equal:
            return found
    return _trials(cut, limits, ids=False)


def only_moves(cut: Cut) -> bool:
    """Whether both sides do nothing but move elements."""
    return all(n.domain == "" and n.op in MOVES for m in (cut.before, cut.after) for n in m.all_nodes())


# -- structure


def _same_structure(cut: Cut) -> bool:
    """Whether both sides are one expression: equal operators of equal operands."""
    table: dict[Any, int] = {}
    left, right = (_numbered(m.graph, table, side) for side, m in enumerate((cut.before, cut.after)))
    return left == right


def _numbered(graph: Graph, table: dict[Any, int], side: int) -> list[int]:
    """A number for each output: the same for the same expression."""
    known: dict[Value, int] = {v: table.setdefault(("input", i), len(table)) for i, v in enumerate(graph.inputs)}

    def of(v: Value | None) -> int:
        if v is None:
            return -1
        if v not in known and v.data is not None:
            known[v] = table.setdefault(("constant", v.data.digest()), len(table))
        return known[v]

    for i, node in enumerate(graph):
        operands = [of(v) for v in node.inputs]
        if node.op == "Identity" and not node.domain:
            known[node.output] = operands[0]
            continue
        key: tuple[Any, ...] = (node.domain, node.op, node.overload, *_attr_key(node), len(node.outputs))
        if node.subgraphs or not is_pure(node):
            key = ("apart", side, i)
        operands = sorted(operands) if commutes(node) else operands
        for k, out in enumerate(node.outputs):
            known[out] = table.setdefault((key, tuple(operands), k), len(table))
    return [of(v) for v in graph.outputs]


def _attr_key(node: Node) -> Iterator[tuple[str, str]]:
    for name, attr in sorted(node.attrs.items()):
        yield name, attr.digest() if isinstance(attr, Constant) else repr(attr)


# -- trials


def _trials(cut: Cut, limits: Limits | None, *, ids: bool) -> Finding:
    symbols = sorted(set(_symbols(cut.before)))
    done, reason, rounded = 0, "", 0.0
    for attempt, sizes in enumerate(_sizes(symbols)):
        if attempt >= ATTEMPTS or done >= (1 if ids and not symbols else TRIALS):
            break
        try:
            leaves = _drawn(cut.before, sizes, attempt, ids=ids)
            expected = Evaluation(limits).run(cut.before.graph, dict(zip(cut.before.graph.inputs, leaves, strict=True)))
        except Undecided as error:
            reason = reason or str(error)
            continue
        try:
            found = Evaluation(limits).run(cut.after.graph, dict(zip(cut.after.graph.inputs, leaves, strict=True)))
        except Undecided as error:
            return Finding(None, how=str(error))
        used = _difference(cut, expected, found)
        if used is None or used > 1:
            return Finding(False, how="the results differ")
        rounded = max(rounded, used)
        done += 1
    if not done:
        return Finding(None, how=reason or "nothing could be drawn")
    if ids and not symbols:
        return Finding(True, True, "every element is moved to the same place")
    if rounded:
        return Finding(True, how="equal up to the rounding of constants")
    return Finding(True, how="equal as functions of real numbers")


def _symbols(model: Model) -> Iterator[str]:
    """The symbols of the inputs, with one for each extent that has none."""
    for v in model.graph.inputs:
        for axis, d in enumerate(v.shape or ()):
            if d is None:
                yield _unnamed(v, axis)
            elif isinstance(d, SymDim):
                yield from d.symbols()


def _unnamed(v: Value, axis: int) -> str:
    return f"?{v.name}.{axis}"


def _sizes(symbols: list[str]) -> Iterator[dict[str, int]]:
    """Values of the symbols: all small ones for at most two symbols, else some; then larger ones."""
    if not symbols:
        while True:
            yield {}
    n = len(symbols)
    first = {s: 2 + i % 3 for i, s in enumerate(symbols)}
    yield first
    if n <= 2:
        yield from ({**dict(zip(symbols, values, strict=True))} for values in product((1, 2, 3), repeat=n))
    else:
        yield {s: 3 - i % 3 for i, s in enumerate(symbols)}
        yield dict.fromkeys(symbols, 1)
    for base in (8, 16, 5, 32):
        yield {s: base + i for i, s in enumerate(symbols)}
        yield dict.fromkeys(symbols, base)


def _drawn(model: Model, sizes: dict[str, int], attempt: int, *, ids: bool) -> list[Item]:
    random = np.random.default_rng([attempt, len(model.graph.inputs)])
    return [_leaf(v, sizes, random, attempt, ids=ids) for v in model.graph.inputs]


def made_up(model: Model, count: int) -> Iterator[dict[str, Array]]:
    """Ordinary operands for a cut, by name, for a few values of its symbols."""
    symbols = sorted(set(_symbols(model)))
    for attempt, sizes in enumerate(islice(_sizes(symbols), count)):
        try:
            items = _drawn(model, sizes, 3 * attempt, ids=False)
        except Undecided:
            return
        pairs = zip(model.graph.inputs, items, strict=True)
        yield {v.name: _array(v, item) for v, item in pairs if item is not None and v.dtype is not None}


def _array(v: Value, item: Number | Array) -> Array:
    return item.near.astype(v.dtype.numpy) if isinstance(item, Number) and v.dtype is not None else np.asarray(item)


def _leaf(v: Value, sizes: dict[str, int], random: np.random.Generator, attempt: int, *, ids: bool) -> Item:
    if not isinstance(v.type, TensorType) or v.type.dtype is None or v.shape is None:
        raise Undecided("the type of an operand is not known")
    shape: list[int] = []
    for axis, d in enumerate(v.shape):
        size = sizes[_unnamed(v, axis)] if d is None else evaluate(d, sizes)
        if size is None or size < 0:
            raise Undecided("an extent of an operand is not known")
        shape.append(size)
    if np.prod(shape, dtype=np.float64) > Limits().elements:
        raise Undecided(f"an operand of shape {shape}")
    if v.known is not None and not v.type.dtype.is_float:
        return _known(v, sizes)
    return _elements(v.type.dtype, tuple(shape), random, attempt, ids=ids)


def _known(v: Value, sizes: dict[str, int]) -> Item:
    found = [evaluate(d, sizes) for d in v.known or ()]
    if any(n is None for n in found) or v.dtype is None or v.shape is None:
        raise Undecided("an element of an operand is not known")
    return np.array(found, v.dtype.numpy).reshape([len(found)] * len(v.shape))


def _elements(dtype: DType, shape: tuple[int, ...], random: np.random.Generator, attempt: int, *, ids: bool) -> Item:
    if ids or dtype.is_float:
        if dtype.is_float and dtype.bits < 16:
            raise Undecided(f"no numbers of type {dtype.text}")
        return N.free(random, shape, dtype, SCALES[attempt % len(SCALES)])
    if dtype is DType.BOOL:
        return random.integers(0, 2, shape).astype(bool)
    if dtype is DType.STRING:
        return random.choice(np.array(["", "a", "planish", "ß"], object), shape)
    if not dtype.is_integer:
        raise Undecided(f"no numbers of type {dtype.text}")
    low, high = _INTEGERS[attempt % len(_INTEGERS)]
    return random.integers(0 if dtype.kind == "uint" else low, high, shape).astype(dtype.numpy)


# -- comparing


def _difference(cut: Cut, expected: list[Item], found: list[Item]) -> float | None:
    """The largest difference as a share of its bound: 0 where all is equal; ``None`` where it is no rounding."""
    worst = 0.0
    roundoff = _roundoff(cut)
    for a, b in zip(expected, found, strict=True):
        if not isinstance(a, Number) or not isinstance(b, Number):
            if isinstance(a, Number) or isinstance(b, Number) or not _same_arrays(a, b):
                return None
            continue
        if a.shape != b.shape:
            return None
        used = _used(a, b, roundoff)
        if used is None:
            return None
        worst = max(worst, used)
    return worst


def _same_arrays(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and bool(np.array_equal(a, b))


def _used(a: Number, b: Number, roundoff: float) -> float | None:
    with np.errstate(all="ignore"):
        difference = np.where(a.near == b.near, 0.0, np.abs(a.near - b.near))
        size = float(np.max(np.abs(a.near), initial=0.0, where=np.isfinite(a.near)))
    differs = a.field != b.field
    if (difference[~differs] > 1e-4 * size).any():  # equal images of different numbers: 2**61 is 1
        return None
    if not differs.any():
        return 0.0
    with np.errstate(all="ignore"):
        bound = ROUNDINGS * roundoff * (a.unit + b.unit)
    if not roundoff or not np.isfinite(bound[differs]).all() or (difference[differs] > bound[differs]).any():
        return None
    return max(float(np.max(difference[differs] / np.maximum(bound[differs], 1e-300))), 1e-9)


def _roundoff(cut: Cut) -> float:
    """The roundoff of the constants' types where the two sides have different ones, else 0."""
    before, after = _numbers_in(cut.before), _numbers_in(cut.after)
    if set(before) == set(after):
        return 0.0
    return max((_ROUNDOFF.get(dtype, 0.0) for dtype in (*before.values(), *after.values())), default=0.0)


def _numbers_in(model: Model) -> dict[str, DType]:
    """Constants and attributes that are floats, with their types."""
    found: dict[str, DType] = {}
    for graph in model.all_graphs():
        for v in graph.constants:
            if v.data is not None and v.data.dtype.is_float and v.uses:
                found[v.data.digest()] = v.data.dtype
        for node in graph:
            dtype = node.outputs[0].dtype if node.outputs else None
            for name, attr in node.attrs.items():
                if isinstance(attr, float) or name == "approximate":
                    found[f"{name}={attr!r}"] = dtype or DType.F32
    return found
