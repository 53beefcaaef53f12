"""What lossy passes propose, unit by unit, and which of it is taken.

A *unit* is one decision that can be taken or left while the others stay: one weight stored in fewer bits, one
layer factorized, one application of an approximating rule. A lossy pass asks for each of them before it changes
anything (``Rewriter.take``) and says what it expects of it; whoever runs the pipeline answers, writes down
what was proposed, and runs it again with another answer where the whole costs too much.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Unit:
    """One decision of a lossy pass."""

    key: str
    """``pass@place`` or ``pass/Rule@place``, with ``#2``, ``#3``, ... where a place proposes more than once: equal in
    every run of a pipeline on a model that took the same decisions before."""
    error: float = 1.0
    """Predicted: what it adds to the values it computes, root mean square relative to theirs. Only ratios between
    units matter, the sum is scaled to measurements. 1 where the pass cannot say."""
    saved_bytes: int = 0
    """Predicted: by how much the file shrinks."""
    saved_flops: int = 0
    """Predicted: by how many operations a run shrinks."""
    others: tuple[str, ...] | None = None
    """Where no other pass's unit can be taken at its place together with it: names of further places that it decides as
    well. ``None``: it excludes none but those of its own pass."""

    @property
    def owner(self) -> str:
        """The pass."""
        return self.key.partition("@")[0].partition("/")[0]


class Choices:
    """Answers to what lossy passes propose in one run of a pipeline, and the record of it."""

    def __init__(
        self, left: Collection[str] = (), *, lossless: bool = False, nothing: bool = False, idle: bool = False
    ) -> None:
        """Takes everything but the units whose keys are in ``left``; nothing at all where ``lossless``, nor where
        ``nothing``, to see all options of a place: the model is prepared then as if something might be taken. ``idle``:
        nobody reads what is offered either, so that passes may leave out what only predictions need."""
        self.left = frozenset(left)
        self.lossless, self.nothing, self.idle = lossless, nothing or lossless, idle
        self.offered: dict[str, Unit] = {}
        """Every unit that was proposed, by key, in order."""
        self._subjects: dict[tuple[str, str], dict[object, int]] = {}
        """By pass and name of the place: what was proposed for, numbered from 1."""

    def take(self, unit: Unit, subject: object) -> bool:
        """Whether ``unit`` may be done. ``subject`` (a node, a value) tells units of equal names apart."""
        # Counted whatever is proposed there: a place that takes its first option proposes no other.
        seen = self._subjects.setdefault((unit.owner, unit.key.partition("@")[2]), {})
        count = seen.setdefault(subject, len(seen) + 1)  # nodes and values are equal only to themselves
        key = unit.key if count == 1 else f"{unit.key}#{count}"
        if key != unit.key:
            unit = replace(unit, key=key)
        self.offered.setdefault(key, unit)
        return not self.nothing and key not in self.left

    @property
    def taken(self) -> list[Unit]:
        """What was proposed and allowed."""
        return [] if self.nothing else [u for key, u in self.offered.items() if key not in self.left]
