"""What a caller gives a model, checked by name: the same words for every backend."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..ir.errors import BackendError


def check_names(given: Collection[str], needed: Sequence[str], known: Collection[str], *, where: str) -> None:
    """Raises ``BackendError`` that names missing or unknown inputs."""
    missing = [name for name in needed if name not in given]
    unknown = [name for name in given if name not in known]
    if missing or unknown:
        parts = [f"input {', '.join(missing)} is missing"] if missing else []
        parts += [f"there is no input {', '.join(unknown)}"] if unknown else []
        raise BackendError(" and ".join(parts), where=where, help=f"the model's inputs: {', '.join(needed) or 'none'}")
