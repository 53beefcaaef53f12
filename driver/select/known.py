"""What selections learned of units' times on one machine, for the next selection there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

DRIFT = 0.2
"""By how much a time may be off in another model or on another day, relative."""
TELLING = 0.5
"""A time is worth keeping where measurements left less than this share of the doubt there was before them."""


@dataclass(frozen=True)
class Learned:
    """A time in nanoseconds (negative: a gain), and its standard deviation."""

    ns: float
    spread_ns: float
    day: str = ""
    """When it was measured, ``YYYY-MM-DD``."""

    @property
    def doubt_ns(self) -> float:
        """Standard deviation for the next time."""
        return (self.spread_ns**2 + (DRIFT * self.ns) ** 2) ** 0.5


@dataclass(frozen=True)
class Known:
    """Times by kind of unit (see ``Problem.kinds``), and of converting one element."""

    kinds: Mapping[str, Learned] = field(default_factory=dict[str, Learned])
    border: Learned | None = None

    def covers(self, kinds: Iterable[str], work: Iterable[float]) -> float:
        """The share of the units' operations whose times are known."""
        pairs = list(zip(kinds, work, strict=True))
        total = sum(share for _, share in pairs)
        return sum(share for kind, share in pairs if kind in self.kinds) / total if total else 0.0

    def oldest(self, kinds: Iterable[str]) -> str:
        """The day of the oldest time among ``kinds``; empty where none is known."""
        return min((self.kinds[kind].day for kind in kinds if kind in self.kinds), default="")


UNKNOWN = Known()
