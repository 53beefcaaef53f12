"""What an optimization is asked for, and what comes out of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..backends.ort.artifact import Artifact
from ..backends.ort.backend import OrtBackend
from ..backends.ort.session import SessionSettings, settings_for
from ..ir.clone import clone_model
from ..ir.graph import Model
from ..ir.onnx_writer import write_model
from ..ir.safe_files import SafeFiles, output_path
from ..passes.target import Target, get_target
from .plans import Plan
from .report import CLEANED, DIMS_ONLY, KEPT, PARTLY, Report
from .sizes import is_external

if TYPE_CHECKING:
    from .budget import Budget, Stopwatch
    from .select import Goal

Progress = Callable[[str, int, int], None]
MAX_GROWTH = 0.1
"""How much larger the file may become, as a fraction of the original."""


@dataclass(frozen=True)
class Options:
    """How to optimize. See :func:`optimize`."""

    target: Target
    pipeline: str = "default"
    validate: str = "final"
    measure: bool = True
    tolerance: float = 0.0
    allow_different: bool = False
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    fuel: int | None = None
    disabled: frozenset[str] = frozenset()
    seed: int = 0
    max_growth: float = MAX_GROWTH
    measure_seconds: float = 3.0
    validate_seconds: float = 60.0
    bisect_seconds: float = 60.0
    print_after_change: Callable[[str], object] | None = None
    repro_dir: Path | None = None
    progress: Progress | None = None
    tune: bool = False
    tune_seconds: float = 60.0
    threads: int | None = None
    """Of the session; ``None`` leaves the choice to the target."""
    cache: bool = True
    """Whether outcomes of searches are kept for later."""
    budget: Budget | None = None
    """What lossy passes may cost."""
    goal: Goal | None = None
    """What they are selected for."""
    calibration: Path | None = None
    """The file in which statistics are kept."""
    stopwatch: Stopwatch | None = None
    """Who times lossy decisions, where it is not ONNX Runtime."""

    @property
    def settings(self) -> SessionSettings:
        """What the result runs with where no search finds better."""
        found = settings_for(self.target)
        return found if self.threads is None else replace(found, threads=self.threads)


@dataclass
class Result:
    """What came out."""

    model: Model
    report: Report
    source: Path | None = None
    """The original's file, where the result is the original."""
    settings: SessionSettings = field(default_factory=SessionSettings)
    """What to run it with; an artifact carries them."""
    plan: Plan | None = None
    """The pipeline that made it, expanded, and the rules that were left out."""
    target: Target | None = None
    origin: str | None = None
    """SHA-256 of the original's file."""

    @property
    def changed(self) -> bool:
        """Whether the model is another than the original."""
        return self.report.decision in (KEPT, PARTLY, CLEANED, DIMS_ONLY)

    def artifact(self, settings: SessionSettings | None = None) -> Artifact:
        """The model lowered to its target, with ``settings`` in place of the chosen ones where they are given.

        Raises ``BackendError`` for nodes without a kernel on the target.
        """
        target = self.target if self.target is not None else get_target("generic")
        plan = self.plan if self.plan is not None and self.changed else Plan("")
        artifact = OrtBackend().lower(
            clone_model(self.model),
            target,
            settings=settings or self.settings,
            pipeline=plan.pipeline or "none",
            source=self.origin,
        )
        if plan.disabled:
            artifact.manifest["disabled"] = sorted(plan.disabled)
        ledger = self.report.budget
        if ledger is not None:
            artifact.manifest["budget"] = {"limit": ledger.budget, "left": sorted(ledger.left)}
        return artifact

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model to ``path``, whole or not at all; ``path`` may be the original's. Raises ``UsageError``."""
        path = output_path(path)
        if self.source is None or is_external(self.model):
            write_model(self.model, path, value_info=self.target is not None and self.target.value_info)
        elif not (path.exists() and path.samefile(self.source)):
            with SafeFiles() as files:
                files.create(path).write(self.source.read_bytes())
