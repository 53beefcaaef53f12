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

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from ...ir.constants import Constant
from ...ir.dtypes import DType
from ...ir.graph import Graph, Model, Node, Value
from ...ir.ops import commutes, is_pure
from ...passes.shared.ranges import is_nonnegative
from .cut import Cut
from .draws import ATTEMPTS, Draws, Manner
from .evaluate import Constants, Evaluation, Limits, since
from .movement import MOVES
from .number import Array, Number, Outcome, Undecided
from .operators import Item
from .ring import same, with_exponents

ROUNDINGS = 4.0
"""Roundings that folding may take for each constant: a root, a quotient, a product, a sum."""
TRIALS = 3
"""Evaluations that must succeed; one where there are neither symbols nor branches would do."""
TIES = 2
"""Evaluations with numbers that coincide, besides."""
MORE = 24
"""Further draws while a branch of the rewrite was not taken, ..."""
SMALL = 64
"""... where the operands have no more elements than this: with many, it would have been."""
_ROUNDOFF = {DType.F32: 2.0**-24, DType.F16: 2.0**-11, DType.BF16: 2.0**-8}


@dataclass(frozen=True)
class Finding:
    """What the exact check found."""

    equal: bool | None
    """``None``: undecided."""
    proved: bool = False
    how: str = ""
    one_sided: bool = False
    """Whether a comparison in the rewrite itself always came out the same."""


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
    found = _trials(cut, limits, ids=False)
    for operators, law in ((_EXPONENTIAL, "exp(a + b) = exp(a) exp(b)"), (_LOGARITHMIC, "log(a b) = log(a) + log(b)")):
        if found.equal or not _has(cut, operators):
            continue
        with with_exponents(compared=operators is _LOGARITHMIC):
            again = _trials(cut, limits, ids=False, least=TRIALS + TIES)
        found = replace(again, how=f"{again.how}, by {law}") if again.equal else found
    return found


def only_moves(cut: Cut) -> bool:
    """Whether both sides do nothing but move elements."""
    return all(n.domain == "" and n.op in MOVES for m in (cut.before, cut.after) for n in m.all_nodes())


_EXPONENTIAL = frozenset(
    (
        *("Exp", "Softmax", "LogSoftmax", "ReduceLogSumExp", "Sigmoid", "Tanh", "Softplus", "Elu", "Selu"),
        *("Attention", "MultiHeadAttention", "GroupQueryAttention", "Swish", "Mish", "SoftmaxCrossEntropyLoss"),
    )
)


_LOGARITHMIC = frozenset(("Log", "LogSoftmax", "ReduceLogSum", "ReduceLogSumExp", "Softplus", "Mish"))


def _has(cut: Cut, operators: frozenset[str]) -> bool:
    """Whether any of the operators occurs anywhere."""
    return any(n.op in operators for m in (cut.before, cut.after) for n in m.all_nodes())


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
        key: tuple[Any, ...] = (node.domain, node.op, since(node), node.overload, *_attr_key(node), len(node.outputs))
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


def _trials(cut: Cut, limits: Limits | None, *, ids: bool, least: int = 1) -> Finding:
    trials = _Trials(cut, limits, ids, least)
    draws = trials.draws
    for attempt, sizes in enumerate(islice(cycle(islice(draws.sizes(), ATTEMPTS)), draws.attempts + MORE)):
        enough = trials.enough(attempt)
        if enough and (not _one_sided(cut, trials.branches) or _count(trials.leaves) > SMALL):
            break
        if not enough and attempt >= draws.attempts:
            break
        found = trials.run(sizes, attempt, ties=not ids and (attempt % 3 == 2 or enough))
        if found is not None:
            return found
    for attempt, sizes in enumerate([*draws.fitting(), *draws.fitting()] if not trials.done else ()):
        if trials.enough(attempt):
            break
        found = trials.run(sizes, attempt, ties=not ids and attempt % 3 == 2)
        if found is not None:
            return found
    return trials.finding()


