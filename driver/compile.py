"""``compile``: optimize a model for a target and lower it to an artifact that runs there."""

from __future__ import annotations

from typing import Any

from ..backends.core import Backend
from ..backends.ort.artifact import Artifact
from ..backends.ort.backend import OrtBackend
from ..backends.ort.session import SessionSettings
from ..ir.errors import UsageError
from ..passes.target import Target, get_target
from .optimize import optimize
from .validate import AnyModel

BACKENDS: dict[str, type[OrtBackend]] = {"ort": OrtBackend}
"""By ``Target.runtime``."""


def get_backend(target: Target) -> Backend:
    """The backend of a target. Raises ``UsageError`` where there is none."""
    found = BACKENDS.get(target.runtime)
    if found is None:
        raise UsageError(
            f"there is no backend {target.runtime!r}", where="compile", help=f"backends: {', '.join(BACKENDS)}"
        )
    return found()


def compile(
    model: AnyModel, target: str | Target = "generic", *, settings: SessionSettings | None = None, **options: Any
) -> Artifact:
    """Optimizes ``model`` (with the options of :func:`optimize`) and lowers it.

    ``settings`` are those of the session; without them what ``tune`` found, or the target's own. The artifact's
    manifest carries them, the pipeline, and the hash of what was optimized. Raises what ``optimize``
    raises, and ``BackendError`` for nodes without a kernel on the target.
    """
    chosen = get_target(target) if isinstance(target, str) else target
    get_backend(chosen)
    return optimize(model, chosen, **options).artifact(settings)
