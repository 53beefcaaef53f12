"""What a selection is for, and how fast one is: data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .program import Objective


@dataclass(frozen=True)
class Timing:
    """Time of a selection relative to none, with the bounds of a confidence interval."""

    ratio: float
    low: float
    high: float
    base_ns: float
    """Time of one run without any unit."""

    def joined(self, other: Timing) -> Timing:
        """The middle of two measurements, with an interval that spans the middles of both."""
        middle = math.sqrt(self.ratio * other.ratio)
        half = max(abs(self.ratio - other.ratio), (self.high - self.low + other.high - other.low) / 2**1.5) / 2
        return Timing(middle, middle - half, middle + half, math.sqrt(self.base_ns * other.base_ns))


@dataclass(frozen=True)
class Goal:
    """What is wanted."""

    minimize: Objective = "time"
    max_time: float = 1.0
    """Relative to the model without any unit."""
    max_us: float = math.inf
    """One run, microseconds."""
    max_bytes: int | None = None
    """Of the file. Who calls ``select`` knows its size and says what is to be saved:"""
    min_saved_bytes: int = 0
    max_flops: float = 1.0
    """Operations of a run, relative to the model without any unit; as far as units say what they save."""
    seconds: float = 120.0
    """For measurements, about: processor time of the thread that selects, so that a busy machine decides no worse, nor
    one whose libraries wait for each other on many cores."""


FASTEST = Goal()
