"""What a model may ask of the machine that reads it. Everything beyond is refused with a ``ReadError``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for reading an untrusted model. The defaults pass every model that people run."""

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
