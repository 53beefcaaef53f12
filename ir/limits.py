"""What a model may ask of the machine that reads and runs it. Everything beyond is refused."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for reading an untrusted model, and for running it where results are compared.

    The defaults pass every model that people run.
    """

    file_bytes: int = (2 << 30) - 1
    """Size of the model file without external data; protobuf itself ends here."""
    nodes: int = 1_000_000
    """Nodes and node outputs in all graphs together, and after all function calls are expanded. (A node takes about
    a kilobyte of memory, in the file as little as ten bytes.)"""
    depth: int = 64
    """Bodies within bodies, and functions that call functions."""
    external_bytes: int = 1 << 40
    """Bytes of weights in other files, in all. (A file of holes takes no room on the disk, and hours to copy.)"""
    allow_hard_links: bool = False
    """Whether a file of weights may have several names (some package managers install by hard links)."""
    random_bytes: int = 1 << 30
    """Random constants (``rand<7>``) of a textual form that is run, in all: a few letters ask for any amount."""
    sample_bytes: int = 1 << 30
    """All arrays of one file of samples."""
    value_bytes: int = 4 << 30
    """One result of a node, as far as its size is known before it is computed."""
    trial_bytes: int = 768 << 20
    """What a model may take, beyond its constants, whose results can be of any size (loops, strings). It runs in a
    process of its own first."""
    trial_seconds: float = 30.0
    """How long that first run may last."""


current_limits: ContextVar[Limits] = ContextVar("planish_limits", default=Limits())  # noqa: B039 (it is frozen)
"""The limits in force where a caller states none: those of the command line."""
