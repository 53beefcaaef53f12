"""``compile``: optimize a model for a target and lower it to an artifact that runs there."""

from __future__ import annotations

from typing import Any

from ..backends.core import Artifact, Backend
from ..backends.ort.backend import OrtBackend
from ..backends.ort.session import SessionSettings
from ..ir.errors import UsageError
from ..passes.target import Target, get_target
from .checks.validate import AnyModel
from .deploy import deploy
from .optimize import optimize

BACKENDS: dict[str, type[OrtBackend]] = {"ort": OrtBackend}
"""Those that need nothing but what is always installed, by ``Target.runtime``."""
BUILDERS = ("tvm",)
"""Compilers, which ``deploy`` drives."""


def backend_name(target: str | Target, backend: str | None = None) -> str:
    """Who runs a target: the wanted one, else the target's own. Raises ``UsageError`` where there is none."""
    name = backend or (get_target(target) if isinstance(target, str) else target).runtime
    known = (*BACKENDS, *BUILDERS)
    if name not in known:
        raise UsageError(f"there is no backend {name!r}", where="compile", help=f"backends: {', '.join(known)}")
    return name


def get_backend(target: Target) -> Backend:
    """The backend of a target. Raises ``UsageError`` where there is none."""
    if backend_name(target) in BUILDERS:
        from ..backends.tvm.backend import TvmBackend

        return TvmBackend()
    return BACKENDS[target.runtime]()


def compile(
    model: AnyModel,
    target: str | Target = "generic",
    *,
    settings: SessionSettings | None = None,
    backend: str | None = None,
    **options: Any,
) -> Artifact:
    """Optimizes ``model`` (with the options of :func:`optimize`) and lowers it.

    ``backend``: ``ort`` or ``tvm``; without it the target's own. ``settings`` are those of ONNX Runtime's session;
    without them what ``tune`` found, or the target's own. The artifact's manifest carries them, the pipeline, and the
    hash of what was optimized. Raises what ``optimize`` raises, ``BackendError`` for nodes without a kernel on the
    target, and for ``tvm`` what :func:`deploy` raises.
    """
    chosen = get_target(target) if isinstance(target, str) else target
    if backend_name(chosen, backend) == "tvm":
        if settings is not None:
            raise UsageError("TVM has no sessions, and no settings of them", where="compile")
        return deploy(model, chosen, **options).artifact
    return optimize(model, chosen, **options).artifact(settings)
