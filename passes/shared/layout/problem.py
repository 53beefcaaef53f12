"""Choosing one label for every value, at the least cost: the problem, apart from what labels mean.

A node can be computed in one of several ways (*options*), each of which takes its operands and gives its results under
certain labels. A value that is given under one label and taken under another is converted, once for all that take it
so. The cost of a choice is that of the options and of the conversions.

    choose  o(n) for every node n:   sum_n cost(o(n))  +  sum_v sum_{b taken of v, b != a given}  convert(v, a, b)

Labels are whatever hashes: orders of axes, names of layouts, precisions. ``solve.py`` finds a best choice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Label = Hashable
Key = Hashable
Conversion = tuple[Key, Label, Label]
"""A value, the label it is given under, the one it is taken under."""


@dataclass(frozen=True)
class Option:
    """One way to compute a node."""

    cost: float = 0.0
    takes: tuple[tuple[Key, Label], ...] = ()
    """Values and the labels under which they are taken; values of no interest are left out."""
    gives: tuple[tuple[Key, Label], ...] = ()
    """Values and the labels under which they are given."""
    tag: Any = field(default=None, compare=False)
    """What the caller needs to know about it."""


@dataclass
class Problem:
    """Nodes with their options. A value is given by at most one node; one that none gives costs nothing."""

    convert: Callable[[Key, Label, Label], float]
    """Cost of storing a value under another label too; infinite where that cannot be."""
    options: dict[Key, list[Option]] = field(default_factory=dict[Key, list[Option]])

    def add(self, node: Key, options: Iterable[Option]) -> None:
        """Adds a node; of options that take and give the same only the cheapest counts."""
        best: dict[Any, Option] = {}
        for option in options:
            key = (option.takes, option.gives)
            if key not in best or option.cost < best[key].cost:
                best[key] = option
        self.options[node] = list(best.values())

    def values(self) -> dict[Key, tuple[Key | None, list[Key]]]:
        """Every value with the node that gives it and those that take it."""
        found: dict[Key, tuple[Key | None, list[Key]]] = {}
        for node, options in self.options.items():
            for value in dict.fromkeys(v for o in options for v, _ in o.gives):
                found[value] = (node, found[value][1] if value in found else [])
            for value in dict.fromkeys(v for o in options for v, _ in o.takes):
                found.setdefault(value, (None, []))[1].append(node)
        return found

    def conversions(self, chosen: Mapping[Key, Option]) -> list[Conversion]:
        """What has to be converted under a choice."""
        given = {value: label for option in chosen.values() for value, label in option.gives}
        wanted = {pair: None for option in chosen.values() for pair in option.takes}
        return [(v, given[v], label) for v, label in wanted if v in given and given[v] != label]

    def cost(self, chosen: Mapping[Key, Option]) -> float:
        """Of a whole choice."""
        return sum(o.cost for o in chosen.values()) + sum(self.convert(*c) for c in self.conversions(chosen))

    def part(self, nodes: Sequence[Key]) -> Problem:
        """The same problem on some of the nodes."""
        return Problem(self.convert, {node: self.options[node] for node in nodes})


@dataclass(frozen=True)
class Solution:
    """A choice, and how far from the best it can be."""

    chosen: dict[Key, Option]
    cost: float
    bound: float
    """No choice costs less."""
    conversions: list[Conversion]
    tried: int = 0
    """Independent parts of which all choices were tried."""
    cuts: int = 0
    """Parts that were minimum cuts."""
    programs: int = 0
    """Parts that were integer programs."""

    @property
    def gap(self) -> float:
        """Relative distance of the cost from the bound; 0 where the choice is proved best."""
        return max(0.0, self.cost - self.bound) / max(abs(self.cost), abs(self.bound), 1e-300)

    @property
    def verdict(self) -> str:
        """How far from the best it can be, and how that is known."""
        solved = ((self.tried, "part tried out", "parts tried out"), (self.cuts, "minimum cut", "minimum cuts"))
        solved += ((self.programs, "program", "programs"),)
        how = [f"{n} {one if n == 1 else more}" for n, one, more in solved if n]
        exact = "no choice costs less" if self.gap < 1e-6 else f"within {self.gap:.2%} of the bound {self.bound:.6g}"
        return f"{exact} ({', '.join(how) or 'nothing to choose'})"

    @property
    def proof(self) -> str:
        """What is known of it, in a line."""
        return f"cost {self.cost:.6g}, {self.verdict}"
