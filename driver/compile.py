"""``compile``: optimize a model for a target and lower it to an artifact that runs there."""

from __future__ import annotations

import hashlib
from typing import Any

from ..backends.core import Backend
from ..backends.ort.artifact import Artifact, file_entry
from ..backends.ort.backend import OrtBackend
from ..backends.ort.session import SessionSettings
from ..ir.clone import clone_model
from ..ir.errors import UsageError
from ..ir.onnx_writer import model_to_bytes
from ..passes.target import Target, get_target
from .optimize import optimize
from .validate import AnyModel, as_model

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

    The artifact's manifest carries the pipeline and the hash of what was optimized. Raises what ``optimize``
    raises, and ``BackendError`` for nodes without a kernel on the target.
    """
    chosen = get_target(target) if isinstance(target, str) else target
    get_backend(chosen)
    result = optimize(model, chosen, **options)
    return OrtBackend().lower(
        clone_model(result.model),
        chosen,
        settings=settings,
        pipeline=result.report.pipeline if result.changed else "none",
        source=source_hash(model),
    )


def source_hash(model: AnyModel) -> str:
    """SHA-256 of a model's file (of the bytes that planish would write, for a graph)."""
    _, source = as_model(model)
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if hasattr(source, "graph"):
        return hashlib.sha256(model_to_bytes(source)).hexdigest()  # pyright: ignore[reportArgumentType]
    return str(file_entry(source)["sha256"])  # pyright: ignore[reportArgumentType]
