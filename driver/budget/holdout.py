"""Samples that no selection is made on, so that what was selected can be checked on data that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ...backends.core import Outputs, Sample
from ..checks.reference import Reference
from .limits import Budget

LEAST = 8
"""With fewer samples none are held back."""
EVERY = 4
"""One in so many is."""


class Measured(Protocol):
    """What a judge needs of a reference."""

    names: list[str]
    resolutions: dict[str, float]
    samples: list[Sample]

    def outputs(self, i: int) -> Outputs: ...
    def run(self, sample: Sample) -> Outputs: ...


@dataclass
class Part:
    """A reference with some of its samples."""

    whole: Reference
    places: list[int]

    def __post_init__(self) -> None:
        self.names, self.resolutions = self.whole.names, self.whole.resolutions
        self.samples = [self.whole.samples[i] for i in self.places]

    def outputs(self, i: int) -> Outputs:
        return self.whole.outputs(self.places[i])

    def run(self, sample: Sample) -> Outputs:
        return self.whole.run(sample)


def held_places(budget: Budget | None, count: int) -> frozenset[int]:
    """Which of ``count`` samples are held back: none where there are few, or where the budget cannot be split.

    Every fourth is, so that both parts have all kinds. A metric that chooses its inputs by itself, or labels that are
    not one for each sample, cannot be split. Nothing that selects or calibrates may see these samples.
    """
    if budget is None or count < LEAST or budget.runs:
        return frozenset()
    labels: Any = budget.labels
    if labels is not None and not (_is_sequence(labels) and len(labels) == count):
        return frozenset()
    return frozenset(range(EVERY - 1, count, EVERY))


def split(budget: Budget, reference: Reference) -> tuple[Budget, Part, int] | None:
    """The budget and the samples to select by, and how many are held back; ``None`` where none are."""
    count = len(reference.samples)
    held = held_places(budget, count)
    if not held:
        return None
    labels: Any = budget.labels
    places = [i for i in range(count) if i not in held]
    own = None if labels is None else [labels[i] for i in places]
    return replace(budget, labels=own), Part(reference, places), len(held)


def few(reference: Measured, count: int, errors: Sequence[float] = ()) -> Measured:
    """With at most ``count`` of its samples: half of them those with most of the ``errors``, where these are known, the
    others evenly chosen. Some models are sure of nearly all samples, and only the others tell changes apart."""
    total = len(reference.samples)
    if total <= count or not isinstance(reference, Part | Reference):
        return reference
    worst = sorted(range(total), key=lambda i: (-errors[i], i))[: count // 2] if len(errors) == total else []
    rest, even = [i for i in range(total) if i not in worst], count - len(worst)
    chosen = sorted([*worst, *(rest[i * len(rest) // even] for i in range(even))])
    if isinstance(reference, Reference):
        return Part(reference, chosen)
    return Part(reference.whole, [reference.places[i] for i in chosen])


def _is_sequence(labels: Any) -> bool:
    return isinstance(labels, Sequence) or (isinstance(labels, Sized) and hasattr(labels, "__getitem__"))
