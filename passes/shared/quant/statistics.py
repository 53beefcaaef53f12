"""What was observed of a model's values while it ran on samples.

A pass asks ``ctx.observe(model, wants)`` and gets :class:`Statistics`. Values are asked for by the names that
:func:`value_names` gives them, since the names in a graph are only hints.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Any

import numpy as np

from ....ir.graph import Model, Value
from .histogram import Histogram

Array = np.ndarray[Any, Any]


class Kind(Flag):
    """Kinds of statistics. The range (with mean and mean square) is always taken."""

    RANGE = auto()
    HISTOGRAM = auto()
    CHANNELS = auto()
    """Ranges and means for each index of one axis."""
    MOMENTS = auto()
    """The sum of ``x^T x`` over all rows ``x`` along the last axis."""
    TOKENS = auto()
    """A histogram of the largest magnitude in each row along the last axis."""


@dataclass(frozen=True)
class Want:
    """What a pass wants to know of one value."""

    value: str
    """Its name, as ``value_names`` gives it."""
    kinds: Kind = Kind.RANGE | Kind.HISTOGRAM
    axis: int = 1
    """Of ``CHANNELS``; negative ones count from the end."""


@dataclass(frozen=True)
class Channels:
    """Statistics for each index of one axis; arrays of float64 with one number for each."""

    axis: int
    """As it was asked for."""
    count: int
    """Numbers for each index."""
    low: Array
    high: Array
    mean: Array
    absmean: Array
    """Mean magnitude."""
    square: Array
    """Mean square."""

    @property
    def absmax(self) -> Array:
        return np.maximum(np.abs(self.low), np.abs(self.high))


@dataclass(frozen=True)
class Observed:
    """What was observed of one value."""

    count: int = 0
    """Finite numbers seen."""
    low: float = float("inf")
    high: float = float("-inf")
    mean: float = 0.0
    """It and the mean square are estimates from some of the numbers where tensors are large (see ``accumulate.py``)."""
    square: float = 0.0
    """Mean square."""
    arrays: int = 0
    """Tensors seen that hold numbers: one for each sample, in bodies of loops one for each round."""
    average: tuple[float, float] = (0.0, 0.0)
    """Running means of the lowest and the highest number of each tensor: of the last hundred, roughly."""
    nan: int = 0
    """Numbers that were none; they are in no other figure."""
    infinite: int = 0
    """Infinities; they are in no other figure."""
    histogram: Histogram | None = None
    """Of all numbers of small tensors, of some of large ones, evenly drawn, that count for all (see
    ``accumulate.py``)."""
    channels: Channels | None = None
    moments: Array | None = None
    """[K, K], float64; may be mapped from a file, read-only."""
    rows: int = 0
    """Rows that are in ``moments``."""
    tokens: Histogram | None = None
    declined: dict[str, str] = field(default_factory=dict[str, str])
    """Kinds that could not be taken, with the reason."""

    @property
    def rms(self) -> float:
        """Root mean square."""
        return self.square**0.5

    @property
    def absmax(self) -> float:
        """0 where nothing was seen."""
        return max(-self.low, self.high) if self.count else 0.0


@dataclass
class Statistics:
    """Observations by value name."""

    model: str = ""
    """Digest of the model that ran."""
    samples: int = 0
    """Samples it ran on."""
    values: dict[str, Observed] = field(default_factory=dict[str, Observed])
    declined: dict[str, str] = field(default_factory=dict[str, str])
    """Values that were asked for and could not be observed, with the reason."""

    def get(self, name: str) -> Observed | None:
        """``None`` where the value was not asked for, could not be observed, or was never computed."""
        found = self.values.get(name)
        return found if found is not None and found.count else None

    def __getitem__(self, name: str) -> Observed:
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    @property
    def unusual(self) -> dict[str, str]:
        """Values with NaN or infinities among their numbers, with what was found."""
        found: dict[str, str] = {}
        for name, o in self.values.items():
            parts = [f"{n} {what}" for n, what in ((o.nan, "NaN"), (o.infinite, "infinite")) if n]
            if parts:
                found[name] = " and ".join(parts)
        return found


def value_names(model: Model) -> dict[Value, str]:
    """A name for every value that is not a constant, unique in the model: its own where no other has it."""
    found: dict[Value, str] = {}
    taken: set[str] = set()
    for value in _values(model):
        name, n = value.name, 1
        while name in taken:
            n += 1
            name = f"{value.name}#{n}"
        taken.add(name)
        found[value] = name
    return found


def _values(model: Model) -> Iterable[Value]:
    for graph in model.all_graphs():
        yield from graph.inputs
        for node in graph:
            yield from node.outputs
