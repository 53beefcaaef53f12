"""The backend object: legalize, lower, run."""

from __future__ import annotations

import hashlib

from ...ir.errors import BackendError
from ...ir.graph import Model
from ...passes.target import Target
from ..core import Outputs, Sample
from .artifact import Artifact, make_manifest
from .kernels import Support, Unsupported, check_kernels
from .session import EXACT, Session, SessionSettings, settings_for


class OrtBackend:
    """ONNX Runtime."""

    name = "ort"

    def legalize(self, model: Model, target: Target) -> str:
        """Pipeline text that makes the model runnable on the target: operators without a kernel there are decomposed.

        ``none`` where there are none: planish's passes ask the target before they emit the runtime's own operators,
        but a model may come with those of another processor's runtime.
        """
        missing = sorted({u.op for u in self.unsupported(model, target) if u.support is Support.NONE})
        names = ", ".join(f'"{op.replace(":", "::")}"' for op in missing)
        return f"expand-fused{{ops=[{names}]}}" if names else "none"

    def unsupported(self, model: Model, target: Target) -> list[Unsupported]:
        """Nodes without a kernel on the target, or that run with casts. Empty where planish has no table (``cuda``)."""
        if target.arch == "any":
            return []
        return check_kernels(model, target.arch)

    def lower(
        self,
        model: Model,
        target: Target,
        *,
        settings: SessionSettings | None = None,
        pipeline: str = "",
        source: str | None = None,
    ) -> Artifact:
        """The artifact of a model. Raises ``BackendError`` that names nodes without a kernel on the target.

        ``pipeline`` and ``source`` (hash of the original) go into the manifest. The model is not copied.
        """
        refused = [u for u in self.unsupported(model, target) if u.support is Support.NONE]
        if refused:
            more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
            raise BackendError(
                f"{len(refused)} nodes cannot run on {target.name}: {'; '.join(map(str, refused[:3]))}{more}",
                where="ort",
                origin=refused[0].node or None,
                help="onnxruntime has no such kernels for this processor: choose another target or element type",
            )
        settings = settings or settings_for(target)
        return Artifact(model, settings, make_manifest(model, target, settings, pipeline=pipeline, source=source))

    def run(self, model: Model | bytes, inputs: Sample) -> Outputs:
        """Runs a model once, exactly as written: no optimization of the runtime's own. Raises ``BackendError``."""
        return Session(model, EXACT).run(inputs)


class Executor:
    """Runs models for passes and instruments (``Context.executor``); keeps the last model's session."""

    def __init__(self, settings: SessionSettings = EXACT) -> None:
        self.settings = settings
        self._digest = b""
        self._session: Session | None = None

    def __call__(self, model: Model, inputs: Sample) -> Outputs:
        """Raises ``BackendError``. The model may have changed since the last call, so it is serialized each time."""
        from ...ir.onnx_writer import model_to_bytes

        raw = model_to_bytes(model)
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        if self._session is None or digest != self._digest:
            self._session = None
            self._session = Session(raw, self.settings)
            self._digest = digest
        return self._session.run(inputs)
