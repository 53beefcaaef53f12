"""The choice of ranks, layer by layer: for people and for programs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.graph import Model, Node
from ..document import Table, count_text
from ..select import Choice, Problem
from ..select.problem import middle, node_name, nodes_by_name

PREFIX = "factorize-"
_FORMS = {
    "factorize-matmul/c": "compact",
    "factorize-matmul/r": "pair",
    "factorize-parallel/c": "shared, compact",
    "factorize-parallel/r": "shared",
    "factorize-residual/r": "codes and low rank",
    "factorize-conv/c": "Tucker, compact",
    "factorize-conv/t": "Tucker",
    "factorize-conv/s": "separable",
    "factorize-conv/p": "CP",
}


@dataclass(frozen=True)
class Rank:
    """One layer."""

    layer: str
    """The node, or the weight where several share it."""
    full: str
    """The rank that the weight may have: of a matrix the lesser extent, of a kernel the channels in and out."""
    rank: str
    """What was chosen; empty where the layer stays whole."""
    form: str = ""
    parameters: int = 0
    """Of the weight."""
    kept: float = 1.0
    """Share of them that is left."""
    error: float = 0.0
    """Share of the error budget that it spends alone, estimated from what was measured."""
    time: float = 0.0
    """Change of the model's time, as a share of it, likewise."""
    because: str = ""
    """Why it stays whole."""


def ranks_of(problem: Problem, choice: Choice, model: Model) -> list[Rank]:
    """Of every layer for which ranks were offered, in order; ``model`` is the one that they were offered for."""
    nodes = nodes_by_name(model)
    taken = {problem.place_of[i] for i in problem.indices(choice.taken)}
    found: list[Rank] = []
    for place, options in enumerate(problem.places):
        unit = problem.units[options[0]]
        elsewhere = taken & (problem.excluded(place) - {place})
        if unit.owner.startswith(PREFIX) and not elsewhere and (place in taken or not unit.others):
            named = [nodes.get(name) for name in (node_name(unit.key), *(unit.others or ()))]
            found.append(_rank(node_name(unit.key), named, options, choice, problem))
    return found


def _rank(name: str, nodes: Sequence[Node | None], options: Sequence[int], choice: Choice, problem: Problem) -> Rank:
    shape, parameters = _weight(nodes[0]), sum(_count(_weight(node)) for node in nodes)
    if len(nodes) > 1:
        name = f"{name} and {len(nodes) - 1} beside it"
    full = str(min(shape)) if len(shape) == 2 else f"{shape[1]}x{shape[0]}" if shape else ""
    taken = next((i for i in options if problem.units[i].key in choice.taken), None)
    if taken is None:
        because = choice.because or choice.reasons.get(problem.units[middle(options)].key, "")
        return Rank(name, full, "", parameters=parameters, because=because)
    key = problem.units[taken].key
    label = re.fullmatch(r"([^@]*?[a-z]?)([\dx]*)@.*", key, re.S)
    form, rank = (_FORMS.get(label[1], label[1]), label[2]) if label is not None else ("", "")
    time, error = choice.predicted.get(key, (0.0, 0.0))
    kept = 1 - problem.savings[taken] if problem.savings else 1.0
    return Rank(name, full, rank, form, parameters, kept, error, time)


def _weight(node: Node | None) -> tuple[int, ...]:
    """The shape of the node's largest constant; without axes of extent 1 behind the first two."""
    held = [] if node is None else [v.data.shape for v in node.inputs if v is not None and v.data is not None]
    largest: tuple[int, ...] = max(held, key=_count, default=())
    return largest[:2] if all(extent == 1 for extent in largest[2:]) else largest


def _count(shape: Sequence[int]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total


def ranks_table(ranks: Sequence[Rank]) -> Table:
    """What is printed: a row for each layer."""
    rows = [
        (
            r.layer,
            r.full,
            r.rank or "whole",
            r.form,
            count_text(r.parameters),
            f"{r.kept:.0%}",
            f"{r.error:.2%}" if r.rank else "",
            f"{r.time:+.2%}" if r.rank else "",
            r.because,
        )
        for r in ranks
    ]
    return Table("low rank", ("layer", "of>", "rank>", "form", "parameters>", "kept>", "of budget>", "time>", ""), rows)
