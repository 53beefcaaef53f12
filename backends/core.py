"""What a backend and its product are; every backend implements these two protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from ..ir.graph import Model

if TYPE_CHECKING:
    from ..passes.target import Target
    from .measure import Measurement

Array: TypeAlias = np.ndarray[Any, Any]
Sample: TypeAlias = Mapping[str, Array]
"""One input of a model: an array for every graph input, by its name."""
Outputs: TypeAlias = list[Any]
"""One value per graph output: an array, or for sequences and maps the runtime's lists and dicts."""


class Artifact(Protocol):
    """A model made ready for one target. Saving the same artifact twice gives the same bytes."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What it is and where it comes from: pipeline, versions, hashes, target, settings. No times, no paths."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes the model, its data and ``manifest.json``; all or nothing."""
        ...

    def run(self, inputs: Sample) -> Outputs:
        """Runs one sample. Raises ``BackendError``."""
        ...

    def benchmark(self, samples: Sequence[Sample], *, seconds: float = 1.0) -> Measurement:
        """Time of one run on this machine, over ``samples`` in turn."""
        ...


class Backend(Protocol):
    """A runtime."""

    @property
    def name(self) -> str:
        """As ``Target.runtime`` says it."""
        ...

    def legalize(self, model: Model, target: Target) -> str:
        """Pipeline text that makes ``model`` runnable on ``target``; raises ``BackendError`` where nothing can."""
        ...

    def lower(self, model: Model, target: Target) -> Artifact:
        """The artifact of a legalized model."""
        ...

    def run(self, model: Model | bytes, inputs: Sample) -> Outputs:
        """Runs a model once, exactly as written: no optimization of the runtime's own. Raises ``BackendError``."""
        ...
