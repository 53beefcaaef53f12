"""How many bytes values take for one sample, known before any of them is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ...backends.core import Sample
from ...backends.ort.session import SessionSettings
from ...ir.dims import evaluate
from ...ir.errors import BackendError
from ...ir.graph import Model, Value
from ..checks.trial import bound_symbols
from .segments import Environment, Segment


def value_shapes(
    model: Model, sample: Sample, values: Iterable[Value], environment: Environment, settings: SessionSettings
) -> dict[Value, tuple[int, ...]]:
    """Shapes of values of the main graph: by inference where it knows them, else the model runs once and returns its
    values' shapes alone. Values that are not there are left out."""
    symbols = bound_symbols(model, sample)
    found: dict[Value, tuple[int, ...]] = {}
    unknown: list[Value] = []
    for value in values:
        extents = None if value.shape is None else [evaluate(d, symbols) for d in value.shape]
        if value.owner is not model.graph or value.tensor is None:
            continue
        if extents is not None and all(e is not None for e in extents):
            found[value] = tuple(e for e in extents if e is not None)
        elif value.producer is not None:
            unknown.append(value)
    if unknown:
        probe = Segment(model.graph, list(model.graph), unknown, settings, shapes=True)
        try:
            shapes = probe.run(environment)
        except BackendError:  # the run itself will say why
            shapes = {}
        found.update((value, tuple(int(d) for d in shape)) for value, shape in shapes.items())
    return found


def value_bytes(value: Value, shape: tuple[int, ...]) -> int:
    bits = value.dtype.bits if value.dtype is not None else 32
    return math.prod(shape) * max(bits, 8) // 8