@dataclass
class _Trials:
    """Evaluations of both sides, and what they showed so far."""

    cut: Cut
    limits: Limits | None
    ids: bool
    """Whether elements are only moved, so that each is given a number of its own."""
    least: int = 1
    """Evaluations that must agree for anything to be said: one over the large field, several over small ones."""
    done: int = 0
    tied: int = 0
    """Of these those with numbers that coincide."""
    void: int = 0
    """Evaluations whose results have no elements, though no symbol is 0: they show no more than shapes."""
    reason: str = ""
    """Why the first one failed."""
    rounded: float = 0.0
    """The largest difference as a share of what rounding may do."""
    empty: bool = True
    """Whether the second side can be computed where an extent is 0."""
    branches: dict[Node, list[set[Outcome]]] = field(default_factory=dict[Node, "list[set[Outcome]]"])
    leaves: list[Item] = field(default_factory=list[Item])
    constants: Constants = field(default_factory=dict[int, Any])

    def __post_init__(self) -> None:
        self.draws = Draws(self.cut.before, self.cut.after)
        self.wanted = 1 if self.ids and self.draws.fixed else max(TRIALS, self.draws.choices)

    def enough(self, attempt: int) -> bool:
        """Whether all that is wanted was seen before this attempt; of unknown ranks all are wanted."""
        draws = self.draws
        seen = self.done >= self.wanted and (self.ids or self.tied >= TIES)
        return seen and (attempt >= draws.attempts or draws.attempts == ATTEMPTS)

    def run(self, sizes: dict[str, int], attempt: int, *, ties: bool) -> Finding | None:
        """One evaluation; a finding where it settles the matter."""
        manner = Manner.IDS if self.ids else Manner.TIES if ties else Manner.FREE
        try:
            self.leaves = self.draws.draw(sizes, attempt, manner)
            expected = _evaluated(self.cut.before, self.leaves, self.limits, self.constants, self.branches)
        except Undecided as error:
            self.reason = self.reason or str(error)
            return None
        try:
            found = _evaluated(self.cut.after, self.leaves, self.limits, self.constants, self.branches)
        except Undecided as error:
            if 0 in sizes.values():
                self.empty = False
            elif not ties:  # numbers that coincide may be divided by zero in one of two equal expressions
                return Finding(None, how=str(error))
            return None
        used = _difference(self.cut, expected, found)
        if used is None or used > 1:
            return Finding(False, how="the results differ")
        self.rounded = max(self.rounded, used)
        if 0 not in sizes.values() and not self.draws.fixed and not _count(expected):
            self.void += 1
        elif 0 not in sizes.values():  # nothing is easily equal
            self.done, self.tied = (self.done, self.tied + 1) if ties else (self.done + 1, self.tied)
        return None

    def finding(self) -> Finding:
        """What is known when nothing differed."""
        if self.void and not self.done + self.tied and not self.reason:
            return Finding(True, how="equal, of no elements whatever the sizes")
        if self.done + self.tied < self.least:
            return Finding(None, how=self.reason or "no operands could be drawn for which there are results")
        if self.ids and self.draws.fixed:
            return Finding(True, True, "every element is moved to the same place")
        one_sided = _one_sided(self.cut, self.branches)
        how = "equal up to the rounding of constants" if self.rounded else "equal as functions of real numbers"
        return Finding(True, how=how if self.empty else f"{how}, where no extent is 0", one_sided=one_sided)


def _count(leaves: list[Item]) -> int:
    return sum(math.prod(x.shape) for x in leaves if x is not None)


def _one_sided(cut: Cut, branches: dict[Node, list[set[Outcome]]]) -> bool:
    """Whether a comparison in the rewrite itself always came out the same, for no reason that is known."""
    return any(
        not _depends_on_nothing(seen) and not ways >= {-1, 1} and not (-1 not in ways and i == 0 and _never_below(node))
        for node in cut.own
        for i, seen in enumerate(branches.get(node, ()))
        for ways in [{way if isinstance(way, int) else way[0] for way in seen}]
    )


def _depends_on_nothing(seen: set[Outcome]) -> bool:
    """Whether the same two numbers were compared whatever was drawn."""
    return len(seen) == 1 and isinstance(next(iter(seen)), tuple)


def _never_below(node: Node) -> bool:
    """Whether the operand of a function that compares it with zero, or a Clip's lower bound, is never below."""
    if node.domain or not is_nonnegative(node.input(0)):
        return False
    if node.op == "Clip" and node.version >= 11:
        low = node.input(1)
        return low is not None and low.data is not None and low.data.count == 1 and bool((low.numpy() <= 0).all())
    return node.op in ("Relu", "LeakyRelu", "Abs")


def _evaluated(
    model: Model,
    leaves: list[Item],
    limits: Limits | None,
    constants: Constants,
    branches: dict[Node, list[set[Outcome]]],
) -> list[Item]:
    evaluation = Evaluation(limits, constants)
    found = evaluation.run(model.graph, dict(zip(model.graph.inputs, leaves, strict=True)))
    for node, outcomes in evaluation.branches.items():
        known = branches.setdefault(node, [set() for _ in outcomes])
        for a, b in zip(known, outcomes, strict=False):
            a |= b
    return found


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
    differs = ~same(a.field, b.field)
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
