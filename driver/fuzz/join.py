"""Two models made one: what a pass leaves of the first is what it, or another one, meets in the second."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ...ir.clone import clone_graph, clone_model
from ...ir.graph import Graph, Model, Value
from ...ir.types import TensorType

ATTEMPTS = 12
"""Models that are tried for the second part."""


def joined_with_any(first: Model, others: Sequence[Model], rng: random.Random) -> Model | None:
    """``first`` with one of the others behind it; ``None`` where none of some attempts fits."""
    for _ in range(ATTEMPTS):
        found = joined(first, rng.choice(others), rng)
        if found is not None:
            return found
    return None


def joined(first: Model, second: Model, rng: random.Random) -> Model | None:
    """A copy of ``first`` of which one output goes where an input of ``second`` was, with the outputs of both.

    ``None`` where they import different operators, have functions, or no output fits an input. Types are those of the
    parts: infer them anew.
    """
    if first.functions or second.functions or first.graph.opsets.get("") != second.graph.opsets.get(""):
        return None
    model, part = clone_model(first), clone_graph(second.graph)
    fits = [(a, b) for a in model.graph.outputs for b in part.inputs if b not in part.defaults and _fits(a, b)]
    if not fits:
        return None
    source, place = rng.choice(fits)
    place.replace_uses(source)
    results = _moved(part, place, model.graph)
    kept = [v for v in model.graph.outputs if v is not source or rng.random() < 0.4]
    outputs = [*kept, *results]
    model.graph.set_outputs(outputs, [f"y{i}" for i in range(len(outputs))])
    return model


def _fits(a: Value, b: Value) -> bool:
    """Whether ``a`` may be what ``b`` was: the same element type and rank, no two numbers that differ."""
    if not isinstance(a.type, TensorType) or not isinstance(b.type, TensorType) or a.dtype is not b.dtype:
        return False
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return not any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in zip(a.shape, b.shape, strict=True))


def _moved(part: Graph, place: Value, graph: Graph) -> list[Value]:
    """Puts what is in ``part`` behind what is in ``graph``; returns the part's results. Its input ``place`` goes."""
    for domain, version in part.opsets.items():
        graph.opsets.setdefault(domain, version)
    for value in part.inputs:
        if value is not place:
            made = graph.add_input(f"second_{value.name}", value.type)
            if value in part.defaults:
                graph.defaults[made] = part.defaults[value]
            value.replace_uses(made)
    for value in list(part.constants):
        assert value.data is not None
        value.replace_uses(graph.add_constant(value.data, value.name))
    results = list(part.outputs)
    part.ret.set_inputs([])
    for node in list(part):
        part.unlink(node)
        graph.append(node)
    return results
