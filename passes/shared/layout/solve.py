"""A best choice of labels: minimum cut where every node has two options, integer program where one has more.

Nodes with one option tie the values around them; what is left falls apart into parts that share no value. A part whose
nodes have two options each, which can be called 0 and 1 so that every value has one label for 0 and one for 1, is a
minimum cut: a node's cost under each option is an edge to the other side's terminal; a value's conversion from 0 to 1
is an edge behind its producer, followed by uncuttable ones to all that take it, so that it is paid once. Any other part
is a 0/1 program with the tight (flow) form of pairwise costs, whose relaxation is exact on parts of the first kind.

Source: L. R. Ford, D. R. Fulkerson, Maximal flow through a network, 1956; D. M. Greig, B. T. Porteous, A. H. Seheult,
Exact maximum a posteriori estimation for binary images, 1989; Q. Huangfu, J. Hall, 2018 (HiGHS).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence

from .cut import cut
from .problem import Key, Label, Option, Problem, Solution
from .program import program

SECONDS = 10.0
"""What one program may take; the best choice so far counts then, with the bound so far."""
FEW = 32
"""So many choices are tried one by one: that takes less time than to load a solver."""


def solve(problem: Problem, *, seconds: float = SECONDS) -> Solution:
    """A choice of least cost. Raises ``ValueError`` where no choice has a finite cost."""
    chosen = {node: options[0] for node, options in problem.options.items()}
    bound, tried, cuts, programs = 0.0, 0, 0, 0
    open_nodes = [node for node, options in problem.options.items() if len(options) > 1]
    values = problem.values()
    around = _neighbours(problem, values)
    settled: set[Key] = set()
    for part in _parts(open_nodes, values, around):
        free = set(part)
        touched = dict.fromkeys(v for n in part for v in around[n])
        nodes = dict.fromkeys([*part, *(n for v in touched for n in _ends(values[v]))])
        small = _restricted(problem.part(list(nodes)), free, set(touched))
        sides = two_sides(small)
        if math.prod(len(small.options[n]) for n in part) <= FEW:
            found, least = _all_tried(small)
            tried += 1
        elif sides is not None:
            found, least = cut(small, sides)
            cuts += 1
        else:
            found, least = program(small, seconds)
            programs += 1
        bound += least
        chosen.update({n: problem.options[n][i] for n, i in found.items() if n in free})
        settled.update(touched)
    bound += sum(o.cost for n, o in chosen.items() if len(problem.options[n]) == 1)
    conversions = problem.conversions(chosen)
    bound += sum(problem.convert(*c) for c in conversions if c[0] not in settled)
    return Solution(chosen, problem.cost(chosen), bound, conversions, tried, cuts, programs)


def _all_tried(problem: Problem) -> tuple[dict[Key, int], float]:
    """The best of all choices. Raises ``ValueError`` where none has a finite cost."""
    nodes = list(problem.options)
    counts = [range(len(options)) for options in problem.options.values()]

    def cost(choice: tuple[int, ...]) -> float:
        return problem.cost({n: problem.options[n][i] for n, i in zip(nodes, choice, strict=True)})

    best = min(itertools.product(*counts), key=cost)
    least = cost(best)
    if least == math.inf:
        raise ValueError("every choice has an infinite cost")
    return dict(zip(nodes, best, strict=True)), least


def _neighbours(problem: Problem, values: dict[Key, tuple[Key | None, list[Key]]]) -> dict[Key, list[Key]]:
    around: dict[Key, list[Key]] = {node: [] for node in problem.options}
    for value, ends in values.items():
        for node in dict.fromkeys(_ends(ends)):
            around[node].append(value)
    return around


def _ends(ends: tuple[Key | None, list[Key]]) -> list[Key]:
    return ends[1] if ends[0] is None else [ends[0], *ends[1]]


def _parts(
    nodes: Sequence[Key], values: dict[Key, tuple[Key | None, list[Key]]], around: dict[Key, list[Key]]
) -> list[list[Key]]:
    """Nodes with several options, apart where no value joins them."""
    left, parts = dict.fromkeys(nodes), list[list[Key]]()
    for start in nodes:
        if start not in left:
            continue
        del left[start]
        part, work = list[Key](), deque([start])
        while work:
            node = work.popleft()
            part.append(node)
            for value in around[node]:
                for other in _ends(values[value]):
                    if other in left:
                        del left[other]
                        work.append(other)
        parts.append(part)
    return parts


def _restricted(problem: Problem, free: set[Key], touched: set[Key]) -> Problem:
    """Nodes outside the part keep only what they say about its values, and cost nothing."""
    for node, options in problem.options.items():
        keep = [
            Option(
                o.cost if node in free else 0.0,
                tuple(pair for pair in o.takes if pair[0] in touched),
                tuple(pair for pair in o.gives if pair[0] in touched),
            )
            for o in options
        ]
        problem.options[node] = keep
    return problem


def two_sides(problem: Problem) -> dict[Key, dict[Label, int]] | None:
    """For every value the side (0, 1) of each label, options counted alike; ``None`` where two sides do not do.

    A node's first option is on the side of the labels that it has.
    """
    labels: dict[Key, dict[Label, None]] = {}
    for options in problem.options.values():
        if len(options) > 2:
            return None
        for option in options:
            for value, label in (*option.takes, *option.gives):
                labels.setdefault(value, {})[label] = None
    if any(len(found) > 2 for found in labels.values()):
        return None
    links = _links(problem)
    if links is None:
        return None
    return _painted(labels, links)


def _links(problem: Problem) -> dict[Key, list[tuple[Key, Label, Label]]] | None:
    """By value: nodes whose first and second option differ there, with both labels."""
    links: dict[Key, list[tuple[Key, Label, Label]]] = {}
    for node, options in problem.options.items():
        if len(options) < 2:
            continue
        first, second = ((*o.takes, *o.gives) for o in options)
        if [v for v, _ in first] != [v for v, _ in second] or len(set(dict(first))) != len(first):
            return None  # takes a value twice, or not in both: left to the program
        for (value, a), (_, b) in zip(first, second, strict=True):
            if a != b:
                links.setdefault(value, []).append((node, a, b))
    return links


def _painted(
    labels: dict[Key, dict[Label, None]], links: dict[Key, list[tuple[Key, Label, Label]]]
) -> dict[Key, dict[Label, int]] | None:
    of_node: dict[Key, list[tuple[Key, Label, Label]]] = {}
    for value, found in links.items():
        for node, a, b in found:
            of_node.setdefault(node, []).append((value, a, b))
    side: dict[Key, dict[Label, int]] = {}
    flipped: dict[Key, int] = {}
    for start in labels:
        if start in side:
            continue
        side[start] = {label: i for i, label in enumerate(labels[start])}
        work = deque([start])
        while work:
            value = work.popleft()
            for node, a, _ in links.get(value, ()):
                flip = side[value][a]
                if flipped.setdefault(node, flip) != flip:
                    return None
                for other, c, d in of_node[node]:
                    wanted = {c: flip, d: 1 - flip}
                    if other not in side:
                        side[other] = wanted
                        work.append(other)
                    elif side[other] != wanted:
                        return None
    return side
