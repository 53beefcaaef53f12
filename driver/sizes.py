"""How many bytes models take, on disk and in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeAlias

from ..backends.folder import file_entry
from ..ir.graph import Model
from ..ir.onnx_writer import model_to_bytes

Runnable: TypeAlias = "Model | bytes | Path"
"""What a session can be made of."""


def is_external(model: Model) -> bool:
    """Whether the model's file keeps weights in other files."""
    return bool(model.extra and model.extra.get("external_data"))


def file_bytes(model: Model, source: Runnable) -> int:
    """Bytes on disk, weights in other files included."""
    if isinstance(source, bytes):
        return len(source)
    if isinstance(source, Path):
        data = source.with_name(f"{source.name}.data")
        beside = data.stat().st_size if data.exists() else constant_bytes(model) if is_external(model) else 0
        return source.stat().st_size + beside
    return constant_bytes(model)


def constant_bytes(model: Model) -> int:
    return sum(v.data.nbytes for graph in model.all_graphs() for v in graph.constants if v.data is not None)


def source_hash(source: Runnable) -> str | None:
    """SHA-256 of a model's file (of the bytes that planish would write, for a graph); ``None`` where it is gone."""
    if isinstance(source, Model):
        source = model_to_bytes(source)
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    return str(file_entry(source)["sha256"]) if source.exists() else None
